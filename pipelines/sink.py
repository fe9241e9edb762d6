"""The sink: source ⋈ ledger, counted and then merged by key in one commit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - Spark's own habit

from lakemill import control
from lakemill.errors import JobError
from lakemill.pipelines import delta, ledger, plan as plans, source
from lakemill.pipelines.flow import Counts, Flow
from lakemill.pipelines.plan import Plan
from lakemill.pipelines.source import ROW_KEY
from lakemill.pipelines.steps import Call

_DELETED = "__deleted"
_SAMPLE = 1_000


@contextmanager
def joined(spark: SparkSession, flow: Flow, calls: Sequence[Call], plan: Plan) -> Iterator[DataFrame]:
    """Give the plan's rows with every step's value and row result, from the ledger alone.

    Raises:
        JobError: The ledger lacks an answer of the plan.
    """
    found = ledger.answers(spark, [call.step.function for call in calls], plan_id=plan.plan_id)
    frame = ledger.resolve(plans.work(spark, flow, plan), calls, found).persist()
    try:
        lacking = frame.where(~ledger.all_done(calls)).limit(1).collect()
        if lacking:
            raise JobError(
                f"job {flow.job}: the ledger has no answer for row {lacking[0][ROW_KEY]}",
                hint="were rows of lakemill.ledger deleted? change the source or the job to make a new plan",
            )
        yield frame
    finally:
        frame.unpersist()


def count(spark: SparkSession, frame: DataFrame, calls: Sequence[Call], plan: Plan) -> Counts:
    """Count what the plan's rows came to."""
    asked = _asked_counts(spark, plan)
    rows = _row_counts(frame, calls)
    codes = flat_errors(frame, calls).groupBy("code").count().collect()
    return Counts(
        rows=rows["rows"],
        calls=rows["calls"],
        asked=asked["asked"],
        ledger_hits=rows["calls"] - asked["asked"],
        deduplicated=asked["asked"] - asked["distinct"],
        skipped=rows["rows"] * len(calls) - rows["calls"],
        cached=asked["cached"],
        failed=sum(row["count"] for row in codes),
        failed_rows=rows["failed_rows"],
        deleted=plan.counts["deleted"],
        prompt_tokens=asked["prompt_tokens"],
        completion_tokens=asked["completion_tokens"],
        failed_by_code={row["code"]: row["count"] for row in sorted(codes)},
    )


def _asked_counts(spark: SparkSession, plan: Plan) -> dict[str, int]:
    paid = ~F.col("cached")
    row = (
        spark.table(ledger.TABLE)
        .where(F.col("plan_id") == plan.plan_id)
        .agg(
            F.count("*").alias("asked"),
            F.countDistinct("key").alias("distinct"),
            F.count_if("cached").alias("cached"),
            F.coalesce(F.sum(F.when(paid, F.col("prompt_tokens"))), F.lit(0)).alias("prompt_tokens"),
            F.coalesce(F.sum(F.when(paid, F.col("completion_tokens"))), F.lit(0)).alias("completion_tokens"),
        )
        .first()
    )
    assert row is not None
    return row.asDict()


def _row_counts(frame: DataFrame, calls: Sequence[Call]) -> dict[str, int]:
    made = sum((F.col(f"`__key_{call.name}`").isNotNull().cast("int") for call in calls), F.lit(0))
    failed = F.lit(False)
    for call in calls:
        failed = failed | F.col(f"`{call.result}`.error").isNotNull()
    row = frame.agg(
        F.count("*").alias("rows"),
        F.coalesce(F.sum(made), F.lit(0)).alias("calls"),
        F.count_if(failed).alias("failed_rows"),
    ).first()
    assert row is not None
    return row.asDict()


def flat_errors(frame: DataFrame, calls: Sequence[Call]) -> DataFrame:
    """Return one row a failed call: step, function, key, row_key, code, message, retryable, attempts, model."""
    parts = F.array(
        *(
            F.struct(
                F.lit(call.name).alias("step"),
                F.lit(call.step.function).alias("function"),
                F.col(f"`{call.result}`.key").alias("key"),
                F.col(f"`{call.result}`.error").alias("error"),
                F.col(f"`{call.result}`.model").alias("model"),
            )
            for call in calls
        )
    )
    failed = F.filter(parts, lambda part: part["error"].isNotNull())
    flat = frame.select(F.col(ROW_KEY).alias("row_key"), F.explode(failed).alias("part"))
    return flat.select("row_key", "part.step", "part.function", "part.key", "part.model", "part.error.*")


