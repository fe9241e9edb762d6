"""The Ray Serve application: a gateway that speaks HTTP, and per model a deployment of vLLM replicas.

`run` starts a Ray of its own on the loopback address, behind a token; nothing outside this machine can reach it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from lakemill.errors import ServingError
from lakemill.serving.catalog import ModelEntry
from lakemill.settings import Paths

if TYPE_CHECKING:
    from lakemill.serving.ray_app import Running

# Of this process and all that it starts: no usage statistics, no hub, no address but loopback.
ENVIRONMENT: Mapping[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    # Ray runs its workers at nice 15: beside Spark on the same cores the engine would starve.
    "RAY_worker_niceness": "0",
    "RAY_AUTH_MODE": "token",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "TOKENIZERS_PARALLELISM": "false",
}


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
    # Who reaches a port of Ray can run code: other users of this machine must not.
    os.environ.update({**ENVIRONMENT, "RAY_AUTH_TOKEN": secrets.token_hex(32)})
    try:
        from lakemill.serving import ray_app  # noqa: PLC0415 - Ray reads the environment when it is imported
    except ImportError as error:
        hint = "install lakemill with its extra cpu or gpu, or use --engine contract"
        raise ServingError(f"vLLM or Ray is not installed: {error}", hint=hint) from error
    return ray_app.run(entries, paths=paths, port=port, token=token, on_stage=on_stage)
