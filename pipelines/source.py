"""The source: one Delta table at one version, each row with its key and a digest of its content."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - Spark's own habit

from lakemill.errors import ConfError
from lakemill.pipelines import delta
from lakemill.pipelines.flow import Flow

ROW_KEY = "__row_key"
ROW_DIGEST = "__row_digest"


def newest(spark: SparkSession, flow: Flow) -> int:
    """Return the newest version of the source, with its columns checked.

    Raises:
        JobError: There is no such Delta table.
        ConfError: A column of `sink.key` is missing.
    """
    found = delta.version(spark, flow.source)
    columns = {column.lower() for column in spark.table(flow.source).columns}
    missing = next((key for key in flow.keys if key.lower() not in columns), None)
    if missing is not None:
        raise ConfError(
            f"job {flow.job}: sink.key: {flow.source} has no column {missing}",
            hint=f"its columns: {', '.join(spark.table(flow.source).columns)}",
        )
    return found


def read(spark: SparkSession, flow: Flow, version: int) -> DataFrame:
    """Return the source as it was at `version`."""
    return spark.sql(f"SELECT * FROM {flow.source} VERSION AS OF {version:d}")


def keyed(frame: DataFrame, flow: Flow) -> DataFrame:
    """Return the rows with `__row_key` (JSON of the key columns) and `__row_digest` (SHA-256 of the row)."""
    whole = F.to_json(F.struct(*(F.col(f"`{name}`") for name in frame.columns)), {"ignoreNullFields": "false"})
    return frame.withColumn(ROW_KEY, row_key(flow)).withColumn(ROW_DIGEST, F.sha2(whole, 256))


def row_key(flow: Flow) -> Column:
    """Return the key columns as one JSON text, such as `{"id":1}`; NULL where one of them is NULL."""
    columns = [F.col(f"`{key}`") for key in flow.keys]
    present = F.lit(True)
    for column in columns:
        present = present & column.isNotNull()
    return F.when(present, F.to_json(F.struct(*columns)))
