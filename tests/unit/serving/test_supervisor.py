from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from lakemill.errors import ServingError
from lakemill.serving import launch, processes, status, supervisor
from lakemill.settings import Paths


class App:
    stopped = 0
    cause = None

    def check(self):
        if self.cause:
            raise ServingError(self.cause)

    def stop(self):
        self.stopped += 1


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "adopt_orphans", lambda: None)
    monkeypatch.setattr(launch, "quiet", lambda: None)
    monkeypatch.setattr(supervisor, "_CHECK_S", 0.1)
    before = [signal.getsignal(each) for each in supervisor._SIGNALS]
    yield tmp_path / "home"
    assert [signal.getsignal(each) for each in supervisor._SIGNALS] == before


def supervise(home, monkeypatch, start, **options):
    monkeypatch.setattr(launch, "start", start)
    stages = []
    made = supervisor.Supervisor(supervisor.Options(home, engine="contract", port=0, **options), on_stage=stages.append)
    return made, stages


def soon(action, after=0.3):
    timer = threading.Timer(after, action)
    timer.start()
    return timer


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_handler_that_was_put_in_place_while_starting_does_not_keep_the_signal(home, monkeypatch):
    app = App()

    def start(plan, *, on_stage):
        signal.signal(signal.SIGTERM, lambda *_: pytest.fail("the signal went elsewhere"))
        on_stage("loading")
        return app

    made, stages = supervise(home, monkeypatch, start)
    soon(terminate)
    made.run()
    assert stages == ["checking", "loading", "ready", "stopping"]
    assert app.stopped == 1
    assert status.read(Paths(home)) is None


def test_a_signal_ends_a_start_that_takes_long(home, monkeypatch):
    def start(plan, *, on_stage):
        on_stage("loading")
        time.sleep(30)

    made, stages = supervise(home, monkeypatch, start)
    began = time.monotonic()
    soon(terminate)
    made.run()
    assert time.monotonic() - began < 10
    assert stages == ["checking", "loading"]
    assert status.read(Paths(home)) is None


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ServingError("no room", hint="make room"), "no room"),
        (ValueError("the device is gone"), "the application failed: ValueError: the device is gone"),
    ],
)
def test_a_start_that_fails_leaves_its_cause(home, monkeypatch, error, message):
    def start(plan, *, on_stage):
        raise error

    made, _ = supervise(home, monkeypatch, start)
    with pytest.raises(ServingError) as caught:
        made.run()
    assert caught.value.message == message
    left = status.read(Paths(home))
    assert left.state == "failed"
    assert left.error["message"] == message


def test_an_engine_that_is_not_well_is_told(home, monkeypatch):
    app = App()
    made, stages = supervise(home, monkeypatch, lambda plan, *, on_stage: app)
    soon(lambda: setattr(app, "cause", "hung"), 0.2)
    soon(lambda: setattr(app, "cause", None), 1.4)
    soon(terminate, 2.6)
    made.run()
    assert stages == ["checking", "ready", "not well: hung", "ready", "stopping"]


def test_only_one_runs_in_a_home(home, monkeypatch):
    made, _ = supervise(home, monkeypatch, lambda plan, *, on_stage: pytest.fail("started"))
    paths = Paths(home)
    with supervisor.held(paths):
        running = status.ServingStatus("http://x", 7, "serve", "contract", "ready")
        status.write(paths, running)
        with pytest.raises(supervisor.AlreadyRunningError, match="pid 7, ready, http://x"):
            made.run()
        assert status.read(paths) == running


def test_the_command_line_is_read():
    options = supervisor.parse(["--home", "h", "--model", "a", "--model", "b", "--owner", "auto", "--idle-exit", "5"])
    assert (options.models, options.owner, options.idle_s, options.engine) == (("a", "b"), "auto", 5.0, "vllm")
