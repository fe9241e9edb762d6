"""Serve a `RowService` over HTTP from a thread of this process (uvicorn)."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import uvicorn

from lakemill.errors import ServingError
from lakemill.serving.http import build_app
from lakemill.serving.service import RowService

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
        hint = "choose another with --port, or --port 0 for any free one"
        raise ServingError(f"port {port} on {host} is taken ({error.strerror})", hint=hint) from error
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
