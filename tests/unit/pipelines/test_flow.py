from __future__ import annotations

from dataclasses import replace

import pytest

from lakemill.pipelines import rules
from lakemill.pipelines.flow import Counts, Flow, Step

FLOW = Flow("j", "s", (Step("a", "ai_summarize", "body", {"max_words": 9}),), "d", ("id",), "m")
FAILED = Counts(rows=10, failed=3, failed_rows=2, failed_by_code={"TIMEOUT": 2, "INTERNAL": 1})


@pytest.mark.parametrize(
    "changes",
    [
        {"source": "t"},
        {"sink": "e"},
        {"keys": ("id", "day")},
        {"model": "n"},
        {"keep_results": True},
        {"steps": (Step("a", "ai_summarize", "body", {"max_words": 8}),)},
        {"steps": (Step("a", "ai_summarize", "title", {"max_words": 9}),)},
    ],
)
def test_what_changes_the_sink_changes_the_digest(changes) -> None:
    assert replace(FLOW, **changes).digest != FLOW.digest


@pytest.mark.parametrize("changes", [{"on_error": "fail"}, {"max_errors": 3}, {"source": "S"}])
def test_what_does_not_change_the_sink_keeps_the_digest(changes) -> None:
    assert replace(FLOW, **changes).digest == FLOW.digest


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"on_error": "fail"}, r"3 calls failed (TIMEOUT 2, INTERNAL 1) and on_error is fail"),
        ({"max_errors": 1}, "2 rows failed (TIMEOUT 2, INTERNAL 1), more than limits.max_errors = 1"),
        (
            {"max_error_ratio": 0.1},
            "2 of 10 rows failed (TIMEOUT 2, INTERNAL 1), more than limits.max_error_ratio = 0.1",
        ),
        ({"max_errors": 2, "max_error_ratio": 0.2}, None),
    ],
)
def test_the_rules_of_a_job(changes, rule: str | None) -> None:
    assert rules.broken(replace(FLOW, **changes), FAILED) == rule


def test_no_failure_breaks_no_rule() -> None:
    assert rules.broken(replace(FLOW, on_error="fail", max_errors=0), Counts(rows=1)) is None
