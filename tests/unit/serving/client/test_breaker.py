from __future__ import annotations

import pytest

from lakemill.serving.client.breaker import Breaker


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(patience_s=5.0, probe_s=1.0, clock=clock)


def test_opens_only_after_a_time_without_any_success(breaker: Breaker, clock: Clock):
    assert not breaker.failed("refused")
    clock.now += 4.9
    assert not breaker.failed("refused")
    clock.now += 0.1
    assert breaker.failed("refused again")
    assert breaker.is_open
    assert breaker.cause == "refused again"


def test_a_success_starts_the_time_anew(breaker: Breaker, clock: Clock):
    breaker.failed("refused")
    clock.now += 4
    breaker.succeeded()
    clock.now += 4
    assert not breaker.failed("refused")
    assert not breaker.is_open


def test_a_silence_counts_from_its_beginning(breaker: Breaker, clock: Clock):
    clock.now += 20
    assert breaker.failed("silent", since=clock.now - 15)


def test_one_silent_stream_does_not_count_while_others_go_on(breaker: Breaker, clock: Clock):
    clock.now += 20
    breaker.succeeded()
    assert not breaker.failed("silent", since=clock.now - 15)


def test_a_look_is_due_once_a_probe_time(breaker: Breaker, clock: Clock):
    assert not breaker.probe_due()
    breaker.trip("gone")
    assert not breaker.probe_due()
    clock.now += 1
    assert breaker.probe_due()
    assert not breaker.probe_due()


def test_on_trial_one_failure_opens_and_one_success_closes(breaker: Breaker):
    breaker.trip("gone")
    breaker.try_again()
    assert not breaker.is_open
    assert breaker.failed("still gone")
    breaker.try_again()
    breaker.succeeded()
    assert not breaker.failed("a hiccup")


def test_only_the_failure_that_opens_says_so(breaker: Breaker):
    breaker.trip("gone")
    assert not breaker.failed("gone as well")
    assert breaker.cause == "gone"


def test_knows_whether_anything_answered_since_a_moment(breaker: Breaker, clock: Clock):
    assert not breaker.is_down_since(clock.now)
    breaker.failed("refused")
    assert breaker.is_down_since(clock.now)
    assert not breaker.is_down_since(clock.now - 1)
    clock.now += 1
    breaker.succeeded()
    assert not breaker.is_down_since(clock.now)
