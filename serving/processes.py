"""Processes: what a supervisor started must not outlive it."""

from __future__ import annotations

import ctypes
import logging
import signal
import sys
import time
from collections.abc import Iterable

import psutil

logger = logging.getLogger(__name__)

_PR_SET_CHILD_SUBREAPER = 36
_ROUNDS = 5


def adopt_orphans() -> None:
    """Become the parent of every orphan among one's descendants, so that `end_all` finds it (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def exit_on_sigterm() -> None:
    """Let SIGTERM raise SystemExit, so that what is in `finally` is done (exit status 143)."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def descendants(pid: int | None = None) -> set[psutil.Process]:
    """Return every process below `pid` (default: this one)."""
    try:
        return set(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return set()


def end_all(*, but: Iterable[psutil.Process] = (), grace_s: float = 5.0) -> None:
    """End every descendant but those named: SIGTERM first, SIGKILL after `grace_s` seconds."""
    spared = set(but)
    for _ in range(_ROUNDS):
        # A process that ends may leave children of its own to this one, hence the rounds.
        left = descendants() - spared
        if not left:
            return
        end(left, grace_s=grace_s)
    logger.error("processes are left: %s", [process.pid for process in descendants() - spared])


def end(processes: Iterable[psutil.Process], *, grace_s: float) -> None:
    """End processes: SIGTERM first, SIGKILL after `grace_s` seconds."""
    found = list(processes)
    for process in found:
        _signal(process, kill=False)
    _, left = psutil.wait_procs(found, timeout=grace_s)
    for process in left:
        _signal(process, kill=True)
    psutil.wait_procs(left, timeout=grace_s)


def _signal(process: psutil.Process, *, kill: bool) -> None:
    try:
        process.kill() if kill else process.terminate()
    except psutil.Error:
        return


def wait_gone(pid: int, *, timeout_s: float) -> bool:
    """Return whether process `pid` is gone within `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
