from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from lakemill.rows import ErrorCode, RowAnswer
from lakemill.serving.client import Ask, ClientLimits, Endpoint, RowClient, backoff, process

PARAMS: dict[str, Any] = {"max_tokens": 8}


def ask_all(client: RowClient, texts: list[str], batch: int = 100, **changes: Any) -> list[RowAnswer]:
    async def call(text: str) -> RowAnswer:
        return await client.ask(Ask("generate", "stub", prompt=text, params=PARAMS, key=f"key {text}", **changes))

    batches = [texts[at : at + batch] for at in range(0, len(texts), batch)]
    out = list(client.map(batches, call, size=len))
    assert [len(got) for got in out] == [len(given) for given in batches]
    return [answer for got in out for answer in got]


def texts(count: int) -> list[str]:
    return [f"row {number}" for number in range(count)]


def codes(answers: list[RowAnswer]) -> set[ErrorCode | None]:
    return {None if answer.error is None else answer.error.code for answer in answers}


def test_many_rows_keep_their_order_and_are_asked_once(client, stub):
    answers = ask_all(client, texts(5000), batch=333)
    assert [answer.result for answer in answers] == [f"said {text}" for text in texts(5000)]
    assert [answer.key for answer in answers] == [f"key {text}" for text in texts(5000)]
    assert set(stub.asked.values()) == {1}
    assert max(len(body["rows"]) for body in stub.requests) == 256
    assert len(stub.requests) < 60


def test_the_window_bounds_what_is_in_flight(stub):
    stub.pause_s = 0.02
    limits = ClientLimits(window_rows=40, rows_per_request=16)
    ask_all(RowClient.shared(Endpoint(stub.url, "secret"), limits=limits), texts(400))
    assert 20 <= stub.most_in_flight <= 40


def test_rows_share_a_request_only_with_their_like(client, stub):
    async def call(text: str) -> RowAnswer:
        odd = int(text.split()[1]) % 2
        return await client.ask(Ask("generate", "stub", prompt=text, params={"seed": odd}, run="r", priority=odd))

    list(client.map([texts(100)], call, size=len))
    assert len(stub.requests) == 2
    for body in stub.requests:
        assert (
            {int(row["prompt"].split()[1]) % 2 for row in body["rows"]}
            == {body["params"]["seed"]}
            == {body["priority"]}
        )
        assert body["run"] == "r"
        assert body["kind"] == "generate"


@pytest.mark.parametrize(
    "half", [b"", b'{"id": "9", "resu', b"garbage, not json\n", b'{"error": {"message": "engine fell over"}}\n']
)
def test_only_the_rows_without_an_answer_are_asked_again(client, stub, kit, half: bytes):
    async def behave(stub, request, body):
        if len(stub.requests) > 1:
            return await kit.fine(stub, request, body)
        response = await kit.stream(request)
        await kit.write(response, *(kit.line(row) for row in body["rows"][::2]))
        await response.write(half)
        await asyncio.sleep(0.05)  # what arrives together with the cut is not read any more
        request.transport.close()
        return response

    stub.behave = behave
    answers = ask_all(client, texts(20))
    assert [answer.result for answer in answers] == [f"said {text}" for text in texts(20)]
    assert [len(body["rows"]) for body in stub.requests] == [20, 10]
    assert [stub.asked[text] for text in texts(20)] == [1, 2] * 10


def test_a_clean_end_without_a_summary_is_a_cut(client, stub, kit):
    async def behave(stub, request, body):
        if len(stub.requests) > 1:
            return await kit.fine(stub, request, body)
        response = await kit.stream(request)
        await kit.write(response, *(kit.line(row) for row in body["rows"][:3]))
        return response

    stub.behave = behave
    assert codes(ask_all(client, texts(5))) == {None}
    assert [len(body["rows"]) for body in stub.requests] == [5, 2]


def test_a_row_that_the_summary_leaves_out_is_asked_again(client, stub, kit):
    async def behave(stub, request, body):
        left_out = {**body, "rows": body["rows"][1:]} if len(stub.requests) == 1 else body
        return await kit.fine(stub, request, left_out)

    stub.behave = behave
    assert codes(ask_all(client, texts(5))) == {None}
    assert stub.asked["row 0"] == 2


