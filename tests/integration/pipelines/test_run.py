"""Runs of a job on real Spark, Delta and MLflow, with the contract engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from mlflow import MlflowClient
from pyspark.sql import DataFrame

from lakemill.errors import ConfError, JobError, RowFailedError
from lakemill.jobs import glance, runner
from lakemill.jobs.console import Stop
from lakemill.pipelines import delta, infer, ledger, sink
from lakemill.pipelines.run import StoppedError

ROWS = (
    "(1, 'one', 'a card was lost #')",
    "(2, 'two', 'the app is slow #')",
    "(3, 'three', 'the app is slow #')",
    "(4, 'four', NULL)",
    "(5, 'five', '[[lakemill:fail CONTENT_FILTERED]] #')",
)


def _merges(job: Any) -> list[dict[str, object]]:
    history = job.spark.sql(f"DESCRIBE HISTORY {job.sink}").collect()
    return [json.loads(commit.userMetadata) for commit in history if commit.operation == "MERGE"]


def test_from_the_first_run_to_a_changed_source(job: Any, lakemill_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = job.fill(*ROWS).run()

    counts = first.counts
    assert (first.state, counts.rows, counts.calls, counts.asked, counts.ledger_hits) == ("done", 5, 11, 11, 0)
    assert (counts.skipped, counts.failed, counts.failed_rows) == (4, 2, 1)
    assert counts.deduplicated == 2  # rows 2 and 3 share summary and facts
    assert counts.failed_by_code == {"CONTENT_FILTERED": 2}
    assert counts.prompt_tokens > 0
    _check_sink(job)
    _check_records(job, first, lakemill_home)
    _check_second_run(job, monkeypatch)
    _check_changes(job, first)


def _check_sink(job: Any) -> None:
    brief = "ai_summarize(body, 10)"
    expected = (
        f"SELECT id, title, {brief}, ai_classify(concat(title, ' ', {brief}), array('card', 'app')) FROM {{job.source}}"
    )
    assert job.rows("SELECT id, title, brief, topic FROM {job.sink} ORDER BY id") == sorted(job.rows(expected))
    assert job.rows("SELECT id, facts IS NULL FROM {job.sink} ORDER BY id") == [
        (1, False),
        (2, False),
        (3, False),
        (4, True),
        (5, True),
    ]
    # The row results lie beside the values, typed as try_ gives them.
    query = (
        "SELECT brief_result.error.code, facts_result.result, topic_result.confidence > 0 FROM {job.sink} WHERE id = "
    )
    assert job.rows(query + "5") == [("CONTENT_FILTERED", None, None)]
    assert job.rows(query + "1")[0][0] is None
    assert job.rows(query + "1")[0][2] is True


def _check_records(job: Any, first: runner.RunResult, home: Path) -> None:
    errors = "SELECT step, row_key, code, attempts > 0 FROM lakemill.run_errors WHERE run_id = '{}' ORDER BY step"
    failed = job.rows(errors.format(first.run_id))
    assert failed == [(step, '{"id":5}', "CONTENT_FILTERED", True) for step in ("brief", "facts")]
    told = job.rows(
        f"SELECT state, rows, failed, sink_version, error FROM lakemill.runs WHERE run_id = '{first.run_id}'"
    )
    assert told == [("done", 5, 2, first.sink_version, None)]

    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    run = client.get_run(str(first.run_id))
    assert run.info.status == "FINISHED"
    assert run.data.metrics["failed.CONTENT_FILTERED"] == 2
    assert run.data.metrics["prompt_tokens"] == first.counts.prompt_tokens
    assert run.data.params["steps.brief.function"] == "ai_summarize"
    datasets = {each.dataset.name: each.tags[0].value for each in run.inputs.dataset_inputs}
    assert datasets == {f"{job.source}@v0": "source", f"{job.sink}@v1": "sink"}
    artifacts = {each.path for each in client.list_artifacts(str(first.run_id))}
    assert artifacts >= {"job.yaml", "latency.png", "failures.json"}
    (merge,) = _merges(job)
    assert merge["lakemill.run_id"] == first.run_id
    assert merge["lakemill.source_version"] == 0


def _check_second_run(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = job.asked
    assert job.run().state == "nothing to do"  # told by the Delta logs alone
    with monkeypatch.context() as patch:
        patch.setattr(runner, "nothing_new", lambda *_: None)
        assert job.run().state == "nothing to do"  # told by the planner
    assert job.asked == asked
    assert len(_merges(job)) == 1


def _check_changes(job: Any, first: runner.RunResult) -> None:
    job.rows("INSERT INTO {job.source} VALUES (6, 'six', 'a new row')")
    job.rows("DELETE FROM {job.source} WHERE id = 2")
    job.rows("UPDATE {job.source} SET title = 'uno' WHERE id = 1")
    asked = job.asked

    second = job.run()

    assert (second.counts.rows, second.counts.deleted) == (2, 1)
    # Row 6 asks three times; of row 1 only the topic reads the title.
    assert (second.counts.asked, second.counts.ledger_hits) == (4, 2)
    assert job.asked - asked == 4
    assert [row[0] for row in job.rows("SELECT id FROM {job.sink} ORDER BY id")] == [1, 3, 4, 5, 6]
    assert job.rows("SELECT title FROM {job.sink} WHERE id = 1") == [("uno",)]
    assert [merge["lakemill.source_version"] for merge in _merges(job)] == [3, 0]
    assert second.run_id != first.run_id


def test_another_reader_sees_the_same(job: Any, lakemill_home: Path) -> None:
    job.write(steps={"brief": {"function": "ai_summarize", "input": "body"}}).fill(*ROWS[:3]).run()

    theirs = DeltaTable(lakemill_home / "warehouse" / job.sink).to_pyarrow_table(columns=["id", "title", "brief"])

    assert sorted(tuple(row.values()) for row in theirs.to_pylist()) == job.rows(
        "SELECT id, title, brief FROM {job.sink} ORDER BY id"
    )


def test_a_run_killed_before_the_merge_goes_on_from_the_ledger(job: Any, crash) -> None:
    job.fill(*ROWS)
    crash(sink, "merge")
    with pytest.raises(KeyboardInterrupt):
        job.run()
    assert not delta.exists(job.spark, job.sink)
    asked = job.asked

    again = job.run()

    assert again.resumed
    assert job.asked == asked
    assert again.counts.asked == 11
    _check_sink(job)
    assert len(_merges(job)) == 1
    states = job.rows(f"SELECT state FROM lakemill.runs WHERE job = '{job.name}' ORDER BY started_at")
    assert states == [("stopped",), ("done",)]


def test_a_run_killed_before_the_ledger_pays_for_no_answer_twice(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask_and_die(frame: DataFrame, table: str, **_: object) -> None:
        frame.collect()
        raise KeyboardInterrupt(table)

    job.fill(*ROWS[:3])
    with monkeypatch.context() as patch:
        patch.setattr(infer.delta, "append", _only(ledger.TABLE, ask_and_die))
        with pytest.raises(KeyboardInterrupt):
            job.run()
    asked = job.asked

    again = job.run()

    assert again.resumed
    assert (again.counts.asked, again.counts.cached) == (9, 9)
    assert job.asked == asked


def _only(name: str, instead: Callable[..., None]) -> Callable[..., None]:
    real = delta.append

    def append(frame: DataFrame, table: str, **options: Any) -> None:
        (instead if table == name else real)(frame, table, **options)

    return append


def test_failed_rows_fail_the_job_where_it_says_so(job: Any) -> None:
    job.write(on_error="fail").fill(*ROWS)
    with pytest.raises(RowFailedError, match=r"2 calls failed \(CONTENT_FILTERED 2\) and on_error is fail"):
        job.run()
    assert not delta.exists(job.spark, job.sink)
    assert job.rows(f"SELECT state, failed FROM lakemill.runs WHERE job = '{job.name}'") == [("failed", 2)]
    asked = job.asked

    # With the rule gone everything else is in the ledger.
    done = job.write(limits={"max_error_ratio": 0.5}).run()

    assert done.state == "done"
    assert job.asked == asked
    assert done.counts.ledger_hits == 11


def test_too_many_failed_rows_fail_the_job(job: Any) -> None:
    job.write(limits={"max_error_ratio": 0.1}).fill(*ROWS)
    with pytest.raises(RowFailedError, match=r"1 of 5 rows failed .* more than limits.max_error_ratio = 0.1"):
        job.run()
    with pytest.raises(RowFailedError, match=r"1 rows failed .* more than limits.max_errors = 0"):
        job.write(limits={"max_errors": 0}).run()


def test_a_retryable_failure_is_asked_again_by_the_next_plan(job: Any) -> None:
    job.write(on_error="fail", steps={"brief": {"function": "ai_summarize", "input": "body"}})
    job.fill("(1, 'x', '[[lakemill:fail TIMEOUT]] #')")
    with pytest.raises(RowFailedError):
        job.run()
    asked = job.asked
    with pytest.raises(RowFailedError):
        job.run()
    assert job.asked > asked


def test_a_key_that_names_two_rows_is_refused(job: Any) -> None:
    job.fill("(1, 'a', 'x')", "(1, 'b', 'y')", "(2, 'c', 'z')")
    asked = job.asked
    with pytest.raises(JobError, match=r'sink.key \(id\) is not unique in source\d+: {"id":1} \(2 rows\)'):
        job.run()
    assert job.asked == asked


def test_a_row_without_a_key_is_refused(job: Any) -> None:
    job.fill("(1, 'a', 'x')", "(CAST(NULL AS INT), 'b', 'y')")
    with pytest.raises(JobError, match=r"1 rows of source\d+ have NULL in sink.key \(id\)"):
        job.run()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": {"brief": {"function": "ai_summarize", "input": "nothing"}}}, r"steps.brief: .*nothing"),
        ({"steps": {"s": {"function": "ai_classify", "input": "body", "labels": ["a"]}}}, r"steps.s: .*2 to 500"),
        (
            {"steps": {"s": {"function": "ai_summarize", "input": "body", "words": 3}}},
            r"steps.s: .*unknown argument words",
        ),
        ({"steps": {"title": {"function": "ai_summarize", "input": "body"}}}, r"steps.title: .*column of the source"),
    ],
)
def test_a_step_that_cannot_be_is_refused_before_anything_is_asked(job: Any, changes, message: str) -> None:
    job.write(**changes).fill(ROWS[0])
    asked = job.asked
    with pytest.raises(ConfError, match=message):
        job.run()
    assert job.asked == asked


def test_a_missing_table_or_key_is_told(job: Any) -> None:
    with pytest.raises(JobError, match=rf"table {job.source} does not exist"):
        job.run()
    job.fill(ROWS[0])
    with pytest.raises(ConfError, match=r"sink.key: .* has no column nr"):
        job.write(sink={"table": job.sink, "key": ["nr"]}).run()


def test_a_model_that_is_not_served_is_told(job: Any) -> None:
    with pytest.raises(JobError, match="model 'large' is not served"):
        job.write(model="large").fill(ROWS[0]).run()


def test_a_stop_keeps_what_is_done(job: Any) -> None:
    class StopAfterAsking(Stop):
        def asked(self) -> None:
            self.ask()

    job.fill(*ROWS)
    with pytest.raises(StoppedError, match="was stopped; what was done is kept"):
        job.run(StopAfterAsking())
    asked = job.asked

    assert job.run().state == "done"
    assert job.asked == asked
    states = job.rows(f"SELECT state FROM lakemill.runs WHERE job = '{job.name}' ORDER BY started_at")
    assert states == [("stopped",), ("done",)]


def test_a_changed_job_asks_only_for_what_it_added(job: Any) -> None:
    steps = {"brief": {"function": "ai_summarize", "input": "body"}}
    job.write(steps=steps).fill(*ROWS[:2]).run()
    asked = job.asked

    more = steps | {"topic": {"function": "ai_classify", "input": "title", "labels": ["a", "b"]}}
    done = job.write(steps=more).run()

    assert (done.counts.asked, done.counts.ledger_hits, job.asked - asked) == (2, 2, 2)
    assert job.rows("SELECT count(brief), count(topic) FROM {job.sink}") == [(2, 2)]


def test_the_glance_sees_a_hand_in_the_sink(job: Any, lakemill_home: Path) -> None:
    from lakemill import settings
    from lakemill.jobs import spec

    flow = spec.load(job.conf / "jobs" / f"{job.name}.yaml").flow("smollm2-135m-instruct")
    paths = settings.load().paths
    job.fill(ROWS[0]).run()
    assert glance.nothing_new(paths, flow) == (0, 1)
    job.rows("OPTIMIZE {job.sink}")
    job.rows("DELETE FROM {job.sink}")
    assert glance.nothing_new(paths, flow) is None
