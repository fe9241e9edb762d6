"""The sink: source ⋈ ledger, counted and then merged by key in one commit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from delta.tables import DeltaTable
from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812 - Spark's own habit

from lakemill import control
from lakemill.pipelines import delta, ledger, source
from lakemill.pipelines import plan as plans
from lakemill.pipelines.flow import Flow
from lakemill.pipelines.source import ROW_KEY
from lakemill.pipelines.work import Work

_DELETED = "__deleted"
_SAMPLE = 1_000


@contextmanager
def joined(work: Work) -> Iterator[DataFrame]:
    """Give the plan's rows with every step's value and row result, from the ledger alone."""
    functions = [call.step.function for call in work.calls]
    found = ledger.answers(work.spark, functions, plan_id=work.plan.plan_id)
    frame = ledger.resolve(plans.rows_of(work.spark, work.flow, work.plan), work.calls, found).persist()
    try:
        yield frame
    finally:
        frame.unpersist()


def errors(work: Work, frame: DataFrame) -> DataFrame:
    """Return one row a failed call: row_key, step, function, key, model, code, message, retryable, attempts."""
    parts = F.array(
        *(
            F.struct(
                F.lit(call.name).alias("step"),
                F.lit(call.step.function).alias("function"),
                F.col(f"`{call.result}`.key").alias("key"),
                F.col(f"`{call.result}`.error").alias("error"),
                F.col(f"`{call.result}`.model").alias("model"),
            )
            for call in work.calls
        )
    )
    failed = F.filter(parts, lambda part: part["error"].isNotNull())
    flat = frame.select(F.col(ROW_KEY).alias("row_key"), F.explode(failed).alias("part"))
    return flat.select("row_key", "part.step", "part.function", "part.key", "part.model", "part.error.*")


def record_errors(work: Work, failed: DataFrame) -> list[dict[str, Any]]:
    """Append the failed calls to `lakemill.run_errors`, once however often the run is repeated; return some."""
    control.ensure(work.spark, control.RUN_ERRORS, control.RUN_ERRORS_SCHEMA)
    constants = {"run_id": work.run_id, "origin": "job", "name": work.flow.job}
    told = failed.select("*", *(F.lit(value).alias(name) for name, value in constants.items()))
    told = told.withColumn("time", F.current_timestamp())
    columns = [field.split()[0] for field in control.RUN_ERRORS_SCHEMA.split(", ")]
    delta.append(told.select(*columns), control.RUN_ERRORS, app=work.plan.plan_id, number=0)
    return [row.asDict() for row in failed.orderBy("step", "row_key").limit(_SAMPLE).collect()]


def merge(work: Work, frame: DataFrame) -> int:
    """Write the plan's rows into the sink in one commit, and return the version that holds it."""
    spark, flow, plan = work.spark, work.flow, work.plan
    whole = source.read(spark, flow, plan.source_version)
    values = frame.select(*(F.col(f"`{name}`") for name in (*whole.columns, *_written(work))))
    if not delta.exists(spark, flow.sink):
        DeltaTable.createIfNotExists(spark).tableName(flow.sink).addColumns(values.schema).execute()
    rows = values.withColumn(_DELETED, F.lit(False))
    if plan.counts["deleted"]:
        gone = plans.gone(spark, flow, whole).withColumn(_DELETED, F.lit(True))
        rows = rows.unionByName(gone, allowMissingColumns=True)
    # A session of its own: what its commits carry must not slip into those of other threads.
    own = spark.newSession()
    with delta.commit(own, app=plans.app(flow), number=plan.number, metadata=_metadata(work)):
        _merge(DeltaTable.forName(own, flow.sink), flow, rows)
    return delta.version(spark, flow.sink)


def _written(work: Work) -> list[str]:
    keep = work.flow.keep_results
    return [name for call in work.calls for name in ((call.name, call.result) if keep else (call.name,))]


def _metadata(work: Work) -> dict[str, Any]:
    return {
        "lakemill.job": work.flow.job,
        "lakemill.run_id": work.run_id,
        "lakemill.plan_id": work.plan.plan_id,
        "lakemill.spec": work.flow.digest,
        "lakemill.source": work.flow.source,
        "lakemill.source_version": work.plan.source_version,
    }


def _merge(table: DeltaTable, flow: Flow, rows: DataFrame) -> None:
    same = " AND ".join(f"t.`{key}` = s.`{key}`" for key in flow.keys)
    names = {f"`{name}`": f"s.`{name}`" for name in rows.columns if name != _DELETED}
    (
        table.alias("t")
        .merge(rows.alias("s"), same)
        .withSchemaEvolution()
        .whenMatchedDelete(f"s.{_DELETED}")
        .whenMatchedUpdate(set=names)
        .whenNotMatchedInsert(f"NOT s.{_DELETED}", values=names)
        .execute()
    )