def record_errors(spark: SparkSession, flow: Flow, errors: DataFrame, plan: Plan, *, run_id: str) -> None:
    """Append the failed calls of a plan to `lakemill.run_errors`, once however often the run is repeated."""
    control.ensure(spark, control.RUN_ERRORS, control.RUN_ERRORS_SCHEMA)
    told = errors.select(
        F.lit(run_id).alias("run_id"),
        F.lit("job").alias("origin"),
        F.lit(flow.job).alias("name"),
        "step",
        "function",
        "key",
        "row_key",
        "code",
        "message",
        "retryable",
        "attempts",
        "model",
        F.current_timestamp().alias("time"),
    )
    delta.append(told, control.RUN_ERRORS, app=plan.plan_id, number=0)


def sample_errors(errors: DataFrame) -> list[dict[str, Any]]:
    """Return at most 1,000 failed calls, for people to look at."""
    return [row.asDict() for row in errors.orderBy("step", "row_key").limit(_SAMPLE).collect()]


def latencies(spark: SparkSession, plan: Plan) -> dict[str, list[float]]:
    """Return latencies in ms by step, of at most 5,000 calls that the model answered."""
    rows = spark.table(ledger.TABLE).where((F.col("plan_id") == plan.plan_id) & ~F.col("cached"))
    found: dict[str, list[float]] = {}
    for row in rows.select("step", "latency_ms").limit(5 * _SAMPLE).collect():
        found.setdefault(row.step, []).append(row.latency_ms or 0.0)
    return found


def merge(spark: SparkSession, flow: Flow, frame: DataFrame, calls: Sequence[Call], plan: Plan, *, run_id: str) -> int:
    """Write the plan's rows into the sink in one commit, and return the version that holds it."""
    values = _values(spark, flow, frame, calls, plan)
    _create(spark, flow, values)
    metadata = {
        "lakemill.job": flow.job,
        "lakemill.run_id": run_id,
        "lakemill.plan_id": plan.plan_id,
        "lakemill.spec": flow.digest,
        "lakemill.source": flow.source,
        "lakemill.source_version": plan.source_version,
    }
    rows = values.withColumn(_DELETED, F.lit(False))
    if plan.counts["deleted"]:
        whole = source.read(spark, flow, plan.source_version)
        gone = plans.gone(spark, flow, whole).withColumn(_DELETED, F.lit(True))
        rows = rows.unionByName(gone, allowMissingColumns=True)
    with delta.commit(spark, app=plans.app(flow), number=plan.number, metadata=metadata):
        _merge(spark, flow, rows)
    return delta.version(spark, flow.sink)


def _values(spark: SparkSession, flow: Flow, frame: DataFrame, calls: Sequence[Call], plan: Plan) -> DataFrame:
    columns = [F.col(f"`{name}`") for name in source.read(spark, flow, plan.source_version).columns]
    for call in calls:
        columns.append(F.col(f"`{call.name}`"))
        if flow.keep_results:
            columns.append(F.col(f"`{call.result}`"))
    return frame.select(*columns)


def _create(spark: SparkSession, flow: Flow, values: DataFrame) -> None:
    if delta.exists(spark, flow.sink):
        return
    DeltaTable.createIfNotExists(spark).tableName(flow.sink).addColumns(values.schema).execute()


def _merge(spark: SparkSession, flow: Flow, rows: DataFrame) -> None:
    same = " AND ".join(f"t.`{key}` = s.`{key}`" for key in flow.keys)
    names = {f"`{name}`": f"s.`{name}`" for name in rows.columns if name != _DELETED}
    (
        DeltaTable.forName(spark, flow.sink)
        .alias("t")
        .merge(rows.alias("s"), same)
        .withSchemaEvolution()
        .whenMatchedDelete(f"s.{_DELETED}")
        .whenMatchedUpdate(set=names)
        .whenNotMatchedInsert(f"NOT s.{_DELETED}", values=names)
        .execute()
    )
