"""Rows of many batches in one rolling window; whole batches out, in order."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Generic, TypeAlias, TypeVar

from lakemill.errors import ServingError
from lakemill.serving.client.limits import ClientLimits

T = TypeVar("T")
R = TypeVar("R")

# How many times the window's rows may be read ahead of the batch that is due.
_AHEAD = 4


@dataclass(frozen=True, slots=True)
class Hungry:
    """Ask the consumer's thread for another batch."""


@dataclass(frozen=True, slots=True)
class Ready(Generic[R]):
    """Hand over the results of the oldest batch."""

    results: list[R]


@dataclass(frozen=True, slots=True)
class Failed:
    """Say that a call raised; nothing else follows."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Ended:
    """Say that every batch was handed over."""


Signal: TypeAlias = "Hungry | Ready[R] | Failed | Ended"


class _Batch(Generic[T, R]):
    __slots__ = ("bytes", "items", "left", "next", "results")

    def __init__(self, items: Sequence[T]) -> None:
        self.items = items
        self.left = len(items)
        self.next = 0
        self.bytes = 0
        self.results: list[R] = [None] * len(items)  # type: ignore[list-item]


class Window(Generic[T, R]):
    """Run a coroutine a row, so many at a time, over as many batches as that takes.

    Lives in the event loop; `signals` leads to the thread that reads the batches and takes the results.
    Rows that run are bounded by `window_rows` and `window_bytes`; rows read ahead of the oldest batch
    by four times that many rows and as many bytes (and one batch more).
    """

    def __init__(self, call: Callable[[T], Awaitable[R]], size: Callable[[T], int], limits: ClientLimits) -> None:
        self._call = call
        self._size = size
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._batches: deque[_Batch[T, R]] = deque()
        self._unsent: deque[_Batch[T, R]] = deque()
        self._tasks: set[asyncio.Future[R]] = set()
        self._bytes = 0
        self._ahead_rows = 0
        self._ahead_bytes = 0
        self._exhausted = False
        self._waiting_for_batch = False
        self._over = False
        self.signals: SimpleQueue[Signal[R]] = SimpleQueue()
        self.closed = threading.Event()
        self._advance()

    def feed(self, items: Sequence[T]) -> None:
        """Take another batch."""
        self._waiting_for_batch = False
        batch: _Batch[T, R] = _Batch(items)
        if self._batches:
            self._ahead_rows += len(items)
        self._batches.append(batch)
        self._unsent.append(batch)
        self._advance()

    def finish(self) -> None:
        """Note that no more batches come."""
        self._exhausted = True
        self._advance()

    def abort(self) -> None:
        """Cancel what runs; `closed` is set when the last call has ended."""
        self._over = True
        for task in self._tasks:
            task.cancel()
        if not self._tasks:
            self.closed.set()

    def _advance(self) -> None:
        if self._over:
            return
        self._send()
        self._emit()
        if self._exhausted and not self._batches:
            self._over = True
            self.signals.put(Ended())
            self.closed.set()
        elif not (self._exhausted or self._waiting_for_batch) and self._wants_batch():
            self._waiting_for_batch = True
            self.signals.put(Hungry())

    def _wants_batch(self) -> bool:
        limits = self._limits
        return (
            not self._unsent
            and len(self._tasks) < limits.window_rows
            and self._bytes < limits.window_bytes
            and self._ahead_rows < _AHEAD * limits.window_rows
            and self._ahead_bytes < limits.window_bytes
        )

    def _send(self) -> None:
        while self._unsent and not self._over:
            batch = self._unsent[0]
            if batch.next == len(batch.items):
                self._unsent.popleft()
            elif not self._start_next(batch):
                return

    def _start_next(self, batch: _Batch[T, R]) -> bool:
        if len(self._tasks) >= self._limits.window_rows:
            return False
        item = batch.items[batch.next]
        size = self._size(item)
        if self._tasks and self._bytes + size > self._limits.window_bytes:
            return False
        try:
            task = asyncio.ensure_future(self._call(item), loop=self._loop)
        except Exception as error:
            self._fail(error)
            return False
        self._note_started(batch, size)
        task.add_done_callback(partial(self._on_done, batch, batch.next, size))
        self._tasks.add(task)
        batch.next += 1
        return True

    def _note_started(self, batch: _Batch[T, R], size: int) -> None:
        self._bytes += size
        batch.bytes += size
        if batch is not self._batches[0]:
            self._ahead_bytes += size

    def _on_done(self, batch: _Batch[T, R], index: int, size: int, task: asyncio.Future[R]) -> None:
        self._tasks.discard(task)
        self._bytes -= size
        if self._over:
            if not task.cancelled():
                task.exception()  # seen, so that asyncio does not report it
            if not self._tasks:
                self.closed.set()
            return
        error = ServingError("a call was cancelled from outside") if task.cancelled() else task.exception()
        if error is not None:
            self._fail(error)
            return
        batch.results[index] = task.result()
        batch.left -= 1
        self._advance()

    def _fail(self, error: BaseException) -> None:
        self.signals.put(Failed(error))
        self.abort()

    def _emit(self) -> None:
        while self._batches and self._batches[0].left == 0:
            self.signals.put(Ready(self._batches.popleft().results))
            if self._batches:  # the next one is due now, no longer ahead
                self._ahead_rows -= len(self._batches[0].items)
                self._ahead_bytes -= self._batches[0].bytes
