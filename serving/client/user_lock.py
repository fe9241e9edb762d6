"""Tell a service that was started for its users that this process is one of them."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

from lakemill.settings import Paths

_held: dict[str, int] = {}
_turn = threading.Lock()


def hold(paths: Paths) -> None:
    """Hold a lock in `locks/users/` until the process ends; the kernel frees it however that happens."""
    folder = paths.locks / "users"
    with _turn:  # a second handle of this very process would wait for the first for ever
        if str(folder) not in _held:
            _held[str(folder)] = _lock(folder)


def _lock(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / f"{os.getpid()}.lock", os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


def release() -> None:
    """Stop being a user of any service."""
    while _held:
        os.close(_held.popitem()[1])


# A forked child shares the lock; it would keep the service up after its parent has gone.
os.register_at_fork(after_in_child=release)
