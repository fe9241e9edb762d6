"""Ask the model for one row: once, and once more where the answer is no value; then the error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from lakemill.rows import ErrorCode, RowAnswer, RowError, RowResult
from lakemill.serving.client import Ask
from lakemill.udfs import types
from lakemill.udfs.call import Call
from lakemill.udfs.readers import Reading, UnusableError


class Asker(Protocol):
    """Answer one row; errors come as values."""

    async def ask(self, ask: Ask) -> RowAnswer:
        """Return the answer to one row."""
        ...


async def row_result(client: Asker, call: Call, content: str) -> RowResult:
    """Return the row result of one text; a failure is a value, never an exception."""
    key = call.key([content])
    messages = call.task.messages(content)
    first = await client.ask(call.ask(messages, key))
    reading = _read(call, first)
    if not isinstance(reading, RowError) or first.error is not None:
        return _result(call, content, [first], reading)
    again = _second_ask(call, messages, key, first, reading)
    if again is None:
        return _result(call, content, [first], reading)
    second = await client.ask(again)
    outcome = _read(call, second)
    if isinstance(outcome, RowError) and outcome.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED:
        # The second try was longer than the first, not the row: the first problem is the true one.
        outcome = reading
    return _result(call, content, [first, second], outcome)


def _read(call: Call, answer: RowAnswer) -> Reading | RowError:
    if answer.error is not None:
        return answer.error
    if answer.finish_reason == "length":
        limit = answer.usage.completion_tokens
        return RowError(ErrorCode.OUTPUT_TRUNCATED, f"the answer was cut after {limit} tokens")
    try:
        return call.task.reader.read(answer)
    except UnusableError as error:
        return RowError(error.code, error.message)


def _second_ask(
    call: Call, messages: Sequence[Mapping[str, str]], key: str, first: RowAnswer, error: RowError
) -> Ask | None:
    if error.code is ErrorCode.OUTPUT_TRUNCATED:
        params = call.task.roomy_params
        return None if params is None else call.ask(messages, key, params)
    told = f"That answer cannot be used: {error.message}. Answer again, exactly as asked for."
    earlier = types.clean(first.result) if isinstance(first.result, str) else ""
    return call.ask(
        [*messages, {"role": "assistant", "content": earlier or "(nothing)"}, {"role": "user", "content": told}], key
    )


def _result(call: Call, content: str, answers: Sequence[RowAnswer], outcome: Reading | RowError) -> RowResult:
    last = answers[-1]
    result = RowResult(
        key=call.key([content], last.model),
        finish_reason=last.finish_reason,
        usage=sum((answer.usage for answer in answers[1:]), answers[0].usage),
        model=last.model,
        cached=all(answer.cached for answer in answers),
        latency_ms=sum(answer.latency_ms for answer in answers),
    )
    if isinstance(outcome, RowError):
        return replace(result, error=_counted(outcome, len(answers) - 1))
    return replace(result, result=outcome.value, extra=_known_extra(call, outcome.extra))


def _counted(error: RowError, earlier: int) -> RowError:
    return replace(error, attempts=error.attempts + earlier)


def _known_extra(call: Call, extra: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: extra.get(field.name) for field in call.task.extra}
