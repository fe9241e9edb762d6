"""Commands that are interrupted end soon, tell it in their exit code, and leave no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lakemill.serving.launch import free_port

_END_S = 90.0


def left_of(home: Path) -> list[psutil.Process]:
    """Return the processes that still work for a home."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            mine = process.environ().get("LAKEMILL_HOME") == str(home)
            if mine and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


class Command:
    """Hold one command of lakemill with a home of its own, and read its lines."""

    def __init__(self, home: Path, *line: str) -> None:
        environment = {**os.environ, "LAKEMILL_HOME": str(home), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lakemill", *line],
            env=environment,
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.told: list[str] = []

    def wait_for(self, text: str) -> None:
        """Read until a line holds `text`."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.told.append(line)
            if text in line:
                return
        pytest.fail(f"ended without {text!r}: {''.join(self.told)}")

    def end(self) -> int:
        """Read to the end, and return the exit code."""
        rest, _ = self.process.communicate(timeout=_END_S)
        self.told.append(rest)
        return self.process.returncode


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for process in left_of(tmp_path):
        process.kill()


def gone(home: Path, seconds: float = 20.0) -> list[psutil.Process]:
    until = time.monotonic() + seconds
    while (left := left_of(home)) and time.monotonic() < until:
        time.sleep(0.2)
    return left


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGTERM, "serve: checking"),
        (signal.SIGINT, "lakemill sample packages"),
        (signal.SIGTERM, "plan: packages"),
        (signal.SIGINT, "infer:"),
    ],
)
def test_a_demo_that_is_interrupted_leaves_no_process(home: Path, number: signal.Signals, moment: str) -> None:
    demo = Command(home, "demo", "--engine", "contract", "--rows", "8")
    demo.wait_for(moment)
    demo.process.send_signal(number)
    assert demo.end() == 128 + number, "".join(demo.told)
    assert gone(home) == []
    assert "Traceback" not in "".join(demo.told)


def test_mlflow_ends_with_the_command_that_opened_it(home: Path) -> None:
    (home / "mlflow.db").touch()
    ui = Command(home, "ui", "--port", str(free_port(0)))
    ui.wait_for("Application startup complete")
    ui.process.send_signal(signal.SIGTERM)
    assert ui.end() == 128 + signal.SIGTERM
    assert gone(home) == []


def test_a_run_that_is_stopped_goes_on_later_and_two_at_once_do_the_work_once(home: Path) -> None:
    for line in (("serve", "--engine", "contract", "--detach"), ("sample", "packages", "--rows", "8")):
        assert Command(home, *line).end() == 0
    try:
        stopped = Command(home, "run", "packages")
        stopped.wait_for("plan:")
        stopped.process.send_signal(signal.SIGTERM)
        assert stopped.end() == 3, "".join(stopped.told)
        assert "lakemill run packages goes on from there" in "".join(stopped.told)
        both = [Command(home, "run", "packages") for _ in range(2)]
        assert [command.end() for command in both] == [0, 0]
        told = sorted("".join(command.told) for command in both)
        assert ["nothing to do" in text for text in told].count(True) == 1, told
        assert ["calls: 24" in text for text in told].count(True) == 1, told
    finally:
        assert Command(home, "serve", "--stop").end() == 0
    assert gone(home) == []
