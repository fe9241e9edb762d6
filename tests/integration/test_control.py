from __future__ import annotations

from datetime import UTC, datetime

from pyspark.sql import SparkSession

from lakemill import control


def test_a_run_is_one_row_with_nulls_where_nothing_is_told(spark: SparkSession) -> None:
    control.append_run(spark, {"run_id": "r-1", "job": "j", "failed_by_code": {"TIMEOUT": 2}, "phases": {"plan": 0.5}})
    row = spark.table(control.RUNS).where("run_id = 'r-1'").collect()
    assert [(r.job, r.failed_by_code, r.phases, r.sink_version) for r in row] == [
        ("j", {"TIMEOUT": 2}, {"plan": 0.5}, None)
    ]


def test_errors_are_appended(spark: SparkSession) -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    control.append_errors(spark, ({"run_id": "r-2", "code": code, "time": now} for code in ("A", "B")))
    rows = spark.table(control.RUN_ERRORS).where("run_id = 'r-2'").orderBy("code").collect()
    assert [row.code for row in rows] == ["A", "B"]
    assert {row.time.astimezone(UTC) for row in rows} == {now}


def test_a_table_is_made_once(spark: SparkSession) -> None:
    for _ in range(2):
        control.ensure(spark, "lakemill.made_once", "a INT, b MAP<STRING, INT>")
    assert spark.table("lakemill.made_once").columns == ["a", "b"]
