from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from lakemill.serving.client.backoff import pause, retry_after_s


def test_the_range_doubles_with_each_attempt_up_to_the_maximum():
    for attempts, ceiling in [(1, 1.0), (2, 2.0), (3, 4.0), (9, 5.0)]:
        pauses = [pause(attempts, base_s=1.0, max_s=5.0) for _ in range(500)]
        assert 0 <= min(pauses) < ceiling * 0.2
        assert ceiling * 0.8 < max(pauses) <= ceiling


def test_what_the_service_asked_for_is_the_least_but_never_more_than_the_maximum():
    assert all(2.0 <= pause(1, base_s=0.5, max_s=5.0, at_least_s=2.0) <= 2.5 for _ in range(100))
    assert pause(1, base_s=0.5, max_s=5.0, at_least_s=3600.0) <= 5.5


@pytest.mark.parametrize(
    ("header", "seconds"), [("3", 3.0), ("0.5", 0.5), (None, 0.0), ("", 0.0), ("soon", 0.0), ("-1", 0.0)]
)
def test_retry_after_in_seconds(header: str | None, seconds: float):
    assert retry_after_s(header) == seconds


def test_retry_after_as_a_date():
    assert 3.0 < retry_after_s(formatdate(time.time() + 5, usegmt=True)) <= 5.0
    assert retry_after_s(formatdate(time.time() - 5, usegmt=True)) == 0.0
