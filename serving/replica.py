"""One replica of a model: a vLLM engine inside a Ray Serve actor."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import serve

from lakemill.errors import ServingError
from lakemill.serving import loopback, warm
from lakemill.serving.catalog import ModelEntry
from lakemill.serving.engine import Batch, Completion

if TYPE_CHECKING:
    from lakemill.serving.vllm_engine import VllmEngine

log = logging.getLogger(__name__)

_MANY = 10_000
_RAISED = re.compile(r"(?:^|\s)(?:[A-Za-z_]+\.)*([A-Z][A-Za-z]*(?:Error|Exception)): (\S.*)$")
_VAGUE = "Engine core initialization failed"


@serve.deployment(
    name="engine",
    max_ongoing_requests=_MANY,
    health_check_period_s=5,
    health_check_timeout_s=60,
    graceful_shutdown_timeout_s=5,
    graceful_shutdown_wait_loop_s=0.2,
)
class EngineReplica:
    """Hold one engine. A start that fails is kept as a value, since starting again would fail again.

    Args:
        entry: The model's catalog entry.
        weights: The folder with its weights.
        home: LAKEMILL_HOME.
    """

    def __init__(self, entry: ModelEntry, weights: Path, home: Path) -> None:
        self._log = home / "logs" / f"engine-{entry.name}.log"
        self._engine: VllmEngine | None = None
        self._error: str | None = None
        loopback.serve()
        _redirect(self._log)
        os.environ.update(environment(entry, home))
        if not entry.resources.gpus:
            warm.start()
        self._starting = asyncio.get_running_loop().create_task(self._start(entry, weights))

    async def state(self) -> dict[str, Any]:
        """Return `state` ("starting", "ready", "failed"), `error` in one line, and the path of the `log`."""
        name = "failed" if self._error else "starting" if self._engine is None else "ready"
        return {"state": name, "error": self._error, "log": str(self._log)}

    async def answer(self, batch: Batch) -> AsyncGenerator[list[Completion]]:
        """Yield the completions of a batch, several at a time."""
        await asyncio.shield(self._starting)
        if self._engine is None:
            raise ServingError(str(self._error))
        async for ready in self._engine.answer(batch):
            yield ready

    async def check(self) -> str | None:
        """Return what is wrong with the engine, or None."""
        if self._engine is None:
            return self._error or "the engine is starting"
        try:
            await self._engine.check()
        except ServingError as error:
            return error.message
        return None

    async def check_health(self) -> None:
        """Tell Ray Serve to replace this replica when its engine died.

        Raises:
            ServingError: The engine's process is gone.
        """
        if self._engine is not None and self._engine.dead:
            raise ServingError("the engine died")

    async def close(self) -> None:
        """Stop the engine and its processes; safe to call twice."""
        self._starting.cancel()
        engine, self._engine, self._error = self._engine, None, self._error or "the engine was stopped"
        if engine is not None:
            await engine.close()

    async def __del__(self) -> None:
        await self.close()

    async def _start(self, entry: ModelEntry, weights: Path) -> None:
        try:
            engine_class = await asyncio.to_thread(_import_engine)
            self._engine = await engine_class.start(entry, weights)
        except Exception as error:
            log.exception("the engine of %s does not start", entry.name)
            self._error = cause_of(error, self._log)


def environment(entry: ModelEntry, home: Path) -> dict[str, str]:
    """Return what the environment of a replica and of its engine processes must say."""
    cache = home / "cache"
    found = {
        "VLLM_CACHE_ROOT": str(cache / "vllm"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "HF_HOME": str(cache / "hf"),
        "VLLM_CONFIGURE_LOGGING": "1",
    }
    if not entry.resources.gpus:
        # Ray sets one thread; compiling the sampler takes 30 s and gains nothing here; binding threads to
        # cores needs more cores than small machines have.
        found |= {
            "OMP_NUM_THREADS": str(_threads(entry)),
            "TORCHDYNAMO_DISABLE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            # One engine process in place of two: less to import, less memory, and no copy between them.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
    return found | entry.environment


def _threads(entry: ModelEntry) -> int:
    cores = len(os.sched_getaffinity(0))
    return max(1, cores // entry.replicas)


def _import_engine() -> type[VllmEngine]:
    from lakemill.serving.vllm_engine import VllmEngine  # noqa: PLC0415 - after the environment is set, off the loop

    warm.adopt()
    return VllmEngine


def _redirect(path: Path) -> None:
    # vLLM's processes inherit these; Ray's own log files go with its scratch folder.
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.replace(path.with_suffix(".log.1"))  # why the last one died stays to be read
    with path.open("ab", buffering=0) as stream:
        for standard in (sys.stdout, sys.stderr):
            standard.flush()
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)


def cause_of(error: BaseException, log_file: Path) -> str:
    """Return why an engine did not start, in one line.

    vLLM raises in the caller what it checks before it starts its processes; what fails inside them is told
    only in their log.
    """
    if not str(error).startswith(_VAGUE):
        return _plain(f"{type(error).__name__}: {error}")
    lines = log_file.read_text(encoding="utf-8", errors="replace").splitlines()
    raised = [found.group(0).strip() for line in lines if (found := _RAISED.search(line)) and _VAGUE not in line]
    return _plain(raised[-1] if raised else str(error))


def _plain(text: str) -> str:
    # pydantic: "1 validation error for X / Value error, CAUSE [type=…]".
    found = re.search(r"Value error, (.*?)(?: \[type=|$)", text, re.DOTALL)
    return " ".join((found.group(1) if found else text).split())[:600]
