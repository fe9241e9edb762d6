"""Gather rows into requests: many rows a request, a few requests on their way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from lakemill.serving.client.limits import ClientLimits
from lakemill.serving.client.pending import Pending


class Lane:
    """Hold the waiting rows that share everything but their text, and so may share a request."""

    def __init__(self, head: bytes) -> None:
        self.head = head
        self.rows: deque[Pending] = deque()
        self.accepted = False
        self.refusal = ""
        self.refusals = 0

    def take(self, limits: ClientLimits) -> list[Pending]:
        """Take the rows of one request; rows that nobody waits for any more are dropped."""
        taken: list[Pending] = []
        size = 0
        while self.rows and len(taken) < limits.rows_per_request:
            size += len(self.rows[0].body)
            if taken and size > limits.bytes_per_request:
                break
            row = self.rows.popleft()
            if not row.done:
                taken.append(row)
        return taken


class Batcher:
    """Decide when which rows are sent.

    An idle endpoint gets what there is at once. While requests are on their way, rows gather for
    `linger_s`, and up to `fill_s` as long as the engine has a full request to work on: then a small
    request would only take a place that a larger one needs soon.
    """

    def __init__(
        self, limits: ClientLimits, start: Callable[[Lane, list[Pending]], None], *, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._limits = limits
        self._start = start
        self._loop = loop
        self._waiting: dict[Lane, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._requests = 0
        self._unanswered = 0
        self._enough = max(1, limits.rows_per_request // 4)
        self.paused = False

    def put(self, lane: Lane, row: Pending) -> None:
        """Add a row that is asked for the first time."""
        lane.rows.append(row)
        self._wake(lane)

    def put_back(self, lane: Lane, rows: Iterable[Pending]) -> None:
        """Add rows that are asked again, before all others."""
        lane.rows.extendleft(reversed(list(rows)))
        self._wake(lane)

    def answered(self, rows: int) -> None:
        """Note that rows of a request are done with, whether answered or not."""
        self._unanswered -= rows
        if self._waiting and self._unanswered < self._limits.rows_per_request:
            self._schedule(self._limits.linger_s)

    def finished(self) -> None:
        """Note that a request is over."""
        self._requests -= 1
        if self._waiting:
            self._schedule(0.0)

    def resume(self) -> None:
        """Go on after a pause."""
        self.paused = False
        self._schedule(0.0)

    def drain(self) -> Iterator[Pending]:
        """Take every waiting row out, to be failed."""
        for lane in self._waiting:
            rows, lane.rows = lane.rows, deque()
            yield from rows
        self._waiting.clear()

    def _wake(self, lane: Lane) -> None:
        if lane not in self._waiting:
            self._waiting[lane] = self._loop.time()
        if self._unanswered == 0 or len(lane.rows) in {self._enough, self._limits.rows_per_request}:
            self._schedule(0.0)
        elif self._timer is None:
            self._schedule(self._limits.linger_s)

    def _schedule(self, delay_s: float) -> None:
        # With 0 the pump runs after every callback that is already due: rows asked together go together.
        when = self._loop.time() + delay_s
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._pump)

    def _pump(self) -> None:
        self._timer = None
        while self._has_place() and (lane := self._due()) is not None:
            self._send(lane)
        if self._waiting and self._has_place():
            self._schedule(self._limits.fill_s)

    def _has_place(self) -> bool:
        return not self.paused and self._requests < self._limits.requests_in_flight

    def _due(self) -> Lane | None:
        if self._unanswered < self._limits.rows_per_request:
            return next(iter(self._waiting), None)
        old = self._loop.time() - self._limits.fill_s
        return next(
            (lane for lane, since in self._waiting.items() if len(lane.rows) >= self._enough or since <= old), None
        )

    def _send(self, lane: Lane) -> None:
        rows = lane.take(self._limits)
        del self._waiting[lane]
        if lane.rows:  # behind the other lanes, so that none starves
            self._waiting[lane] = self._loop.time()
        if rows:
            self._requests += 1
            self._unanswered += len(rows)
            self._start(lane, rows)
