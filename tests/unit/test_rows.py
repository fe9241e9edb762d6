from __future__ import annotations

import json

import pytest

from lakemill.rows import RETRYABLE, ErrorCode, RowAnswer, RowError, Usage


def test_an_answer_survives_the_wire() -> None:
    answer = RowAnswer(
        id="3",
        result="ok \u0000 🙂",
        scores={"a": 0.75, "b": 0.25},
        finish_reason="stop",
        usage=Usage(5, 2, 1),
        model="m@1",
        cached=True,
        latency_ms=1.5,
        key="k",
    )
    assert RowAnswer.from_json(json.loads(json.dumps(answer.to_json()))) == answer


def test_an_error_survives_the_wire() -> None:
    answer = RowAnswer(id="3", error=RowError(ErrorCode.TIMEOUT, "too slow", attempts=4))
    assert RowAnswer.from_json(json.loads(json.dumps(answer.to_json()))) == answer


def test_a_sparse_line_is_read_with_defaults() -> None:
    assert RowAnswer.from_json({"id": "1"}) == RowAnswer(id="1")


@pytest.mark.parametrize("value", [{}, {"code": "NOT_YET_INVENTED"}])
def test_a_code_of_another_release_is_internal(value: dict[str, str]) -> None:
    assert RowError.from_json(value).code is ErrorCode.INTERNAL


def test_no_attempt_is_not_taken_for_one() -> None:
    error = RowError(ErrorCode.ENGINE_UNAVAILABLE, "down", attempts=0)
    assert error.to_json()["attempts"] == 0


def test_retryable_is_what_the_design_lists() -> None:
    names = {"RATE_LIMITED", "TIMEOUT", "ENGINE_UNAVAILABLE", "CANCELLED", "BUDGET_EXCEEDED", "INTERNAL"}
    assert names == RETRYABLE
    assert {code for code in ErrorCode if RowError(code, "").retryable} == names


def test_usage_adds_up() -> None:
    assert Usage(1, 2, 3) + Usage(10, 20, 30) == Usage(11, 22, 33)