def test_only_retryable_row_errors_are_asked_again(client, stub, kit):
    async def behave(stub, request, body):
        response = await kit.stream(request)
        for row in body["rows"]:
            number = int(row["prompt"].split()[1])
            code = {0: "CONTEXT_LENGTH_EXCEEDED", 1: "RATE_LIMITED", 2: "INTERNAL", 3: "BUDGET_EXCEEDED"}.get(number)
            recovered = number == 2 and stub.asked[row["prompt"]] > 1
            error = None if code is None or recovered else {"code": code, "message": "so it is"}
            await kit.write(response, kit.line(row, error=error, result=None if error else "fine"))
        await kit.write(response, {"summary": {"rows": len(body["rows"]), "failed": 0}})
        return response

    stub.behave = behave
    answers = ask_all(client, texts(5))
    assert [stub.asked[text] for text in texts(5)] == [1, 5, 2, 1, 1]
    assert [answer.error and (answer.error.code.value, answer.error.attempts) for answer in answers] == [
        ("CONTEXT_LENGTH_EXCEEDED", 1),
        ("RATE_LIMITED", 5),
        None,
        ("BUDGET_EXCEEDED", 1),
        None,
    ]


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_storm_of_retryable_refusals_passes(client, stub, kit, status: int):
    async def behave(stub, request, body):
        if len(stub.requests) <= 3:
            return kit.refuse(status, "RATE_LIMITED" if status == 429 else "ENGINE_UNAVAILABLE", "busy")
        return await kit.fine(stub, request, body)

    stub.behave = behave
    assert codes(ask_all(client, texts(50))) == {None}
    assert set(stub.asked.values()) == {4}


def test_retry_after_is_honoured(stub, kit):
    seen: list[float] = []

    async def behave(stub, request, body):
        seen.append(time.monotonic())
        return (
            kit.refuse(429, "RATE_LIMITED", "busy", **{"Retry-After": "0.3"})
            if len(seen) == 1
            else await kit.fine(stub, request, body)
        )

    stub.behave = behave
    limits = ClientLimits(backoff_s=0.01, backoff_max_s=1.0)
    assert codes(ask_all(RowClient.shared(Endpoint(stub.url, "secret"), limits=limits), ["row 1"])) == {None}
    assert seen[1] - seen[0] >= 0.3


def test_a_service_that_stays_busy_fails_rows_after_bounded_attempts(client, stub, kit):
    async def behave(stub, request, body):
        return kit.refuse(429, "RATE_LIMITED", "come back tomorrow")

    stub.behave = behave
    answers = ask_all(client, texts(10))
    assert codes(answers) == {ErrorCode.RATE_LIMITED}
    assert {answer.error.attempts for answer in answers} == {5}
    assert answers[0].error.message == "come back tomorrow"
    assert answers[0].key == "key row 0"


def test_a_bad_row_costs_no_other_its_answer(client, stub, kit):
    bad = {"row 7", "row 200"}

    async def behave(stub, request, body):
        if bad & {row["prompt"] for row in body["rows"]}:
            return kit.refuse(400, "INVALID_REQUEST", "a row is not right")
        return await kit.fine(stub, request, body)

    stub.behave = behave
    answers = ask_all(client, texts(256), batch=256)
    assert {text for text, answer in zip(texts(256), answers, strict=True) if answer.error} == bad
    assert {answer.error.attempts for answer in answers if answer.error} == {1}
    assert len(stub.requests) < 40


def test_a_request_that_is_wrong_for_all_rows_is_not_taken_apart_for_each(stub, kit):
    async def behave(stub, request, body):
        return kit.refuse(400, "INVALID_REQUEST", "params.max_tokens: not a number")

    stub.behave = behave
    # One at a time: of several, each would be taken apart until they have learnt it together.
    client = RowClient.shared(Endpoint(stub.url, "secret"), limits=replace(kit.quick, requests_in_flight=1))
    answers = ask_all(client, texts(2000))
    assert codes(answers) == {ErrorCode.INVALID_REQUEST}
    assert len(stub.requests) < 80


def test_a_wrong_or_missing_token(stub):
    for token in ("wrong", None):
        answers = ask_all(RowClient.shared(Endpoint(stub.url, token)), texts(3))
        assert codes(answers) == {ErrorCode.UNAUTHENTICATED}
        assert {answer.error.attempts for answer in answers} == {1}
    assert stub.requests == []


def test_an_unknown_model(client, stub, kit):
    async def behave(stub, request, body):
        return kit.refuse(404, "MODEL_NOT_FOUND", "no model called 'stub'")

    stub.behave = behave
    answers = ask_all(client, texts(3))
    assert codes(answers) == {ErrorCode.MODEL_NOT_FOUND}
    assert len(stub.requests) == 1


def test_a_row_that_cannot_be_sent_fails_alone(client, stub):
    answers = ask_all(client, ["fine", "lone \ud800 surrogate", "fine too"])
    assert [answer.error and answer.error.code for answer in answers] == [None, ErrorCode.INVALID_REQUEST, None]
    assert answers[1].error.attempts == 0


