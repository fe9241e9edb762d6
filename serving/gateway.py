"""The gateway: the one deployment that speaks HTTP, over the row service."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import serve
from starlette.types import ASGIApp

from lakemill.serving import loopback
from lakemill.serving.engine import ModelInfo
from lakemill.serving.http import build_app
from lakemill.serving.journal import SqliteJournal
from lakemill.serving.remote import RemoteEngine
from lakemill.serving.service import RowService

_MANY = 10_000  # the service itself bounds what is open, and says so to the client


@serve.deployment(name="gateway", max_ongoing_requests=_MANY, ray_actor_options={"num_cpus": 0})
@serve.ingress()
class Gateway:
    """Hold the row service.

    Args:
        handles: The deployment handle of each model.
        infos: What each model is.
        journal: The file of the journal.
        token: The bearer token that requests must carry.
    """

    def __init__(
        self, handles: Mapping[str, Any], infos: Mapping[str, ModelInfo], journal: Path, token: str | None
    ) -> None:
        loopback.serve()
        engines = {name: RemoteEngine(infos[name], handle) for name, handle in handles.items()}
        self._service = RowService(engines, SqliteJournal(journal), token)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return the application that answers HTTP."""
        return build_app(self._service)

    async def close(self) -> None:
        """Fail what is in flight, write what is finished; the replicas are closed by whoever started them."""
        await self._service.close()
