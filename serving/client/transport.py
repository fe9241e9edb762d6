"""One HTTP exchange: rows out, answer lines in as they come."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

import aiohttp

from lakemill.serving.client.backoff import retry_after_s
from lakemill.serving.client.endpoint import Endpoint
from lakemill.serving.client.failures import BrokenError, RefusedError, code_of
from lakemill.serving.client.limits import ClientLimits
from lakemill.serving.client.lines import LineReader

_ERROR_BODY_BYTES = 64 * 1024
_READ_BYTES = 256 * 1024
_JSON_HEADERS = {"Content-Type": "application/json"}
# How long an answered request may still take to say that it is over.
_LAST_WORDS_S = 1.0
Take: TypeAlias = Callable[[list[dict[str, Any]]], bool]
T = TypeVar("T")


class Transport:
    """Hold the HTTP session of one endpoint; lives in the client's event loop."""

    def __init__(self, endpoint: Endpoint, limits: ClientLimits) -> None:
        self._endpoint = endpoint
        self._limits = limits
        self._session: aiohttp.ClientSession | None = None

    async def exchange(self, body: bytes, take: Take) -> None:
        """Send one request and hand its answer lines to `take`, which tells whether rows are missing.

        Raises:
            RefusedError: The service answered with an HTTP error.
            BrokenError: The stream ended without its summary line.
        """
        try:
            async with await self._post(body) as response:
                if response.status != 200:
                    raise await _refusal(response)
                await self._read(response.content, take)
        except (aiohttp.ClientError, OSError) as error:
            raise BrokenError(f"{self._endpoint.url}: {_said(error)}") from error

    async def healthy(self) -> bool:
        """Tell whether `/healthz` answers that all is well, in time."""
        timeout = aiohttp.ClientTimeout(total=self._limits.health_s)
        try:
            async with self._open().get(f"{self._endpoint.url}/healthz", timeout=timeout) as response:
                return response.status == 200
        except (aiohttp.ClientError, OSError):
            return False

    async def close(self) -> None:
        """Close the sockets; safe to call twice."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._limits.connect_s)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), timeout=timeout, read_bufsize=_READ_BYTES
            )
        return self._session

    async def _post(self, body: bytes) -> aiohttp.ClientResponse:
        headers = self._endpoint.headers | _JSON_HEADERS
        post = asyncio.ensure_future(self._open().post(f"{self._endpoint.url}/v1/rows", data=body, headers=headers))
        try:
            return await self._watched(lambda: asyncio.shield(post))
        except BaseException:
            post.cancel()
            for late in await asyncio.gather(post, return_exceptions=True):
                if isinstance(late, aiohttp.ClientResponse):
                    late.close()  # it began in the very moment of the cancel, and would be generated to its end
            raise

    async def _read(self, content: aiohttp.StreamReader, take: Take) -> None:
        # Lines that arrive in the same moment as a cut are lost with it; the service still knows them.
        reader = LineReader()
        complete = False
        while chunk := await self._watched(content.readany):
            lines = reader.push(chunk)
            complete = complete or any("summary" in line for line in lines)
            if not take(lines):
                await self._hear_out(content)
                return
            if reader.bad is not None:
                raise BrokenError(f"{self._endpoint.url}: the answer held a line that is not JSON: {reader.bad!r}")
        if not complete:
            half = " in the middle of a line" if reader.has_half_line else ""
            raise BrokenError(f"{self._endpoint.url}: the stream of answers was cut{half}")

    async def _hear_out(self, content: aiohttp.StreamReader) -> None:
        """Read to the end, so that the connection can be used again, but do not wait long for it."""
        with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
            async with asyncio.timeout(_LAST_WORDS_S):
                while await content.readany():
                    pass

    async def _watched(self, step: Callable[[], Awaitable[T]]) -> T:
        """Wait for a step; after each silence ask /healthz whether waiting on makes sense."""
        heard_at = time.monotonic()
        while True:
            watch = asyncio.timeout(self._limits.silence_s)
            try:
                async with watch:
                    return await step()
            except TimeoutError:
                if not watch.expired():  # a connection that was not opened in time, not our silence
                    raise
                await self._check_silence(heard_at)

    async def _check_silence(self, heard_at: float) -> None:
        silent_s = time.monotonic() - heard_at
        if silent_s >= self._limits.silence_max_s:
            raise BrokenError(f"{self._endpoint.url}: no answer for {silent_s:.0f} s", since=heard_at)
        if not await self.healthy():
            raise BrokenError(f"{self._endpoint.url}: silent, and /healthz is not well", since=heard_at)


async def _refusal(response: aiohttp.ClientResponse) -> RefusedError:
    error = _error_of(await _up_to(response.content, _ERROR_BODY_BYTES))
    message = str(error.get("message") or f"the service answered {response.status} {response.reason} to POST /v1/rows")
    pause_s = retry_after_s(response.headers.get("Retry-After"))
    return RefusedError(response.status, code_of(response.status, error.get("code")), message, retry_after_s=pause_s)


async def _up_to(content: aiohttp.StreamReader, size: int) -> bytes:
    try:
        return await content.readexactly(size)
    except asyncio.IncompleteReadError as end:
        return end.partial


def _error_of(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    error = value.get("error") if isinstance(value, dict) else None
    return error if isinstance(error, dict) else {}


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
