"""The control tables: what ran, and which rows failed, for SQL.

`lakemill.runs` has one row a finished run of a job, `lakemill.run_errors` one row a failed call of a
job or of a query. Both are made on first use.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession

from lakemill import warehouse

log = logging.getLogger(__name__)

RUNS = "lakemill.runs"
RUN_ERRORS = "lakemill.run_errors"

RUNS_SCHEMA = (
    "run_id STRING, job STRING, state STRING, started_at TIMESTAMP, finished_at TIMESTAMP, seconds DOUBLE, "
    "spec STRING, plan_id STRING, plan BIGINT, source STRING, source_version BIGINT, sink STRING, sink_version BIGINT, "
    "model STRING, prompts MAP<STRING, STRING>, rows BIGINT, calls BIGINT, asked BIGINT, ledger_hits BIGINT, "
    "deduplicated BIGINT, skipped BIGINT, cached BIGINT, failed BIGINT, failed_by_code MAP<STRING, BIGINT>, "
    "deleted BIGINT, prompt_tokens BIGINT, completion_tokens BIGINT, rows_per_second DOUBLE, "
    "phases MAP<STRING, DOUBLE>, error STRING"
)
RUN_ERRORS_SCHEMA = (
    "run_id STRING, origin STRING, name STRING, step STRING, function STRING, key STRING, row_key STRING, "
    "code STRING, message STRING, retryable BOOLEAN, attempts INT, model STRING, time TIMESTAMP"
)
_SCHEMAS = {RUNS: RUNS_SCHEMA, RUN_ERRORS: RUN_ERRORS_SCHEMA}


def append_run(spark: SparkSession, record: Mapping[str, Any]) -> None:
    """Append one finished run to `lakemill.runs`; keys that are missing become NULL."""
    _append(spark, RUNS, [record])


def append_errors(spark: SparkSession, records: Iterable[Mapping[str, Any]]) -> None:
    """Append failed calls to `lakemill.run_errors`; keys that are missing become NULL.

    Example:
        >>> append_errors(spark, [{"run_id": "q1", "origin": "sql", "code": "TIMEOUT"}])  # doctest: +SKIP
    """
    _append(spark, RUN_ERRORS, list(records))


def ensure(spark: SparkSession, name: str, schema: str) -> None:
    """Make the table `name` with columns `schema` (DDL) where it does not exist yet."""
    if warehouse.adopt(spark, name):
        return
    database = name.partition(".")[0]
    spark.sql(f"CREATE DATABASE IF NOT EXISTS {database}")
    try:
        spark.sql(f"CREATE TABLE IF NOT EXISTS {name} ({schema}) USING delta")
    except AnalysisException:
        # Another process made it in the same moment.
        if not warehouse.adopt(spark, name):
            raise


def _append(spark: SparkSession, name: str, records: list[Mapping[str, Any]]) -> None:
    if not records:
        return
    schema = _SCHEMAS[name]
    ensure(spark, name, schema)
    columns = [field.split()[0] for field in _fields(schema)]
    rows = [tuple(record.get(column) for column in columns) for record in records]
    spark.createDataFrame(rows, schema).coalesce(1).write.format("delta").mode("append").saveAsTable(name)
    log.debug("%s rows appended to %s", len(rows), name)


def _fields(schema: str) -> list[str]:
    # A comma inside MAP<…> does not end a field.
    fields, depth = [""], 0
    for character in schema:
        depth += {"<": 1, ">": -1}.get(character, 0)
        if character == "," and depth == 0:
            fields.append("")
        else:
            fields[-1] += character
    return [field.strip() for field in fields]
