from __future__ import annotations

import pytest

from lakemill.errors import RequestRefusedError
from lakemill.serving.params import DEFAULTS, describe, effective_params, normal_format, normal_params


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        (None, {}),
        ({}, {}),
        (dict(DEFAULTS), {}),
        ({"temperature": 0.0, "top_p": 1.0, "top_k": -1}, {}),
        ({"stop": "a"}, {"stop": ["a"]}),
        ({"stop": ["a", "b"], "seed": 5}, {"stop": ["a", "b"], "seed": 5}),
        ({"max_tokens": 511}, {"max_tokens": 511}),
    ],
)
def test_the_normal_form_leaves_defaults_out(given, normal):
    assert normal_params("generate", given) == normal


def test_only_generate_has_parameters():
    assert normal_params("count", {"max_tokens": 4}) == {}
    assert effective_params("count", {}) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", True),
        ("max_tokens", 1.5),
        ("temperature", -0.1),
        ("temperature", "1"),
        ("top_p", 0),
        ("top_p", 1.1),
        ("seed", 2**60),
        ("stop", [""]),
        ("stop", ["a"] * 17),
        ("stop", ["\ud800"]),
        ("repetition_penalty", 0),
        ("warmth", None),
        ("warmth", 1),
    ],
)
def test_a_bad_parameter_is_named_with_what_is_allowed(name, value):
    with pytest.raises(RequestRefusedError, match=rf"^params\.{name}: (expected|unknown)"):
        normal_params("generate", {name: value})


def test_a_format_has_one_normal_form():
    assert normal_format("generate", {"type": "text"}) is None
    assert normal_format("count", {"type": "json_object"}) is None
    schema = {"type": "object"}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    assert (
        normal_format("generate", {"type": "json_schema", "json_schema": {"schema": schema, "strict": True}}) == wanted
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("text", "response_format: expected an object"),
        ({"type": "text", "x": 1}, "response_format.x: unknown key"),
        ({"type": "json_schema"}, "response_format.json_schema: expected"),
        (
            {"type": "json_schema", "json_schema": {"schema": {"type": "strin"}}},
            "response_format.json_schema.schema.type: ",
        ),
        ({"type": "choice", "choices": ["a", "a"]}, "response_format.choices: a choice stands twice"),
        ({"type": "choice", "choices": ["a", " "]}, "response_format.choices: every choice"),
        ({"type": "choice", "choices": ["a", "\ud800"]}, "response_format.choices: every choice"),
        ({"type": "choice", "choices": "ab"}, "response_format.choices: expected a list"),
    ],
)
def test_a_bad_format_says_where(value, message):
    with pytest.raises(RequestRefusedError) as caught:
        normal_format("generate", value)
    assert caught.value.message.startswith(message)


def test_a_long_value_is_shown_short():
    assert len(describe("x" * 1000)) < 80
    assert describe(None) == "null"
