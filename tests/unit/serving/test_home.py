from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
import threading
import time

import psutil
import pytest

from lakemill.errors import ModelNotFoundError, ServingError, UsageError
from lakemill.serving import catalog, idle, launch, memory, processes, status, token
from lakemill.settings import Paths


@pytest.fixture
def paths(tmp_path):
    return Paths(tmp_path / "home")


def test_a_token_is_made_once_and_for_its_owner_alone(paths):
    first = token.ensure(paths)
    assert len(first) >= 32
    assert token.ensure(paths) == first
    assert stat.S_IMODE(paths.token.stat().st_mode) == 0o600
    assert [path.name for path in paths.home.iterdir()] == ["token"]


def test_a_token_that_others_could_read_is_closed(paths, caplog):
    token.ensure(paths)
    paths.token.chmod(0o644)
    token.ensure(paths)
    assert stat.S_IMODE(paths.token.stat().st_mode) == 0o600
    assert "others could read it" in caplog.text


def test_a_given_token_leaves_no_file(paths):
    assert token.ensure(paths, given="abc") == "abc"
    assert not paths.token.exists()


def test_an_empty_token_is_refused(paths):
    paths.home.mkdir()
    paths.token.touch(mode=0o600)
    with pytest.raises(ServingError, match="is empty"):
        token.ensure(paths)


def test_a_status_is_read_as_it_was_written(paths):
    model = status.ModelStatus("m", "1", 100, ("generate", "count"))
    made = status.ServingStatus("http://x", 5, "auto", "contract", "starting", "loading").with_models([model])
    failed = made.failed(ServingError("no room", hint="make room"))
    status.write(paths, failed)
    assert status.read(paths) == failed
    assert failed.error == {"message": "no room", "hint": "make room"}
    status.remove(paths, 6)
    assert paths.serving_json.exists()
    status.remove(paths, 5)
    assert status.read(paths) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"models": []}', '{"models": [{}]}'])
def test_a_status_that_cannot_be_read_is_none(paths, text):
    paths.home.mkdir()
    paths.serving_json.write_text(text)
    assert status.read(paths) is None


def test_users_are_those_that_hold_a_lock(tmp_path):
    for name in ("held", "free", "gone"):
        (tmp_path / name).touch()
    os.utime(tmp_path / "gone", (0, 0))
    with (tmp_path / "held").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.utime(tmp_path / "held", (0, 0))
        assert idle.users(tmp_path) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["free", "held"]
    assert idle.users(tmp_path) == 0
    assert idle.users(tmp_path / "missing") == 0


def test_the_idle_watch_waits_for_the_last_user(tmp_path):
    called = threading.Event()
    with (tmp_path / "user").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        watch = idle.IdleWatch(tmp_path, idle_s=0.2, on_idle=called.set)
        watch.start()
        assert not called.wait(0.5)
    assert called.wait(2)
    watch.join(2)
    assert not watch.is_alive()


def test_memory_is_that_of_the_container_where_it_is_less(tmp_path):
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 100\n")
    assert memory.available(tmp_path) == 400
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available(tmp_path) > 1000


def test_too_little_memory_says_who_needs_what():
    entry = next(iter(catalog.entries().values()))
    with pytest.raises(ServingError, match=r"smollm2-135m-instruct \(2 x 1e\+06 GiB\) need 2e\+06 GiB"):
        launch.check_memory([entry.model_copy(update={"memory_gib": 1e6, "replicas": 2})])
    launch.check_memory([entry.model_copy(update={"memory_gib": 0})])


def test_models_are_those_named_or_those_that_start_by_themselves(tmp_path):
    assert [entry.name for entry in launch.choose([])] == ["smollm2-135m-instruct"]
    assert len(launch.choose(["smollm2-135m-instruct"] * 2)) == 1
    with pytest.raises(ModelNotFoundError, match="'nope' is not in the catalog"):
        launch.choose(["nope"])


def test_no_model_to_start_is_wrong_use(monkeypatch):
    quiet = {n: e.model_copy(update={"autostart": False}) for n, e in catalog.entries().items()}
    monkeypatch.setattr(catalog, "entries", lambda _: quiet)
    with pytest.raises(UsageError, match="autostart") as caught:
        launch.choose([])
    assert "smollm2-135m-instruct" in caught.value.hint


def test_usage_statistics_and_hubs_are_off():
    environment = {"HF_HUB_OFFLINE": "0"}
    launch.quiet(environment)
    assert environment["HF_HUB_OFFLINE"] == environment["VLLM_NO_USAGE_STATS"] == "1"
    assert environment["RAY_USAGE_STATS_ENABLED"] == "0"


def test_descendants_end_even_when_they_refuse():
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    spared = processes.descendants()
    child = subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE)
    child.stdout.readline()
    started = time.monotonic()
    processes.end_all(but=spared, grace_s=0.2)
    child.wait(1)
    child.stdout.close()
    assert time.monotonic() - started < 5
    assert not processes.alive(child.pid)
    assert processes.descendants(2**30) == set()


def test_this_process_is_alive():
    assert processes.alive(os.getpid())
    assert not processes.wait_gone(os.getpid(), timeout_s=0.1)
    assert psutil.pid_exists(os.getpid())
