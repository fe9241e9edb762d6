"""Run a contract service in a thread of this process: what tests talk to."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import uvicorn

from lakemill.errors import ServingError
from lakemill.serving import catalog, status
from lakemill.serving.contract import ContractEngine
from lakemill.serving.engine import ModelInfo
from lakemill.serving.http import build_app
from lakemill.serving.journal import Journal, MemoryJournal, SqliteJournal
from lakemill.serving.service import Limits, RowService
from lakemill.settings import Paths

logger = logging.getLogger(__name__)

_KINDS = ("generate", "choose", "embed", "count")
_START_S = 10.0


def listen(port: int = 0, *, host: str = "127.0.0.1") -> socket.socket:
    """Return a socket that listens on a loopback port; port 0 takes any free one.

    Raises:
        ServingError: The port is taken.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(2048)
    except OSError as error:
        sock.close()
        raise ServingError(
            f"port {port} on {host} is taken ({error.strerror})",
            hint="choose another with --port, or --port 0 for any free one",
        ) from error
    return sock


class AppServer:
    """Serve a `RowService` over HTTP from a thread until `stop`."""

    def __init__(self, service: RowService, sock: socket.socket) -> None:
        self.service = service
        self._sock = sock
        host, port = sock.getsockname()[:2]
        self.url = f"http://{host}:{port}"
        config = uvicorn.Config(
            build_app(service),
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=3,
            ws="none",
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="lakemill-service", daemon=True)

    def start(self) -> None:
        """Start serving; return when requests are taken.

        Raises:
            ServingError: It does not come up in time.
        """
        self._thread.start()
        deadline = time.monotonic() + _START_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise ServingError(f"the service at {self.url} does not come up")
            time.sleep(0.005)

    @property
    def alive(self) -> bool:
        """Tell whether it still serves."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End open requests, close the service, free the port; safe to call twice."""
        self._server.should_exit = True
        self._thread.join(timeout=15)
        self._sock.close()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        try:
            await self._server.serve(sockets=[self._sock])
        finally:
            await self.service.close()


class ContractServer:
    """Hold a running contract service; a context manager.

    Attributes:
        url: Its address.
        token: The bearer token that it asks for.
        engine: The engine of its first model (`asked` counts request keys).
        engines: Every engine by model name.
        service: The row service.
    """

    def __init__(self, engines: Sequence[ContractEngine], journal: Journal, token: str | None, **options: Any) -> None:
        self.token = token
        self.engine = engines[0]
        self.engines = {engine.model.name: engine for engine in engines}
        self.service = RowService(self.engines, journal, token, limits=options.get("limits"))
        self._app = AppServer(self.service, listen(options.get("port", 0)))
        self._paths: Paths | None = options.get("paths")
        self.url = self._app.url

    def start(self) -> Self:
        """Start serving; with a home, write its serving.json and token."""
        self._app.start()
        if self._paths is not None:
            models = [status.ModelStatus.of(engine.model) for engine in self.engines.values()]
            found = status.ServingStatus(url=self.url, pid=os.getpid(), owner="serve", engine="contract", state="ready")
            status.write(self._paths, found.with_models(models))
            if self.token is not None:
                self._paths.token.write_text(self.token, encoding="utf-8")
                self._paths.token.chmod(0o600)
        return self

    def stop(self) -> None:
        """Stop serving; safe to call twice."""
        self._app.stop()
        if self._paths is not None:
            status.remove(self._paths, os.getpid())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def serve_contract(
    home: str | os.PathLike[str] | None = None,
    *,
    token: str | None = "contract-token",  # noqa: S107 - for tests on a loopback port
    models: Sequence[ModelInfo] | None = None,
    port: int = 0,
    limits: Limits | None = None,
    **engine: Any,
) -> ContractServer:
    """Start a contract service on a free loopback port, in a thread.

    Args:
        home: A LAKEMILL_HOME: the journal, the token and serving.json go there. None keeps answers in memory.
        token: The bearer token to ask for; None asks for none.
        models: What to serve; default: every model of the catalog.
        port: Port on 127.0.0.1; 0 takes any free one.
        limits: What is taken in at once.
        engine: Options of `ContractEngine`.

    Returns:
        The running service; `stop()` it, or use it as a context manager.

    Example:
        >>> with serve_contract() as server:
        ...     server.url.startswith("http://127.0.0.1:")
        True
    """
    infos = models or [ModelInfo(e.name, e.version, e.context, _KINDS) for e in catalog.entries().values()]
    paths = None if home is None else Paths(Path(home).resolve())
    journal = MemoryJournal() if paths is None else SqliteJournal(paths.journal / "answers.sqlite")
    engines = [ContractEngine(info, **engine) for info in infos]
    return ContractServer(engines, journal, token, paths=paths, port=port, limits=limits).start()
