"""The real serving application, started once a session by the real supervisor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

MODEL = "smollm2-135m-instruct"
START_S = 300.0
# Weights are unpacked once a checkout, not once a session; `make setup` puts them here too.
MODELS = Path(__file__).parents[2] / ".lakemill" / "models"


class Supervisor:
    """Run the supervisor in a process of its own."""

    def __init__(self, home: Path, *options: str) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        MODELS.mkdir(parents=True, exist_ok=True)
        (home / "models").symlink_to(MODELS, target_is_directory=True)
        self.log = home / "supervisor.log"
        env = {name: value for name, value in os.environ.items() if not name.startswith("LAKEMILL_")}
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lakemill.serving.supervisor", "--home", str(home), "--port", "0", *options],
                stdout=stream,
                stderr=stream,
                env=env,
            )

    def status(self) -> dict[str, Any]:
        try:
            return json.loads((self.home / "serving.json").read_text())
        except OSError:
            return {"state": "starting", "stage": "no serving.json yet"}

    def wait(self, *states: str) -> dict[str, Any]:
        deadline = time.monotonic() + START_S
        while (found := self.status())["state"] not in states:
            ended = self.process.poll() is not None and self.status()["state"] not in states
            if ended or time.monotonic() > deadline:
                pytest.fail(f"the supervisor is not {states} but {found}\n{self.log.read_text()[-4000:]}")
            time.sleep(0.2)
        return found

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self) -> list[str]:
        """Stop it; return the command lines of what it left behind."""
        if self.process.poll() is not None:
            return []
        started = self.descendants()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        _, left = psutil.wait_procs(started, timeout=5)
        lines = [" ".join(process.cmdline()) for process in left if process.is_running()]
        for process in left:
            process.kill()
        return lines


@pytest.fixture(scope="session")
def supervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """The supervisor with the default model; at the end it must leave no process behind."""
    running = Supervisor(tmp_path_factory.mktemp("e2e") / "home")
    try:
        running.wait("ready")
        yield running
    finally:
        left = running.stop()
    assert left == []


@pytest.fixture(scope="session")
def endpoint(supervisor: Supervisor) -> SimpleNamespace:
    """Where the contract suite sends its requests."""
    found = supervisor.status()
    token = (supervisor.home / "token").read_text().strip()
    return SimpleNamespace(url=found["url"], token=token, model=MODEL, home=supervisor.home)
