"""The words of the row path: what a row asks, what comes back, and how it fails.

`RowRequest` and `RowAnswer` travel between the row client and the service (POST /v1/rows);
`RowResult` is what a `try_` function returns for one row of a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal["generate", "choose", "embed", "count"]
KINDS: tuple[Kind, ...] = ("generate", "choose", "embed", "count")
Message: TypeAlias = Mapping[str, str]


class ErrorCode(StrEnum):
    """Why a row has no value."""

    CONTEXT_LENGTH_EXCEEDED = "CONTEXT_LENGTH_EXCEEDED"
    OUTPUT_TRUNCATED = "OUTPUT_TRUNCATED"
    INVALID_OUTPUT = "INVALID_OUTPUT"
    SCHEMA_MISMATCH = "SCHEMA_MISMATCH"
    LABEL_NOT_ALLOWED = "LABEL_NOT_ALLOWED"
    INVALID_REQUEST = "INVALID_REQUEST"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RATE_LIMITED = "RATE_LIMITED"
    BUDGET_EXCEEDED = "BUDGET_EXCEEDED"
    CONTENT_FILTERED = "CONTENT_FILTERED"
    UNANSWERABLE = "UNANSWERABLE"
    TIMEOUT = "TIMEOUT"
    ENGINE_UNAVAILABLE = "ENGINE_UNAVAILABLE"
    CANCELLED = "CANCELLED"
    INTERNAL = "INTERNAL"


RETRYABLE: frozenset[ErrorCode] = frozenset(
    {
        ErrorCode.RATE_LIMITED,
        ErrorCode.TIMEOUT,
        ErrorCode.ENGINE_UNAVAILABLE,
        ErrorCode.CANCELLED,
        ErrorCode.BUDGET_EXCEEDED,
        ErrorCode.INTERNAL,
    }
)


@dataclass(frozen=True, slots=True)
class RowError:
    """Say why one row failed.

    `attempts` counts how often the row was sent; 0 where it never left the worker.
    """

    code: ErrorCode
    message: str
    attempts: int = 1

    @property
    def retryable(self) -> bool:
        """Tell whether asking again, unchanged, may succeed."""
        return self.code in RETRYABLE

    def to_json(self) -> dict[str, Any]:
        """Return the error as the row protocol writes it."""
        return {
            "code": self.code.value,
            "message": self.message,
            "retryable": self.retryable,
            "attempts": self.attempts,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RowError:
        """Read an error from the row protocol; a code of a newer service becomes INTERNAL."""
        try:
            code = ErrorCode(value["code"])
        except (KeyError, ValueError):
            code = ErrorCode.INTERNAL
        return cls(code, str(value.get("message", "")), int(value.get("attempts") or 1))


@dataclass(frozen=True, slots=True)
class Usage:
    """Count tokens of one or more generations."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_prompt_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_prompt_tokens + other.cached_prompt_tokens,
        )

    def to_json(self) -> dict[str, int]:
        """Return the counts as the row protocol writes them."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cached_prompt_tokens": self.cached_prompt_tokens,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> Usage:
        """Read the counts from the row protocol; what is missing is 0."""
        value = value or {}
        return cls(
            int(value.get("prompt_tokens") or 0),
            int(value.get("completion_tokens") or 0),
            int(value.get("cached_prompt_tokens") or 0),
        )


@dataclass(frozen=True, slots=True)
class Row:
    """Hold what one row asks: chat messages or a bare prompt, never both.

    `id` is unique within its HTTP request; `key` is the caller's call key, which is only echoed.
    """

    id: str
    messages: tuple[Message, ...] | None = None
    prompt: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class RowRequest:
    """Hold one `POST /v1/rows`: what all its rows share, and the rows."""

    kind: Kind
    model: str
    rows: tuple[Row, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    response_format: Mapping[str, Any] | None = None
    run: str | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True)
class RowAnswer:
    """Hold one line of the answer stream.

    `result` is text for generate and choose, a list of floats for embed, an integer for count.
    `scores` maps each choice to its probability (choose only). `model` is `name@version`.
    """

    id: str
    result: Any = None
    scores: Mapping[str, float] | None = None
    error: RowError | None = None
    finish_reason: str | None = None
    usage: Usage = Usage()
    model: str | None = None
    cached: bool = False
    latency_ms: float = 0.0
    key: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the line of the row protocol as a dict."""
        return {
            "id": self.id,
            "key": self.key,
            "result": self.result,
            "scores": self.scores,
            "error": None if self.error is None else self.error.to_json(),
            "finish_reason": self.finish_reason,
            "usage": self.usage.to_json(),
            "model": self.model,
            "cached": self.cached,
            "latency_ms": self.latency_ms,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RowAnswer:
        """Read a line of the row protocol."""
        error = value.get("error")
        return cls(
            id=value["id"],
            result=value.get("result"),
            scores=value.get("scores"),
            error=None if error is None else RowError.from_json(error),
            finish_reason=value.get("finish_reason"),
            usage=Usage.from_json(value.get("usage")),
            model=value.get("model"),
            cached=bool(value.get("cached")),
            latency_ms=float(value.get("latency_ms") or 0.0),
            key=value.get("key"),
        )


@dataclass(frozen=True, slots=True)
class RowResult:
    """Hold what one call of a function gave for one row of a table (DESIGN: one row result).

    A row that failed has `error` and no `result`. A call that asked the model several times sums
    `usage` and `latency_ms`; it is `cached` when no generation was paid for it.
    """

    key: str
    result: Any = None
    error: RowError | None = None
    finish_reason: str | None = None
    usage: Usage = Usage()
    model: str | None = None
    cached: bool = False
    latency_ms: float = 0.0
    extra: Mapping[str, Any] = field(default_factory=dict)
