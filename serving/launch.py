"""Bring an application up: check what can be checked before, then start the contract engine or vLLM."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from lakemill.errors import ServingError, UsageError
from lakemill.serving import catalog, memory
from lakemill.serving.catalog import ModelEntry
from lakemill.serving.status import EngineName
from lakemill.settings import Paths

OnStage = Callable[[str], None]

_HEALTHY_S = 120.0
# No data leaves: usage statistics and hubs are off before anything that could ask them is imported.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


class Running(Protocol):
    """An application that was started."""

    def check(self) -> None:
        """Return while it is well.

        Raises:
            ServingError: It is not, with the cause.
        """
        ...

    def stop(self) -> None:
        """End it and everything that it started; safe to call twice."""
        ...


def quiet(environment: MutableMapping[str, str] = os.environ) -> None:
    """Turn usage statistics and hubs off in an environment."""
    environment.update(_QUIET)


def choose(names: Sequence[str], conf_dir: str | os.PathLike[str] | None = None) -> list[ModelEntry]:
    """Return the catalog entries named, or those that start with the application where none is.

    Raises:
        ModelNotFoundError: A name is not in the catalog.
        UsageError: No name is given and no entry starts by itself.
    """
    if names:
        return [catalog.entry(name, conf_dir) for name in dict.fromkeys(names)]
    known = catalog.entries(conf_dir)
    found = [entry for entry in known.values() if entry.autostart]
    if not found:
        hint = f"name one with --model: {', '.join(known) or 'the catalog (conf/models/*.yaml) is empty'}"
        raise UsageError("no model is named and none of the catalog has autostart: true", hint=hint)
    return found


def check_memory(entries: Sequence[ModelEntry]) -> None:
    """Return when the memory that the entries ask for can be had.

    Raises:
        ServingError: It cannot.
    """
    needed = sum(entry.memory_gib * entry.replicas for entry in entries)
    room = memory.available() / memory.GIB
    if needed > room:
        names = ", ".join(f"{entry.name} ({entry.replicas} x {entry.memory_gib:g} GiB)" for entry in entries)
        hint = "end other programs, take a smaller model or fewer replicas (memory_gib and replicas in conf/models)"
        raise ServingError(f"too little memory: {names} need {needed:g} GiB, {room:.1f} GiB are available", hint=hint)


def free_port(port: int) -> int:
    """Return `port` when it is free, or any free one for 0.

    Raises:
        ServingError: The port is taken.
    """
    from lakemill.serving import app_server  # noqa: PLC0415 - brings the web server, after serving.json is written

    with app_server.listen(port) as sock:
        return int(sock.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Plan:
    """Say what to start, once every check has passed."""

    engine: EngineName
    entries: Sequence[ModelEntry]
    paths: Paths
    port: int
    token: str


class _ContractApp:
    def __init__(self, plan: Plan) -> None:
        # After serving.json is written: these bring the web server.
        from lakemill.serving import app_server, contract, journal, service  # noqa: PLC0415

        engines = {entry.name: contract.ContractEngine(entry.info) for entry in plan.entries}
        sock = app_server.listen(plan.port)
        store = journal.SqliteJournal(journal.path_in(plan.paths))
        self._server = app_server.AppServer(service.RowService(engines, store, plan.token), sock)
        self._server.start()

    def check(self) -> None:
        if not self._server.alive:
            raise ServingError("the service ended by itself")

    def stop(self) -> None:
        self._server.stop()


def start(plan: Plan, *, on_stage: OnStage) -> Running:
    """Start the application; return when it says that it is well.

    Raises:
        ServingError: It does not come up, with the cause.
    """
    app = _contract(plan, on_stage) if plan.engine == "contract" else _vllm(plan, on_stage)
    try:
        on_stage("waiting for the health check")
        wait_healthy(f"http://127.0.0.1:{plan.port}")
    except BaseException:
        app.stop()
        raise
    return app


def _contract(plan: Plan, on_stage: OnStage) -> Running:
    on_stage("starting the contract engine")
    return _ContractApp(plan)


def _vllm(plan: Plan, on_stage: OnStage) -> Running:
    try:
        from lakemill.serving import deployment  # noqa: PLC0415 - brings Ray
    except ImportError as error:
        hint = "install lakemill with its extra cpu or gpu, or use --engine contract"
        raise ServingError(f"vLLM or Ray is not installed: {error}", hint=hint) from error
    running: Running = deployment.run(
        plan.entries, paths=plan.paths, port=plan.port, token=plan.token, on_stage=on_stage
    )
    return running


def wait_healthy(url: str, *, timeout_s: float = _HEALTHY_S) -> None:
    """Return when the application at `url` says that it is well.

    Raises:
        ServingError: It does not within `timeout_s`, with what it said last.
    """
    deadline = time.monotonic() + timeout_s
    while (cause := health(url)) is not None:
        if time.monotonic() > deadline:
            raise ServingError(f"the application at {url} is not well after {timeout_s:.0f} s: {cause}")
        time.sleep(0.1)


def health(url: str, *, timeout_s: float = 20.0) -> str | None:
    """Return None when the application at `url` is well, else the cause."""
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=timeout_s):  # noqa: S310 - an address of our own
            return None
    except urllib.error.HTTPError as error:
        return _cause(error)
    except OSError as error:
        return f"no answer ({error})"


def _cause(error: urllib.error.HTTPError) -> str:
    with error:
        body = error.read().decode("utf-8", "replace")
    try:
        engines = json.loads(body)["engines"]
        return "; ".join(f"{name}: {state}" for name, state in engines.items() if state != "ok")
    except (ValueError, KeyError, AttributeError, TypeError):
        return f"HTTP {error.code}: {body[:200]}"
