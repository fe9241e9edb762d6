from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lakemill import conf_files
from lakemill.errors import ConfError
from lakemill.jobs import spec as specs

GOOD: dict[str, Any] = {
    "job": "tickets",
    "source": {"table": "support.tickets", "read": "new_versions"},
    "steps": {"brief": {"function": "ai_summarize", "input": "body", "max_words": 40}},
    "sink": {"table": "tickets_ai", "mode": "merge", "key": ["id"]},
}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "tickets.yaml"
    path.write_text(yaml.safe_dump(GOOD | changes), encoding="utf-8")
    return path


def test_a_job_becomes_a_flow(tmp_path: Path) -> None:
    flow = specs.load(write(tmp_path, on_error=None, limits={"max_error_ratio": 0.1})).flow("m")
    assert (flow.job, flow.source, flow.sink, flow.keys, flow.model) == (
        "tickets",
        "support.tickets",
        "tickets_ai",
        ("id",),
        "m",
    )
    assert flow.steps[0].arguments == {"max_words": 40}
    assert flow.on_error == "null"
    assert flow.max_error_ratio == 0.1


def test_the_digest_follows_what_decides_the_sink(tmp_path: Path) -> None:
    flow = specs.load(write(tmp_path)).flow("m")
    told = specs.load(write(tmp_path, description="another word", limits={"max_errors": 3})).flow("m")
    other = specs.load(write(tmp_path, steps={"brief": {"function": "ai_summarize", "input": "title"}})).flow("m")
    assert flow.digest == told.digest
    assert len({flow.digest, other.digest, specs.load(write(tmp_path)).flow("n").digest}) == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"surce": {}}, ["surce", "unknown key", "source"]),
        ({"sink": {"table": "t", "keys": ["id"]}}, ["sink.key", "missing"]),
        ({"source": {"table": "a b"}}, ["source.table", "'a b'"]),
        ({"steps": {"s": {"function": "ai_guess", "input": "x"}}}, ["steps.s.function", "ai_guess", "ai_summarize"]),
        ({"steps": {"a b": {"function": "ai_summarize", "input": "x"}}}, ["steps.a b", "column name"]),
        ({"limits": {"max_error_ratio": 2}}, ["limits.max_error_ratio", "2"]),
        ({"job": "other"}, ["job", "'other'", "'tickets'"]),
        ({"sink": {"table": "support.tickets", "key": ["id"]}}, ["sink.table", "the source itself"]),
        ({"on_error": "quarantine"}, ["on_error", "not supported yet", "null, fail"]),
        ({"on_version_change": "backfill"}, ["on_version_change", "not supported yet"]),
        ({"limits": {"max_tokens": 5}}, ["limits.max_tokens", "not supported yet"]),
        ({"source": {"query": "SELECT 1"}}, ["source.query", "not supported yet"]),
        ({"model": "models:/m@champion"}, ["model", "not supported yet"]),
    ],
)
def test_a_wrong_file_is_refused_with_file_key_and_what_is_right(
    tmp_path: Path, changes: dict[str, Any], words: list[str]
) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(ConfError) as caught:
        specs.load(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


def test_an_unknown_job_lists_the_jobs_there_are() -> None:
    with pytest.raises(ConfError, match=r"jobs there are: .*packages"):
        specs.find("no_such_job")


def test_every_job_that_ships_is_valid() -> None:
    for path in conf_files.files_in("jobs").values():
        assert specs.load(path).job == path.stem
