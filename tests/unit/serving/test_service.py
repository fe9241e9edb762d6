from __future__ import annotations

import asyncio
import pickle
import sqlite3

import pytest

from lakemill.errors import RequestRefusedError, ServingError
from lakemill.rows import ErrorCode, Row, RowRequest
from lakemill.serving.engine import Completion, ModelInfo
from lakemill.serving.journal import MemoryJournal
from lakemill.serving.protocol import ParsedRequest
from lakemill.serving.service import Limits, RowService

INFO = ModelInfo("m", "1", 100)


class SlowEngine:
    """Answers only when told to; counts what it was asked."""

    model = INFO

    def __init__(self):
        self.asked = []
        self.release = asyncio.Event()
        self.well = True

    async def answer(self, batch):
        self.asked += [prompt.prompt for prompt in batch.prompts]
        await self.release.wait()
        for prompt in batch.prompts:
            if prompt.prompt == "break":
                raise RuntimeError("the device fell off")
            if prompt.prompt == "silent":
                continue
            yield [Completion(prompt.id, f"answer to {prompt.prompt}", finish_reason="stop", latency_ms=5.0)]

    async def check(self):
        if not self.well:
            raise ServingError("hung")

    async def close(self):
        pass


class BrokenJournal(MemoryJournal):
    def get_many(self, keys):
        raise sqlite3.OperationalError("database is locked")

    put_many = get_many


def request(*prompts, **more):
    rows = tuple(Row(str(i), prompt=prompt) for i, prompt in enumerate(prompts))
    return ParsedRequest(RowRequest("generate", "m", rows, **more))


async def answers_of(service, parsed):
    stream = service.open(parsed)
    try:
        chunks = [chunk async for chunk in stream.chunks()]
    finally:
        stream.close()
    found = [answer for chunk in chunks for answer in chunk]
    assert len(found) == parsed.size
    return {answer.id: answer for answer in found}


@pytest.fixture
def engine():
    return SlowEngine()


@pytest.fixture
async def service(engine):
    made = RowService({"m": engine}, MemoryJournal(), limits=Limits(open_rows=100, flush_s=0.001, stall_s=0.05))
    yield made
    await made.close()
    assert len(made._flights) == 0
    assert not made._flights._tasks


async def until(condition):
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("it did not come about in a second")


async def test_equal_rows_share_one_flight_across_requests(service, engine):
    tasks = [asyncio.ensure_future(answers_of(service, request("a", "b", "a"))) for _ in range(3)]
    await until(lambda: len(engine.asked) == 2)
    engine.release.set()
    found = await asyncio.gather(*tasks)
    assert sorted(engine.asked) == ["a", "b"]
    answers = [answer for each in found for answer in each.values() if answer.result == "answer to a"]
    assert [answer.cached for answer in answers].count(False) == 1
    assert len(answers) == 6


async def test_a_client_that_goes_away_leaves_the_generation_to_others(service, engine):
    first = asyncio.ensure_future(answers_of(service, request("a")))
    await until(lambda: engine.asked)
    second = asyncio.ensure_future(answers_of(service, request("a")))
    await asyncio.sleep(0.01)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    engine.release.set()
    assert (await second)["0"].result == "answer to a"
    assert engine.asked == ["a"]


async def test_a_generation_that_nobody_waits_for_is_journaled(service, engine):
    task = asyncio.ensure_future(answers_of(service, request("a")))
    await until(lambda: engine.asked)
    task.cancel()
    engine.release.set()
    await until(lambda: len(service._flights) == 0)
    answer = (await answers_of(service, request("a")))["0"]
    assert (answer.cached, answer.result) == (True, "answer to a")
    assert engine.asked == ["a"]


async def test_the_answer_is_journaled_before_it_is_sent(engine):
    class Watched(MemoryJournal):
        def put_many(self, items):
            order.append("journal")
            super().put_many(items)

    order = []
    service = RowService({"m": engine}, Watched())
    engine.release.set()
    stream = service.open(request("a"))
    async for _ in stream.chunks():
        order.append("sent")  # noqa: PERF401
    assert order == ["journal", "sent"]
    await service.close()


