"""The engine protocol: what a `RowService` needs from whatever answers, be it vLLM or the contract engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from lakemill.rows import Kind, Message, RowError, Usage


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Describe a served model as `GET /v1/models` tells it.

    `version` is the registry's number or the first 12 hex digits of the source's digest; `context` is
    the window in tokens (prompt and answer together).
    """

    name: str
    version: str
    context: int
    kinds: tuple[Kind, ...] = ("generate", "choose", "count")

    @property
    def qualified(self) -> str:
        """Return `name@version`, as row results and keys carry it."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class Prompt:
    """Hold one row for the engine. `id` is its request key; `seed` is used where the row is sampled."""

    id: str
    messages: tuple[Message, ...] | None
    prompt: str | None
    seed: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Hold prompts that share kind, parameters and response format.

    `params` are sampling parameters by vLLM's names (`max_tokens`, `temperature`, `top_p`, `top_k`,
    `min_p`, `stop`, `seed`, `presence_penalty`, `frequency_penalty`, `repetition_penalty`).
    `response_format` is None or one of `{"type": "text"}`, `{"type": "json_object"}`,
    `{"type": "json_schema", "json_schema": {"name": …, "schema": {…}}}`,
    `{"type": "choice", "choices": […]}` (choose needs the last).
    """

    kind: Kind
    prompts: tuple[Prompt, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    response_format: Mapping[str, Any] | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """Hold what the engine made of one prompt: a result or an error, never an exception."""

    id: str
    result: Any = None
    scores: Mapping[str, float] | None = None
    error: RowError | None = None
    finish_reason: str | None = None
    usage: Usage = Usage()
    latency_ms: float = 0.0


class Engine(Protocol):
    """Answer batches of prompts for one model.

    An engine never raises for a row: a bad row is a `Completion` with an error. It raises
    `lakemill.errors.ServingError` only where it cannot answer anything any more.
    """

    @property
    def model(self) -> ModelInfo:
        """Return the model that answers."""
        ...

    def answer(self, batch: Batch) -> AsyncIterator[list[Completion]]:
        """Yield completions in order of completion, several at a time; each prompt exactly once."""
        ...

    async def check(self) -> None:
        """Return when the engine is well.

        Raises:
            ServingError: It is not, with the cause.
        """
        ...

    async def close(self) -> None:
        """Free what the engine holds; safe to call twice."""
        ...
