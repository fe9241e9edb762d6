from __future__ import annotations

import json

import pytest

from lakemill.errors import RequestRefusedError
from lakemill.rows import ErrorCode, RowAnswer
from lakemill.serving import protocol


def parse(**body):
    return protocol.parse(json.dumps({"kind": "generate", "model": "m", "rows": [], **body}).encode())


def test_a_whole_request_is_read():
    rows = [{"id": "a", "key": "k", "prompt": "hi"}, {"id": "b", "messages": [{"role": "user", "content": "x"}]}]
    parsed = parse(run="r", priority=-3, params={"max_tokens": 5}, rows=rows)
    request = parsed.request
    assert (request.run, request.priority, dict(request.params)) == ("r", -3, {"max_tokens": 5})
    assert [row.id for row in request.rows] == ["a", "b"]
    assert request.rows[0].key == "k"
    assert parsed.refused == ()
    assert parsed.size == 2


def test_bad_rows_are_answered_and_the_good_ones_stay():
    parsed = parse(rows=[{"id": "a"}, {"id": "b", "prompt": "hi"}, {"id": "c", "prompt": "x", "key": 5}])
    assert [row.id for row in parsed.request.rows] == ["b"]
    assert [(each.id, each.error.code) for each in parsed.refused] == [
        ("a", ErrorCode.INVALID_REQUEST),
        ("c", ErrorCode.INVALID_REQUEST),
    ]
    assert parsed.refused[1].error.message.startswith("rows[2].key: expected a text, found 5")


@pytest.mark.parametrize(
    ("body", "start"),
    [
        ({"model": ""}, "model: expected a text"),
        ({"model": None}, "model: expected a text, found null"),
        ({"model": "\ud800"}, "model: expected a text"),
        ({"kind": ["generate"]}, "kind: expected one of generate, choose, embed, count"),
        ({"rows": None}, "rows: expected a list"),
        ({"rows": [5]}, "rows[0]: expected an object"),
        ({"rows": [{"id": ""}]}, "rows[0].id: "),
        ({"rows": [{"id": "\ud800", "prompt": "a"}]}, "rows[0].id: "),
        ({"priority": 1.5}, "priority: expected an integer"),
        ({"run": 5}, "run: expected a text"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"maximum": 2**70}}}},
            "response_format: ",
        ),
    ],
)
def test_a_bad_request_is_refused_by_its_key(body, start):
    with pytest.raises(RequestRefusedError) as caught:
        parse(**body)
    assert caught.value.message.startswith(start)
    assert caught.value.status == 400


def test_too_many_rows_are_too_large():
    rows = [{"id": str(i), "prompt": "a"} for i in range(protocol.MAX_ROWS + 1)]
    with pytest.raises(RequestRefusedError, match="at most 4096 rows") as caught:
        parse(rows=rows)
    assert caught.value.status == 413


@pytest.mark.parametrize("result", [float("nan"), "\ud800", [float("inf")]])
def test_an_answer_that_is_no_json_fails_alone(result):
    lines = (
        protocol.lines([RowAnswer("1", result="fine"), RowAnswer("2", result=result, key="k")]).decode().splitlines()
    )
    first, second = map(json.loads, lines)
    assert first["result"] == "fine"
    assert (second["id"], second["key"], second["error"]["code"]) == ("2", "k", "INTERNAL")


def test_a_line_break_inside_a_text_does_not_break_the_line():
    data = protocol.lines([RowAnswer("1", result="a\nb\u2028c")])
    assert data.count(b"\n") == 1
    assert json.loads(data)["result"] == "a\nb\u2028c"
