"""What a job asks of its pipeline, checked and free of YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

from lakemill import keys


@dataclass(frozen=True)
class Step:
    """Hold one step: it writes the column `name` (and `name_result`, the row result)."""

    name: str
    function: str
    input: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Flow:
    """Hold a job's data flow. `keys` are the columns that name a row of the source and of the sink."""

    job: str
    source: str
    steps: tuple[Step, ...]
    sink: str
    keys: tuple[str, ...]
    model: str
    keep_results: bool = False
    on_error: Literal["null", "fail"] = "null"
    max_error_ratio: float | None = None
    max_errors: int | None = None

    @cached_property
    def digest(self) -> str:
        """Return what decides the sink's content: a plan belongs to one digest."""
        steps = [[step.name, step.function, step.input, dict(step.arguments)] for step in self.steps]
        return keys.digest(
            {
                "job": self.job,
                "source": self.source.lower(),
                "steps": steps,
                "sink": [self.sink.lower(), list(self.keys), self.keep_results],
                "model": self.model,
            }
        )


@dataclass(frozen=True)
class Counts:
    """Count one run. A call is one step of one row; `failed` and the sums are over calls."""

    rows: int = 0
    calls: int = 0
    asked: int = 0
    ledger_hits: int = 0
    deduplicated: int = 0
    skipped: int = 0
    cached: int = 0
    failed: int = 0
    failed_rows: int = 0
    deleted: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    failed_by_code: Mapping[str, int] = field(default_factory=dict)


class Watch(Protocol):
    """Hear how far a run is, and tell whether it is to stop."""

    def phase(self, name: str, detail: str = "") -> None:
        """Hear that a phase begins."""
        ...

    def asking(self, calls: int) -> None:
        """Hear that at most `calls` calls are about to be asked."""
        ...

    def asked(self) -> None:
        """Hear that all of them are answered."""
        ...

    @property
    def stopping(self) -> bool:
        """Return whether somebody asked the run to stop."""
        ...