def test_parameters_that_cannot_be_sent_fail_their_rows(client, stub):
    async def call(text: str) -> RowAnswer:
        return await client.ask(Ask("generate", "stub", prompt=text, params={"temperature": float("nan")}))

    [answers] = client.map([texts(3)], call, size=len)
    assert codes(answers) == {ErrorCode.INVALID_REQUEST}
    assert stub.requests == []


def test_strange_answers_are_ignored_with_a_warning(client, stub, kit, caplog):
    async def behave(stub, request, body):
        response = await kit.stream(request)
        first = kit.line(body["rows"][0])
        await kit.write(response, first, {**first, "result": "another"}, {**first, "id": "nobody asked"})
        await kit.write(response, *(kit.line(row) for row in body["rows"][1:]))
        await kit.write(response, {"summary": {"rows": 3, "failed": 0}})
        return response

    stub.behave = behave
    with caplog.at_level(logging.WARNING):
        answers = ask_all(client, texts(3))
    assert [answer.result for answer in answers] == [f"said {text}" for text in texts(3)]
    assert "ignored 2 answers" in caplog.text


def test_awkward_text_survives_the_way(client, stub):
    awkward = [
        '"quotes" \\ and {braces}',
        "emoji 🦙",
        "\u05e2\u05d1\u05e8\u05d9\u05ea\u200f",
        "a\0b",
        "line\nbreak\r\n\u2028",
        "<|im_end|>",
        "\ufeff",
        "x" * 200_000,
    ]
    assert [answer.result for answer in ask_all(client, awkward)] == [f"said {text}" for text in awkward]


def test_an_engine_that_goes_in_the_middle_ends_the_query_soon(client, stub, server, kit):
    async def behave(stub, request, body):
        if len(stub.requests) > 3:
            threading.Thread(target=server.down).start()
            await asyncio.sleep(60)
        return await kit.fine(stub, request, body)

    stub.behave = behave
    began = time.monotonic()
    answers = ask_all(client, texts(5000))
    assert time.monotonic() - began < 6
    failed = [number for number, answer in enumerate(answers) if answer.error]
    assert 3 * 256 >= 5000 - len(failed) > 0
    assert codes([answers[number] for number in failed]) == {ErrorCode.ENGINE_UNAVAILABLE}
    assert all(
        answer.result == f"said {text}" for text, answer in zip(texts(5000), answers, strict=True) if not answer.error
    )
    assert stub.url in answers[-1].error.message


def test_a_service_that_comes_back_is_used_again(client, stub, server):
    server.down()
    assert codes(ask_all(client, texts(5))) == {ErrorCode.ENGINE_UNAVAILABLE}
    server.up()
    until = time.monotonic() + 5
    while ask_all(client, ["row 1"])[0].error and time.monotonic() < until:
        time.sleep(0.05)
    assert codes(ask_all(client, texts(300))) == {None}


def test_a_short_absence_is_not_noticed(stub, server, monkeypatch):
    monkeypatch.setattr(backoff.random, "uniform", lambda _, most: most)  # full jitter may be no pause at all
    limits = ClientLimits(backoff_s=0.3, patience_s=10)
    server.down()
    back = threading.Timer(0.3, server.up)
    back.start()
    assert codes(ask_all(RowClient.shared(Endpoint(stub.url, "secret"), limits=limits), texts(5))) == {None}
    back.join()


def test_rows_that_say_that_the_engine_is_gone_open_the_breaker(client, stub, kit):
    async def behave(stub, request, body):
        response = await kit.stream(request)
        error = {"code": "ENGINE_UNAVAILABLE", "message": "the engine has died"}
        await kit.write(response, *(kit.line(row, error=error) for row in body["rows"]), {"summary": {}})
        return response

    stub.behave, stub.healthy = behave, False
    began = time.monotonic()
    answers = ask_all(client, texts(5000))
    assert codes(answers) == {ErrorCode.ENGINE_UNAVAILABLE}
    assert time.monotonic() - began < 5
    assert stub.asked.total() <= 512 * 5  # 25,000 without a breaker


def test_a_silent_stream_is_waited_for_while_the_service_is_well(client, stub, kit):
    stub.pause_s = 0.9
    assert codes(ask_all(client, texts(5))) == {None}
    assert len(stub.requests) == 1


def test_a_silent_stream_of_a_sick_service_is_cut(client, stub, kit):
    async def behave(stub, request, body):
        response = await kit.stream(request)
        if len(stub.requests) == 1:
            await kit.write(response, kit.line(body["rows"][0]))
        await asyncio.sleep(60)
        return response

    stub.behave, stub.healthy = behave, False
    began = time.monotonic()
    answers = ask_all(client, texts(5))
    assert time.monotonic() - began < 4
    assert answers[0].error is None
    assert codes(answers[1:]) == {ErrorCode.ENGINE_UNAVAILABLE}


