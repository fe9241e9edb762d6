"""The vLLM engine: batches of prompts → chat tokens → `AsyncLLM` → completions in order of completion."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs.engine import tokens_input
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError
from vllm.v1.metrics.loggers import StatLoggerBase

from lakemill.errors import ServingError
from lakemill.rows import ErrorCode, RowError, Usage
from lakemill.serving.catalog import ModelEntry
from lakemill.serving.chat import ChatRenderer
from lakemill.serving.choices import Branch, ChoiceTrie
from lakemill.serving.engine import Batch, Completion, ModelInfo, Prompt
from lakemill.serving.flush import flushed
from lakemill.serving.vllm_params import DEFAULTS, ON_CPU, sampling_params, structured_outputs

log = logging.getLogger(__name__)

PROBE_AFTER_S = 10.0
PROBE_TIMEOUT_S = 10.0
MAX_TOKENS = 512
_ENCODE_AT_ONCE = 64
_LOGPROBS_A_REQUEST = 128  # vLLM's bound on logprob_token_ids


class _Pulse(StatLoggerBase):  # type: ignore[misc]  # vLLM is untyped here
    """Note when the engine last took a step."""

    def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
        del vllm_config, engine_index
        self.beat = time.monotonic()

    def record(self, *_: Any, **__: Any) -> None:
        self.beat = time.monotonic()

    def log_engine_initialized(self) -> None: ...


class VllmEngine:
    """Answer batches with one vLLM engine. Build it with `start`."""

    def __init__(self, model: ModelInfo, llm: AsyncLLM, pulse: _Pulse) -> None:
        self._model = model
        self._llm = llm
        self._pulse = pulse
        self._chat = ChatRenderer(llm.get_tokenizer())
        self._window = int(llm.model_config.max_model_len)
        self._asked = 0
        self._probing: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, entry: ModelEntry, weights: Path) -> VllmEngine:
        """Load the weights, warm up, and return the engine.

        Raises:
            Exception: Whatever vLLM raises when it cannot start.
        """
        pulses: list[_Pulse] = []

        def pulse(config: Any, index: int = 0) -> _Pulse:
            pulses.append(_Pulse(config, index))
            return pulses[-1]

        on_cpu = {} if entry.resources.gpus else ON_CPU
        arguments = {"max_model_len": entry.context, **DEFAULTS, **on_cpu, **entry.engine}
        args = AsyncEngineArgs(model=str(weights), served_model_name=entry.name, **arguments)
        llm = await asyncio.to_thread(AsyncLLM.from_engine_args, args, stat_loggers=[pulse])
        engine = cls(entry.info, llm, pulses[0] if pulses else _Pulse(None))
        await engine._warm_up()
        return engine

    @property
    def dead(self) -> bool:
        """Tell whether the engine's process is gone."""
        return bool(self._llm.errored)

    @property
    def model(self) -> ModelInfo:
        """Return the model that answers."""
        return self._model

    async def answer(self, batch: Batch) -> AsyncGenerator[list[Completion]]:
        """Yield completions in order of completion, several at a time; each prompt exactly once."""
        done: asyncio.Queue[Completion | None] = asyncio.Queue()
        work = asyncio.create_task(self._answer_all(batch, done.put_nowait))
        # Without this a fault of our own would leave the caller waiting for ever.
        work.add_done_callback(lambda _: done.put_nowait(None))
        left = len(batch.prompts)
        try:
            while left:
                ready = await flushed(done, left)
                left -= len(ready)
                if not ready:
                    await work
                    return
                yield ready
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def check(self) -> None:
        """Return when the engine is well: it took a step lately, or it answers a probe now.

        vLLM's own check misses a process that was stopped, so only tokens that move are believed.

        Raises:
            ServingError: It is not, with the cause.
        """
        if self._llm.errored:
            raise ServingError(f"the engine of {self._model.name} died", hint="it is started again; see its log")
        if time.monotonic() - self._pulse.beat < PROBE_AFTER_S:
            return
        # Who asks meanwhile shares the probe: one after the other would take longer than they wait.
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(self._probe())
        await asyncio.shield(self._probing)

    async def close(self) -> None:
        """Stop vLLM's processes; safe to call twice."""
        await asyncio.to_thread(self._llm.shutdown)

    async def _probe(self) -> None:
        before = self._pulse.beat
        probe = asyncio.create_task(self._run([self._chat.eos_token_id] * 8, sampling_params(1), priority=-(2**31)))
        deadline = time.monotonic() + PROBE_TIMEOUT_S
        try:
            # Any step counts: with every slot taken the probe itself has to wait for one.
            while not probe.done() and self._pulse.beat == before and time.monotonic() < deadline:
                await asyncio.wait({probe}, timeout=0.2)
        finally:
            probe.cancel()
            outcome = (await asyncio.gather(probe, return_exceptions=True))[0]
        if isinstance(outcome, EngineDeadError):
            raise ServingError(f"the engine of {self._model.name} died", hint="it is started again; see its log")
        if self._pulse.beat == before and isinstance(outcome, BaseException):
            raise ServingError(
                f"the engine of {self._model.name} does not move: no step within {PROBE_TIMEOUT_S:.0f} s"
            )

    async def _warm_up(self) -> None:
        # The first row of each kind pays for grammars, caches and threads; here nobody waits for it.
        row = Prompt("warm-up", ({"role": "user", "content": "Say hello to the world, in one short line."},), None, 0)
        schema = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 4}}, "required": ["a"]}
        formats: list[tuple[str, dict[str, Any] | None]] = [
            ("generate", None),
            ("generate", {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}),
            ("choose", {"type": "choice", "choices": ["yes", "no"]}),
        ]
        for kind, wanted in formats:
            async for ready in self.answer(Batch(kind, (row,), {"max_tokens": 8}, wanted)):  # type: ignore[arg-type]
                for completion in ready:
                    if completion.error is not None:
                        raise ServingError(f"the warm-up of {self._model.name} failed: {completion.error.message}")

    async def _answer_all(self, batch: Batch, put: Callable[[Completion], None]) -> None:
        async with asyncio.TaskGroup() as group:
            for first in range(0, len(batch.prompts), _ENCODE_AT_ONCE):
                prompts = batch.prompts[first : first + _ENCODE_AT_ONCE]
                encoded = await asyncio.to_thread(self._encode, prompts)
                for prompt, tokens in zip(prompts, encoded, strict=True):
                    group.create_task(self._answer_one(batch, prompt, tokens, put))

    def _encode(self, prompts: Sequence[Prompt]) -> list[list[int] | ValueError]:
        try:
            chats = iter(self._chat.chat([p.messages for p in prompts if p.messages is not None]))
            texts = iter(self._chat.text([p.prompt or "" for p in prompts if p.messages is None]))
        except (ValueError, TypeError, UnicodeError) as error:
            if len(prompts) == 1:
                return [ValueError(str(error))]
            # One of them is at fault: find it, and the others are none the worse.
            return [self._encode([prompt])[0] for prompt in prompts]
        return [next(texts) if p.messages is None else next(chats) for p in prompts]

    async def _answer_one(
        self, batch: Batch, prompt: Prompt, tokens: list[int] | ValueError, put: Callable[[Completion], None]
    ) -> None:
        started = time.perf_counter()
        try:
            if isinstance(tokens, ValueError):
                raise tokens
            made = await self._answers[batch.kind](self, batch, prompt, tokens)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            made = Completion(prompt.id, error=self._row_error(error))
        put(_timed(made, prompt.id, (time.perf_counter() - started) * 1e3))

    def _row_error(self, error: Exception) -> RowError:
        if isinstance(error, _TooLongError):
            return RowError(ErrorCode.CONTEXT_LENGTH_EXCEEDED, str(error))
        if isinstance(error, EngineDeadError) or self._llm.errored:
            return RowError(ErrorCode.ENGINE_UNAVAILABLE, f"the engine of {self._model.name} died")
        cause = error.__cause__ if isinstance(error, EngineGenerateError) else error
        if isinstance(cause, ValueError | TypeError):
            return RowError(ErrorCode.INVALID_REQUEST, _one_line(cause))
        log.warning("a row of %s failed: %s: %s", self._model.name, type(error).__name__, error)
        return RowError(ErrorCode.INTERNAL, f"{type(error).__name__}: {_one_line(cause or error)}")

    def _room(self, tokens: list[int], wanted: int) -> int:
        room = self._window - len(tokens)
        if room < 1:
            raise _TooLongError(
                f"the prompt has {len(tokens)} tokens, the window of {self._model.name} is {self._window}"
            )
        return min(wanted, room)

    async def _count(self, batch: Batch, prompt: Prompt, tokens: list[int]) -> Completion:
        del batch
        return Completion(prompt.id, result=len(tokens))

    async def _generate(self, batch: Batch, prompt: Prompt, tokens: list[int]) -> Completion:
        given = dict(batch.params)
        room = self._room(tokens, int(given.pop("max_tokens", None) or MAX_TOKENS))
        given.setdefault("temperature", 0.0)
        if given["temperature"] and given.get("seed") is None:
            given["seed"] = prompt.seed
        params = sampling_params(room, structured_outputs=structured_outputs(batch.response_format), **given)
        output = await self._run(tokens, params, priority=batch.priority)
        made = output.outputs[0]
        usage = Usage(len(tokens), len(made.token_ids), output.num_cached_tokens or 0)
        return Completion(prompt.id, made.text, finish_reason=made.finish_reason, usage=usage)

    async def _choose(self, batch: Batch, prompt: Prompt, tokens: list[int]) -> Completion:
        choices = [str(choice) for choice in (batch.response_format or {}).get("choices") or ()]
        trie = ChoiceTrie(choices, self._chat.answers(choices), end=self._chat.eos_token_id)
        longest = max((len(branch.path) for branch in trie.branches), default=0)
        self._room(tokens + [0] * longest, 1)
        found: dict[tuple[int, ...], dict[int, float]] = {}
        usage = Usage(len(tokens))
        # The first question leaves the prompt in the prefix cache, so it goes alone.
        for part in (trie.branches[:1], trie.branches[1:]):
            asked = await asyncio.gather(*(self._ask(branch, tokens, batch.priority) for branch in part))
            for branch, (logprobs, spent) in zip(part, asked, strict=True):
                found[branch.path] = logprobs
                usage += spent
        scores = trie.scores(found)
        return Completion(prompt.id, max(scores, key=lambda c: scores[c]), scores, finish_reason="stop", usage=usage)

    async def _ask(self, branch: Branch, tokens: list[int], priority: int) -> tuple[dict[int, float], Usage]:
        logprobs: dict[int, float] = {}
        cached = 0
        for first in range(0, len(branch.tokens), _LOGPROBS_A_REQUEST):
            wanted = list(branch.tokens[first : first + _LOGPROBS_A_REQUEST])
            params = sampling_params(1, temperature=0.0, logprob_token_ids=wanted, detokenize=False)
            output = await self._run([*tokens, *branch.path], params, priority=priority)
            given = output.outputs[0].logprobs[0]
            logprobs |= {token: given[token].logprob for token in wanted}
            cached = max(cached, output.num_cached_tokens or 0)
        # The prompt counts once a row, however many questions it takes.
        return logprobs, Usage(0, -(-len(branch.tokens) // _LOGPROBS_A_REQUEST), 0 if branch.path else cached)

    async def _run(self, tokens: list[int], params: SamplingParams, *, priority: int) -> Any:
        self._asked += 1
        if not tokens:
            raise ValueError("the prompt is empty")
        last = None
        prompt = tokens_input(tokens)
        async for output in self._llm.generate(prompt, params, f"{self._asked}", priority=priority):
            last = output
        if last is None:
            raise EngineGenerateError("vLLM ended without an answer")
        return last

    _answers: Mapping[str, Callable[..., Awaitable[Completion]]] = {
        "generate": _generate,
        "choose": _choose,
        "count": _count,
    }


class _TooLongError(Exception):
    pass


def _timed(made: Completion, id_: str, ms: float) -> Completion:
    return Completion(id_, made.result, made.scores, made.error, made.finish_reason, made.usage, round(ms, 3))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
