from __future__ import annotations

import io
import json
from datetime import date, datetime
from decimal import Decimal

from pyspark.sql import Row

from lakemill.udfs import print_rows


def test_json_keeps_types_nulls_and_every_column():
    out = io.StringIO()
    nested = Row(k=Decimal("1.50"), d=date(2026, 1, 2), k2=None)
    row = (1, None, True, 0.5, "é", nested, {1: ["a", None]}, b"\x00\xff", datetime(2026, 1, 2, 3, 4))  # noqa: DTZ001
    print_rows._print_json(["a", "a", "b", "c", "d", "e", "f", "g", "h"], [row], out)
    assert json.loads(out.getvalue()) == {
        "a": 1,
        "a_2": None,
        "b": True,
        "c": 0.5,
        "d": "é",
        "e": {"k": "1.50", "d": "2026-01-02", "k2": None},
        "f": {"1": ["a", None]},
        "g": "AP8=",
        "h": "2026-01-02 03:04:00",
    }


def test_csv_tells_null_from_an_empty_text_and_quotes():
    out = io.StringIO()
    print_rows._print_csv(["x", "y"], [("a,b", ""), (None, 'say "hi"\nthere'), ([1, None], 2)], out)
    assert out.getvalue() == 'x,y\n"a,b",""\n,"say ""hi""\nthere"\n"[1, null]",2\n'


def test_control_characters_cannot_drive_a_terminal():
    assert print_rows.visible("a\x1b[31m\0b\nc\td é 🦙") == "a\\x1b[31m\\x00b\nc\td é 🦙"
