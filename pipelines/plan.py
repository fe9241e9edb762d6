"""The plan: which rows are new, changed or gone, and which calls they need, written before anything is asked."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - Spark's own habit

from lakemill import control
from lakemill.errors import JobError
from lakemill.pipelines import delta, ledger, source
from lakemill.pipelines.flow import Flow
from lakemill.pipelines.source import ROW_DIGEST, ROW_KEY
from lakemill.pipelines.steps import Call

PLANS = "lakemill.plans"
PLAN_ROWS = "lakemill.plan_rows"
PLANS_SCHEMA = (
    "plan_id STRING, number BIGINT, job STRING, state STRING, spec STRING, source STRING, source_version BIGINT, "
    "sink STRING, model STRING, prompts MAP<STRING, STRING>, counts MAP<STRING, BIGINT>, time TIMESTAMP"
)
PLAN_ROWS_SCHEMA = (
    "plan_id STRING, chunk INT, row_key STRING, row_digest STRING, state STRING, keys MAP<STRING, STRING>"
)
_EXAMPLES = 3


@dataclass(frozen=True)
class Plan:
    """Hold the header of a written plan. `counts`: rows, kept, deleted, calls, distinct, hits, skipped, open."""

    plan_id: str
    number: int
    source_version: int
    model: str
    prompts: Mapping[str, str]
    counts: Mapping[str, int]
    resumed: bool = False

    @property
    def work(self) -> int:
        """Return how many rows of the sink the plan touches."""
        return self.counts["rows"] + self.counts["deleted"]


def app(flow: Flow) -> str:
    """Return the name of a job's transactions in its sink."""
    return f"lakemill:{flow.job}"


def make(spark: SparkSession, flow: Flow, calls: Sequence[Call], *, version: int, model: str) -> Plan:
    """Take up the unfinished plan of this spec and source version, or write a new one.

    A plan without work is returned and not written. `model` is the resolved `name@version`.

    Raises:
        JobError: A key of the source is NULL or stands there twice; the message names some.
    """
    for table, schema in ((PLANS, PLANS_SCHEMA), (PLAN_ROWS, PLAN_ROWS_SCHEMA)):
        control.ensure(spark, table, schema)
    ledger.ensure(spark)
    headers = _headers(spark, flow)
    done = delta.transaction(spark, flow.sink, app(flow))
    open_plan = _unfinished(headers, done, _identity(flow, calls, version, model))
    if open_plan is not None:
        return open_plan
    base = _base(headers, done, flow)
    number = max([row.number for row in headers] + [-1 if done is None else done]) + 1
    return _write(spark, flow, calls, _New(uuid.uuid4().hex, number, version, model, base))


def abandon(spark: SparkSession, flow: Flow, plan: Plan) -> None:
    """Write that a plan failed by the job's own rules, so that the next run makes a new one."""
    _append_header(spark, flow, plan, "failed")


def rows_of(spark: SparkSession, flow: Flow, plan: Plan) -> DataFrame:
    """Return the source rows that a plan does, at its version, with their keys as far as they are known."""
    frame = source.keyed(source.read(spark, flow, plan.source_version), flow)
    rows = spark.table(PLAN_ROWS).where((F.col("plan_id") == plan.plan_id) & (F.col("state") != "kept"))
    return frame.join(rows.select(F.col("row_key").alias(ROW_KEY), F.col("keys").alias(ledger.KEYS)), ROW_KEY)


@dataclass(frozen=True)
class _New:
    plan_id: str
    number: int
    version: int
    model: str
    base: str | None


def _headers(spark: SparkSession, flow: Flow) -> list[Row]:
    if delta.never_written(spark, PLANS):
        return []
    rows = spark.table(PLANS).where((F.col("job") == flow.job) & (F.lower("sink") == flow.sink.lower()))
    return rows.orderBy("number", "time").collect()


def _identity(flow: Flow, calls: Sequence[Call], version: int, model: str) -> tuple[Any, ...]:
    return flow.digest, version, model, {call.name: call.prompt for call in calls}


def _unfinished(headers: list[Row], done: int | None, identity: tuple[Any, ...]) -> Plan | None:
    if not headers:
        return None
    # The newest header of the newest plan: a plan that failed has two.
    last = headers[-1]
    same = (last.spec, last.source_version, last.model, last.prompts) == identity
    if not same or last.state != "planned" or (done is not None and done >= last.number):
        return None
    return Plan(last.plan_id, last.number, last.source_version, last.model, last.prompts, last.counts, resumed=True)


def _base(headers: list[Row], done: int | None, flow: Flow) -> str | None:
    """Return the plan that the sink holds now, if it is of the same spec: what did not change since is kept."""
    held = [row for row in headers if row.number == done and row.state == "planned" and row.spec == flow.digest]
    return held[-1].plan_id if held else None


def _write(spark: SparkSession, flow: Flow, calls: Sequence[Call], new: _New) -> Plan:
    frame = source.keyed(source.read(spark, flow, new.version), flow)
    with _kept(_rows(spark, frame, calls, new)) as rows:
        counts = _counts(rows, calls)
        _check_keys(flow, rows, counts)
        counts["deleted"] = _deleted(spark, flow, frame)
        prompts = {call.name: call.prompt for call in calls}
        plan = Plan(new.plan_id, new.number, new.version, new.model, prompts, counts)
        if plan.work:
            # The rows first: the header is what makes them a plan.
            columns = ["plan_id", "chunk", "row_key", "row_digest", "state", "keys"]
            delta.append(rows.select(*columns), PLAN_ROWS, app=new.plan_id, number=0)
            _append_header(spark, flow, plan, "planned")
    return plan


