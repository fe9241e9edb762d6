"""The row protocol: the body of `POST /v1/rows` in, checked; one JSON line a row out.

A request that is wrong as a whole is refused with the key that is wrong; a row that is wrong costs only
itself: it is answered with INVALID_REQUEST, and the others go on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from lakemill import keys
from lakemill.rows import KINDS, ErrorCode, Message, Row, RowAnswer, RowError, RowRequest
from lakemill.serving.params import describe, normal_format, normal_params, refuse, valid

MAX_ROWS = 4096
MAX_BODY_BYTES = 64 * 2**20

_TOP_KEYS = ("kind", "model", "run", "priority", "params", "response_format", "rows")
_ROW_KEYS = ("id", "key", "messages", "prompt")
_ROLES = ("system", "user", "assistant")
_MAX_ID = 256


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """Hold a checked request: the rows to ask, and the answers of the rows that cannot be asked."""

    request: RowRequest
    refused: tuple[RowAnswer, ...] = ()

    @property
    def size(self) -> int:
        """Return the number of rows that the client sent."""
        return len(self.request.rows) + len(self.refused)


class _BadRowError(Exception):
    """A row that cannot be asked; never leaves this module."""


def parse(body: bytes) -> ParsedRequest:
    """Parse and check the body of `POST /v1/rows`.

    Raises:
        RequestRefusedError: The request is wrong as a whole; the message names the key and what is allowed.

    Example:
        >>> parse(b'{"kind": "count", "model": "m", "rows": [{"id": "1", "prompt": "hi"}]}').request.rows[0].prompt
        'hi'
    """
    value = _load(body)
    for name in value:
        if name not in _TOP_KEYS:
            raise refuse(describe(name)[1:-1], f"unknown key; allowed: {', '.join(_TOP_KEYS)}")
    kind = value.get("kind", "generate")
    if kind not in KINDS:
        raise refuse("kind", f"expected one of {', '.join(KINDS)}, found {describe(kind)}")
    rows, refused = _rows(value.get("rows"))
    response_format = normal_format(kind, value.get("response_format"))
    _canonical("response_format", response_format)
    request = RowRequest(
        kind=kind,
        model=_text(value, "model"),
        rows=rows,
        params=normal_params(kind, value.get("params")),
        response_format=response_format,
        run=_text(value, "run") if value.get("run") is not None else None,
        priority=_priority(value.get("priority")),
    )
    return ParsedRequest(request, refused)


def _load(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise refuse("body", f"not JSON: {str(error)[:200]}") from error
    if not isinstance(value, dict):
        raise refuse("body", f"expected an object, found {describe(value)}")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _text(value: Mapping[str, Any], name: str) -> str:
    text = value.get(name)
    if not isinstance(text, str) or not text.strip() or not valid(text):
        raise refuse(name, f"expected a text, found {describe(text)}")
    return text


def _priority(value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > 2**31:
        raise refuse("priority", f"expected an integer, found {describe(value)}")
    return value


def _canonical(name: str, value: Any) -> None:
    try:
        keys.digest(value)
    except (ValueError, RecursionError) as error:
        raise refuse(name, f"has no canonical JSON form: {str(error)[:200]}") from error


def _rows(value: Any) -> tuple[tuple[Row, ...], tuple[RowAnswer, ...]]:
    if not isinstance(value, list):
        raise refuse("rows", f"expected a list of rows, found {describe(value)}")
    if len(value) > MAX_ROWS:
        raise refuse("rows", f"expected at most {MAX_ROWS} rows a request, found {len(value)}", status=413)
    seen: set[str] = set()
    rows: list[Row] = []
    refused: list[RowAnswer] = []
    for number, each in enumerate(value):
        row_id = _row_id(each, number, seen)
        try:
            rows.append(_row(each, row_id, f"rows[{number}]"))
        except _BadRowError as error:
            key = each.get("key")
            refused.append(bad_row(row_id, str(error), key=key if isinstance(key, str) and valid(key) else None))
    return tuple(rows), tuple(refused)


def bad_row(row_id: str, message: str, *, key: str | None = None) -> RowAnswer:
    """Return the answer of a row that cannot be asked."""
    return RowAnswer(row_id, error=RowError(ErrorCode.INVALID_REQUEST, message), key=key)


def _row_id(row: Any, number: int, seen: set[str]) -> str:
    # Without an id of its own a row cannot be answered, so a bad one refuses the request.
    if not isinstance(row, dict):
        raise refuse(f"rows[{number}]", f"expected an object, found {describe(row)}")
    row_id = row.get("id")
    if not isinstance(row_id, str) or not 1 <= len(row_id) <= _MAX_ID or not valid(row_id):
        raise refuse(f"rows[{number}].id", f"expected a text of 1 to {_MAX_ID} characters, found {describe(row_id)}")
    if row_id in seen:
        raise refuse(f"rows[{number}].id", f"{describe(row_id)} stands twice in the request")
    seen.add(row_id)
    return row_id


def _row(value: dict[str, Any], row_id: str, place: str) -> Row:
    for name in value:
        if name not in _ROW_KEYS:
            raise _BadRowError(f"{place}.{describe(name)[1:-1]}: unknown key; allowed: {', '.join(_ROW_KEYS)}")
    key, messages, prompt = value.get("key"), value.get("messages"), value.get("prompt")
    if key is not None:
        _text_at(key, f"{place}.key")
    if (messages is None) == (prompt is None):
        raise _BadRowError(
            f"{place}: needs one of messages and prompt, has {'both' if prompt is not None else 'neither'}"
        )
    if messages is not None:
        return Row(row_id, messages=_messages(messages, place), key=key)
    prompt = _text_at(prompt, f"{place}.prompt")
    if not prompt.strip():
        raise _BadRowError(f"{place}.prompt: is empty")
    return Row(row_id, prompt=prompt, key=key)


def _messages(value: Any, place: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise _BadRowError(f"{place}.messages: expected a list of messages, found {describe(value)}")
    for number, message in enumerate(value):
        _check_message(message, f"{place}.messages[{number}]")
    if not any(message["content"].strip() for message in value):
        raise _BadRowError(f"{place}.messages: every message is empty")
    return tuple(value)


def _check_message(message: Any, place: str) -> None:
    if not isinstance(message, dict) or set(message) != {"role", "content"}:
        raise _BadRowError(f"{place}: expected an object with role and content, found {describe(message)}")
    if message["role"] not in _ROLES:
        raise _BadRowError(f"{place}.role: expected one of {', '.join(_ROLES)}, found {describe(message['role'])}")
    _text_at(message["content"], f"{place}.content")


def _text_at(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise _BadRowError(f"{place}: expected a text, found {describe(value)}")
    if not valid(value):
        raise _BadRowError(f"{place}: holds a lone surrogate, which is not valid Unicode")
    return value


def lines(answers: Iterable[RowAnswer]) -> bytes:
    """Return answers as JSON lines in UTF-8."""
    return b"".join(map(_line, answers))


def _line(answer: RowAnswer) -> bytes:
    try:
        return dump(answer.to_json()) + b"\n"
    except ValueError as error:
        # An engine's NaN or lone surrogate: this row fails, the stream goes on.
        failed = RowError(ErrorCode.INTERNAL, f"the answer cannot be written as JSON: {error!a}")
        return dump(RowAnswer(answer.id, error=failed, key=answer.key, model=answer.model).to_json()) + b"\n"


def summary(rows: int, failed: int) -> bytes:
    """Return the last line of a stream; a stream without it was cut."""
    return dump({"summary": {"rows": rows, "failed": failed}}) + b"\n"


def dump(value: Any) -> bytes:
    """Return compact JSON in UTF-8.

    Raises:
        ValueError: The value holds NaN, an infinity or a lone surrogate.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
