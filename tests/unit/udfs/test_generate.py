from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql.types import DoubleType, IntegerType, MapType, StringType, StructField, StructType

from lakemill.rows import ErrorCode, RowAnswer, RowError, RowResult, Usage
from lakemill.serving.client import Ask, Endpoint
from lakemill.udfs import result, worker
from lakemill.udfs.call import Call, Task, pack
from lakemill.udfs.generate import row_result
from lakemill.udfs.prompts import Prompt
from lakemill.udfs.readers import Fields, JsonText, Label, Text, Typed
from lakemill.udfs.result import Shape
from lakemill.udfs.tally import SAMPLE, Tally

PROMPT = Prompt("1.x", "Be brief.", "{{content}}")
TASK = Task("generate", StringType(), PROMPT, Text(), params=pack({"max_tokens": 100, "temperature": 0.0}))
CALL = Call("ai_gen", TASK, Shape.TRY, "m", "7", Endpoint("http://x", "secret-token"))


class Service:
    """Answer from a list, and remember what was asked."""

    def __init__(self, *answers: RowAnswer) -> None:
        self.answers = list(answers)
        self.asked: list[Ask] = []

    async def ask(self, ask: Ask) -> RowAnswer:
        self.asked.append(ask)
        return self.answers.pop(0)


def answer(text: Any = None, **more: Any) -> RowAnswer:
    return RowAnswer(
        "1", text, **{"finish_reason": "stop", "usage": Usage(3, 2), "model": "m@7", "latency_ms": 1.5} | more
    )


def failed(code: ErrorCode, attempts: int = 1) -> RowAnswer:
    return RowAnswer("1", error=RowError(code, "why", attempts))


async def test_a_good_answer_is_asked_for_once() -> None:
    service = Service(answer(" fine "))
    found = await row_result(service, CALL, "hello")
    assert (found.result, found.error, found.model, found.key) == ("fine", None, "m@7", CALL.key(["hello"]))
    assert [message["content"] for message in service.asked[0].messages or ()] == ["Be brief.", "hello"]


async def test_a_cut_answer_gets_more_room_once() -> None:
    service = Service(answer("cu", finish_reason="length"), answer("cut no more"))
    found = await row_result(service, CALL, "x")
    assert found.result == "cut no more"
    assert found.usage == Usage(6, 4)
    assert found.latency_ms == 3
    assert [ask.params["max_tokens"] for ask in service.asked] == [100, 400]


async def test_the_room_has_an_end() -> None:
    call = replace(CALL, task=replace(TASK, params=pack({"max_tokens": 600})))
    service = Service(answer("c", finish_reason="length"), answer("c", finish_reason="length"))
    found = await row_result(service, call, "x")
    assert service.asked[1].params["max_tokens"] == 2048
    assert found.error is not None
    assert (found.error.code, found.error.attempts, found.result) == (ErrorCode.OUTPUT_TRUNCATED, 2, None)


async def test_the_callers_bound_is_kept() -> None:
    service = Service(answer("c", finish_reason="length"))
    found = await row_result(service, replace(CALL, task=replace(TASK, own_limit=True)), "x")
    assert found.error is not None
    assert (found.error.code, len(service.asked)) == (ErrorCode.OUTPUT_TRUNCATED, 1)


async def test_an_error_of_the_service_is_not_asked_again() -> None:
    service = Service(failed(ErrorCode.RATE_LIMITED, attempts=5))
    found = await row_result(service, CALL, "x")
    assert found.error == RowError(ErrorCode.RATE_LIMITED, "why", 5)
    assert found.key == CALL.key(["x"])


async def test_a_second_try_that_no_longer_fits_keeps_the_first_error() -> None:
    service = Service(answer(""), failed(ErrorCode.CONTEXT_LENGTH_EXCEEDED))
    found = await row_result(service, CALL, "x")
    assert found.error is not None
    assert found.error.code is ErrorCode.INVALID_OUTPUT


async def test_a_second_try_that_is_not_reached_is_retryable() -> None:
    service = Service(answer(""), failed(ErrorCode.ENGINE_UNAVAILABLE, attempts=3))
    found = await row_result(service, CALL, "x")
    assert found.error == RowError(ErrorCode.ENGINE_UNAVAILABLE, "why", 4)


async def test_a_version_that_was_unknown_is_taken_from_the_answer() -> None:
    call = replace(CALL, version=None)
    found = await row_result(Service(answer("fine")), call, "x")
    assert found.key == CALL.key(["x"])


