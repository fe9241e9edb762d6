"""Completions sent together: a flush costs more than a row."""

from __future__ import annotations

import asyncio
import contextlib
import time

from lakemill.serving.engine import Completion

FLUSH_S = 0.03


async def flushed(done: asyncio.Queue[Completion | None], left: int) -> list[Completion]:
    """Return the next completions together: what comes within `FLUSH_S` of the first, at most `left`.

    A None in the queue says that no more will come; the list is empty when nothing came before it.
    """
    first = await done.get()
    ready = [] if first is None else [first]
    deadline = time.monotonic() + FLUSH_S
    while ready and len(ready) < left and (wait := deadline - time.monotonic()) > 0:
        with contextlib.suppress(TimeoutError):
            following = await asyncio.wait_for(done.get(), wait)
            if following is None:
                done.put_nowait(None)
                break
            ready.append(following)
    return ready
