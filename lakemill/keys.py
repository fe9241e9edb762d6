"""Keys: SHA-256 over canonical JSON (RFC 8785).

The call key names a function call (the ledger's key), the route key picks the version of a model,
the request key names one generation (the journal's key). The service computes the last two from the
content, so that no client can name another's answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import rfc8785

_SEED_BITS = 31


def digest(value: Any) -> str:
    """Return the hex SHA-256 of a JSON value in its canonical form.

    Raises:
        ValueError: The value has no canonical JSON form (NaN, a lone surrogate, an integer above 2**53).

    Example:
        >>> digest({"b": 1, "a": "é"}) == digest({"a": "é", "b": 1.0})
        True
    """
    return hashlib.sha256(rfc8785.dumps(value)).hexdigest()


def call_key(
    *,
    function: str,
    prompt_version: str,
    inputs: Sequence[Any],
    options: Mapping[str, Any],
    model: str,
) -> str:
    """Return the key of one function call; `model` is the resolved `name@version`.

    Example:
        >>> len(call_key(function="ai_gen", prompt_version="1", inputs=["hi"], options={}, model="m@1"))
        64
    """
    return digest(
        {
            "function": function,
            "prompt_version": prompt_version,
            "inputs": list(inputs),
            "options": dict(options),
            "model": model,
        }
    )


def route_key(
    *,
    model: str,
    messages: Sequence[Mapping[str, str]] | None,
    prompt: str | None,
    params: Mapping[str, Any],
    response_format: Mapping[str, Any] | None,
) -> str:
    """Return the key of one request before a version is chosen; `model` is the public name."""
    return digest(
        {
            "model": model,
            "messages": None if messages is None else [dict(m) for m in messages],
            "prompt": prompt,
            "params": dict(params),
            "response_format": None if response_format is None else dict(response_format),
        }
    )


def request_key(route: str, model_version: str) -> str:
    """Return the journal's key: a request and the very version that answers it."""
    return digest({"route": route, "version": model_version})


def seed_of(request: str) -> int:
    """Return the sampling seed that belongs to a request key, so that a repeat gives the same answer."""
    return int(request[:16], 16) >> (64 - _SEED_BITS)
