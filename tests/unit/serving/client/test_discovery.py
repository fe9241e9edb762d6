from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lakemill.errors import ServingError
from lakemill.serving.client import Endpoint, discovery, launcher, user_lock
from lakemill.settings import Settings

MODEL = {"name": "m", "version": "1", "context": 64, "kinds": ["generate"]}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    for name in ("HOME", "ENDPOINT", "TOKEN"):
        monkeypatch.delenv(f"LAKEMILL_{name}", raising=False)
    yield Settings(home=tmp_path)
    user_lock.release()


def say(settings: Settings, **changes: Any) -> None:
    state = {"url": "http://127.0.0.1:1", "pid": os.getpid(), "owner": "auto", "engine": "contract", "state": "ready"}
    state |= {"stage": "loading m", "error": None, "models": [MODEL], "started_at": time.time()} | changes
    part = settings.paths.home / "serving.json.part"
    part.write_text(json.dumps(state))
    part.replace(settings.paths.serving_json)


@pytest.fixture
def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


class Service:
    def __init__(self) -> None:
        self.health = 200
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                allowed = self.path == "/healthz" or self.headers.get("Authorization") == "Bearer secret"
                status = 401 if not allowed else service.health if self.path == "/healthz" else 200
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps({"data": [{**MODEL, "id": "m", "name": None}]}).encode())

            def log_message(self, *args: Any) -> None:
                """Stay quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def service() -> Iterator[Service]:
    running = Service()
    yield running
    running.server.shutdown()
    running.server.server_close()


def test_an_argument_wins_over_a_setting_and_a_setting_over_the_file(settings: Settings):
    say(settings)
    settings.paths.token.write_text("from the file\n")
    named = settings.model_copy(update={"endpoint": "http://b/", "token": "set"})
    home = str(settings.paths.home)
    assert discovery.find(settings) == Endpoint("http://127.0.0.1:1", "from the file", home)
    assert discovery.find(named) == Endpoint("http://b", "set")
    assert discovery.find(named, endpoint="http://a", token="given") == Endpoint("http://a", "given")
    assert discovery.find(settings, endpoint="http://127.0.0.1:1/").home == home  # type: ignore[union-attr]


def test_nothing_is_found_where_nothing_usable_runs(settings: Settings, dead_pid: int):
    assert discovery.find(settings) is None
    settings.paths.serving_json.write_text("{half")
    assert discovery.find(settings) is None
    for changes in ({"pid": dead_pid}, {"state": "failed"}, {"state": "stopping"}, {"url": None}):
        say(settings, **changes)
        assert discovery.find(settings) is None
    # a process with the same number that began after the file was written is another one
    say(settings, started_at=time.time() - 10**7)
    assert discovery.find(settings) is None


def test_models_of_a_running_a_starting_and_an_absent_service(settings: Settings, service: Service):
    [name] = discovery.models(Endpoint(service.url, "secret")) or {}
    assert name == "m"
    assert discovery.models(Endpoint(service.url, "wrong")) is None
    assert discovery.models(Endpoint("http://127.0.0.1:1")) is None
    say(settings, state="starting")
    found = discovery.models(Endpoint("http://127.0.0.1:1", home=str(settings.paths.home)))
    assert found is not None
    assert (found["m"].qualified, found["m"].context) == ("m@1", 64)


def test_wait_ready_tells_the_stages_and_returns_when_all_is_well(settings: Settings, service: Service):
    say(settings, state="starting", url=service.url)
    threading.Timer(0.3, lambda: say(settings, url=service.url)).start()
    stages: list[str] = []
    endpoint = Endpoint(service.url, home=str(settings.paths.home))
    discovery.wait_ready(endpoint, timeout_s=10, on_progress=lambda stage, _: stages.append(stage))
    assert stages[0] == "loading m"


def test_wait_ready_gives_the_cause_of_a_failed_start(settings: Settings, dead_pid: int):
    endpoint = Endpoint("http://127.0.0.1:1", home=str(settings.paths.home))
    say(settings, state="failed", error={"message": "port 1 is taken", "hint": "choose another"})
    with pytest.raises(ServingError, match="port 1 is taken\n  → choose another"):
        discovery.wait_ready(endpoint)
    settings.paths.logs.mkdir()
    (settings.paths.logs / "serving.log").write_text("loading\nout of memory\n\n")
    say(settings, state="starting", pid=dead_pid)
    with pytest.raises(ServingError, match=r"ended while it was starting \(loading m\)[\s\S]*out of memory"):
        discovery.wait_ready(endpoint)
    settings.paths.serving_json.unlink()
    with pytest.raises(ServingError, match="has ended"):
        discovery.wait_ready(endpoint)


def test_wait_ready_ends_where_nothing_gets_well(service: Service, monkeypatch: pytest.MonkeyPatch):
    service.health = 503
    with pytest.raises(ServingError, match="not ready after 0 s: not well yet"):
        discovery.wait_ready(Endpoint(service.url), timeout_s=0)
    monkeypatch.setattr(discovery, "_UNREACHED_S", -1.0)
    with pytest.raises(ServingError, match="no serving application answers"):
        discovery.wait_ready(Endpoint("http://127.0.0.1:1"))


STAND_IN = """
import json, os, pathlib, sys, time
home = pathlib.Path(sys.argv[1])
print("stand-in up", flush=True)
with (home / "starts").open("a") as starts:
    starts.write("x")
