from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from lakemill.errors import UsageError
from lakemill.udfs import extract_schema


def nested(depth: int) -> dict[str, Any]:
    inner: dict[str, Any] = {"type": "string"}
    for _ in range(depth - 1):
        inner = {"type": "object", "properties": {"x": inner}}
    return {"x": inner}


WHOLE = {
    "name": {"type": "string", "description": "who"},
    "age": {"type": "integer"},
    "kind": {"type": "enum", "labels": ["a", "b"]},
    "tags": {"type": "array", "items": {"type": "string"}},
    "lines": {"type": "array", "items": {"type": "object", "properties": {"price": {"type": "number"}}}},
    "home": {"type": "object", "properties": {"city": {"type": "string"}, "own": {"type": "boolean"}}},
}


def test_names_alone_are_texts() -> None:
    assert extract_schema.parse('["a", "b c"]') == extract_schema.of_names(["a", "b c"])


@pytest.mark.parametrize(
    ("value", "fine"),
    [
        (dict.fromkeys(WHOLE), True),
        (
            {
                "name": "x",
                "age": 1,
                "kind": "a",
                "tags": ["t"],
                "lines": [{"price": None}],
                "home": {"city": "y", "own": True},
            },
            True,
        ),
        ({**dict.fromkeys(WHOLE), "age": "1"}, False),
        ({**dict.fromkeys(WHOLE), "kind": "c"}, False),
        ({**dict.fromkeys(WHOLE), "tags": [None]}, False),
        ({**dict.fromkeys(WHOLE), "other": 1}, False),
        ({"name": "x"}, False),
    ],
)
def test_the_json_schema_lets_every_field_be_null(value: object, fine: bool) -> None:
    schema = extract_schema.json_schema(extract_schema.parse(json.dumps(WHOLE)))
    Draft202012Validator.check_schema(schema)
    assert Draft202012Validator(schema).is_valid(value) is fine


def test_the_prompt_lists_the_fields() -> None:
    assert extract_schema.told(extract_schema.parse(json.dumps(WHOLE))).splitlines() == [
        "- name (string): who",
        "- age (integer)",
        "- kind (one of a, b)",
        "- tags (list of string)",
        "- lines (list of object)",
        "  - price (number)",
        "- home (object)",
        "  - city (string)",
        "  - own (boolean)",
    ]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("a, b", "expected a JSON array of names or a JSON object"),
        ("3", "expected a JSON array of names or a JSON object name → {type, …}, found 3"),
        ("[]", "expected names, found []"),
        ('["a", "a"]', "names must differ"),
        ("{}", "expected a JSON array of names or a JSON object name → {type, …}, found {}"),
        ('{"a": "string"}', 'a: expected {"type": one of string, integer'),
        ('{"a": {"type": "date"}}', 'a: expected {"type": one of string, integer'),
        ('{"a": {"type": "string", "required": true}}', "a: unknown key required (known: description, items"),
        ('{"a": {"type": "string", "anyOf": []}}', "a: unknown key anyOf"),
        ('{"a": {"type": "enum"}}', "a: type enum needs labels"),
        ('{"a": {"type": "enum", "labels": []}}', "a: labels must be a non-empty array of texts"),
        ('{"a": {"type": "string", "items": {}}}', "a: items does not belong to type string"),
        ('{"a": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}}}', "a: an array of arrays"),
        ('{"a": {"type": "string"}, "a": {"type": "string"}}', "field a is named twice"),
        ('{" ": {"type": "string"}}', "schema: a field needs a name"),
        (json.dumps(nested(8)), "x.x.x.x.x.x.x.x: nested deeper than 7"),
        (json.dumps({f"f{i}": {"type": "string"} for i in range(129)}), "at most 128 fields, found 129"),
        (json.dumps([f"f{i}" for i in range(129)]), "at most 128 fields, found 129"),
        ('{"a": {"type": "string", "description": 1}}', "a: description must be a text, found 1"),
    ],
)
def test_a_broken_rule_is_told(schema: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        extract_schema.parse(schema)
    assert caught.value.message.startswith(message)


def test_the_deepest_that_is_allowed() -> None:
    assert extract_schema.parse(json.dumps(nested(7)))


def test_a_field_may_be_called_type() -> None:
    assert extract_schema.parse('{"type": {"type": "string"}}')["type"].type == "string"


def test_json_schema_is_refused_with_the_rewrite() -> None:
    schema = {
        "type": "object",
        "properties": {
            "n": {"type": ["integer", "null"], "description": "count"},
            "k": {"enum": ["a", "b", None]},
            "l": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "number"}}}},
        },
        "required": ["n"],
    }
    with pytest.raises(UsageError) as caught:
        extract_schema.parse(json.dumps(schema))
    told = caught.value.message
    assert told.startswith("this is JSON Schema; write ")
    rewrite = told.removeprefix("this is JSON Schema; write ")
    assert extract_schema.parse(rewrite).keys() == {"n", "k", "l"}
