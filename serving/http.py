"""HTTP over a `RowService`: rows, models, health and metrics, as one ASGI application."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from lakemill.errors import RequestRefusedError
from lakemill.rows import RETRYABLE, ErrorCode
from lakemill.serving import protocol
from lakemill.serving.metrics import CONTENT_TYPE
from lakemill.serving.params import refuse
from lakemill.serving.service import RowService, RowStream

logger = logging.getLogger(__name__)


def build_app(service: RowService) -> ASGIApp:
    """Return the ASGI application of a service; whoever runs it closes the service.

    It needs no lifespan events, so it runs under uvicorn and under Ray Serve's ingress alike.
    """
    endpoints: list[tuple[str, str, Callable[[RowService, Request], Awaitable[Response]]]] = [
        ("/v1/rows", "POST", _rows),
        ("/v1/models", "GET", _models),
        ("/healthz", "GET", _healthz),
        ("/metrics", "GET", _metrics),
    ]
    routes = [Route(path, _bound(service, handler), methods=[method]) for path, method, handler in endpoints]
    handlers = {
        RequestRefusedError: _refused,
        HTTPException: _http_error,
        ClientDisconnect: _gone,
        Exception: _broken,
    }
    return Starlette(routes=routes, exception_handlers=handlers)  # type: ignore[arg-type]


def _bound(
    service: RowService, handler: Callable[[RowService, Request], Awaitable[Response]]
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return await handler(service, request)

    return endpoint


async def _rows(service: RowService, request: Request) -> Response:
    service.authorize(request.headers.get("authorization"))
    parsed = protocol.parse(await _body(request))
    return _RowsResponse(service.open(parsed))


async def _models(service: RowService, request: Request) -> Response:
    service.authorize(request.headers.get("authorization"))
    return _json(service.models())


async def _healthz(service: RowService, _: Request) -> Response:
    engines = await service.health()
    well = all(state == "ok" for state in engines.values())
    return _json({"status": "ok" if well else "unavailable", "engines": engines}, status=200 if well else 503)


async def _metrics(service: RowService, _: Request) -> Response:
    # Counts and model names only, no content: open like /healthz, for a scraper on this machine.
    return Response(service.metrics.expose(), media_type=CONTENT_TYPE)


async def _body(request: Request) -> bytes:
    limit = protocol.MAX_BODY_BYTES
    problem = f"larger than {limit >> 20} MiB; send fewer rows a request"
    if int(request.headers.get("content-length") or 0) > limit:
        raise refuse("body", problem, status=413)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise refuse("body", problem, status=413)
    return bytes(body)


class _RowsResponse(StreamingResponse):
    """Stream the answers of one request, and give its places back however the stream ends."""

    def __init__(self, stream: RowStream) -> None:
        self._stream = stream
        self._lines = _lines(stream)
        super().__init__(self._lines, media_type="application/x-ndjson")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except (OSError, ClientDisconnect):
            logger.info("a client went away before its last row")
        finally:
            self._stream.close()
            with contextlib.suppress(RuntimeError):
                await self._lines.aclose()


async def _lines(stream: RowStream) -> AsyncGenerator[bytes]:
    async for chunk in stream.chunks():
        # The summary goes along with the last answers: one flush less.
        yield protocol.lines(chunk) + (b"" if stream.left else protocol.summary(stream.rows, stream.failed))
    if not stream.rows:
        yield protocol.summary(0, 0)


def _json(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(protocol.dump(value), status_code=status, headers=headers, media_type="application/json")


def _error(code: str, message: str, *, status: int, headers: dict[str, str] | None = None) -> Response:
    body = {"code": code, "message": message, "retryable": code in RETRYABLE}
    return _json({"error": body}, status=status, headers=headers)


async def _refused(_: Request, error: RequestRefusedError) -> Response:
    headers: dict[str, str] = {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    return _error(error.code, error.message, status=error.status, headers=headers)


async def _http_error(request: Request, error: HTTPException) -> Response:
    paths = "POST /v1/rows, GET /v1/models, GET /healthz, GET /metrics"
    message = f"{request.method} {request.url.path}: {error.detail}; there are {paths}"
    return _error("INVALID_REQUEST", message, status=error.status_code, headers=dict(error.headers or {}))


async def _gone(_: Request, __: ClientDisconnect) -> Response:
    return _error(ErrorCode.CANCELLED.value, "the client went away before its request was whole", status=400)


async def _broken(request: Request, error: Exception) -> Response:
    logger.error("%s %s failed: %s", request.method, request.url.path, error)
    return _error(ErrorCode.INTERNAL.value, f"{type(error).__name__}: {error}", status=500)
