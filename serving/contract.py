"""The contract engine: answers without a model, deterministically, and passes the suite that vLLM passes.

A token is a word. What a text holds in double brackets makes a row misbehave, for tests:

- `[[lakemill:fail CODE]]` fails with that code; `[[lakemill:once CODE]]` only the first time it is asked.
- `[[lakemill:sleep SECONDS]]` answers later.
- `[[lakemill:truncate]]` is cut in the middle, with finish_reason "length".
- `[[lakemill:garbage]]` gives text that is no JSON, also where a schema is asked for; `[[lakemill:empty]]` none.
- `[[lakemill:say TEXT]]` gives TEXT, `[[lakemill:echo]]` the last message as it is.
- `[[lakemill:die]]` kills the engine.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from lakemill.errors import ServingError
from lakemill.rows import ErrorCode, RowError, Usage
from lakemill.serving import invent
from lakemill.serving.engine import Batch, Completion, ModelInfo, Prompt

if TYPE_CHECKING:
    from lakemill.serving.contract_server import ContractServer

_DIRECTIVE = re.compile(r"\[\[lakemill:([a-z]+)(?:\s+(.*?))?\]\]", re.DOTALL)
_DEFAULT_MODEL = ModelInfo("contract", "1", 8192, ("generate", "choose", "embed", "count"))


class ContractEngine:
    """Answer every kind of row without a model.

    Args:
        model: What it says it is.
        latency_s: Seconds that every row takes.
        slots: Rows at work at once; the others wait, as in a real engine.
        die_after: Number of answers after which every call raises; None never.

    Attributes:
        asked: How often each request key was handed in.
    """

    def __init__(
        self,
        model: ModelInfo = _DEFAULT_MODEL,
        *,
        latency_s: float = 0.0,
        slots: int = 64,
        die_after: int | None = None,
    ) -> None:
        self.asked: Counter[str] = Counter()
        self.batches: list[Batch] = []
        self._model = model
        self._latency_s = latency_s
        self._slots = asyncio.Semaphore(slots)
        self._answers_left = die_after
        self._failed_once: set[str] = set()

    @property
    def model(self) -> ModelInfo:
        """Return the model that it says it is."""
        return self._model

    def die(self) -> None:
        """Make every later answer and check raise."""
        self._answers_left = 0

    async def check(self) -> None:
        """Return while the engine lives.

        Raises:
            ServingError: It died.
        """
        if self._answers_left == 0:
            raise ServingError(f"the contract engine of {self._model.name} died")

    async def close(self) -> None:
        """Do nothing: there is nothing to free."""

    async def answer(self, batch: Batch) -> AsyncIterator[list[Completion]]:
        """Yield completions in order of completion.

        Raises:
            ServingError: The engine died.
        """
        self.asked.update(prompt.id for prompt in batch.prompts)
        self.batches.append(batch)
        done: asyncio.Queue[Completion | ServingError] = asyncio.Queue()
        tasks = [asyncio.ensure_future(self._work(batch, prompt, done)) for prompt in batch.prompts]
        left = len(tasks)
        try:
            while left:
                some = [await done.get()]
                while not done.empty():
                    some.append(done.get_nowait())
                completions = [each for each in some if isinstance(each, Completion)]
                left -= len(some)
                if completions:
                    yield completions
                for each in some:
                    if isinstance(each, ServingError):
                        raise each
        finally:
            for task in tasks:
                task.cancel()

    async def _work(self, batch: Batch, prompt: Prompt, done: asyncio.Queue[Completion | ServingError]) -> None:
        async with self._slots:
            try:
                done.put_nowait(await self._one(batch, prompt))
            except ServingError as error:
                done.put_nowait(error)
            except Exception as error:  # a directive that cannot be read must not hang its batch
                failed = RowError(ErrorCode.INVALID_REQUEST, f"{type(error).__name__}: {error}")
                done.put_nowait(Completion(prompt.id, error=failed))

    async def _one(self, batch: Batch, prompt: Prompt) -> Completion:
        started = time.perf_counter()
        text = _text(prompt)
        directives = {name: argument or "" for name, argument in _DIRECTIVE.findall(text)}
        pause = self._latency_s + float(directives.get("sleep") or 0)
        if pause:
            await asyncio.sleep(pause)
        if "die" in directives:
            self.die()
        await self.check()
        if self._answers_left is not None:
            self._answers_left -= 1
        return self._complete(batch, prompt, text, directives, started)

    def _complete(
        self, batch: Batch, prompt: Prompt, text: str, directives: Mapping[str, str], started: float
    ) -> Completion:
        words = len(text.split())
        error = self._error(prompt, words, directives)
        if error is None and batch.kind == "generate":
            return self._generated(batch, prompt, words, directives, started)
        result, scores = (None, None) if error else _measured(batch, text)
        latency_ms = (time.perf_counter() - started) * 1e3
        finish = None if error else "stop"
        return Completion(prompt.id, result, scores, error, finish, Usage(prompt_tokens=words), latency_ms)

    def _error(self, prompt: Prompt, words: int, directives: Mapping[str, str]) -> RowError | None:
        if words >= self._model.context:
            message = f"the prompt has {words} tokens, the window of {self._model.name} is {self._model.context}"
            return RowError(ErrorCode.CONTEXT_LENGTH_EXCEEDED, message)
        code = directives.get("fail")
        if "once" in directives and prompt.id not in self._failed_once:
            self._failed_once.add(prompt.id)
            code = directives["once"]
        return None if code is None else RowError(ErrorCode(code.strip()), f"the row asked to fail with {code.strip()}")

    def _generated(
        self, batch: Batch, prompt: Prompt, words: int, directives: Mapping[str, str], started: float
    ) -> Completion:
        answer = _answer(batch.response_format, _last(prompt), _text(prompt), directives)
        room = min(batch.params.get("max_tokens", 512), self._model.context - words)
        cut = _cut(answer, room)
        if "truncate" in directives:
            cut = answer[: len(answer) // 2]
        finish = "stop" if cut == answer and "truncate" not in directives else "length"
        usage = Usage(words, len(cut.split()))
        return Completion(prompt.id, cut, None, None, finish, usage, (time.perf_counter() - started) * 1e3)


def _measured(batch: Batch, text: str) -> tuple[Any, dict[str, float] | None]:
    if batch.kind == "count":
        return len(text.split()), None
    if batch.kind == "embed":
        return invent.vector(text), None
    scores = invent.scores(text, (batch.response_format or {})["choices"])
    return max(scores, key=lambda choice: scores[choice]), scores


def _answer(response_format: Mapping[str, Any] | None, last: str, text: str, directives: Mapping[str, str]) -> str:
    if "garbage" in directives:
        return f"{{no JSON, and no label {invent.number_of(text):x}"
    if "empty" in directives:
        return ""
    if "say" in directives:
        return directives["say"]
    kind = (response_format or {}).get("type", "text")
    if response_format is None or kind == "text":
        return last if "echo" in directives else invent.sentence(last)
    if kind == "choice":
        scores = invent.scores(text, response_format["choices"])
        return max(scores, key=lambda choice: scores[choice])
    schema = response_format["json_schema"]["schema"] if kind == "json_schema" else {"properties": {"answer": {}}}
    return json.dumps(invent.instance(schema, last), ensure_ascii=False)


def _text(prompt: Prompt) -> str:
    return prompt.prompt or "\n".join(message["content"] for message in prompt.messages or ())


def _last(prompt: Prompt) -> str:
    return prompt.prompt or (prompt.messages or ({"content": ""},))[-1]["content"]


def _cut(text: str, words: int) -> str:
    ends = [match.end() for match in re.finditer(r"\S+", text)]
    return text if len(ends) <= words else text[: ends[words - 1]]


def serve_contract(home: str | os.PathLike[str] | None = None, **options: Any) -> ContractServer:
    """Start a contract service on a free loopback port, in a thread; see `contract_server.serve_contract`."""
    from lakemill.serving import contract_server  # noqa: PLC0415 - the engine alone needs no web server

    return contract_server.serve_contract(home, **options)
