"""What every part of a run shares once its plan is written."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import SparkSession

from lakemill.pipelines.flow import Flow
from lakemill.pipelines.plan import Plan
from lakemill.pipelines.steps import Call


@dataclass(frozen=True)
class Work:
    """Hold one run: its session, flow, checked steps, plan and id."""

    spark: SparkSession
    flow: Flow
    calls: tuple[Call, ...]
    plan: Plan
    run_id: str
