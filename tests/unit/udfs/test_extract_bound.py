from __future__ import annotations

import pytest

from lakemill.udfs import extract, extract_schema


@pytest.mark.parametrize(
    ("schema", "tokens"),
    [
        ('["a"]', 96),
        ('["a", "b", "c", "d"]', 240),
        ('{"kind": {"type": "enum", "labels": ["x", "y"]}, "sure": {"type": "boolean"}}', 96),
        ('{"people": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}}}}}', 252),
    ],
)
def test_an_answer_gets_room_for_what_was_asked(schema: str, tokens: int) -> None:
    assert extract._bound(extract_schema.json_schema(extract_schema.parse(schema))) == tokens
