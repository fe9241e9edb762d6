"""A job from a table to a table: real Spark, Delta and MLflow over the contract service."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from deltalake import DeltaTable
from mlflow import MlflowClient
from pyspark.sql import SparkSession

import lakemill
from lakemill import warehouse
from lakemill.errors import ConfError, JobError
from lakemill.pipelines import sink
from lakemill.serving.contract_server import ContractServer
from lakemill.settings import Paths

STEPS: dict[str, Any] = {
    "brief": {"function": "ai_summarize", "input": "body", "max_words": 9},
    "topic": {"function": "ai_classify", "input": "concat(title, ' ', brief)", "labels": ["card", "loan", "app"]},
    "facts": {"function": "ai_extract", "input": "body", "schema": {"amount": {"type": "integer"}}},
}
Run = Callable[..., Any]


@pytest.fixture
def run(
    tmp_path: Path, lakemill_home: Path, contract: ContractServer, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Write a job file and run it; `run.job` is its name, tables are named after it."""
    del lakemill_home, spark
    monkeypatch.setenv("LAKEMILL_ENDPOINT", contract.url)
    monkeypatch.setenv("LAKEMILL_TOKEN", contract.token or "")
    (tmp_path / "jobs").mkdir()

    def _run(name: str, **changes: Any) -> lakemill.RunResult:
        spec = {
            "job": name,
            "source": {"table": name},
            "steps": STEPS,
            "sink": {"table": f"{name}_ai", "key": ["id"], "keep_results": True},
        }
        (tmp_path / "jobs" / f"{name}.yaml").write_text(yaml.safe_dump(spec | changes), encoding="utf-8")
        return lakemill.run_job(name, conf_dir=tmp_path)

    return _run


def source(spark: SparkSession, name: str, rows: list[tuple[int, str, str | None]]) -> None:
    frame = spark.createDataFrame(rows, "id INT, title STRING, body STRING")
    frame.coalesce(1).write.format("delta").mode("overwrite").saveAsTable(name)


def rows_of(spark: SparkSession, table: str) -> list[dict[str, Any]]:
    columns = "id, title, body, brief, topic, to_json(facts) AS facts"
    return [row.asDict() for row in spark.sql(f"SELECT {columns} FROM {table} ORDER BY id").collect()]


def generations(contract: ContractServer) -> int:
    return sum(contract.engine.asked.values())


FOUR: list[tuple[int, str, str | None]] = [
    (1, "stolen", "my card was stolen in run one"),
    (2, "slow", "the app is slow in run one"),
    (3, "blank", "  "),
    (4, "null", None),
]


def test_a_first_run_enriches_and_a_second_has_nothing_to_do(
    run: Run, spark: SparkSession, contract: ContractServer, lakemill_home: Path
) -> None:
    source(spark, "first", FOUR)
    done = run("first")
    assert (done.state, done.counts.rows, done.counts.failed) == ("done", 4, 0)
    rows = rows_of(spark, "first_ai")
    assert [row["id"] for row in rows] == [1, 2, 3, 4]
    assert all(rows[i]["brief"] and rows[i]["topic"] in ("card", "loan", "app") for i in (0, 1))
    assert [rows[i]["brief"] for i in (2, 3)] == [None, None]
    [kept] = spark.sql("SELECT brief_result.key, topic_result.confidence FROM first_ai WHERE id = 1").collect()
    assert len(kept.key) == 64
    assert 0 < kept.confidence <= 1

    asked = generations(contract)
    again = run("first")
    assert (again.state, again.run_id, generations(contract)) == ("nothing to do", None, asked)

    [told] = spark.sql(f"SELECT * FROM lakemill.runs WHERE run_id = '{done.run_id}'").collect()
    assert (told.state, told["rows"], told.sink_version) == ("done", 4, done.sink_version)
    paths = Paths(lakemill_home)
    record = MlflowClient(f"sqlite:///{paths.mlflow_db}").get_run(done.run_id)
    assert record.info.status == "FINISHED"
    assert record.data.metrics["rows"] == 4
    assert {each.dataset.name for each in record.inputs.dataset_inputs} == {
        f"first@v{done.source_version}",
        f"first_ai@v{done.sink_version}",
    }
    # Another reader sees the same table, and in its last commit which run made it.
    other = DeltaTable(str(warehouse.table_path(paths, "first_ai")))
    assert other.version() == done.sink_version
    assert done.run_id in str(other.history(1)[0])


