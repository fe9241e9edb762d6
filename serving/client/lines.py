"""Cut a stream of bytes into JSON lines."""

from __future__ import annotations

import json
from typing import Any


class LineReader:
    r"""Turn chunks into JSON objects; a line may span chunks.

    `bad` holds the beginning of the first line that is no JSON object; nothing after it is read.

    Example:
        >>> reader = LineReader()
        >>> reader.push(b'{"id": "1"}\n{"id"'), reader.push(b': "2"}\n')
        ([{'id': '1'}], [{'id': '2'}])
    """

    def __init__(self) -> None:
        self._tail: list[bytes] = []
        self.bad: str | None = None

    @property
    def has_half_line(self) -> bool:
        """Tell whether bytes without an end of line are left."""
        return any(self._tail)

    def push(self, chunk: bytes) -> list[dict[str, Any]]:
        """Return the objects whose lines end in this chunk."""
        *lines, tail = chunk.split(b"\n")
        if not lines:
            self._tail.append(tail)
            return []
        lines[0] = b"".join([*self._tail, lines[0]])
        self._tail = [tail]
        return self._parse([line for line in lines if line.strip()])

    def _parse(self, lines: list[bytes]) -> list[dict[str, Any]]:
        # One call for all lines of a chunk costs half of one call a line.
        try:
            values = json.loads(b"[" + b",".join(lines) + b"]")
        except ValueError:
            return self._parse_singly(lines)
        fine = len(values) == len(lines) and all(isinstance(value, dict) for value in values)
        return values if fine else self._parse_singly(lines)

    def _parse_singly(self, lines: list[bytes]) -> list[dict[str, Any]]:
        values: list[dict[str, Any]] = []
        for line in lines:
            value = _object(line)
            if value is None:
                self.bad = line[:80].decode(errors="replace")
                break
            values.append(value)
        return values


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
