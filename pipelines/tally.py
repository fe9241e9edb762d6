"""Count what a plan came to, from the ledger (what was asked) and from the joined rows (what came of it)."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F  # noqa: N812 - Spark's own habit

from lakemill.errors import JobError
from lakemill.pipelines import ledger, sink
from lakemill.pipelines.flow import Counts
from lakemill.pipelines.work import Work

# The plot shows the share of calls answered: a hundred points a step are enough for any number of rows.
_SHARES = [index / 100 for index in range(101)]


@dataclass(frozen=True)
class Tally:
    """Hold the counts of a run, and the latency in ms by step at every hundredth of its calls."""

    counts: Counts
    latencies: dict[str, list[float]]


def take(work: Work, frame: DataFrame) -> Tally:
    """Count the rows of `sink.joined`.

    Raises:
        JobError: The ledger lacks an answer of the plan.
    """
    rows = _rows(work, frame)
    asked = _asked(work)
    total = {name: sum(row[name] for row in asked) for name in _SUMS}
    codes = _codes(work, frame) if rows["failed_rows"] else {}
    counts = Counts(
        rows=rows["rows"],
        calls=rows["calls"],
        asked=total["asked"],
        ledger_hits=rows["calls"] - total["asked"],
        deduplicated=total["asked"] - total["keys"],
        skipped=rows["rows"] * len(work.calls) - rows["calls"],
        cached=total["cached"],
        failed=sum(codes.values()),
        failed_rows=rows["failed_rows"],
        deleted=work.plan.counts["deleted"],
        prompt_tokens=total["prompt_tokens"],
        completion_tokens=total["completion_tokens"],
        failed_by_code=codes,
    )
    return Tally(counts, {row.step: list(row.latencies) for row in asked if row.latencies})


_SUMS = ("asked", "keys", "cached", "prompt_tokens", "completion_tokens")


def _rows(work: Work, frame: DataFrame) -> dict[str, int]:
    made, failed = F.lit(0), F.lit(False)
    for call in work.calls:
        made = made + F.col(f"`__key_{call.name}`").isNotNull().cast("int")
        failed = failed | F.col(f"`{call.result}`.error").isNotNull()
    lacking = ~ledger.all_done(work.calls)
    row = frame.agg(
        F.count("*").alias("rows"),
        F.coalesce(F.sum(made), F.lit(0)).alias("calls"),
        F.count_if(failed).alias("failed_rows"),
        F.count_if(lacking).alias("lacking"),
    ).first()
    assert row is not None
    if row.lacking:
        raise JobError(
            f"job {work.flow.job}: the ledger lacks answers for {row.lacking} of {row.rows} planned rows",
            hint="were rows of lakemill.ledger deleted? a change of the source or of the job makes a new plan",
        )
    return row.asDict()


def _asked(work: Work) -> list[Row]:
    paid = ~F.col("cached")
    mine = work.spark.table(ledger.TABLE).where(F.col("plan_id") == work.plan.plan_id)
    sums = mine.groupBy("step").agg(
        F.count("*").alias("asked"),
        F.countDistinct("key").alias("keys"),
        F.count_if("cached").alias("cached"),
        F.coalesce(F.sum(F.when(paid, F.col("prompt_tokens"))), F.lit(0)).alias("prompt_tokens"),
        F.coalesce(F.sum(F.when(paid, F.col("completion_tokens"))), F.lit(0)).alias("completion_tokens"),
        F.percentile_approx(F.when(paid, F.col("latency_ms")), _SHARES).alias("latencies"),
    )
    return sums.collect()


def _codes(work: Work, frame: DataFrame) -> dict[str, int]:
    found = sink.errors(work, frame).groupBy("code").count().collect()
    return {row["code"]: row["count"] for row in sorted(found)}
