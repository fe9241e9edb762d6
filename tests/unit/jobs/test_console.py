from __future__ import annotations

import time

import pytest

from lakemill.jobs import console
from lakemill.jobs.console import Shown, Stop, answered
from lakemill.serving.client import Endpoint
from lakemill.serving.contract import serve_contract


def test_a_watch_hears_of_a_stop() -> None:
    watch = Stop()
    assert not watch.stopping
    watch.ask()
    assert watch.stopping


def test_a_phase_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    watch = Shown(lambda: None)
    for _ in range(3):
        watch.phase("plan", "tickets")
    watch.phase("count")
    assert capsys.readouterr().err == "plan: tickets\ncount\n"


def test_lines_tell_how_many_calls_are_answered(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_POLL_S", 0.01)
    monkeypatch.setattr(console, "_PLAIN_S", 0.02)
    told = iter(range(100, 10_000))
    watch = Shown(lambda: next(told))
    watch.asking(1000)
    time.sleep(0.2)
    watch.asked()
    err = capsys.readouterr().err
    assert "of 1000 calls, about" in err
    assert "infer: 100" not in err.splitlines()[0]  # what was answered before does not count


def test_the_service_tells_how_many_rows_it_answered() -> None:
    with serve_contract() as server:
        assert answered(Endpoint(server.url, server.token)) == 0
    assert answered(Endpoint(server.url, server.token)) is None