def test_a_row_without_an_answer_in_time_fails_and_frees_its_request(stub, kit):
    async def behave(stub, request, body):
        if "row 1" in {row["prompt"] for row in body["rows"]}:
            await asyncio.sleep(60)
        return await kit.fine(stub, request, body)

    stub.behave = behave
    limits = ClientLimits(row_timeout_s=0.3, rows_per_request=1, requests_in_flight=2)
    answers = ask_all(RowClient.shared(Endpoint(stub.url, "secret"), limits=limits), texts(5))
    assert [answer.error and answer.error.code for answer in answers] == [None, ErrorCode.TIMEOUT, None, None, None]
    wait_until(lambda: stub.closed_early == 1)


def test_an_early_stop_closes_the_connections_and_leaves_no_task(client, stub, kit):
    async def behave(stub, request, body):
        response = await kit.stream(request)
        await kit.write(response, *(kit.line(row) for row in body["rows"] if row["prompt"] == "first"))
        await asyncio.sleep(60)
        return response

    async def call(text: str) -> RowAnswer:
        return await client.ask(Ask("generate", "stub", prompt=text, params=PARAMS))

    stub.behave = behave
    out = client.map([["first"], texts(700)], call, size=len)
    assert next(out)[0].result == "said first"
    wait_until(lambda: stub.asked.total() > 500)
    out.close()
    wait_until(lambda: stub.closed_early == len(stub.requests) > 0)
    assert left_tasks() == 0
    stub.behave = None
    assert codes(ask_all(client, texts(600))) == {None}


def left_tasks() -> int:
    async def count() -> int:
        await asyncio.sleep(0.05)
        return len(asyncio.all_tasks()) - 1

    return asyncio.run_coroutine_threadsafe(count(), process.current().loop).result(1)


def wait_until(true: Any, seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_ask_from_another_event_loop(client):
    async def both() -> list[RowAnswer]:
        return await asyncio.gather(*(client.ask(Ask("generate", "stub", prompt=text)) for text in texts(20)))

    assert codes(asyncio.run(both())) == {None}
    assert [answer.result for answer in asyncio.run(both())] == [f"said {text}" for text in texts(20)]


def test_several_threads_share_one_loop(client, stub):
    found: dict[int, set[Any]] = {}

    def work(number: int) -> None:
        found[number] = codes(ask_all(client, [f"{number} {text}" for text in texts(300)]))

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(20)
    assert found == {number: {None} for number in range(4)}
    assert [thread.name for thread in threading.enumerate()].count("lakemill-row-client") == 1


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_has_a_client_of_its_own_and_the_parent_keeps_its_own(client):
    assert codes(ask_all(client, texts(50))) == {None}
    child = os.fork()
    if child == 0:
        ok = codes(ask_all(client, texts(300))) == {None}
        process.close()
        os._exit(0 if ok else 1)
    assert codes(ask_all(client, texts(300))) == {None}
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert codes(ask_all(client, texts(300))) == {None}


def say(home: Any, url: str, state: str, **changes: Any) -> None:
    value = {"url": url, "pid": os.getpid(), "state": state, "started_at": time.time(), "models": []} | changes
    part = home / "serving.json.part"
    part.write_text(json.dumps(value))
    part.replace(home / "serving.json")


def test_a_local_service_that_starts_is_waited_for(stub, server, tmp_path, kit):
    server.down()
    say(tmp_path, stub.url, "starting")

    def ready() -> None:
        server.up()
        say(tmp_path, stub.url, "ready")

    threading.Timer(2.0, ready).start()
    local = RowClient.shared(Endpoint(stub.url, "secret", str(tmp_path)), limits=kit.quick)  # patience of 0.5 s
    answers = ask_all(local, texts(600))
    assert codes(answers) == {None}
    assert set(stub.asked.values()) == {1}


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"state": "failed", "error": {"message": "no memory"}}, "no memory"),
        ({"pid": 2**22 + 1}, "ended while it was starting"),
    ],
)
def test_a_start_that_fails_fails_the_rows_with_its_cause(stub, server, tmp_path, changes, cause):
    server.down()
    say(tmp_path, stub.url, "starting")
    threading.Timer(0.5, lambda: say(tmp_path, stub.url, **{"state": "starting", **changes})).start()
    local = RowClient.shared(Endpoint(stub.url, "secret", str(tmp_path)))
    began = time.monotonic()
    answers = ask_all(local, texts(600))
    assert time.monotonic() - began < 3
    assert codes(answers) == {ErrorCode.ENGINE_UNAVAILABLE}
    assert cause in answers[0].error.message
    assert cause in answers[-1].error.message
