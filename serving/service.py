"""The row service: authentication, keys, journal, single flight, over one engine a model."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from lakemill import keys
from lakemill.errors import RequestRefusedError, ServingError
from lakemill.rows import ErrorCode, Row, RowAnswer, RowRequest
from lakemill.serving.engine import Engine
from lakemill.serving.flights import Flights, Landed, check
from lakemill.serving.journal import Journal
from lakemill.serving.metrics import Metrics
from lakemill.serving.params import refuse
from lakemill.serving.protocol import ParsedRequest, bad_row

logger = logging.getLogger(__name__)

_KEYS_A_TURN = 64  # keys computed before other requests get the loop again


@dataclass(frozen=True, slots=True)
class Limits:
    """Bound what a service takes in.

    Args:
        open_rows: Rows that may be open at once, over all requests; more is refused with 503.
        flush_s: Seconds between two chunks of an answer stream.
        stall_s: Seconds without a completion after which the engine's health is asked.
    """

    open_rows: int = 16_384
    flush_s: float = 0.025
    stall_s: float = 30.0


class RowService:
    """Answer row requests.

    Args:
        engines: One engine a public model name.
        journal: Where finished answers are kept; None keeps none.
        token: The bearer token that requests must carry; None asks for none.
        limits: What is taken in at once.
    """

    def __init__(
        self,
        engines: Mapping[str, Engine],
        journal: Journal | None = None,
        token: str | None = None,
        *,
        limits: Limits | None = None,
    ) -> None:
        self.engines = dict(engines)
        self.metrics = Metrics()
        self.limits = limits or Limits()
        self._token = token
        self._open = 0
        self._flights = Flights(journal, self.metrics, flush_s=self.limits.flush_s, stall_s=self.limits.stall_s)

    def authorize(self, header: str | None) -> None:
        """Return when the Authorization header carries the token.

        Raises:
            RequestRefusedError: 401, it does not.
        """
        if self._token is None:
            return
        scheme, _, given = (header or "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token.encode()):
            return
        what = "a wrong bearer token" if header else "no bearer token (Authorization: Bearer ...)"
        raise RequestRefusedError(ErrorCode.UNAUTHENTICATED.value, f"the request carries {what}", status=401)

    def models(self) -> dict[str, Any]:
        """Return the models that a request may name, as `GET /v1/models` tells them."""
        data = [
            {
                "id": name,
                "object": "model",
                "owned_by": "lakemill",
                "version": engine.model.version,
                "context": engine.model.context,
                "kinds": list(engine.model.kinds),
            }
            for name, engine in self.engines.items()
        ]
        return {"object": "list", "data": data}

    async def health(self) -> dict[str, str]:
        """Ask every engine; return "ok" or the cause by model name."""

        async def ask(engine: Engine) -> str:
            try:
                await check(engine)
            except ServingError as error:
                return error.message
            return "ok"

        states = await asyncio.gather(*map(ask, self.engines.values()))
        return dict(zip(self.engines, states, strict=True))

    def open(self, parsed: ParsedRequest) -> RowStream:
        """Take a request in; the caller must close the stream that it gets.

        Raises:
            RequestRefusedError: The model is unknown, it lacks the kind, or too many rows are open.
        """
        engine = self._engine(parsed.request)
        # Flights count beside open rows: a client that went away may have left its generations behind.
        if max(self._open, len(self._flights)) + parsed.size > self.limits.open_rows:
            message = f"{self._open} rows are open, at most {self.limits.open_rows} may be"
            raise RequestRefusedError(ErrorCode.RATE_LIMITED.value, message, status=503, retry_after_s=1)
        self.metrics.requests.inc()
        return RowStream(self, parsed, engine)

    async def close(self) -> None:
        """Fail what is in flight, keep what is finished, close engines and journal."""
        await self._flights.close()
        for engine in self.engines.values():
            await engine.close()

    def _engine(self, request: RowRequest) -> Engine:
        engine = self.engines.get(request.model)
        if engine is None:
            message = f"model: {request.model!r} is not served; served models: {', '.join(self.engines) or 'none'}"
            raise RequestRefusedError(ErrorCode.MODEL_NOT_FOUND.value, message, status=404)
        if request.kind not in engine.model.kinds:
            raise refuse(
                "kind", f"{request.model} does not do {request.kind!r}; it does {', '.join(engine.model.kinds)}"
            )
        return engine

    def _count_open(self, change: int) -> None:
        self._open += change
        self.metrics.open_rows.set(self._open)


class RowStream:
    """Answer the rows of one request; iterate `chunks` and then `close`.

    `rows` counts what the client sent, `left` what `chunks` has not yielded yet, `failed` what it yielded with
    an error.
    """

    def __init__(self, service: RowService, parsed: ParsedRequest, engine: Engine) -> None:
        self.rows = parsed.size
        self.failed = 0
        self._service = service
        self._request = parsed.request
        self._engine = engine
        self._ready: list[RowAnswer] = list(parsed.refused)
        self._arrived = asyncio.Event()
        self.left = parsed.size
        self._started = time.perf_counter()
        self._closed = False
        service._count_open(parsed.size)  # noqa: SLF001 - one unit with its service

    async def chunks(self) -> AsyncIterator[list[RowAnswer]]:
        """Yield answers in order of completion, several at a time; each row exactly once."""
        self._launch(await self._keyed())
        while self.left:
            self._arrived.clear()
            if not self._ready:
                await self._arrived.wait()
            if len(self._ready) < self.left:
                # A flush costs more than a row: what completes in the next moments goes along.
                await asyncio.sleep(self._service.limits.flush_s)
            chunk, self._ready = self._ready, []
            self.left -= len(chunk)
            yield self._counted(chunk)

    def close(self) -> None:
        """Give the places of the rows back; safe to call twice."""
        if not self._closed:
            self._closed = True
            self._service._count_open(-self.rows)  # noqa: SLF001 - one unit with its service

    async def _keyed(self) -> list[tuple[str, Row]]:
        keyed: list[tuple[str, Row]] = []
        for number, row in enumerate(self._request.rows):
            try:
                keyed.append((request_key_of(self._request, row, self._engine), row))
            except (ValueError, RecursionError) as error:
                self._ready.append(bad_row(row.id, f"no key can be computed: {error}", key=row.key))
            if number % _KEYS_A_TURN == _KEYS_A_TURN - 1:
                await asyncio.sleep(0)
        return keyed

    def _launch(self, keyed: list[tuple[str, Row]]) -> None:
        flights, new = self._service._flights.claim(self._engine, self._request, keyed)  # noqa: SLF001 - one unit
        for key, row in keyed:
            shared = key not in new
            new.discard(key)  # the next equal row of this request shares too
            if shared:
                self._service.metrics.shared.labels(self._request.model).inc()
            flights[key].landed.add_done_callback(partial(self._land, row, shared))

    def _land(self, row: Row, shared: bool, landed: asyncio.Future[Landed]) -> None:
        self._ready.append(self._answer(row, landed.result(), shared=shared))
        self._arrived.set()

    def _answer(self, row: Row, landed: Landed, *, shared: bool) -> RowAnswer:
        made = landed.completion
        waited_ms = (time.perf_counter() - self._started) * 1e3
        cached = landed.journaled or (shared and made.error is None)
        return RowAnswer(
            id=row.id,
            result=made.result,
            scores=made.scores,
            error=made.error if made.error is None else replace(made.error, attempts=1),
            finish_reason=made.finish_reason,
            usage=made.usage,
            model=self._engine.model.qualified,
            cached=cached,
            latency_ms=round(waited_ms if cached or not made.latency_ms else made.latency_ms, 3),
            key=row.key,
        )

    def _counted(self, chunk: list[RowAnswer]) -> list[RowAnswer]:
        for answer in chunk:
            self.failed += answer.error is not None
            self._service.metrics.answered(self._request.model, answer)
        return chunk


def request_key_of(request: RowRequest, row: Row, engine: Engine) -> str:
    """Return the journal's key of one row.

    Raises:
        ValueError: The row has no canonical JSON form.
    """
    # The kind is part of what is asked: choosing among texts and generating one of them differ in their answer.
    kind = {} if request.kind == "generate" else {"kind": request.kind}
    route = keys.route_key(
        model=request.model,
        messages=row.messages,
        prompt=row.prompt,
        params={**request.params, **kind},
        response_format=request.response_format,
    )
    return keys.request_key(route, engine.model.version)
