from __future__ import annotations

import jsonschema
import pytest

from lakemill.serving import invent

SCHEMAS = {
    "nested": {
        "type": "object",
        "properties": {"a": {"type": "object", "properties": {"b": {"type": "array", "items": {"type": "integer"}}}}},
        "required": ["a"],
    },
    "union": {"type": ["null", "number"], "minimum": 3},
    "any of": {"anyOf": [{"type": "null"}, {"type": "string", "minLength": 30}]},
    "all of": {"allOf": [{"type": "object", "properties": {"a": {"const": 5}}}, {"required": ["a"]}]},
    "reference": {
        "$defs": {"colour": {"enum": ["red", "blue"]}},
        "type": "array",
        "items": {"$ref": "#/$defs/colour"},
        "minItems": 3,
    },
    "itself": {
        "$defs": {
            "node": {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}}
        },
        "$ref": "#/$defs/node",
    },
    "numbers": {
        "type": "object",
        "properties": {
            "a": {"type": "integer", "exclusiveMinimum": 4, "maximum": 6},
            "b": {"type": "number", "maximum": -3},
            "c": {"type": "integer", "multipleOf": 7, "minimum": 10},
        },
    },
    "texts": {"type": "string", "format": "date"},
    "no items": {"type": "array", "maxItems": 0},
    "anything": True,
}


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_an_instance_follows_its_schema(schema):
    for text in ("some words of a row", "", "a\x00b"):
        made = invent.instance(schema, text)
        jsonschema.validate(made, schema, format_checker=jsonschema.FormatChecker())
        assert made == invent.instance(schema, text)


def test_scores_sum_to_one_and_follow_the_text():
    choices = ["a", "b", "c"]
    best = set()
    for number in range(20):
        scores = invent.scores(f"text {number}", choices)
        assert sum(scores.values()) == pytest.approx(1)
        best.add(max(scores, key=scores.__getitem__))
    assert best == set(choices)


def test_a_vector_has_length_one():
    vector = invent.vector("text")
    assert sum(x * x for x in vector) == pytest.approx(1)
    assert vector != invent.vector("other")


def test_a_sentence_marks_the_whole_text():
    assert invent.sentence("a b c d e f g") != invent.sentence("a b c d e f h")
    assert invent.sentence("a\x00b c").endswith("a\x00b c")