@contextmanager
def _kept(frame: DataFrame) -> Iterator[DataFrame]:
    frame.persist()
    try:
        yield frame
    finally:
        frame.unpersist()


def _rows(spark: SparkSession, frame: DataFrame, calls: Sequence[Call], new: _New) -> DataFrame:
    marked = _marked(spark, frame, new.base)
    found = ledger.answers(spark, [call.step.function for call in calls])
    open_rows = ledger.resolve(marked.where("__state != 'kept'"), calls, found)
    keys = F.create_map(*(part for call in calls for part in (F.lit(call.name), F.col(f"`__key_{call.name}`"))))
    done = F.array(*(F.col(f"`__done_{call.name}`") for call in calls))
    asked = open_rows.select(ROW_KEY, ROW_DIGEST, "__state", keys.alias("keys"), done.alias("done"))
    kept = marked.where("__state = 'kept'").select(
        ROW_KEY,
        ROW_DIGEST,
        "__state",
        F.lit(None).cast("map<string,string>").alias("keys"),
        F.lit(None).cast("array<boolean>").alias("done"),
    )
    both = asked if new.base is None else asked.unionByName(kept)
    return both.select(
        F.lit(new.plan_id).alias("plan_id"),
        F.lit(0).alias("chunk"),
        F.col(ROW_KEY).alias("row_key"),
        F.col(ROW_DIGEST).alias("row_digest"),
        F.col("__state").alias("state"),
        "keys",
        "done",
    )


def _marked(spark: SparkSession, frame: DataFrame, base: str | None) -> DataFrame:
    if base is None:
        return frame.withColumn("__state", F.lit("new"))
    before = spark.table(PLAN_ROWS).where(F.col("plan_id") == base)
    before = before.select(F.col("row_key").alias(ROW_KEY), F.col("row_digest").alias("__before"))
    state = F.when(F.col("__before").isNull(), "new").when(F.col("__before") == F.col(ROW_DIGEST), "kept")
    return frame.join(before, ROW_KEY, "left").withColumn("__state", state.otherwise("changed")).drop("__before")


def _counts(rows: DataFrame, calls: Sequence[Call]) -> dict[str, int]:
    is_open, calls_made = F.col("state") != "kept", F.lit(0)
    skipped, hits = F.lit(0), F.lit(0)
    for index, call in enumerate(calls):
        key, done = F.col("keys")[call.name], F.col("done")[index]
        calls_made = calls_made + (is_open & ~done).cast("int")
        skipped = skipped + (is_open & done & key.isNull()).cast("int")
        hits = hits + (is_open & done & key.isNotNull()).cast("int")
    row = rows.agg(
        F.count("*").alias("all"),
        F.count("row_key").alias("named"),
        F.countDistinct("row_key").alias("differing"),
        F.count_if(is_open).alias("rows"),
        *(
            F.coalesce(F.sum(n), F.lit(0)).alias(name)
            for name, n in (("skipped", skipped), ("hits", hits), ("open", calls_made))
        ),
    ).first()
    assert row is not None
    return row.asDict() | {"kept": row["all"] - row["rows"], "distinct": _distinct(rows, calls)}


def _distinct(rows: DataFrame, calls: Sequence[Call]) -> int:
    """Return how many different calls are open, as far as their keys are known."""
    asked = F.array(*(F.when(~F.col("done")[i], F.col("keys")[call.name]) for i, call in enumerate(calls)))
    keys = rows.where("state != 'kept'").select(F.explode(asked).alias("key")).where("key IS NOT NULL")
    return keys.distinct().count()


def _check_keys(flow: Flow, rows: DataFrame, counts: Mapping[str, int]) -> None:
    key = ", ".join(flow.keys)
    if counts["named"] < counts["all"]:
        raise JobError(
            f"job {flow.job}: {counts['all'] - counts['named']} rows of {flow.source} have NULL in sink.key ({key})",
            hint="a row needs a key of its own: choose other columns, or filter such rows out of the source",
        )
    if counts["differing"] < counts["all"]:
        twice = rows.groupBy("row_key").count().where("count > 1").orderBy("row_key").limit(_EXAMPLES).collect()
        shown = ", ".join(f"{row.row_key} ({row['count']} rows)" for row in twice)
        raise JobError(
            f"job {flow.job}: sink.key ({key}) is not unique in {flow.source}: {shown}",
            hint="add the columns to sink.key that tell these rows apart",
        )


def _deleted(spark: SparkSession, flow: Flow, frame: DataFrame) -> int:
    return gone(spark, flow, frame).count() if delta.exists(spark, flow.sink) else 0


def gone(spark: SparkSession, flow: Flow, frame: DataFrame) -> DataFrame:
    """Return the keys of the sink's rows that the source does not have any more."""
    keys = [F.col(f"`{key}`") for key in flow.keys]
    return spark.table(flow.sink).select(*keys).join(frame.select(*keys), list(flow.keys), "left_anti")


def _append_header(spark: SparkSession, flow: Flow, plan: Plan, state: str) -> None:
    row = (
        plan.plan_id,
        plan.number,
        flow.job,
        state,
        flow.digest,
        flow.source,
        plan.source_version,
        flow.sink,
        plan.model,
        dict(plan.prompts),
        dict(plan.counts),
        datetime.now(UTC),
    )
    frame = spark.createDataFrame([row], PLANS_SCHEMA).coalesce(1)
    delta.append(frame, PLANS, app=f"{plan.plan_id}:{state}", number=0)
