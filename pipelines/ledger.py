"""The ledger: every answer that was paid for, by call key, in one Delta table.

It is the record. The sink is filled from it, and what stands in it is never asked again.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - Spark's own habit
from pyspark.sql.types import StructType

from lakemill import control
from lakemill.pipelines import delta
from lakemill.pipelines.steps import Call

TABLE = "lakemill.ledger"
SCHEMA = (
    "key STRING, function STRING, step STRING, job STRING, origin STRING, run_id STRING, plan_id STRING, chunk INT, "
    "source STRING, source_version BIGINT, row_key STRING, model STRING, prompt STRING, ok BOOLEAN, code STRING, "
    "retryable BOOLEAN, row_result STRING, prompt_tokens INT, completion_tokens INT, cached_prompt_tokens INT, "
    "cached BOOLEAN, latency_ms DOUBLE, time TIMESTAMP"
)
# Spark's default writes milliseconds, which would change a value on its way through the ledger.
JSON = {"timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX"}
KEYS = "__keys"


def ensure(spark: SparkSession) -> None:
    """Make the ledger where it does not exist yet."""
    control.ensure(spark, TABLE, SCHEMA)


def answers(spark: SparkSession, functions: Sequence[str], *, plan_id: str | None = None) -> DataFrame | None:
    """Return one answer a key (`__key`, `__answer`): a good one where there is one, else a final error.

    A retryable failure is no answer, save for the plan that met it. None where the ledger is empty, which
    spares the first run every join.
    """
    if delta.never_written(spark, TABLE):
        return None
    ledger = spark.table(TABLE).where(F.col("function").isin(*functions))
    mine = F.col("plan_id").eqNullSafe(F.lit(plan_id)) if plan_id is not None else F.lit(False)
    usable = ledger.where(F.col("ok") | ~F.col("retryable") | mine)
    best = F.struct("ok", mine, "time", "row_result")
    return usable.groupBy(F.col("key").alias("__key")).agg(F.max_by("row_result", best).alias("__answer"))


def resolve(frame: DataFrame, calls: Sequence[Call], found: DataFrame | None, *, compute: bool = True) -> DataFrame:
    """Add what the ledger knows of each step: its key, its row result and value, and whether it is done.

    Adds for a step `s` the columns `s` (value), `s_result` (row result), `__key_s` and `__done_s`. The key
    of a step that reads one that is not done is not known yet. Keys written in the plan are used as they
    are; `compute` says whether to compute the others.
    """
    planned = KEYS in frame.columns
    for call in calls:
        frame = _known(frame, call, planned=planned, compute=compute)
        frame = _answered(frame, call, found)
        key, known = F.col(f"`__key_{call.name}`"), F.col("__known")
        assert isinstance(call.type, StructType)
        frame = (
            frame.withColumn(call.result, F.from_json("__answer", call.type, JSON))
            .withColumn(call.name, F.col(f"`{call.result}`.result"))
            .withColumn(f"__done_{call.name}", known & (key.isNull() | F.col("__answer").isNotNull()))
            .drop("__answer", "__known")
        )
    return frame


def _answered(frame: DataFrame, call: Call, found: DataFrame | None) -> DataFrame:
    if found is None:
        return frame.withColumn("__answer", F.lit(None).cast("string"))
    answer = found.select(F.col("__key").alias(f"__key_{call.name}"), "__answer")
    return frame.join(answer, f"__key_{call.name}", "left")


def _known(frame: DataFrame, call: Call, *, planned: bool, compute: bool) -> DataFrame:
    ready = " AND ".join(f"`__done_{name}`" for name in call.reads) or "true"
    stored = f"{KEYS}['{call.name}']"
    computed = call.key(unless=f"NOT ({ready})" if call.reads else "false")
    if not planned:
        return frame.selectExpr("*", f"{computed} AS `__key_{call.name}`", f"({ready}) AS __known")
    if not call.reads:
        return frame.selectExpr("*", f"{stored} AS `__key_{call.name}`", "true AS __known")
    if not compute:
        return frame.selectExpr("*", f"{stored} AS `__key_{call.name}`", f"({stored} IS NOT NULL) AS __known")
    rest = call.key(unless=f"NOT ({ready}) OR {stored} IS NOT NULL")
    return frame.selectExpr(
        "*", f"coalesce({stored}, {rest}) AS `__key_{call.name}`", f"(({ready}) OR {stored} IS NOT NULL) AS __known"
    )


def all_done(calls: Sequence[Call]) -> Column:
    """Return whether every step of a row is done."""
    done = F.lit(True)
    for call in calls:
        done = done & F.col(f"`__done_{call.name}`")
    return done