@pytest.mark.parametrize(
    ("reader", "text", "code"),
    [
        (Text(), "  ", ErrorCode.INVALID_OUTPUT),
        (Text(), None, ErrorCode.INVALID_OUTPUT),
        (JsonText(), "{", ErrorCode.INVALID_OUTPUT),
        (JsonText(), "[1]", ErrorCode.SCHEMA_MISMATCH),
        (JsonText('{"type": "integer"}'), "1.5", ErrorCode.SCHEMA_MISMATCH),
        (JsonText('{"type": "number"}'), "NaN", ErrorCode.INVALID_OUTPUT),
        (JsonText(), "[" * 100_000, ErrorCode.INVALID_OUTPUT),
        (Typed(IntegerType(), wrapped=True), "3", ErrorCode.SCHEMA_MISMATCH),
        (Typed(IntegerType(), wrapped=True), '{"result": "3"}', ErrorCode.SCHEMA_MISMATCH),
        (Label(("a", "b")), "c", ErrorCode.LABEL_NOT_ALLOWED),
        (Fields(("a",)), '{"a": 1}', ErrorCode.SCHEMA_MISMATCH),
        (Fields(("a",)), "[]", ErrorCode.SCHEMA_MISMATCH),
    ],
)
async def test_what_is_no_value_is_an_error(reader: Any, text: Any, code: ErrorCode) -> None:
    found = await row_result(Service(answer(text), answer(text)), replace(CALL, task=replace(TASK, reader=reader)), "x")
    assert found.error is not None
    assert (found.result, found.error.code) == (None, code)


async def test_a_label_has_its_scores() -> None:
    extra = (StructField("confidence", DoubleType()), StructField("scores", MapType(StringType(), DoubleType())))
    call = replace(CALL, task=replace(TASK, reader=Label(("a", "b")), extra=extra))
    found = await row_result(Service(answer("a", scores={"a": 0.75, "b": 0.25})), call, "x")
    assert found.extra == {"confidence": 0.75, "scores": [("a", 0.75), ("b", 0.25)]}


def test_a_call_travels_and_hides_its_token() -> None:
    assert pickle.loads(pickle.dumps(CALL)) == CALL
    assert hash(pickle.loads(pickle.dumps(CALL))) == hash(CALL)
    assert "secret-token" not in repr(CALL) + repr(worker.Worker(CALL))


def test_bytes_become_texts_and_blanks_are_not_asked() -> None:
    found = worker.texts_of(pa.array([b"a", None, b" \n", b"\xff!", b"\x00", "\u00a0".encode()]))
    assert found == ["a", None, None, "\ufffd!", "\x00", None]


def test_the_key_form_asks_nothing() -> None:
    column = next(worker.Worker(replace(CALL, shape=Shape.KEY))(iter([pa.array([b"x", None])])))
    assert column.to_pylist() == [CALL.key(["x"]), None]


@pytest.mark.parametrize("shape", list(Shape))
def test_every_shape_has_cells_of_its_type(shape: Shape) -> None:
    from pyspark.sql.pandas.types import to_arrow_type

    struct = StructType([StructField("a", IntegerType())])
    call = replace(CALL, shape=shape, task=replace(TASK, result=struct))
    rows = [RowResult("k", {"a": 1}), RowResult("k", error=RowError(ErrorCode.TIMEOUT, "bad \ud800")), None]
    cells = [result.cell(row, shape, struct) for row in rows]
    assert cells[2] is None
    assert len(pa.array(cells, type=to_arrow_type(call.type, timezone="UTC"))) == 3


def test_a_tally_counts_exactly_and_samples() -> None:
    bad = RowResult("k", error=RowError(ErrorCode.TIMEOUT, "x" * 9_999))
    told = Tally.of("ai_gen", [bad] * (SAMPLE + 5) + [None, RowResult("k", "v", cached=True)], "1", "m@7")
    total = Tally().add(told).add(told)
    assert (total.rows, total.skipped, total.cached) == (2 * (SAMPLE + 7), 2, 2)
    assert total.failed == {("ai_gen", "TIMEOUT"): 2 * (SAMPLE + 5)}
    assert len(total.failures) == SAMPLE
    assert len(total.failures[0].error.message) == 500
    assert total.take().rows == 2 * (SAMPLE + 7)
    assert (total.rows, total.failures) == (0, [])
