"""What the workers tell the driver about a query: exact counts, and a bounded sample of failures."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from pyspark.accumulators import AccumulatorParam

from lakemill.rows import RowError, RowResult
from lakemill.udfs import types

SAMPLE = 1_000
_MESSAGE = 500
# One for the process: a tally travels, a lock cannot.
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Failure:
    """Hold one failed row. `query` is Spark's execution id, `time` seconds since the epoch."""

    query: str | None
    function: str
    key: str
    error: RowError
    model: str | None
    time: float


@dataclass(slots=True)
class Tally:
    """Count the rows of a query: `rows` in all, `skipped` NULL or blank, `cached` without the model."""

    rows: int = 0
    skipped: int = 0
    cached: int = 0
    failed: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def add(self, other: Tally) -> Tally:
        """Add another tally to this one; the sample stays within `SAMPLE`."""
        with _lock:
            self._add(other)
        return self

    def take(self) -> Tally:
        """Return what was counted, and begin anew in place: Spark's thread may add at any time."""
        with _lock:
            taken = Tally()
            taken._add(self)
            self.rows = self.skipped = self.cached = 0
            self.failed.clear()
            self.failures.clear()
        return taken

    def _add(self, other: Tally) -> None:
        self.rows += other.rows
        self.skipped += other.skipped
        self.cached += other.cached
        self.failed.update(other.failed)
        self.failures.extend(other.failures[: SAMPLE - len(self.failures)])

    @classmethod
    def of(cls, function: str, results: Iterable[RowResult | None], query: str | None, model: str) -> Tally:
        """Count one batch of results; None is a row that was not asked."""
        tally = cls()
        for result in results:
            tally.rows += 1
            tally.skipped += result is None
            tally.cached += result is not None and result.cached
            if result is not None and result.error is not None:
                tally._fail(function, result.key, result.error, query, result.model or model)
        return tally

    def _fail(self, function: str, key: str, error: RowError, query: str | None, model: str) -> None:
        self.failed[function, error.code.value] += 1
        if len(self.failures) < SAMPLE:
            short = RowError(error.code, types.clean(error.message)[:_MESSAGE], error.attempts)
            self.failures.append(Failure(query, function, key, short, model, time.time()))


class TallyParam(AccumulatorParam[Tally]):
    """Let a Spark accumulator add tallies."""

    def zero(self, value: Tally) -> Tally:  # noqa: ARG002  # Spark's signature
        """Return an empty tally."""
        return Tally()

    def addInPlace(self, value1: Tally, value2: Tally) -> Tally:  # noqa: N802  # Spark's name
        """Add the second tally to the first."""
        return value1.add(value2)
