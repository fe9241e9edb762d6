from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from lakemill.serving.client.batcher import Batcher, Lane
from lakemill.serving.client.limits import ClientLimits
from lakemill.serving.client.pending import Pending

LIMITS = ClientLimits(rows_per_request=8, requests_in_flight=2, linger_s=0.005, fill_s=0.02)


class Bench:
    def __init__(self, limits: ClientLimits = LIMITS) -> None:
        self.loop = asyncio.get_running_loop()
        self.sent: list[tuple[Lane, list[Pending]]] = []
        self.batcher = Batcher(limits, lambda lane, rows: self.sent.append((lane, rows)), loop=self.loop)
        self.lane = Lane(b"{")

    def put(self, count: int, *, lane: Lane | None = None, size: int = 10) -> list[Pending]:
        rows = [Pending(str(i), b"x" * size, self.loop.create_future(), asked_at=0.0) for i in range(count)]
        for row in rows:
            self.batcher.put(lane or self.lane, row)
        return rows

    @property
    def sizes(self) -> list[int]:
        return [len(rows) for _, rows in self.sent]


def in_loop(test: Callable[[], Awaitable[Any]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


@in_loop
async def test_idle_sends_at_once_and_together():
    bench = Bench()
    bench.put(5)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert bench.sizes == [5]


@in_loop
async def test_a_request_is_full_at_its_rows_and_places_are_bounded():
    bench = Bench()
    bench.put(30)
    await asyncio.sleep(0.01)
    assert bench.sizes == [8, 8]
    bench.batcher.answered(8)
    bench.batcher.finished()
    await asyncio.sleep(0.001)
    assert bench.sizes == [8, 8, 8]


@in_loop
async def test_bytes_bound_a_request_but_a_large_row_still_goes():
    bench = Bench(ClientLimits(rows_per_request=8, bytes_per_request=25, requests_in_flight=9))
    bench.put(4, size=10)
    bench.put(1, size=100)
    await asyncio.sleep(0.001)
    assert bench.sizes == [2, 2, 1]


@in_loop
async def test_few_rows_wait_a_little_while_the_engine_has_work_and_then_go():
    bench = Bench()
    bench.put(8)
    await asyncio.sleep(0.001)
    bench.put(1)
    await asyncio.sleep(0.008)
    assert bench.sizes == [8]
    await asyncio.sleep(0.03)
    assert bench.sizes == [8, 1]


@in_loop
async def test_few_rows_go_as_soon_as_the_engine_runs_dry():
    bench = Bench(ClientLimits(rows_per_request=8, requests_in_flight=2, linger_s=0.002, fill_s=60))
    bench.put(8)
    await asyncio.sleep(0.001)
    bench.put(1)
    await asyncio.sleep(0.004)
    assert bench.sizes == [8]
    bench.batcher.answered(1)
    await asyncio.sleep(0.004)
    assert bench.sizes == [8, 1]


@in_loop
async def test_lanes_never_share_a_request_and_take_turns():
    bench = Bench()
    other = Lane(b"[")
    bench.put(24)
    bench.put(3, lane=other)
    await asyncio.sleep(0.001)
    bench.batcher.answered(11)
    bench.batcher.finished()
    bench.batcher.finished()
    await asyncio.sleep(0.001)
    assert [(lane is other, len(rows)) for lane, rows in bench.sent] == [(False, 8), (True, 3), (False, 8), (False, 8)]


@in_loop
async def test_rows_that_nobody_waits_for_are_left_out():
    bench = Bench()
    rows = bench.put(4)
    rows[1].future.cancel()
    await asyncio.sleep(0.001)
    assert [[row.id for row in sent] for _, sent in bench.sent] == [["0", "2", "3"]]


@in_loop
async def test_rows_put_back_come_first():
    bench = Bench()
    bench.batcher.paused = True
    rows = bench.put(3)
    late = bench.put(1)
    again = [rows.pop(0)]
    bench.lane.rows.popleft()
    bench.batcher.put_back(bench.lane, again)
    bench.batcher.resume()
    await asyncio.sleep(0.001)
    assert bench.sent[0][1] == again + rows + late


@in_loop
async def test_a_pause_holds_everything_and_draining_empties_it():
    bench = Bench()
    bench.batcher.paused = True
    rows = bench.put(12)
    await asyncio.sleep(0.01)
    assert bench.sent == []
    assert list(bench.batcher.drain()) == rows
    bench.batcher.resume()
    await asyncio.sleep(0.001)
    assert bench.sent == []
