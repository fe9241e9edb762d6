"""The Ray of one application: started on the loopback address, deployed to, watched, ended.

Import it by `lakemill.serving.deployment`, which sets what Ray reads from the environment at its import.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import psutil
import ray
from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.handle import DeploymentHandle

from lakemill.errors import ServingError
from lakemill.serving import loopback, weights
from lakemill.serving.catalog import ModelEntry
from lakemill.serving.gateway import Gateway
from lakemill.serving.replica import EngineReplica
from lakemill.settings import Paths

log = logging.getLogger(__name__)

APPLICATION = "lakemill"
READY_TIMEOUT_S = 1800.0
_POLL_S = 0.25
_CHECK_TIMEOUT_S = 20.0
_CLOSE_TIMEOUT_S = 8.0
_REMOVALS = 8
_OBJECT_STORE_BYTES = 100 * 1024 * 1024  # rows travel inside the calls; Ray's least is 75 MiB
# What Ray's own actors (controller, proxy, gateway) may take beside the replicas.
_SPARE_CPUS = 4


# Serve's own "throughput optimized" set, without the servers that it would open beside its proxy.
_FAST: Mapping[str, str] = {
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
    "RAY_SERVE_LOG_TO_STDERR": "0",
}


@dataclass(slots=True)
class Running:
    """Hold the running application. `stop` it; a second stop does nothing."""

    url: str
    _handles: dict[str, DeploymentHandle[Any]]
    _gateway: DeploymentHandle[Any]
    _scratch: Path
    _stopped: bool = False

    def check(self) -> None:
        """Return when every engine is well.

        Raises:
            ServingError: One is not, with the cause.
        """
        for name, handle in self._handles.items():
            try:
                cause = handle.check.remote().result(timeout_s=_CHECK_TIMEOUT_S)
            except Exception as error:
                raise ServingError(f"the replica of {name} does not answer: {_first_line(error)}") from error
            if cause is not None:
                raise ServingError(cause)

    def stop(self) -> None:
        """Stop the application and every process that it started."""
        if not self._stopped:
            self._stopped = True
            _close(self._gateway, *self._handles.values())
            _end_all(self._scratch)


def run(
    entries: Sequence[ModelEntry],
    *,
    paths: Paths,
    port: int,
    token: str | None,
    on_stage: Callable[[str], None] = lambda _: None,
) -> Running:
    """Start Ray, the gateway on 127.0.0.1:`port` and a deployment a model; return when all are ready.

    Args:
        entries: The catalog entries to serve.
        paths: Where LAKEMILL_HOME lies.
        port: A free port.
        token: The bearer token that requests must carry.
        on_stage: Told what is being done.

    Raises:
        ServingError: Something does not start; the message is the cause in one line.
        SetupError: Weights are missing and cannot be unpacked.
        ConfError: A source is of a kind that is not supported.
    """
    folders = {}
    for entry in entries:
        on_stage(f"preparing the weights of {entry.name}")
        folders[entry.name] = weights.ensure(entry, paths)
    scratch = Path(tempfile.mkdtemp(prefix="lakemill-", dir="/tmp"))
    # What torch and vLLM put into a temporary folder goes with Ray's.
    os.environ["TMPDIR"] = str(scratch)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    try:
        on_stage("starting Ray")
        _start_ray(entries, scratch, port)
        on_stage("starting the replicas")
        handles = _deploy(entries, folders, paths, token)
        _wait_ready(handles, on_stage)
    except BaseException:
        _end_all(scratch)
        raise
    gateway = serve.get_deployment_handle("gateway", APPLICATION)
    return Running(f"http://127.0.0.1:{port}", handles, gateway, scratch)


def _start_ray(entries: Sequence[ModelEntry], scratch: Path, port: int) -> None:
    # For Serve's actors alone: with them a handle of this process, which has no event loop, would not work.
    os.environ.update(_FAST)
    cpus = sum(entry.replicas * entry.resources.cpus for entry in entries)
    with loopback.ray():
        ray.init(
            address="local",
            num_cpus=int(cpus) + _SPARE_CPUS,
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address=loopback.ADDRESS,
            _temp_dir=str(scratch),
        )
    serve.start(
        proxy_location=ProxyLocation.HeadOnly,
        http_options=HTTPOptions(host=loopback.ADDRESS, port=port, request_timeout_s=None),
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
    )


def _deploy(
    entries: Sequence[ModelEntry], folders: Mapping[str, Path], paths: Paths, token: str | None
) -> dict[str, DeploymentHandle[Any]]:
    bound = {entry.name: _replicas(entry).bind(entry, folders[entry.name], paths.home) for entry in entries}
    infos = {entry.name: entry.info for entry in entries}
    gateway = cast("Any", Gateway).bind(bound, infos, paths.journal / "answers.sqlite", token)
    serve.run(gateway, name=APPLICATION, route_prefix="/", blocking=False)
    return {name: serve.get_deployment_handle(_deployment_name(name), APPLICATION) for name in bound}


def _deployment_name(model: str) -> str:
    return f"engine-{model}"


def _replicas(entry: ModelEntry) -> Any:
    return cast("Any", EngineReplica).options(
        name=_deployment_name(entry.name),
        num_replicas=entry.replicas,
        ray_actor_options={"num_cpus": entry.resources.cpus, "num_gpus": entry.resources.gpus},
    )


def _wait_ready(handles: Mapping[str, DeploymentHandle[Any]], on_stage: Callable[[str], None]) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    for name, handle in handles.items():
        on_stage(f"loading {name}")
        while True:
            state = handle.state.remote().result(timeout_s=READY_TIMEOUT_S)
            if state["state"] == "ready":
                break
            if state["state"] == "failed":
                raise ServingError(f"model {name!r} does not start: {state['error']}", hint=f"its log: {state['log']}")
            if time.monotonic() > deadline:
                raise ServingError(
                    f"model {name!r} is not ready after {READY_TIMEOUT_S:.0f} s", hint=f"its log: {state['log']}"
                )
            time.sleep(_POLL_S)


def _close(*handles: DeploymentHandle[Any]) -> None:
    # The gateway first: it answers what is in flight and writes the journal, then the engines may go.
    for handle in handles:
        with contextlib.suppress(Exception):
            handle.close.remote().result(timeout_s=_CLOSE_TIMEOUT_S)


def _end_all(scratch: Path) -> None:
    # This Ray is ours alone, so nobody needs Serve's own shutdown, which waits up to 30 s for its controller.
    ours = _descendants()
    with contextlib.suppress(Exception):
        ray.shutdown()
    _end(ours)
    for _ in range(_REMOVALS):
        # What was started meanwhile may still write there.
        shutil.rmtree(scratch, ignore_errors=True)
        if not scratch.exists():
            return
        time.sleep(_POLL_S)


def _descendants() -> list[psutil.Process]:
    # Before anything stops: an engine whose replica is gone has another parent.
    return psutil.Process().children(recursive=True)


def _end(processes: Sequence[psutil.Process], patience_s: float = 3.0) -> None:
    left = list(processes)
    for signal in (None, "terminate", "kill"):
        for process in left if signal else ():
            with contextlib.suppress(psutil.NoSuchProcess):
                getattr(process, signal or "")()
        _, left = psutil.wait_procs(left, timeout=patience_s)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
