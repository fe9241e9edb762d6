"""Stop asking an endpoint that cannot be reached, so that a query of many rows ends soon."""

from __future__ import annotations

import time
from collections.abc import Callable


class Breaker:
    """Open after a time in which nothing was reached; close when something is again.

    closed → (nothing reached for `patience_s`) → open → (a look found it well) → on trial →
    closed at the next answer, open at the next failure.

    Example:
        >>> breaker = Breaker(patience_s=0, probe_s=1)
        >>> breaker.failed("connection refused")
        True
        >>> breaker.is_open, breaker.cause
        (True, 'connection refused')
    """

    def __init__(self, *, patience_s: float, probe_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience_s = patience_s
        self._probe_s = probe_s
        self._clock = clock
        self._down_since: float | None = None
        self._answered_at = clock()
        self._probed_at = 0.0
        self._on_trial = False
        self.is_open = False
        self.cause = ""

    def is_down_since(self, moment: float) -> bool:
        """Tell whether nothing has answered since `moment`."""
        return self._down_since is not None and self._answered_at <= moment

    def succeeded(self) -> None:
        """Note that the endpoint answered."""
        self._answered_at = self._clock()
        self._down_since = None
        self._on_trial = False
        self.is_open = False

    def failed(self, cause: str, *, since: float | None = None) -> bool:
        """Note that the endpoint was not reached, the last time it was heard of being `since`.

        Returns True when this very failure opened the breaker.
        """
        if self._down_since is None:
            # One silent stream says little while others go on: what counts is the last sign of life.
            self._down_since = self._clock() if since is None else max(since, self._answered_at)
        patient = self._clock() - self._down_since < self._patience_s
        if self.is_open or (patient and not self._on_trial):
            self.cause = self.cause if self.is_open else cause
            return False
        self.trip(cause)
        return True

    def trip(self, cause: str) -> None:
        """Open at once: it is known that nothing will answer."""
        self.cause = cause
        self.is_open = True
        self._on_trial = False
        self._probed_at = self._clock()

    def probe_due(self) -> bool:
        """Tell whether it is time for another look; the caller that hears True takes it."""
        if not self.is_open or self._clock() - self._probed_at < self._probe_s:
            return False
        self._probed_at = self._clock()
        return True

    def try_again(self) -> None:
        """Let rows through; the first failure opens the breaker again."""
        self.is_open = False
        self._on_trial = True
