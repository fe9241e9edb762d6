"""Everything that one endpoint needs inside the event loop: rows in, answers out, failures bounded."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine, Sequence
from dataclasses import replace

from lakemill.rows import ErrorCode, RowAnswer, RowError
from lakemill.serving.client import local
from lakemill.serving.client.ask import Ask, head_bytes, row_bytes
from lakemill.serving.client.backoff import pause
from lakemill.serving.client.batcher import Batcher, Lane
from lakemill.serving.client.breaker import Breaker
from lakemill.serving.client.delivery import Delivery
from lakemill.serving.client.endpoint import Endpoint
from lakemill.serving.client.limits import ClientLimits
from lakemill.serving.client.pending import Pending, refused
from lakemill.serving.client.transport import Transport

_LANES_KEPT = 1024
_START_POLL_S = 0.25


class Desk:
    """Take rows for one endpoint. All methods run in the event loop of the process's client."""

    def __init__(self, endpoint: Endpoint, limits: ClientLimits, *, loop: asyncio.AbstractEventLoop) -> None:
        self._endpoint = endpoint
        self._limits = limits
        self._loop = loop
        self._numbers = itertools.count(1)
        self._lanes: dict[tuple[object, ...], tuple[Lane, Ask]] = {}
        self._by_head: dict[bytes, Lane] = {}
        self._open: dict[Pending, None] = {}
        self._resting: dict[int, tuple[asyncio.TimerHandle, Sequence[Pending]]] = {}
        self._deliveries: dict[Delivery, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._ready_at = 0.0
        self.transport = Transport(endpoint, limits)
        self.breaker = Breaker(patience_s=limits.patience_s, probe_s=limits.probe_s, clock=loop.time)
        self.batcher = Batcher(limits, self._deliver, loop=loop)

    async def ask(self, ask: Ask) -> RowAnswer:
        """Return the answer of one row; a failure is an answer with an error."""
        if self.breaker.is_open:
            self._look_again()
            return refused(ask.key, ErrorCode.ENGINE_UNAVAILABLE, self.breaker.cause)
        try:
            lane = self._lane_of(ask)
            row = self._admit(ask)
        except (ValueError, TypeError) as error:
            return refused(ask.key, ErrorCode.INVALID_REQUEST, f"the row cannot be sent: {error}")
        self.batcher.put(lane, row)
        try:
            return await row.future
        finally:
            del self._open[row]
            if row.future.cancelled():
                self._forsake(row)

    def retry(self, lane: Lane, rows: Sequence[Pending], error: RowError, *, at_least_s: float = 0.0) -> None:
        """Ask rows again after a pause, or fail those that were asked often or long enough."""
        again = [row for row in rows if self._may_retry(row, error)]
        if not again:
            return
        attempts = max(row.attempts for row in again)
        limits = self._limits
        pause_s = pause(attempts, base_s=limits.backoff_s, max_s=limits.backoff_max_s, at_least_s=at_least_s)
        number = next(self._numbers)
        timer = self._loop.call_later(pause_s, self._send_again, lane, number)
        self._resting[number] = (timer, again)

    def unavailable(
        self,
        lane: Lane,
        rows: Sequence[Pending],
        error: RowError,
        *,
        since: float | None = None,
        at_least_s: float = 0.0,
    ) -> None:
        """Take back rows because the service was not there: wait for its start, ask again, or fail them."""
        state = local.of(self._endpoint)
        if state is not None and state.starting:
            self._wait_for_start(lane, rows)
            return
        if state is not None and state.failure is not None:
            self._give_up(state.failure)
        elif self.breaker.failed(error.message, since=since):
            self._give_up(error.message)
        self.retry(lane, rows, replace(error, message=self.breaker.cause or error.message), at_least_s=at_least_s)

    def heard(self, rows: int, *, failures: Sequence[RowError]) -> None:
        """Note that answers came in; `failures` are those that are asked again."""
        dead = [error for error in failures if error.code is ErrorCode.ENGINE_UNAVAILABLE]
        if rows > len(dead):
            self.breaker.succeeded()
        elif dead and self.breaker.failed(dead[0].message):
            self._give_up(dead[0].message)

    def worth_retrying(self, error: RowError) -> bool:
        """Tell whether asking again within seconds makes sense (a spent budget does not come back)."""
        return error.retryable and error.code is not ErrorCode.BUDGET_EXCEEDED

    async def close(self) -> None:
        """Fail what still waits and close the sockets."""
        self._fail_waiting(RowError(ErrorCode.CANCELLED, "the process ends"))
        tasks = [*self._deliveries.values(), *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self.transport.close()

    def _admit(self, ask: Ask) -> Pending:
        row_id = str(next(self._numbers))
        row = Pending(row_id, row_bytes(row_id, ask), self._loop.create_future(), asked_at=self._loop.time())
        row.key = ask.key
        self._open[row] = None
        if self._sweeper is None:
            self._sweep()
        return row

    def _lane_of(self, ask: Ask) -> Lane:
        # Rows of one call share their parameter objects, so most rows skip the encoding of the head.
        # The Ask is kept with the lane: an object that lives cannot lend its id to another.
        key = (ask.kind, ask.model, ask.run, ask.priority, id(ask.params), id(ask.response_format))
        known = self._lanes.get(key)
        if known is not None:
            return known[0]
        if len(self._lanes) >= _LANES_KEPT:
            self._lanes.clear()
            self._by_head.clear()
        head = head_bytes(ask)
        lane = self._by_head.setdefault(head, Lane(head))
        self._lanes[key] = (lane, ask)
        return lane

    def _deliver(self, lane: Lane, rows: list[Pending]) -> None:
        delivery = Delivery(self, lane, rows)
        task = self._loop.create_task(delivery.run())
        self._deliveries[delivery] = task
        task.add_done_callback(lambda _: self._delivered(delivery))

    def _delivered(self, delivery: Delivery) -> None:
        del self._deliveries[delivery]
        self.batcher.finished()

    def _forsake(self, row: Pending) -> None:
        delivery = row.owner
        if delivery is not None and delivery in self._deliveries and delivery.is_forsaken():
            self._deliveries[delivery].cancel()

    def _may_retry(self, row: Pending, error: RowError) -> bool:
        now = self._loop.time()
        row.failed_at = now if row.failed_at is None else row.failed_at
        spent = row.attempts >= self._limits.attempts or now - row.failed_at >= self._limits.retry_s
        if self.breaker.is_open:
            row.fail(error)
        elif spent:
            row.fail(error)
            if error.code is ErrorCode.ENGINE_UNAVAILABLE and self.breaker.is_down_since(row.failed_at):
                self._give_up(error.message)  # the other rows would only learn the same
        return not row.done

    def _send_again(self, lane: Lane, number: int) -> None:
        self.batcher.put_back(lane, self._resting.pop(number)[1])

    def _give_up(self, cause: str) -> None:
        self.breaker.trip(cause)
        self._fail_waiting(RowError(ErrorCode.ENGINE_UNAVAILABLE, cause))

    def _fail_waiting(self, error: RowError) -> None:
        resting, self._resting = self._resting, {}
        for timer, rows in resting.values():
            timer.cancel()
            for row in rows:
                row.fail(error)
        for row in self.batcher.drain():
            row.fail(error)

    def _look_again(self) -> None:
        if self.breaker.probe_due():
            self._spawn(self._probe())

    async def _probe(self) -> None:
        state = local.of(self._endpoint)
        if (state is not None and state.starting) or await self.transport.healthy():
            self.breaker.try_again()

    def _wait_for_start(self, lane: Lane, rows: Sequence[Pending]) -> None:
        for row in rows:  # the service was never asked
            row.attempts -= 1
        self.batcher.put_back(lane, rows)
        if not self.batcher.paused:
            self.batcher.paused = True
            self._spawn(self._watch_start())

    async def _watch_start(self) -> None:
        until = self._loop.time() + self._limits.start_s
        while (state := local.of(self._endpoint)) is not None and state.starting:
            if self._loop.time() > until:
                self._give_up(f"the serving application is still starting after {self._limits.start_s:.0f} s")
                break
            await asyncio.sleep(_START_POLL_S)
        if state is not None and state.failure is not None:
            self._give_up(state.failure)
        self._ready_at = self._loop.time()
        self.batcher.resume()

    def _sweep(self) -> None:
        """Fail the rows that waited too long; the oldest come first."""
        self._sweeper = None
        if not self._open:
            return
        oldest = self._loop.time() - self._limits.row_timeout_s
        late = [] if self.batcher.paused else self._asked_before(oldest)
        for row in late:
            row.fail(RowError(ErrorCode.TIMEOUT, f"no answer within {self._limits.row_timeout_s:g} s"))
            self._forsake(row)
        self._sweeper = self._loop.call_later(min(1.0, self._limits.row_timeout_s / 4), self._sweep)

    def _asked_before(self, moment: float) -> list[Pending]:
        if self._ready_at > moment:  # rows may have waited for the start until then
            return []
        return list(itertools.takewhile(lambda row: row.asked_at < moment, self._open))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
