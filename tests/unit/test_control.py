from __future__ import annotations

from lakemill import control


def test_a_comma_inside_a_type_ends_no_field() -> None:
    assert control._fields("a MAP<STRING, STRUCT<b: INT, c: INT>>, d INT") == [
        "a MAP<STRING, STRUCT<b: INT, c: INT>>",
        "d INT",
    ]


def test_nothing_is_written_where_nothing_failed() -> None:
    control.append_errors(None, [])  # type: ignore[arg-type]  # a session is not even touched
