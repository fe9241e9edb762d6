"""Start the serving application as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lakemill.errors import ServingError
from lakemill.serving.client import local
from lakemill.settings import Paths

_APPEAR_S = 10.0
_GONE_S = 20.0
_POLL_S = 0.05
_LOG = "serving.log"

# Kept, so that a child that goes on when this process ends is not taken for a forgotten one.
_started: list[subprocess.Popen[bytes]] = []


def command(paths: Paths, *, conf_dir: str | os.PathLike[str] | None = None) -> list[str]:
    """Return the command line of a service that ends after its last user."""
    line = [sys.executable, "-m", "lakemill.serving.supervisor"]
    line += ["--owner", "auto", "--idle-exit", "60", "--home", str(paths.home), "--port", "0"]
    return line if conf_dir is None else [*line, "--conf-dir", str(conf_dir)]


def start(paths: Paths, *, conf_dir: str | os.PathLike[str] | None = None) -> local.LocalState:
    """Start the service and return what it says of itself; that is long before it is ready.

    Raises:
        ServingError: It failed, ended or said nothing for 10 s, with its cause or the last line of its log.
    """
    other = _settled(paths)
    if other is not None:
        return other
    paths.serving_json.unlink(missing_ok=True)
    child = _spawn(command(paths, conf_dir=conf_dir), paths.logs / _LOG)
    state = _poll(lambda: _told(paths), child=child, seconds=_APPEAR_S)
    if state is None:
        ended = child.poll()
        what = "said nothing within 10 s" if ended is None else f"ended at once with status {ended}"
        raise ServingError(f"the serving application {what}: {log_tail(paths)}", hint=f"see {paths.logs / _LOG}")
    if state.failure is not None:
        raise ServingError(state.failure, hint=state.hint or f"see {paths.logs / _LOG}")
    return state


def log_tail(paths: Paths) -> str:
    """Return the last line of the service's log that says something."""
    try:
        text = (paths.logs / _LOG).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "no log was written"
    lines = [line.strip() for line in text[-8192:].splitlines() if line.strip()]
    return lines[-1] if lines else "its log is empty"


def _told(paths: Paths) -> local.LocalState | None:
    """Return what the service says once that is where it listens, or why it never will."""
    state = local.read(paths.serving_json)
    return state if state is not None and (state.url or state.failure) else None


def _settled(paths: Paths) -> local.LocalState | None:
    """Return the service that another process is starting, or None once there is none."""
    # Two services of one home would fight for the journal, and the old one removes the file of the new.
    until = time.monotonic() + _GONE_S
    while (state := local.read(paths.serving_json)) is not None and state.alive and time.monotonic() < until:
        if state.usable:
            return state
        time.sleep(_POLL_S)
    return None


def _spawn(line: list[str], log: Path) -> subprocess.Popen[bytes]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            line, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    _started.append(child)
    return child


def _poll(
    look: Callable[[], local.LocalState | None], *, child: subprocess.Popen[bytes], seconds: float
) -> local.LocalState | None:
    until = time.monotonic() + seconds
    while (state := look()) is None and child.poll() is None and time.monotonic() < until:
        time.sleep(_POLL_S)
    return state if state is not None else look()
