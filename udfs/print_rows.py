"""Print the rows of a query: a table for people, JSON lines or CSV for programs."""

from __future__ import annotations

import base64
import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, TextIO

from pyspark.sql import DataFrame, Row
from pyspark.sql.types import DataType, NumericType, VariantVal
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

TABLE_ROWS = 1000
_TYPE_SHOWN = 40
_WIDE = 10_000


def print_rows(frame: DataFrame, style: str, out: TextIO) -> None:
    """Print a query's rows in one of the styles `table`, `json` and `csv`.

    A table shows 1,000 rows at most, asks for no more, and says so; the other two print every row, all
    partitions computed at once (an iterator would take one after the other and leave the model idle).
    """
    if style == "json":
        _print_json(frame.columns, frame.collect(), out)
    elif style == "csv":
        _print_csv(frame.columns, frame.collect(), out)
    else:
        _print_table(frame, out)


def _print_json(columns: Sequence[str], rows: Iterable[Sequence[Any]], out: TextIO) -> None:
    names = distinct(columns)
    for row in rows:
        out.write(json.dumps(dict(zip(names, map(plain, row), strict=True)), ensure_ascii=False) + "\n")


def _print_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]], out: TextIO) -> None:
    out.write(_csv_line(columns))
    for row in rows:
        out.write(_csv_line([None if cell is None else shown(cell) for cell in row]))


def _csv_line(cells: Sequence[str | None]) -> str:
    # NULL is an empty field, an empty text a quoted one.
    return ",".join("" if cell is None else _csv_field(cell) for cell in cells) + "\n"


def _csv_field(cell: str) -> str:
    if not cell:
        return '""'
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([cell])
    return line.getvalue()


def _print_table(frame: DataFrame, out: TextIO) -> None:
    rows = frame.take(TABLE_ROWS + 1)
    table = Table(box=box.ASCII2, show_lines=False)
    for field in frame.schema.fields:
        title = Text(f"{visible(field.name)}\n{_type(field.dataType)}")
        table.add_column(title, justify="right" if isinstance(field.dataType, NumericType) else "left", overflow="fold")
    for row in rows[:TABLE_ROWS]:
        table.add_row(*(Text("NULL", "dim") if cell is None else Text(visible(shown(cell))) for cell in row))
    # Elsewhere than on a terminal nothing is wrapped: what comes next may read it line by line.
    Console(file=out, width=None if out.isatty() else _WIDE).print(table)
    more = "+" if len(rows) > TABLE_ROWS else ""
    out.write(f"{min(len(rows), TABLE_ROWS)}{more} row{'' if len(rows) == 1 else 's'}\n")
    if more:
        sys.stderr.write(f"only the first {TABLE_ROWS} rows are shown; --format csv or json prints all\n")


def _type(of: DataType) -> str:
    text = of.simpleString()
    return text if len(text) <= _TYPE_SHOWN else text[: _TYPE_SHOWN - 1] + "…"


def visible(text: str) -> str:
    r"""Return a text with its control characters spelled out, so that data cannot drive a terminal.

    Example:
        >>> visible("a\x1b[31mb\n")
        'a\\x1b[31mb\n'
    """
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode() for char in text
    )


def shown(cell: Any) -> str:
    """Return a cell as text: texts as they are, everything nested as JSON."""
    value = plain(cell)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def plain(cell: Any) -> Any:
    """Return a cell as JSON types: a struct is an object, a map with other keys than texts gets texts."""
    if cell is None or isinstance(cell, bool | int | float | str):
        return cell
    if isinstance(cell, Row):
        return {name: plain(value) for name, value in zip(distinct(cell.__fields__), cell, strict=True)}
    if isinstance(cell, dict):
        return {shown(key): plain(value) for key, value in cell.items()}
    if isinstance(cell, list | tuple):
        return [plain(value) for value in cell]
    return _scalar(cell)


def _scalar(cell: Any) -> Any:
    if isinstance(cell, VariantVal):
        return plain(cell.toPython())
    if isinstance(cell, bytes | bytearray):
        return base64.b64encode(cell).decode()
    if isinstance(cell, datetime):
        return cell.isoformat(sep=" ")
    return str(cell)  # a date, a decimal (a number would lose digits), an interval


def distinct(names: Iterable[str]) -> list[str]:
    """Return column names with a number where one occurs again.

    Example:
        >>> distinct(["a", "b", "a"])
        ['a', 'b', 'a_2']
    """
    return list(_numbered(names))


def _numbered(names: Iterable[str]) -> Iterator[str]:
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        yield name if seen[name] == 1 else f"{name}_{seen[name]}"
