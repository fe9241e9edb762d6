"""What one row asks of the service, and its bytes on the wire."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lakemill.rows import Kind, Message

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Ask:
    """Hold what one row asks: chat messages or a bare prompt, and how it is to be answered.

    Rows that share everything but `messages`, `prompt` and `key` travel in one request.

    Example:
        >>> Ask("generate", "m", prompt="Say hi", params={"max_tokens": 8}).kind
        'generate'
    """

    kind: Kind
    model: str
    messages: Sequence[Message] | None = None
    prompt: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    response_format: Mapping[str, Any] | None = None
    key: str | None = None
    run: str | None = None
    priority: int = 0


def row_bytes(row_id: str, ask: Ask) -> bytes:
    """Return the row as it stands in the `rows` of a request.

    Raises:
        ValueError: The text is not valid Unicode (a lone surrogate).
        TypeError: A message holds something that JSON cannot carry.
    """
    row: dict[str, Any] = {"id": row_id}
    if ask.key is not None:
        row["key"] = ask.key
    if ask.messages is not None:
        row["messages"] = ask.messages if isinstance(ask.messages, (list, tuple)) else list(ask.messages)
    if ask.prompt is not None:
        row["prompt"] = ask.prompt
    return _encode(row).encode()


def head_bytes(ask: Ask) -> bytes:
    """Return a request up to its rows: everything that they share.

    Raises:
        ValueError: A parameter is NaN, infinite or not valid Unicode.
        TypeError: A parameter is something that JSON cannot carry.
    """
    shared = {
        "kind": ask.kind,
        "model": ask.model,
        "run": ask.run,
        "priority": ask.priority,
        "params": dict(ask.params),
        "response_format": None if ask.response_format is None else dict(ask.response_format),
    }
    return _encode(shared).encode()[:-1] + b',"rows":['


def request_bytes(head: bytes, rows: Sequence[bytes]) -> bytes:
    """Return the body of one request.

    Example:
        >>> request_bytes(b'{"rows":[', [b'{"id":"1"}'])
        b'{"rows":[{"id":"1"}]}'
    """
    return head + b",".join(rows) + b"]}"
