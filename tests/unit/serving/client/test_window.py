from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from lakemill.errors import ServingError
from lakemill.serving.client import ClientLimits, Endpoint, RowClient, process


@pytest.fixture(autouse=True)
def _end() -> Iterator[None]:
    yield
    process.close()


def client(**limits: int) -> RowClient:
    return RowClient.shared(Endpoint("http://127.0.0.1:1"), limits=ClientLimits(**limits))


class Gauge:
    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.bytes = 0
        self.most_bytes = 0
        self.cancelled = 0

    async def __call__(self, item: int) -> int:
        self.running += 1
        self.bytes += item
        self.most, self.most_bytes = max(self.most, self.running), max(self.most_bytes, self.bytes)
        try:
            await asyncio.sleep(0.001 * (item % 3))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
            self.bytes -= item
        return item * 2


def test_batches_come_back_in_order_and_of_the_same_length():
    sizes = [3, 0, 1, 40, 0, 7]
    batches = [list(range(size)) for size in sizes]
    assert list(client(window_rows=5).map(batches, Gauge(), size=lambda _: 1)) == [[i * 2 for i in b] for b in batches]


def test_no_batch_at_all():
    assert list(client().map([], Gauge(), size=lambda _: 1)) == []


def test_rows_of_several_batches_run_together_and_never_more_than_the_window():
    gauge = Gauge()
    list(client(window_rows=16).map([[2] * 4] * 30, gauge, size=lambda _: 1))
    assert gauge.most == 16


def test_bytes_bound_what_runs_but_one_large_row_still_goes():
    gauge = Gauge()
    out = list(client(window_bytes=100).map([[50, 50, 50, 500, 20, 20]] * 3, gauge, size=lambda item: item))
    assert [len(batch) for batch in out] == [6, 6, 6]
    assert gauge.most_bytes == 500
    gauge = Gauge()
    list(client(window_bytes=100).map([[20] * 50], gauge, size=lambda item: item))
    assert gauge.most_bytes == 100


def test_reading_ahead_is_bounded_while_one_row_takes_long():
    gate = threading.Event()
    read = 0

    def batches() -> Iterator[list[int]]:
        nonlocal read
        for number in range(1000):
            read += 1
            yield [number] * 10

    async def call(item: int) -> int:
        if item == 0:
            await asyncio.to_thread(gate.wait)
        return item

    threading.Timer(0.15, gate.set).start()
    out = client(window_rows=20).map(batches(), call, size=lambda _: 1)
    assert next(out) == [0] * 10
    assert 8 <= read <= 12  # the first, four windows of 20 rows, and what came in meanwhile
    assert sum(1 for _ in out) == 999


def test_what_is_ready_goes_out_before_more_is_read():
    events: list[str] = []

    def batches() -> Iterator[list[int]]:
        for number in range(3):
            events.append(f"read {number}")
            yield [number]
            time.sleep(0.01)

    async def call(item: int) -> int:
        return item

    for batch in client(window_rows=1).map(batches(), call, size=lambda _: 1):
        events.extend(f"got {item}" for item in batch)
    assert events.index("got 0") < events.index("read 2")


@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit(3), asyncio.CancelledError()])
def test_an_exception_in_a_call_reaches_the_consumer_and_cancels_the_rest(error: BaseException):
    gauge = Gauge()

    async def call(item: int) -> int:
        if item == 7:
            raise error
        await asyncio.sleep(5)
        return await gauge(item)

    expected = ServingError if isinstance(error, asyncio.CancelledError) else type(error)
    with pytest.raises(expected):
        list(client().map([[1, 2, 7, 3]], call, size=lambda _: 1))
    assert list(client().map([[1]], gauge, size=lambda _: 1)) == [[2]]  # the loop lives on


def test_an_exception_while_a_call_is_made_reaches_the_consumer():
    def call(item: int) -> asyncio.Future[int]:
        raise KeyError(item)

    with pytest.raises(KeyError):
        list(client().map([[1]], call, size=lambda _: 1))


def test_an_exception_of_the_batches_reaches_the_consumer():
    def batches() -> Iterator[list[int]]:
        yield [1]
        raise OSError("the source broke")

    with pytest.raises(OSError, match="the source broke"):
        list(client().map(batches(), Gauge(), size=lambda _: 1))


def test_an_early_stop_cancels_what_runs_and_leaves_no_task():
    gauge = Gauge()
    started = threading.Event()

    async def call(item: int) -> int:
        if item == 0:
            await asyncio.to_thread(started.wait)
            return item
        started.set()
        await asyncio.sleep(60)
        return await gauge(item)

    out = client().map([[0], [1] * 50], call, size=lambda _: 1)
    assert next(out) == [0]
    out.close()
    assert gauge.running == 0
    assert left_tasks() == 0


def left_tasks() -> int:
    async def count() -> int:
        return len(asyncio.all_tasks()) - 1

    return asyncio.run_coroutine_threadsafe(count(), process.current().loop).result(1)


def test_map_refuses_to_run_inside_its_own_loop():
    async def call(item: int) -> list[list[int]]:
        return list(client().map([[item]], Gauge(), size=lambda _: 1))

    with pytest.raises(RuntimeError, match="cannot run inside"):
        list(client().map([[1]], call, size=lambda _: 1))
