"""The row client: rows of a table → requests of many rows → answers, in the order of the rows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lakemill.rows import RowAnswer
from lakemill.serving.client import process
from lakemill.serving.client.ask import Ask
from lakemill.serving.client.endpoint import Endpoint
from lakemill.serving.client.limits import ClientLimits
from lakemill.serving.client.window import Ended, Failed, Hungry, Ready, Window

T = TypeVar("T")
R = TypeVar("R")
_ABORT_S = 5.0


@dataclass(frozen=True, slots=True)
class RowClient:
    """Ask a serving application about rows.

    A handle without state: the event loop, the sockets and the waiting rows belong to the process,
    so that a client may be kept, pickled or taken across a fork.
    """

    endpoint: Endpoint
    limits: ClientLimits = field(default_factory=ClientLimits)

    @classmethod
    def shared(cls, endpoint: Endpoint, *, limits: ClientLimits | None = None) -> RowClient:
        """Return the client of an endpoint; all of one process share sockets, window and retries.

        Example:
            >>> client = RowClient.shared(Endpoint("http://127.0.0.1:8642"))
            >>> client == RowClient.shared(Endpoint("http://127.0.0.1:8642"))
            True
        """
        return cls(endpoint, limits or ClientLimits())

    async def ask(self, ask: Ask) -> RowAnswer:
        """Return the answer of one row.

        Never raises for a row: what went wrong is the answer's `error`, with the number of times that
        the row was sent. May be called from any event loop.
        """
        thread = process.current()
        if thread.is_current:
            return await thread.desk(self.endpoint, self.limits).ask(ask)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.ask(ask), thread.loop))

    def map(
        self, batches: Iterable[Sequence[T]], call: Callable[[T], Awaitable[R]], *, size: Callable[[T], int]
    ) -> Iterator[list[R]]:
        """Yield `call`'s result for each row, one list a batch, in order and of the same length.

        The calls run in the client's event loop, rows of several batches at once, bounded by
        `window_rows` and `window_bytes` (`size` gives the bytes of a row). `batches` is read in the
        caller's thread, only as far as the window needs.

        Raises:
            Exception: What a call or `batches` raised; the calls that still run are cancelled.
                They are cancelled as well when the consumer stops early.
        """
        thread = process.current()
        if thread.is_current:
            raise RuntimeError("map blocks, and so cannot run inside the client's own event loop")
        window = asyncio.run_coroutine_threadsafe(_open(call, size, self.limits), thread.loop).result()
        try:
            yield from _pump(iter(batches), window, thread.loop)
        finally:
            with contextlib.suppress(RuntimeError):  # the process ends, and its loop is closed already
                thread.loop.call_soon_threadsafe(window.abort)
                window.closed.wait(_ABORT_S)


async def _open(call: Callable[[T], Awaitable[R]], size: Callable[[T], int], limits: ClientLimits) -> Window[T, R]:
    return Window(call, size, limits)


def _pump(batches: Iterator[Sequence[T]], window: Window[T, R], loop: asyncio.AbstractEventLoop) -> Iterator[list[R]]:
    hungry = False
    while True:
        if hungry and window.signals.empty():  # what is ready goes out before more is read
            hungry = False
            _feed(batches, window, loop)
        match window.signals.get():
            case Ready(results):
                yield results
            case Hungry():
                hungry = True
            case Failed(error):
                raise error
            case Ended():
                return


def _feed(batches: Iterator[Sequence[Any]], window: Window[Any, Any], loop: asyncio.AbstractEventLoop) -> None:
    try:
        batch = next(batches)
    except StopIteration:
        loop.call_soon_threadsafe(window.finish)
        return
    loop.call_soon_threadsafe(window.feed, batch)
