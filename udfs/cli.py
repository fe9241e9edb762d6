"""`lakemill sql`: run statements with the AI functions and print what they give."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import TextIO

import click

from lakemill.errors import UsageError

FORMATS = ("table", "json", "csv")


@click.command()
@click.option(
    "-e", "queries", multiple=True, metavar="SQL", help="Statements to run, separated by ';'; may be repeated."
)
@click.option(
    "-f", "files", multiple=True, type=click.File("r", encoding="utf-8"), help="File of statements; - is stdin."
)
@click.option("--format", "style", type=click.Choice(FORMATS), default="table", show_default=True, help="How to print.")
@click.option("--master", help="Spark master; default: local[*].")
@click.option("--endpoint", help="URL of a serving application; default: the running one, or a new one.")
@click.option("--conf-dir", type=click.Path(exists=True, file_okay=False), help="Folder of your YAML files.")
def sql(
    queries: Sequence[str],
    files: Sequence[TextIO],
    style: str,
    master: str | None,
    endpoint: str | None,
    conf_dir: str | None,
) -> None:
    """Run SQL with the AI functions: rows go to standard output, all else to standard error.

    Exit status: 0 fine, 1 a query failed, 2 a query was refused.
    """
    texts = [*(file.read() for file in files), *queries]
    if not any(text.strip() for text in texts):
        raise UsageError("there is nothing to run", hint='give statements with -e "SELECT …", or a file with -f')
    _log_to_stderr()
    from lakemill.udfs import shell  # noqa: PLC0415 - Spark, only now that there is something to run

    shell.run(texts, style=style, master=master, endpoint=endpoint, conf_dir=conf_dir)


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger = logging.getLogger("lakemill")
    if not logger.handlers:
        logger.addHandler(handler)