if sys.argv[2] == "die":
    sys.exit("cannot: no memory")
time.sleep(0.2)
error = {"message": "no such model", "hint": None} if sys.argv[2] == "fail" else None
state = {"url": "http://127.0.0.1:9", "pid": os.getpid(), "owner": "auto", "state": "failed" if error else "starting",
         "error": error, "models": [], "started_at": time.time()}
(home / "part").write_text(json.dumps(state))
(home / "part").rename(home / "serving.json")
time.sleep(0 if error else 30)
"""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def use(how: str) -> None:
        def command(paths: Any, **_: Any) -> list[str]:
            return [sys.executable, "-c", STAND_IN, str(paths.home), how]

        monkeypatch.setattr(launcher, "command", command)

    yield use
    while launcher._started:
        child = launcher._started.pop()
        child.kill()
        child.wait()


def test_two_at_once_start_one_service_and_both_use_it(settings: Settings, stand_in: Any):
    stand_in("live")
    found: list[Endpoint] = []
    drivers = [threading.Thread(target=lambda: found.append(discovery.find_or_start(settings))) for _ in range(3)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join(20)
    assert found == [Endpoint("http://127.0.0.1:9", None, str(settings.paths.home))] * 3
    assert (settings.paths.home / "starts").read_text() == "x"
    assert "stand-in up" in (settings.paths.logs / "serving.log").read_text()


def test_a_stale_file_does_not_hinder_a_start(settings: Settings, stand_in: Any, dead_pid: int):
    say(settings, pid=dead_pid, url="http://127.0.0.1:8")
    stand_in("live")
    assert discovery.find_or_start(settings).url == "http://127.0.0.1:9"


def test_a_start_that_fails_says_why(settings: Settings, stand_in: Any):
    stand_in("die")
    with pytest.raises(ServingError, match="ended at once with status 1: cannot: no memory"):
        discovery.find_or_start(settings)
    stand_in("fail")
    with pytest.raises(ServingError, match="no such model"):
        discovery.find_or_start(settings)


def test_nothing_is_started_where_an_endpoint_is_named(settings: Settings, stand_in: Any):
    stand_in("live")
    assert discovery.find_or_start(settings, endpoint="http://a").url == "http://a"
    assert not (settings.paths.home / "starts").exists()


def test_the_command_line(settings: Settings):
    line = launcher.command(settings.paths, conf_dir="c")
    assert line[:3] == [sys.executable, "-m", "lakemill.serving.supervisor"]
    options = dict(zip(line[3::2], line[4::2], strict=True))
    home = str(settings.paths.home)
    assert options == {"--owner": "auto", "--idle-exit": "60", "--home": home, "--port": "0", "--conf-dir": "c"}


def test_a_user_holds_its_lock_until_its_process_ends_and_a_forked_child_does_not(settings: Settings):
    user_lock.hold(settings.paths)
    user_lock.hold(settings.paths)
    [path] = (settings.paths.locks / "users").iterdir()
    assert not free(path)
    up, say_up = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(say_up, b"x")
        time.sleep(30)
        os._exit(0)
    os.read(up, 1)
    user_lock.release()
    assert free(path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(up)
    os.close(say_up)


def free(path: Path) -> bool:
    with path.open() as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_a_service_that_another_command_is_starting_is_waited_for(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # `lakemill serve` says that it starts before it knows its port.
    monkeypatch.setattr(launcher, "command", lambda *_, **__: pytest.fail("a second service was started"))
    say(settings, state="starting", url=None, started_at=time.time())
    told = threading.Timer(0.2, lambda: say(settings, state="starting"))
    told.start()
    assert discovery.find_or_start(settings).url == "http://127.0.0.1:1"
    told.join()
