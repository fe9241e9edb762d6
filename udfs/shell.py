"""Run statements one after the other and print their rows; each error is one clear message."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

from py4j.protocol import Py4JError
from pyspark.errors import AnalysisException, ParseException, PySparkException
from pyspark.sql import SparkSession

from lakemill import spark as spark_module
from lakemill.errors import LakemillError, RowFailedError, UsageError
from lakemill.udfs import session as session_module
from lakemill.udfs.print_rows import print_rows

_ROW_FAILED = re.compile(r"RowFailedError: (.+)")
_PLAN = re.compile(r";?\n(?=\s*['+:!]|[A-Z]\w+ [\[(]|==|\w+Command)")


def run(
    texts: Sequence[str],
    *,
    style: str = "table",
    master: str | None = None,
    endpoint: str | None = None,
    conf_dir: str | os.PathLike[str] | None = None,
) -> None:
    """Run every statement of the texts in a session of its own, and print what they give.

    Raises:
        UsageError: A statement was refused while it was parsed or analysed.
        RowFailedError: A row failed, and its function fails the query.
        LakemillError: A statement failed while it ran.
    """
    try:
        spark = session_module.session("lakemill sql", master, endpoint, conf_dir=conf_dir)
        try:
            for text in texts:
                for statement in statements(spark, text):
                    run_one(spark, statement, style)
        finally:
            session_module.flush(spark)
    finally:
        spark_module.close()


def statements(spark: SparkSession, text: str) -> list[str]:
    """Cut a text into statements, as Spark's own command line does: quotes and comments hold.

    A text that begins with BEGIN is one script, or is cut where it is more than that.
    """
    utils = spark._jvm.org.apache.spark.sql.catalyst.util.StringUtils  # type: ignore[union-attr]  # noqa: SLF001
    pieces = utils.splitSemiColonWithIndex(text, True)
    found = (str(pieces.apply(at)).strip() for at in range(pieces.size()))
    return [piece for piece in found if piece]


def run_one(spark: SparkSession, statement: str, style: str) -> None:
    """Run one statement and print its rows.

    Raises:
        LakemillError: As `run` says.
    """
    try:
        frame = spark.sql(statement)
        if frame.columns:
            print_rows(frame, style, sys.stdout)
    except (PySparkException, Py4JError) as error:
        raise clear(error) from error


def clear(error: Exception) -> LakemillError:
    """Return a Spark error as one clear message, without plans, traces and Java's words."""
    text = str(getattr(error, "desc", None) or error).strip()
    if isinstance(error, ParseException):
        return UsageError(text)
    if isinstance(error, AnalysisException):
        return UsageError(_PLAN.split(text, maxsplit=1)[0].strip())
    failed = _ROW_FAILED.search(text)
    if failed is not None:
        return RowFailedError(failed[1].strip())
    return LakemillError(_cause(text))


def _cause(text: str) -> str:
    # A worker's error ends with its own message; Java's begins with it.
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if any(line.startswith("Traceback") for line in lines):
        return next((line for line in reversed(lines) if not line.startswith(("at ", "File "))), lines[-1])
    return next((line for line in lines if not line.startswith("at ")), "the query failed")
