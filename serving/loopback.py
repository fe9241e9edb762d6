"""Keep what Ray, Serve and torch listen on to the loopback address.

Each of them listens on every interface of the machine, and whoever reaches a port of Ray or Serve can run code.
There are no settings for it, hence these replacements in pinned versions; a test looks at every open port.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

ADDRESS = "127.0.0.1"


@contextlib.contextmanager
def ray() -> Iterator[None]:
    """Let `ray.init` take 127.0.0.1 as it is; on Linux it would put the machine's outer address in its place."""
    services: Any = importlib.import_module("ray._private.services")
    before = services.resolve_ip_for_localhost
    services.resolve_ip_for_localhost = lambda host: host
    try:
        yield
    finally:
        services.resolve_ip_for_localhost = before


def serve() -> None:
    """Bind the gRPC port that Serve opens in every replica; call it in the replica's constructor."""
    _replace("ray.serve._private.replica", "add_port_to_grpc_server", _bound)


def torch() -> None:
    """Let vLLM's one worker meet itself through a file instead of a port; call it in the engine process."""
    place = Path(tempfile.mkdtemp(prefix="lakemill-engine-")) / "store"
    _replace("vllm.v1.executor.uniproc_executor", "get_distributed_init_method", lambda _: lambda *_: f"file://{place}")


def _bound(original: Callable[[Any, str], int]) -> Callable[[Any, str], int]:
    return lambda server, address: original(server, f"{ADDRESS}:{address.rpartition(':')[2]}")


def _replace(module_name: str, attribute: str, make: Callable[[Any], Any]) -> None:
    module = importlib.import_module(module_name)
    original = getattr(module, attribute, None)
    if original is None:
        log.warning("%s.%s is gone: a port may be open beyond this machine", module_name, attribute)
        return
    setattr(module, attribute, make(original))
