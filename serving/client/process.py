"""The one event loop thread of a process; a fork starts with none."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading

from lakemill.serving.client.desk import Desk
from lakemill.serving.client.endpoint import Endpoint
from lakemill.serving.client.limits import ClientLimits

_STOP_S = 2.0


class LoopThread:
    """Hold an event loop that runs in a daemon thread, and the desk of each endpoint in it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._desks: dict[tuple[Endpoint, ClientLimits], Desk] = {}
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="lakemill-row-client", daemon=True)
        self._thread.start()

    def desk(self, endpoint: Endpoint, limits: ClientLimits) -> Desk:
        """Return the desk of an endpoint; call it inside the loop."""
        key = (endpoint, limits)
        if key not in self._desks:
            self._desks[key] = Desk(endpoint, limits, loop=self.loop)
        return self._desks[key]

    @property
    def is_current(self) -> bool:
        """Tell whether the caller runs in this thread."""
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """Close every desk and end the thread; safe to call twice."""
        if not self._thread.is_alive():
            return
        self.loop.call_soon_threadsafe(lambda: asyncio.ensure_future(self._stop(), loop=self.loop))
        self._thread.join(_STOP_S)

    async def _stop(self) -> None:
        try:
            for desk in self._desks.values():
                await desk.close()
        finally:
            self._stopped = True
            self.loop.stop()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        while not self._stopped:
            # SystemExit inside a call breaks out of the loop; its task keeps it for whoever waits.
            with contextlib.suppress(SystemExit, KeyboardInterrupt):
                self.loop.run_forever()
        self.loop.run_until_complete(end_tasks())
        self.loop.close()


async def end_tasks() -> None:
    """Cancel the other tasks of the running loop, and wait until they and their sockets are done with."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)  # sockets are closed one turn after their transports


class _Process:
    """Hold what belongs to this process alone."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.thread: LoopThread | None = None
        self.of_parents: list[LoopThread | None] = []


_process = _Process()


def current() -> LoopThread:
    """Return this process's event loop thread; started at the first call."""
    with _process.lock:
        if _process.thread is None:
            _process.thread = LoopThread()
        return _process.thread


def close() -> None:
    """End the event loop thread of this process, if there is one."""
    with _process.lock:
        thread, _process.thread = _process.thread, None
    if thread is not None:
        thread.close()


def _after_fork() -> None:
    # The parent's objects are kept, not freed: closing its sockets here would take them out of the
    # parent's own selector, which the child shares.
    _process.lock = threading.Lock()
    _process.of_parents.append(_process.thread)
    _process.thread = None


os.register_at_fork(after_in_child=_after_fork)
atexit.register(close)
