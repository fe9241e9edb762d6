"""Start a supervisor in the background, tell how it is, end it: what `lakemill serve` does from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from lakemill.errors import LakemillError, ServingError
from lakemill.serving import launch, processes, status, supervisor
from lakemill.serving.launch import OnStage
from lakemill.serving.status import ServingStatus
from lakemill.serving.supervisor import Options
from lakemill.settings import Paths

_STOP_S = 45.0
_KILL_S = 10.0
_TAIL_LINES = 15


@dataclass(frozen=True, slots=True)
class Report:
    """Hold what `lakemill serve --status` tells. `cause` is None where the application is well."""

    status: ServingStatus | None
    running: bool
    cause: str | None


def command(options: Options) -> list[str]:
    """Return the command line of a supervisor."""
    line = [sys.executable, "-m", "lakemill.serving.supervisor", "--home", str(options.home)]
    line += ["--engine", options.engine, "--port", str(options.port), "--owner", options.owner]
    line += ["--idle-exit", str(options.idle_s)]
    line += [] if options.conf_dir is None else ["--conf-dir", options.conf_dir]
    return line + [part for name in options.models for part in ("--model", name)]


def log_path(paths: Paths) -> Path:
    """Return where a supervisor in the background writes what it says."""
    return paths.logs / "serving.log"


def start(options: Options, paths: Paths, *, on_stage: OnStage) -> ServingStatus:
    """Start a supervisor in a session of its own and return when the application is ready.

    Raises:
        ServingError: It did not come up; nothing is left of it.
    """
    with supervisor.held(paths):
        pass  # says who runs already, at once rather than in a log
    log = log_path(paths)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        started = subprocess.Popen(  # noqa: S603 - our own module
            command(options), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        return _wait_ready(started, paths, on_stage)
    except BaseException:
        _end(started.pid)
        started.wait()
        status.remove(paths, started.pid)
        raise


def _wait_ready(started: subprocess.Popen[bytes], paths: Paths, on_stage: OnStage) -> ServingStatus:
    stage = ""
    while True:
        ended = started.poll() is not None
        found = status.read(paths)
        found = found if found is not None and found.pid == started.pid else None
        if ended:
            raise _cause(found, paths, started.returncode)
        if found is not None and found.stage != stage:
            stage = found.stage
            on_stage(stage)
        if found is not None and found.state == "ready":
            return found
        time.sleep(0.1)


def _cause(found: ServingStatus | None, paths: Paths, code: int) -> LakemillError:
    if found is not None and found.error is not None:
        return ServingError(found.error["message"] or "the start failed", hint=found.error["hint"])
    lines = log_path(paths).read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
    return ServingError(
        f"the application ended with status {code} while starting", hint="\n    ".join(["its log:", *lines])
    )


def report(paths: Paths) -> Report:
    """Tell how the application of a home is."""
    found = status.read(paths)
    if found is None or not processes.alive(found.pid):
        return Report(found, running=False, cause="not running")
    if found.state != "ready" or found.url is None:
        cause = found.stage if found.error is None else str(found.error["message"])
        return Report(found, running=True, cause=f"{found.state}: {cause}")
    return Report(found, running=True, cause=launch.health(found.url))


def stop(paths: Paths, *, timeout_s: float = _STOP_S) -> int | None:
    """End the application of a home; return the pid that was ended, or None where none ran.

    Raises:
        ServingError: The process that serving.json names is not a supervisor, or does not end.
    """
    try:
        with supervisor.held(paths, patience_s=0):
            # Nobody holds the home, so what serving.json says is left from a process that was killed.
            paths.serving_json.unlink(missing_ok=True)
            return None
    except supervisor.AlreadyRunningError as error:
        found = status.read(paths)
        if found is None or not _is_supervisor(found.pid):
            raise ServingError(f"{error.message}, but serving.json does not name its process") from error
    _end(found.pid, timeout_s=timeout_s)
    status.remove(paths, found.pid)
    return found.pid


def _is_supervisor(pid: int) -> bool:
    try:
        words = psutil.Process(pid).cmdline()
    except psutil.Error:
        return False
    return "lakemill.serving.supervisor" in words or "serve" in words


def _end(pid: int, *, timeout_s: float = _STOP_S) -> None:
    below = processes.descendants(pid)
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    if processes.wait_gone(pid, timeout_s=timeout_s):
        return
    below |= processes.descendants(pid)
    os.kill(pid, signal.SIGKILL)
    processes.end(below, grace_s=1.0)
    if not processes.wait_gone(pid, timeout_s=_KILL_S):
        raise ServingError(f"process {pid} does not end")
