"""End an application that was started for a query once nobody uses it any more.

A user holds an exclusive lock on a file of its own in LAKEMILL_HOME/locks/users; the kernel frees it when
the process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import logging
import re
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

_STALE_S = 60.0  # a user may stand between making its file and locking it
_ACTIVITY = re.compile(r"^lakemill_(requests_total|open_rows) (\S+)$", re.MULTILINE)


def users(folder: Path) -> int:
    """Return how many users hold a lock; remove the files of those that are gone."""
    return sum(_held(path) for path in sorted(folder.glob("*")) if path.is_file()) if folder.is_dir() else 0


def _held(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            if time.time() - path.stat().st_mtime > _STALE_S:
                path.unlink(missing_ok=True)
    except OSError:
        return False
    return False


class IdleWatch(threading.Thread):
    """Call `on_idle` once, when nobody has used the application for `idle_s` seconds.

    Args:
        folder: Where users hold their locks.
        idle_s: Seconds without a user and without a request.
        on_idle: What to do then.
    """

    def __init__(self, folder: Path, *, idle_s: float, on_idle: Callable[[], None]) -> None:
        super().__init__(name="lakemill-idle", daemon=True)
        self.url: str | None = None
        self._folder = folder
        self._idle_s = idle_s
        self._on_idle = on_idle
        self._ended = threading.Event()
        self._used = time.monotonic()
        self._requests = 0.0

    def run(self) -> None:
        """Watch until idle or stopped."""
        while not self._ended.wait(min(self._idle_s / 4, 2.0)):
            if users(self._folder) or self._asked():
                self._used = time.monotonic()
            elif time.monotonic() - self._used >= self._idle_s:
                logger.info("nobody has used the application for %.0f s", self._idle_s)
                self._on_idle()
                return

    def stop(self) -> None:
        """Stop watching."""
        self._ended.set()

    def _asked(self) -> bool:
        if self.url is None:
            return False
        try:
            with urllib.request.urlopen(f"{self.url}/metrics", timeout=5) as reply:  # noqa: S310 - our own address
                counts = dict(_ACTIVITY.findall(reply.read().decode()))
        except OSError:
            return False
        requests, open_rows = float(counts.get("requests_total", 0)), float(counts.get("open_rows", 0))
        asked = requests > self._requests or open_rows > 0
        self._requests = requests
        return asked