@pytest.mark.parametrize(
    ("prompt", "message"), [("break", "RuntimeError: the device fell off"), ("silent", "ended without an answer")]
)
async def test_rows_that_the_engine_leaves_are_unavailable(service, engine, prompt, message):
    engine.release.set()
    answers = await answers_of(service, request("a", prompt))
    assert answers["0"].result == "answer to a"
    assert answers["1"].error.code == ErrorCode.ENGINE_UNAVAILABLE
    assert message in answers["1"].error.message
    again = await answers_of(service, request(prompt))
    assert again["0"].error.code == ErrorCode.ENGINE_UNAVAILABLE
    assert engine.asked.count(prompt) == 2  # an error is never kept


async def test_a_silent_engine_that_is_not_well_fails_its_rows(service, engine):
    engine.well = False
    answer = (await answers_of(service, request("a")))["0"]
    assert (answer.error.code, answer.error.message) == (ErrorCode.ENGINE_UNAVAILABLE, "hung")


async def test_a_slow_engine_that_is_well_is_waited_for(service, engine):
    task = asyncio.ensure_future(answers_of(service, request("a")))
    await asyncio.sleep(0.2)
    engine.release.set()
    assert (await task)["0"].result == "answer to a"


async def test_a_broken_journal_fails_no_row(engine, caplog):
    service = RowService({"m": engine}, BrokenJournal())
    engine.release.set()
    assert (await answers_of(service, request("a")))["0"].result == "answer to a"
    assert service.metrics.journal_errors._value.get() == 2
    assert "database is locked" in caplog.text
    await service.close()


async def test_too_many_open_rows_are_refused_and_taken_later(service, engine):
    task = asyncio.ensure_future(answers_of(service, request(*map(str, range(60)))))
    await until(lambda: engine.asked)
    with pytest.raises(RequestRefusedError) as caught:
        service.open(request(*map(str, range(50))))
    assert (caught.value.code, caught.value.status, caught.value.retry_after_s) == ("RATE_LIMITED", 503, 1)
    engine.release.set()
    await task
    assert len(await answers_of(service, request(*map(str, range(50))))) == 50


async def test_generations_without_a_client_count_as_open(service, engine):
    task = asyncio.ensure_future(answers_of(service, request(*map(str, range(60)))))
    await until(lambda: engine.asked)
    task.cancel()
    await asyncio.sleep(0)
    with pytest.raises(RequestRefusedError):
        service.open(request(*map(str, range(50))))


async def test_closing_fails_what_is_in_flight(engine):
    service = RowService({"m": engine})
    task = asyncio.ensure_future(answers_of(service, request("a")))
    await until(lambda: engine.asked)
    await service.close()
    answer = (await task)["0"]
    assert (answer.error.code, answer.error.message) == (ErrorCode.ENGINE_UNAVAILABLE, "the service is stopping")


async def test_chunks_hold_many_rows(service, engine):
    engine.release.set()
    stream = service.open(request(*map(str, range(80))))
    sizes = [len(chunk) async for chunk in stream.chunks()]
    stream.close()
    assert sum(sizes) == 80
    assert all(sizes)
    assert len(sizes) <= 10


async def test_the_seed_comes_from_the_key(service, engine):
    seeds = []

    async def answer(batch):
        seeds.extend((prompt.prompt, prompt.seed) for prompt in batch.prompts)
        yield [Completion(prompt.id, "x") for prompt in batch.prompts]

    engine.answer = answer
    await answers_of(service, request("a", "b"))
    await answers_of(service, request("a", params={"temperature": 1}))
    assert len({seed for _, seed in seeds}) == 3


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer nope", "Basic secret", "secret"])
def test_only_the_token_opens(header):
    service = RowService({}, token="secret")
    with pytest.raises(RequestRefusedError) as caught:
        service.authorize(header)
    assert caught.value.status == 401
    service.authorize("Bearer secret")
    service.authorize("bearer secret")


async def test_health_names_the_engine_that_is_not_well(engine):
    engine.well = False
    service = RowService({"m": engine})
    assert await service.health() == {"m": "hung"}
    await service.close()


def test_a_refusal_survives_pickling():
    back = pickle.loads(pickle.dumps(RequestRefusedError("RATE_LIMITED", "full", status=503, retry_after_s=2)))
    assert (back.code, back.message, back.status, back.retry_after_s) == ("RATE_LIMITED", "full", 503, 2)
