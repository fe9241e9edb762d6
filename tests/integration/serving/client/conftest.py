"""A small server that speaks the row protocol, and does wrong what a test tells it to."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from lakemill.serving.client import ClientLimits, Endpoint, RowClient, process

QUICK = ClientLimits(
    backoff_s=0.02,
    backoff_max_s=0.1,
    patience_s=0.5,
    probe_s=0.1,
    connect_s=1.0,
    silence_s=0.2,
    health_s=0.2,
    fill_s=0.02,
)

_WAIT_S = 30


def line(row: dict[str, Any], **changes: Any) -> dict[str, Any]:
    answer = {"id": row["id"], "key": row.get("key"), "result": f"said {row['prompt']}", "finish_reason": "stop"}
    return answer | {"usage": {"prompt_tokens": 3, "completion_tokens": 2}, "model": "stub@1"} | changes


@dataclass
class Stub:
    """Hold what the server has seen; `behave` replaces how it answers a request."""

    token: str | None = "secret"
    behave: Callable[[Stub, web.Request, dict[str, Any]], Any] | None = None
    healthy: bool = True
    pause_s: float = 0.0
    requests: list[dict[str, Any]] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    most_in_flight: int = 0
    closed_early: int = 0
    url: str = ""
    loop: asyncio.AbstractEventLoop | None = None

    async def rows(self, request: web.Request) -> web.StreamResponse:
        if self.token is not None and request.headers.get("Authorization") != f"Bearer {self.token}":
            return refuse(401, "UNAUTHENTICATED", "no or wrong token")
        body = await request.json()
        self.requests.append(body)
        self.asked.update(row["prompt"] for row in body["rows"])
        self.in_flight += len(body["rows"])
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await (self.behave or fine)(self, request, body)
        except (ConnectionResetError, asyncio.CancelledError):
            self.closed_early += 1
            raise
        finally:
            self.in_flight -= len(body["rows"])

    async def healthz(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok" if self.healthy else "sick"}, status=200 if self.healthy else 503)

    async def models(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return refuse(401, "UNAUTHENTICATED", "no or wrong token")
        model = {"id": "stub", "object": "model", "version": "1", "context": 2048, "kinds": ["generate"]}
        return web.json_response({"object": "list", "data": [model]})


def refuse(status: int, code: str, message: str, **headers: str) -> web.Response:
    error = {"error": {"code": code, "message": message, "retryable": status in {429, 503}}}
    return web.json_response(error, status=status, headers=headers)


async def stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    return response


async def write(response: web.StreamResponse, *values: Any) -> None:
    await response.write(b"".join(json.dumps(value).encode() + b"\n" for value in values))


async def fine(stub: Stub, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    response = await stream(request)
    if stub.pause_s:
        await asyncio.sleep(stub.pause_s)
    await write(response, *(line(row) for row in reversed(body["rows"])))
    await write(response, {"summary": {"rows": len(body["rows"]), "failed": 0}})
    await response.write_eof()
    return response


async def _start(stub: Stub, port: int = 0) -> web.AppRunner:
    app = web.Application(client_max_size=2**30)
    app.add_routes(
        [web.post("/v1/rows", stub.rows), web.get("/healthz", stub.healthz), web.get("/v1/models", stub.models)]
    )
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    stub.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    return runner


class Server:
    """Run the stub in a thread of its own."""

    def __init__(self) -> None:
        self.stub = Stub()
        self._loop = asyncio.new_event_loop()
        self.stub.loop = self._loop
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._runner: web.AppRunner | None = None
        self.up()

    def up(self) -> None:
        self._wait(self._up())

    def down(self) -> None:
        self._wait(self._down())

    def stop(self) -> None:
        self.down()
        self._wait(process.end_tasks())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_WAIT_S)
        self._loop.close()

    def _wait(self, step: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(step, self._loop).result(_WAIT_S)

    async def _up(self) -> None:
        port = int(self.stub.url.rpartition(":")[2] or 0)
        self._runner = await _start(self.stub, port)

    async def _down(self) -> None:
        runner, self._runner = self._runner, None  # taken before the first wait: several may ask at once
        if runner is not None:
            await runner.cleanup()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    process.close()
    running.stop()


@pytest.fixture
def stub(server: Server) -> Stub:
    return server.stub


@pytest.fixture
def client(stub: Stub) -> RowClient:
    return RowClient.shared(Endpoint(stub.url, "secret"), limits=QUICK)


@pytest.fixture
def kit() -> Any:
    """Give the tests the helpers of this file."""

    class Kit:
        quick = QUICK
        line = staticmethod(line)
        refuse = staticmethod(refuse)
        stream = staticmethod(stream)
        write = staticmethod(write)
        fine = staticmethod(fine)

    return Kit
