"""One chunk of a plan: one Spark stage that asks what the ledger does not hold, and appends the answers to it."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812 - Spark's own habit

from lakemill.pipelines import delta, ledger
from lakemill.pipelines import plan as plans
from lakemill.pipelines.session_conf import set_for_now
from lakemill.pipelines.source import ROW_KEY
from lakemill.pipelines.steps import Call
from lakemill.pipelines.work import Work

CHUNK = 0
# Settings of the SQL functions: who asks, and that the job itself records what failed.
_RUN = "spark.lakemill.run"
_RECORD = "spark.lakemill.recordFailures"


def is_done(work: Work) -> bool:
    """Tell whether the chunk's answers are in the ledger already."""
    return delta.transaction(work.spark, ledger.TABLE, work.plan.plan_id) is not None


def run(work: Work) -> None:
    """Ask the chunk's open calls and append every answer, good or failed, in one commit."""
    with set_for_now(work.spark, {_RUN: work.run_id, _RECORD: "false"}):
        records = _records(_asked(_todo(work), work.calls), work)
        delta.append(records, ledger.TABLE, app=work.plan.plan_id, number=CHUNK)


def _todo(work: Work) -> DataFrame:
    found = ledger.answers(work.spark, [call.step.function for call in work.calls])
    rows = plans.rows_of(work.spark, work.flow, work.plan)
    resolved = ledger.resolve(rows, work.calls, found, compute=False)
    return resolved.where(~ledger.all_done(work.calls)).repartition(work.spark.sparkContext.defaultParallelism)


def _asked(frame: DataFrame, calls: Sequence[Call]) -> DataFrame:
    """Ask step after step: the input of one may name the value of an earlier one."""
    for call in calls:
        frame = frame.selectExpr("*", f"{call.ask(unless=f'`__done_{call.name}`')} AS `__asked_{call.name}`")
        both = F.coalesce(F.col(f"`__asked_{call.name}`"), F.col(f"`{call.result}`"))
        frame = frame.withColumn(call.result, both).withColumn(call.name, F.col(f"`{call.result}`.result"))
    return frame


def _records(frame: DataFrame, work: Work) -> DataFrame:
    asked = F.array(*(_record(call) for call in work.calls))
    flat = frame.select(F.col(ROW_KEY).alias("row_key"), F.explode(F.filter(asked, _was_asked)).alias("r"))
    constants = {
        "job": work.flow.job,
        "origin": "job",
        "run_id": work.run_id,
        "plan_id": work.plan.plan_id,
        "source": work.flow.source,
    }
    named = flat.select("row_key", "r.*", *(F.lit(value).alias(name) for name, value in constants.items()))
    named = named.withColumns(
        {
            "chunk": F.lit(CHUNK),
            "source_version": F.lit(work.plan.source_version).cast("bigint"),
            "time": F.current_timestamp(),
            "ok": F.col("code").isNull(),
        }
    )
    return named.select(*(field.split()[0] for field in ledger.SCHEMA.split(", ")))


def _was_asked(record: Column) -> Column:
    return record["key"].isNotNull()


def _record(call: Call) -> Column:
    result = F.col(f"`__asked_{call.name}`")
    return F.struct(
        result["key"].alias("key"),
        F.lit(call.step.function).alias("function"),
        F.lit(call.name).alias("step"),
        F.lit(call.prompt).alias("prompt"),
        result["model"].alias("model"),
        result["error"]["code"].alias("code"),
        F.coalesce(result["error"]["retryable"], F.lit(False)).alias("retryable"),
        F.to_json(result, ledger.JSON).alias("row_result"),
        result["usage"]["prompt_tokens"].alias("prompt_tokens"),
        result["usage"]["completion_tokens"].alias("completion_tokens"),
        result["usage"]["cached_prompt_tokens"].alias("cached_prompt_tokens"),
        result["cached"].alias("cached"),
        result["latency_ms"].alias("latency_ms"),
    )