def test_only_what_changed_is_asked_and_what_is_gone_disappears(
    run: Run, spark: SparkSession, contract: ContractServer
) -> None:
    source(spark, "moved", [(1, "a", "kept as it is"), (2, "b", "will change"), (3, "c", "will go")])
    run("moved")
    asked = generations(contract)
    source(spark, "moved", [(1, "a", "kept as it is"), (2, "b", "has changed"), (4, "d", "is new")])
    done = run("moved")
    assert done.counts.deleted == 1
    assert generations(contract) - asked == 2 * len(STEPS)
    assert [(row["id"], row["body"]) for row in rows_of(spark, "moved_ai")] == [
        (1, "kept as it is"),
        (2, "has changed"),
        (4, "is new"),
    ]


def test_a_crash_between_ledger_and_sink_pays_nothing_twice(
    run: Run, spark: SparkSession, contract: ContractServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source(spark, "crash", [(1, "a", "one of the crash"), (2, "b", "two of the crash")])
    with monkeypatch.context() as patch:
        patch.setattr(sink, "merge", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("the driver died")))
        with pytest.raises(RuntimeError, match="the driver died"):
            run("crash")
    assert not spark.catalog.tableExists("crash_ai")
    asked = generations(contract)
    done = run("crash")
    assert done.resumed
    assert generations(contract) == asked
    source(spark, "clean", [(1, "a", "one of the crash"), (2, "b", "two of the crash")])
    run("clean")
    assert rows_of(spark, "crash_ai") == rows_of(spark, "clean_ai")


def test_a_failed_row_is_null_and_stands_in_run_errors(run: Run, spark: SparkSession) -> None:
    source(spark, "ill", [(1, "a", "fine"), (2, "b", "[[lakemill:fail INVALID_REQUEST]] ill")])
    done = run("ill", steps={"brief": STEPS["brief"]})
    assert done.counts.failed_by_code == {"INVALID_REQUEST": 1}
    rows = spark.sql("SELECT id, brief IS NULL AS failed FROM ill_ai ORDER BY id").collect()
    assert [tuple(row) for row in rows] == [(1, False), (2, True)]
    [error] = spark.sql(f"SELECT * FROM lakemill.run_errors WHERE run_id = '{done.run_id}'").collect()
    assert (error.origin, error.name, error.step, error.row_key, error.code) == (
        "job",
        "ill",
        "brief",
        '{"id":2}',
        "INVALID_REQUEST",
    )


def test_a_job_that_is_to_fail_fails_before_the_sink_and_keeps_its_answers(run: Run, spark: SparkSession) -> None:
    source(spark, "strict", [(1, "a", "fine too"), (2, "b", "[[lakemill:fail INVALID_REQUEST]] strict")])
    with pytest.raises(JobError, match="INVALID_REQUEST"):
        run("strict", steps={"brief": STEPS["brief"]}, on_error="fail")
    assert not spark.catalog.tableExists("strict_ai")
    assert spark.sql("SELECT ok FROM lakemill.ledger WHERE job = 'strict' ORDER BY ok").collect() == [(False,), (True,)]
    [told] = spark.sql("SELECT state FROM lakemill.runs WHERE job = 'strict'").collect()
    assert told.state == "failed"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([(1, "a", "x"), (1, "b", "y")], r'not unique.*\{"id":1\} \(2 rows\)'),
        ([(1, "a", "x"), (None, "b", "y")], "NULL in sink.key"),
    ],
)
def test_a_key_that_names_no_row_is_refused(run: Run, spark: SparkSession, rows: list[Any], words: str) -> None:
    source(spark, "keys", rows)
    with pytest.raises(JobError, match=words):
        run("keys")


def test_a_step_that_spark_refuses_is_told_with_its_name(run: Run, spark: SparkSession) -> None:
    source(spark, "typo", [(1, "a", "x")])
    with pytest.raises(ConfError, match=r"steps\.brief.*boddy"):
        run("typo", steps={"brief": {"function": "ai_summarize", "input": "boddy"}})
