from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from lakemill.serving import detached, processes
from lakemill.settings import Paths

MODEL = "smollm2-135m-instruct"


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def environment():
    return {name: value for name, value in os.environ.items() if not name.startswith("LAKEMILL_")}


def lakemill(home, *arguments, timeout=60):
    line = [sys.executable, "-c", "from lakemill.cli import main; main()", "serve", "--home", str(home), *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=timeout, env=environment(), check=False)


@pytest.fixture
def supervise(home):
    started = []

    def start(*arguments):
        line = [sys.executable, "-m", "lakemill.serving.supervisor", "--home", str(home), "--engine", "contract"]
        process = subprocess.Popen(
            [*line, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment()
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def status(home):
    try:
        return json.loads((home / "serving.json").read_text())
    except FileNotFoundError:
        return None


def wait_state(home, state, pid=None):
    deadline = time.monotonic() + 20
    while (found := status(home)) is None or found["state"] != state or pid not in (None, found["pid"]):
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_start_status_stop(home):
    assert lakemill(home, "--status").returncode == 3
    port = free_port()
    started = lakemill(home, "--engine", "contract", "--port", str(port), "--detach")
    try:
        assert started.returncode == 0, started.stderr
        assert f"http://127.0.0.1:{port}" in started.stdout
        found = status(home)
        assert (found["state"], found["owner"], found["engine"]) == ("ready", "serve", "contract")
        assert found["models"][0]["name"] == MODEL
        told = lakemill(home, "--status")
        assert told.returncode == 0
        assert "health: ok" in told.stdout
        assert f"{MODEL}@" in told.stdout
        second = lakemill(home, "--engine", "contract", "--port", "0", "--detach")
        assert second.returncode == 1
        assert f"pid {found['pid']}" in second.stderr
    finally:
        stopped = lakemill(home, "--stop")
    assert (stopped.returncode, stopped.stdout) == (0, f"stopped (pid {found['pid']})\n")
    assert not processes.alive(found["pid"])
    assert status(home) is None
    again = lakemill(home, "--stop")
    assert again.returncode == 0
    assert "nothing runs" in again.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_leaves_nothing(home, supervise, number):
    process = supervise("--port", "0")
    found = wait_state(home, "ready")
    assert found["pid"] == process.pid
    process.send_signal(number)
    assert process.wait(10) == 0
    assert status(home) is None
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(found["url"] + "/healthz", timeout=5)


def test_it_says_that_it_starts_within_a_second(home, supervise):
    began = time.monotonic()
    supervise("--port", "0")
    while status(home) is None:
        time.sleep(0.01)
    # A second on a machine that does nothing else; the bound is for one that does.
    assert time.monotonic() - began < 5
    wait_state(home, "ready")


@pytest.mark.parametrize(("owner", "code"), [("serve", 1), ("auto", 0)])
def test_a_second_one_leaves_the_first_alone(home, supervise, owner, code):
    supervise("--port", "0")
    first = wait_state(home, "ready")
    second = supervise("--port", "0", "--owner", owner)
    assert second.wait(20) == code
    assert f"pid {first['pid']}" in second.stderr.read()
    assert status(home) == first


def test_the_next_one_waits_for_one_that_is_about_to_end(home, supervise):
    first = supervise("--port", "0")
    left = wait_state(home, "ready")
    first.send_signal(signal.SIGSTOP)
    (home / "serving.json").write_text(json.dumps(left | {"state": "stopping"}))
    second = supervise("--port", "0", "--owner", "auto")
    time.sleep(1.5)
    assert second.poll() is None
    first.kill()
    wait_state(home, "ready", second.pid)


def test_in_the_foreground_it_runs_until_it_is_interrupted(home):
    line = [sys.executable, "-c", "from lakemill.cli import main; main()", "serve", "--home", str(home)]
    line += ["--engine", "contract", "--port", "0"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    try:
        found = wait_state(home, "ready")
        process.send_signal(signal.SIGINT)
        told, stages = process.communicate(timeout=15)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert found["url"] in told
    assert told.endswith("stopped\n")
    assert "starting the contract engine" in stages
    assert status(home) is None


def test_a_taken_port_is_named_with_the_cure(home):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        refused = lakemill(home, "--engine", "contract", "--port", str(port))
    assert refused.returncode == 1
    assert f"port {port} on 127.0.0.1 is taken" in refused.stderr
    assert "--port" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert status(home)["state"] == "failed"
    told = lakemill(home, "--status")
    assert told.returncode == 3
    assert f"port {port}" in told.stdout


@pytest.mark.parametrize("how", [[], ["--detach"]])
def test_an_unknown_model_is_refused_with_the_known_ones(home, how):
    refused = lakemill(home, "--engine", "contract", "--port", "0", "--model", "nope", *how)
    assert refused.returncode != 0
    assert "'nope' is not in the catalog" in refused.stderr
    assert MODEL in refused.stderr
    assert "Traceback" not in refused.stderr
    assert (status(home) is None) == bool(how)


def test_it_ends_when_nobody_uses_it(home, supervise):
    users = home / "locks" / "users"
    users.mkdir(parents=True)
    with (users / "me").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        process = supervise("--port", "0", "--owner", "auto", "--idle-exit", "1")
        wait_state(home, "ready")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2.5)
    assert process.wait(10) == 0
    assert status(home) is None


def test_what_a_killed_one_left_does_not_stop_the_next(home, supervise):
    first = supervise("--port", "0")
    left = wait_state(home, "ready")
    first.kill()
    first.wait()
    assert lakemill(home, "--status").returncode == 3
    second = supervise("--port", "0")
    found = wait_state(home, "ready", second.pid)
    assert found["pid"] != left["pid"]
    second.terminate()
    assert second.wait(10) == 0


def test_a_supervisor_that_hangs_is_stopped_too(home, supervise):
    process = supervise("--port", "0")
    wait_state(home, "ready")
    process.send_signal(signal.SIGSTOP)
    assert detached.stop(Paths(home), timeout_s=0.5) == process.pid
    process.wait(5)
    assert status(home) is None
