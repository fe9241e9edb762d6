"""Start-up time of the engine process on CPU: import vLLM in it while the replica imports vLLM itself.

vLLM starts its engine process by `spawn`, after everything else: it imports all of vLLM anew (10 s of one
core). Here a fork server imports it meanwhile, on the other core, and the engine process is a fork of it. vLLM's
own API server does the same with `VLLM_WORKER_MULTIPROC_METHOD=forkserver`, which is overruled on CPU and in
Ray actors. Not for GPUs: CUDA does not survive a fork in every case.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import multiprocessing
import os
from collections.abc import Callable, Mapping
from importlib import util
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from lakemill.serving import loopback

log = logging.getLogger(__name__)

PRELOAD = (
    "vllm.v1.engine.core",
    "vllm.v1.executor.uniproc_executor",
    "lakemill.serving.cpu_worker",
    "vllm.v1.structured_output.backend_xgrammar",
    "vllm.model_executor.models.llama",
)


def start() -> None:
    """Start the fork server; it imports in the background. The environment must be complete by now."""
    # vLLM sets this before it spawns; a fork can no longer load another library first.
    library = _libgomp()
    if library is not None and "libgomp" not in os.environ.get("LD_PRELOAD", ""):
        os.environ["LD_PRELOAD"] = ":".join(filter(None, [os.environ.get("LD_PRELOAD"), str(library)]))
    multiprocessing.set_forkserver_preload(list(PRELOAD))
    forkserver.ensure_running()


def adopt() -> None:
    """Let vLLM start its engine process from the fork server; without effect where vLLM has changed."""
    from vllm.v1.engine import utils  # noqa: PLC0415 - vLLM is imported by now

    if hasattr(utils, "get_mp_context"):
        utils.get_mp_context = _Context
    else:
        log.warning("vLLM starts its processes in another way than expected: the engine starts more slowly")


class _Context:
    """The fork server's context, whose processes get the environment as it is when they start."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")

    def Process(self, *, target: Callable[..., Any], name: str, kwargs: Mapping[str, Any]) -> Any:  # noqa: N802
        return self._context.Process(target=_enter, name=name, args=(dict(os.environ), target, dict(kwargs)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def _enter(environment: Mapping[str, str], target: Callable[..., Any], kwargs: Mapping[str, Any]) -> None:
    with contextlib.suppress(ImportError):
        # The first title must come before the environment moves: it is written over both.
        importlib.import_module("setproctitle").setproctitle("lakemill engine")
    os.environ.update(environment)
    loopback.torch()
    target(**kwargs)


def _libgomp() -> Path | None:
    spec = util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    found = sorted((Path(spec.origin).parent / "lib").glob("libgomp*.so*"))
    return found[0] if found else None
