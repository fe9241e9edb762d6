"""Single flight: equal request keys share one look-up and one generation, across requests.

A flight is claimed by the first row that names its key. Its owner is the service, not the request: a client
that goes away leaves its flights to finish, be journaled and serve others; none of them leaks, since each
belongs to a task that the service keeps and ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from lakemill import keys
from lakemill.errors import LakemillError, ServingError
from lakemill.rows import ErrorCode, Row, RowError, RowRequest
from lakemill.serving import journal as journals
from lakemill.serving.engine import Batch, Completion, Engine, Prompt
from lakemill.serving.journal import Journal
from lakemill.serving.metrics import Metrics
from lakemill.serving.params import effective_params

logger = logging.getLogger(__name__)

T = TypeVar("T")

CHECK_TIMEOUT_S = 15.0
_WARN_EVERY_S = 30.0


@dataclass(frozen=True, slots=True)
class Landed:
    """Hold how a flight ended: its completion, and whether the journal gave it."""

    completion: Completion
    journaled: bool = False


@dataclass(slots=True, eq=False)
class Flight:
    """Hold one key that is being answered."""

    key: str
    landed: asyncio.Future[Landed]


class Flights:
    """Answer request keys, each once at a time.

    Args:
        journal: Where finished answers are kept, or None.
        metrics: Counts generations and journal hits.
        flush_s: Seconds between two journal transactions.
        stall_s: Seconds without any completion after which the engine's health is asked.
    """

    def __init__(
        self, journal: Journal | None, metrics: Metrics, *, flush_s: float = 0.025, stall_s: float = 30.0
    ) -> None:
        self._journal = journal
        self._metrics = metrics
        self._flush_s = flush_s
        self._stall_s = stall_s
        self._flying: dict[str, Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._finished: list[tuple[Flight, Completion]] = []
        self._committing: asyncio.Task[None] | None = None
        # One thread: SQLite wants one writer, and reads between writes are short.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lakemill-journal")
        self._warned = 0.0

    def __len__(self) -> int:
        return len(self._flying)

    def claim(
        self, engine: Engine, request: RowRequest, rows: Sequence[tuple[str, Row]]
    ) -> tuple[dict[str, Flight], set[str]]:
        """Return the flight of every key, and the keys whose flight starts now.

        `rows` are pairs of request key and row. Nothing is awaited between claim and start, so a request that
        is cancelled cannot leave a flight behind that nobody flies.
        """
        flights: dict[str, Flight] = {}
        new: dict[str, Row] = {}
        for key, row in rows:
            flight = self._flying.get(key)
            if flight is None:
                flight = self._flying[key] = Flight(key, asyncio.get_running_loop().create_future())
                new[key] = row
            flights[key] = flight
        if new:
            self._start(self._fly(engine, request, new))
        return flights, set(new)

    async def close(self) -> None:
        """End every flight with an error, write what is finished, close the journal."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._committing is not None:
            await self._committing
        if self._journal is not None:
            await self._in_thread(self._journal.close)
        self._thread.shutdown(wait=False)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fly(self, engine: Engine, request: RowRequest, rows: Mapping[str, Row]) -> None:
        left = dict.fromkeys(rows)
        cause = "the engine ended without an answer for this row"
        try:
            for key, completion in (await self._look_up(rows)).items():
                del left[key]
                self._metrics.journal_hits.labels(engine.model.name).inc()
                self._land(self._flying[key], Landed(completion, journaled=True))
            if left:
                await self._generate(engine, _batch(request, {key: rows[key] for key in left}), left)
        except asyncio.CancelledError:
            cause = "the service is stopping"
            raise
        except LakemillError as error:
            cause = error.message
        except Exception as error:
            logger.exception("the engine of %s failed", engine.model.qualified)
            cause = f"{type(error).__name__}: {error}"
        finally:
            self._fail(left, cause)

    def _fail(self, left: Mapping[str, None], cause: str) -> None:
        error = RowError(ErrorCode.ENGINE_UNAVAILABLE, cause)
        for key in left:
            self._land(self._flying[key], Landed(Completion(key, error=error)))

    async def _generate(self, engine: Engine, batch: Batch, left: dict[str, None]) -> None:
        model = engine.model.name
        self._metrics.generations.labels(model).inc(len(batch.prompts))
        async for completions in self._watched(engine, engine.answer(batch)):
            for completion in completions:
                if completion.id not in left:
                    logger.error("the engine of %s answered twice or unasked: %s", model, completion.id)
                    continue
                del left[completion.id]
                self._metrics.prompt_tokens.labels(model).inc(completion.usage.prompt_tokens)
                self._metrics.completion_tokens.labels(model).inc(completion.usage.completion_tokens)
                self._finished.append((self._flying[completion.id], completion))
            if self._committing is None:
                self._committing = asyncio.ensure_future(self._commit())

    async def _watched(
        self, engine: Engine, answers: AsyncIterator[list[Completion]]
    ) -> AsyncIterator[list[Completion]]:
        # An engine process that was stopped (SIGSTOP, a hung device) raises nothing: ask it when it is silent.
        try:
            while (completions := await self._step(engine, answers)) is not None:
                yield completions
        finally:
            close = getattr(answers, "aclose", None)
            if close is not None:
                with contextlib.suppress(RuntimeError):  # a generator that does not let itself be cancelled
                    await close()

    async def _step(self, engine: Engine, answers: AsyncIterator[list[Completion]]) -> list[Completion] | None:
        step = asyncio.ensure_future(_next(answers))
        try:
            while not (await asyncio.wait({step}, timeout=self._stall_s))[0]:
                await check(engine)
            return step.result()
        finally:
            if not step.done():
                step.cancel()
                await asyncio.wait({step}, timeout=1)

    async def _look_up(self, keys_: Mapping[str, Row]) -> dict[str, Completion]:
        journal = self._journal
        if journal is None:
            return {}
        try:
            stored = await self._in_thread(lambda: journal.get_many(list(keys_)))
        except Exception as error:
            self._complain("cannot be read: rows are asked anew", error)
            return {}
        found = {key: journals.decode(key, value) for key, value in stored.items() if key in keys_}
        return {key: completion for key, completion in found.items() if completion is not None}

    async def _commit(self) -> None:
        # Group commit: the first answers go at once, what finishes meanwhile goes together in the next round.
        try:
            while self._finished:
                finished, self._finished = self._finished, []
                await self._write(finished)
                for flight, completion in finished:
                    self._land(flight, Landed(completion))
                await asyncio.sleep(self._flush_s)
        finally:
            self._committing = None

    async def _write(self, finished: Sequence[tuple[Flight, Completion]]) -> None:
        journal = self._journal
        if journal is None:
            return
        try:
            # An answer cut at max_tokens is kept too: it is what this key gives, and the client judges it.
            items = {flight.key: journals.encode(each) for flight, each in finished if each.error is None}
            if items:
                await self._in_thread(lambda: journal.put_many(items))
        except Exception as error:
            self._complain("cannot be written: answers are sent but not kept", error)

    def _land(self, flight: Flight, landed: Landed) -> None:
        # Only now may the same key start anew: by then the journal knows the answer.
        self._flying.pop(flight.key, None)
        if not flight.landed.done():
            flight.landed.set_result(landed)

    def _complain(self, what: str, error: Exception) -> None:
        self._metrics.journal_errors.inc()
        if time.monotonic() - self._warned > _WARN_EVERY_S:
            self._warned = time.monotonic()
            logger.error("journal: %s (%s: %s)", what, type(error).__name__, error)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


async def _next(answers: AsyncIterator[list[Completion]]) -> list[Completion] | None:
    return await anext(answers, None)


async def check(engine: Engine) -> None:
    """Return when the engine says in time that it is well.

    Raises:
        ServingError: It is not well, or does not answer.
    """
    try:
        await asyncio.wait_for(engine.check(), CHECK_TIMEOUT_S)
    except TimeoutError as error:
        raise ServingError(f"the engine of {engine.model.name} does not answer its health check") from error
    except ServingError:
        raise
    except Exception as error:
        raise ServingError(f"the engine of {engine.model.name} is not well: {type(error).__name__}: {error}") from error


def _batch(request: RowRequest, rows: Mapping[str, Row]) -> Batch:
    prompts = (Prompt(key, row.messages, row.prompt, keys.seed_of(key)) for key, row in rows.items())
    params = effective_params(request.kind, request.params)
    return Batch(request.kind, tuple(prompts), params, request.response_format, request.priority)
