from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lakemill.jobs.glance import nothing_new
from lakemill.pipelines.flow import Flow, Step
from lakemill.settings import Paths

FLOW = Flow("j", "s", (Step("a", "ai_summarize", "body"),), "d", ("id",), "m")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """A home whose sink holds version 1 of the source."""
    paths = Paths(tmp_path)
    _commit(paths, "s", 0, "WRITE")
    _commit(paths, "s", 1, "WRITE")
    _commit(paths, "d", 0, "CREATE TABLE")
    _commit(paths, "d", 1, "MERGE", _words())
    return paths


def _words(**changes: Any) -> dict[str, Any]:
    return {"lakemill.job": "j", "lakemill.spec": FLOW.digest, "lakemill.source_version": 1} | changes


def _commit(paths: Paths, table: str, version: int, operation: str, words: dict[str, Any] | None = None) -> None:
    log = paths.warehouse / table / "_delta_log"
    log.mkdir(parents=True, exist_ok=True)
    info = {"operation": operation} | ({} if words is None else {"userMetadata": json.dumps(words)})
    lines = [{"protocol": {}}, {"commitInfo": info}]
    (log / f"{version:020d}.json").write_text("\n".join(map(json.dumps, lines)))


def test_the_sink_holds_the_newest_source(paths: Paths) -> None:
    assert nothing_new(paths, FLOW) == (1, 1)


def test_files_that_are_no_commits_do_not_count(paths: Paths) -> None:
    log = paths.warehouse / "s" / "_delta_log"
    for name in ("00000000000000000009.crc", "00000000000000000009.checkpoint.parquet", "_last_checkpoint"):
        (log / name).touch()
    assert nothing_new(paths, FLOW) == (1, 1)


def test_a_new_source_version_is_work(paths: Paths) -> None:
    _commit(paths, "s", 2, "WRITE")
    assert nothing_new(paths, FLOW) is None


@pytest.mark.parametrize("changes", [{"lakemill.job": "k"}, {"lakemill.spec": "0"}, {"lakemill.source_version": 0}])
def test_what_another_job_spec_or_version_wrote_is_work(paths: Paths, changes: dict[str, Any]) -> None:
    _commit(paths, "d", 2, "MERGE", _words(**changes))
    assert nothing_new(paths, FLOW) is None


def test_compaction_changes_nothing_a_hand_does(paths: Paths) -> None:
    _commit(paths, "d", 2, "OPTIMIZE")
    assert nothing_new(paths, FLOW) == (1, 2)
    _commit(paths, "d", 3, "DELETE")
    assert nothing_new(paths, FLOW) is None


@pytest.mark.parametrize("text", ["", "{", '{"commitInfo": {"operation": "MERGE", "userMetadata": "not json"}}'])
def test_a_log_that_cannot_be_read_is_left_to_the_planner(paths: Paths, text: str) -> None:
    (paths.warehouse / "d" / "_delta_log" / f"{2:020d}.json").write_text(text)
    assert nothing_new(paths, FLOW) is None


def test_no_tables_no_answer(tmp_path: Path) -> None:
    assert nothing_new(Paths(tmp_path), FLOW) is None
