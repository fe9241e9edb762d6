"""The `lakemill` command: each subcommand lives beside the code that it runs, and is imported when called."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import Any

import click

from lakemill.errors import LakemillError

# name: (where the click command is, one line of help). The help stands here so that `lakemill --help`
# imports neither Spark nor Ray.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "demo": ("lakemill.jobs.demo:demo", "Enrich a real table with a real model, start to finish."),
    "doctor": ("lakemill.doctor:doctor", "Tell what this machine has and what is missing."),
    "run": ("lakemill.jobs.cli:run", "Run a job from conf/jobs: do what is not yet done."),
    "sample": ("lakemill.jobs.sample:sample", "Write a sample table."),
    "serve": ("lakemill.serving.cli:serve", "Start, show or stop the serving application."),
    "setup": ("lakemill.setup:setup", "Bring the Delta jars and the default model."),
    "sql": ("lakemill.udfs.cli:sql", "Run SQL with the AI functions."),
    "ui": ("lakemill.jobs.ui:ui", "Open MLflow on the runs of this LAKEMILL_HOME."),
}


_INTERRUPTED = 130  # what a shell gives for Ctrl-C


class _LazyGroup(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(_INTERRUPTED)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the signature is click's
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lakemill")
def cli() -> None:
    """Enrich table rows with language models: Spark SQL in, Delta tables out."""


def main() -> Any:
    """Run the command line; an error of lakemill is one clear line, never a traceback."""
    try:
        return cli(standalone_mode=True)
    except LakemillError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
