from __future__ import annotations

import datetime as dt

import pytest

from lakemill.errors import ConfError
from lakemill.pipelines.flow import Step
from lakemill.pipelines.steps import functions, literal, render


@pytest.mark.parametrize(
    ("value", "sql"),
    [
        (None, "NULL"),
        (True, "true"),
        (3, "3"),
        (0.5, "0.5D"),
        ("it's", "'it\\'s'"),
        ("a\\b", "'a\\\\b'"),
        (["a", "b"], "array('a', 'b')"),
        ({"a": "x", 1: "y"}, "map('a', 'x', '1', 'y')"),
    ],
)
def test_a_yaml_value_is_a_sql_literal(value: object, sql: str) -> None:
    assert literal(value) == sql


def test_a_value_without_a_literal_is_refused() -> None:
    with pytest.raises(ConfError, match=r"found datetime\.date"):
        literal(dt.date(2026, 1, 1))


def test_the_model_is_named_in_every_call() -> None:
    summary = Step("s", "ai_summarize", "body", {"max_words": 9, "options": {"max_tokens": 40, "cache": True}})
    options = "map('model', 'm', 'max_tokens', '40', 'cache', 'true')"
    assert render(summary, "m", "", "false") == f"ai_summarize(content => (body), max_words => 9, options => {options})"
    own = Step("s", "ai_summarize", "body", {"options": {"model": "other"}})
    assert "map('model', 'other')" in render(own, "m", "", "false")


def test_ai_query_names_its_model_and_types() -> None:
    step = Step(
        "q", "ai_query", "concat('x', body)", {"modelParameters": {"max_tokens": 5}, "responseFormat": {"type": "text"}}
    )
    assert render(step, "m", "try_", "false") == (
        "try_ai_query(request => (concat('x', body)), endpoint => 'm', "
        "modelParameters => named_struct('max_tokens', 5), responseFormat => '{\"type\": \"text\"}')"
    )


def test_a_schema_is_json_under_the_name_that_sql_has() -> None:
    step = Step("f", "ai_extract", "body", {"schema": {"price": {"type": "number"}}})
    assert 'labels => \'{"price": {"type": "number"}}\'' in render(step, "m", "try_", "false")


def test_rows_that_are_done_are_not_asked() -> None:
    sql = render(Step("s", "ai_summarize", "body"), "m", "try_", "`__done_s`")
    assert sql.startswith("try_ai_summarize(content => if(`__done_s`, NULL, (body)), ")


def test_every_function_of_sql_is_a_step() -> None:
    assert functions() == ["ai_classify", "ai_extract", "ai_query", "ai_summarize"]
