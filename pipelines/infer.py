"""One chunk of a plan: one Spark stage that asks what the ledger does not hold, and appends the answers to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - Spark's own habit

from lakemill.pipelines import delta, ledger, plan as plans
from lakemill.pipelines.flow import Flow
from lakemill.pipelines.plan import Plan
from lakemill.pipelines.source import ROW_KEY
from lakemill.pipelines.steps import Call

CHUNK = 0
# Settings of the SQL functions: who asks, and that the job itself records what failed.
_RUN = "spark.lakemill.run"
_RECORD = "spark.lakemill.recordFailures"


def is_done(spark: SparkSession, plan: Plan) -> bool:
    """Tell whether the chunk's answers are in the ledger already."""
    return delta.transaction(spark, ledger.TABLE, plan.plan_id) is not None


def run(spark: SparkSession, flow: Flow, calls: Sequence[Call], plan: Plan, *, run_id: str) -> None:
    """Ask the chunk's open calls and append every answer, good or failed, in one commit."""
    with _as_job(spark, run_id):
        records = _records(_asked(_todo(spark, flow, calls, plan), calls), flow, calls, plan, run_id)
        delta.append(records, ledger.TABLE, app=plan.plan_id, number=CHUNK)


def _todo(spark: SparkSession, flow: Flow, calls: Sequence[Call], plan: Plan) -> DataFrame:
    found = ledger.answers(spark, [call.step.function for call in calls])
    resolved = ledger.resolve(plans.work(spark, flow, plan), calls, found, compute=False)
    return resolved.where(~ledger.all_done(calls)).repartition(spark.sparkContext.defaultParallelism)


def _asked(frame: DataFrame, calls: Sequence[Call]) -> DataFrame:
    """Ask step after step: the input of one may name the value of an earlier one."""
    for call in calls:
        frame = frame.selectExpr("*", f"{call.ask(unless=f'`__done_{call.name}`')} AS `__asked_{call.name}`")
        both = F.coalesce(F.col(f"`__asked_{call.name}`"), F.col(f"`{call.result}`"))
        frame = frame.withColumn(call.result, both).withColumn(call.name, F.col(f"`{call.result}`.result"))
    return frame


def _records(frame: DataFrame, flow: Flow, calls: Sequence[Call], plan: Plan, run_id: str) -> DataFrame:
    asked = F.array(*(_record(call) for call in calls))
    flat = frame.select(F.col(ROW_KEY).alias("row_key"), F.explode(F.filter(asked, _was_asked)).alias("r"))
    constants = {
        "job": flow.job,
        "origin": "job",
        "run_id": run_id,
        "plan_id": plan.plan_id,
        "source": flow.source,
    }
    named = flat.select("row_key", "r.*", *(F.lit(value).alias(name) for name, value in constants.items()))
    named = named.withColumns(
        {
            "chunk": F.lit(CHUNK),
            "source_version": F.lit(plan.source_version).cast("bigint"),
            "time": F.current_timestamp(),
            "ok": F.col("code").isNull(),
        }
    )
    return named.select(*(field.split()[0] for field in ledger.SCHEMA.split(", ")))


def _was_asked(record: F.Column) -> F.Column:
    return record["key"].isNotNull()


def _record(call: Call) -> F.Column:
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


@contextmanager
def _as_job(spark: SparkSession, run_id: str) -> Iterator[None]:
    values = {_RUN: run_id, _RECORD: "false"}
    before = {name: spark.conf.get(name, None) for name in values}
    try:
        for name, value in values.items():
            spark.conf.set(name, value)
        yield
    finally:
        for name, old in before.items():
            spark.conf.unset(name) if old is None else spark.conf.set(name, old)
