from __future__ import annotations

import json

from lakemill.serving.client.lines import LineReader


def test_any_cut_of_the_bytes_gives_the_same_lines():
    values = [{"id": str(i), "text": "ü\n" * i} for i in range(5)]
    stream = b"".join(json.dumps(value).encode() + b"\n" for value in values)
    for step in (1, 2, 3, 7, 64, len(stream)):
        reader = LineReader()
        found = [value for at in range(0, len(stream), step) for value in reader.push(stream[at : at + step])]
        assert found == values
        assert not reader.has_half_line


def test_a_half_line_is_known():
    reader = LineReader()
    assert reader.push(b'{"id": "1"}\n{"id": ') == [{"id": "1"}]
    assert reader.has_half_line
    assert reader.bad is None


def test_good_lines_before_a_bad_one_are_kept_and_none_after_it():
    reader = LineReader()
    assert reader.push(b'{"id": "1"}\nnot json\n{"id": "2"}\n') == [{"id": "1"}]
    assert reader.bad == "not json"


def test_two_values_in_a_line_or_something_else_than_an_object_is_bad():
    for bad in (b"1, 2", b"[1]", b'{"id": "3"}, {"id": "4"}', b'"text"'):
        reader = LineReader()
        assert reader.push(b'{"id": "1"}\n' + bad + b"\n") == [{"id": "1"}]
        assert reader.bad == bad.decode()


def test_empty_lines_are_nothing():
    reader = LineReader()
    assert reader.push(b'\n\r\n{"id": "1"}\n\n') == [{"id": "1"}]
    assert reader.bad is None
