"""One request on its way: send it, hand out the answers, and say what is to be asked again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lakemill.rows import ErrorCode, RowAnswer, RowError
from lakemill.serving.client.ask import request_bytes
from lakemill.serving.client.batcher import Lane
from lakemill.serving.client.failures import BrokenError, RefusedError
from lakemill.serving.client.pending import Pending

if TYPE_CHECKING:
    from lakemill.serving.client.desk import Desk

logger = logging.getLogger(__name__)

# So many rows refused one by one, in the same words and with none accepted before: it is the request.
_SAME_REFUSALS = 8


class Delivery:
    """Bring the rows of one request to the service; every row ends answered, failed or asked again."""

    def __init__(self, desk: Desk, lane: Lane, rows: Sequence[Pending]) -> None:
        self._desk = desk
        self._lane = lane
        self._rows = rows
        self._missing: dict[str, Pending] = {}
        self._unanswered = len(rows)
        self._strange = 0
        for row in rows:
            row.owner = self

    async def run(self) -> None:
        """Send the request, in halves where the service refuses it as a whole."""
        parcels = [list(self._rows)]
        try:
            while parcels:
                parcels.extend(await self._send(parcels.pop()))
        except Exception as error:
            logger.exception("the row client failed")
            self._fail_rest(RowError(ErrorCode.INTERNAL, f"the row client failed: {error!r}"))
        except asyncio.CancelledError:
            self._fail_rest(RowError(ErrorCode.CANCELLED, "the query was stopped"))
            raise
        finally:
            self._done_with(self._unanswered)
            self._warn_of_strange()

    def is_forsaken(self) -> bool:
        """Tell whether nobody waits for any of the rows."""
        return all(row.done for row in self._rows)

    async def _send(self, parcel: list[Pending]) -> list[list[Pending]]:
        self._missing = {row.id: row for row in parcel if not row.done}
        if not self._missing:
            return []
        for row in self._missing.values():
            row.attempts += 1
        body = request_bytes(self._lane.head, [row.body for row in self._missing.values()])
        try:
            await self._desk.transport.exchange(body, self._take)
        except RefusedError as refusal:
            return self._on_refused(refusal)
        except BrokenError as broken:
            self._on_broken(broken)
        else:
            self._on_complete()
        return []

    def _on_complete(self) -> None:
        self._lane.accepted = True
        if self._missing:
            self._on_broken(BrokenError(f"the service left out {len(self._missing)} rows"))

    def _on_broken(self, broken: BrokenError) -> None:
        rows = self._release()
        if rows:
            error = RowError(ErrorCode.ENGINE_UNAVAILABLE, str(broken))
            self._desk.unavailable(self._lane, rows, error, since=broken.since)

    def _on_refused(self, refusal: RefusedError) -> list[list[Pending]]:
        if refusal.divisible and len(self._missing) > 1 and not self._is_hopeless(refusal):
            return self._halves()
        rows = self._release()
        error = RowError(refusal.code, refusal.message)
        if refusal.is_unavailable:
            self._desk.unavailable(self._lane, rows, error, at_least_s=refusal.retry_after_s)
            return []
        self._desk.breaker.succeeded()
        if refusal.retryable:
            self._desk.retry(self._lane, rows, error, at_least_s=refusal.retry_after_s)
            return []
        self._note(refusal)
        for row in rows:
            row.fail(error)
        return []

    def _halves(self) -> list[list[Pending]]:
        # Every other row: neighbours are often alike, and a fair sample shows soon whether all are bad.
        rows = list(self._missing.values())
        for row in rows:
            row.attempts -= 1
        return [rows[1::2], rows[::2]]

    def _is_hopeless(self, refusal: RefusedError) -> bool:
        lane = self._lane
        return not lane.accepted and lane.refusals >= _SAME_REFUSALS and lane.refusal == refusal.message

    def _note(self, refusal: RefusedError) -> None:
        same = self._lane.refusal == refusal.message
        self._lane.refusals = self._lane.refusals + 1 if same else 1
        self._lane.refusal = refusal.message

    def _take(self, lines: list[dict[str, Any]]) -> bool:
        self._lane.accepted = True
        before = len(self._missing)
        again: list[tuple[Pending, RowError]] = []
        try:
            for line in lines:
                self._take_line(line, again)
        finally:
            answered = before - len(self._missing)
            self._done_with(answered)
            self._desk.heard(answered, failures=[error for _, error in again])
            for error, rows in _by_error(again).items():
                self._desk.retry(self._lane, rows, error)
        return bool(self._missing)

    def _take_line(self, line: Mapping[str, Any], again: list[tuple[Pending, RowError]]) -> None:
        row = self._missing.pop(line.get("id", ""), None)
        if row is None:
            self._on_strange(line)
            return
        try:
            answer = RowAnswer.from_json(line)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            self._missing[row.id] = row
            raise BrokenError(f"the answer held a line that is not an answer: {error!r}") from error
        if answer.error is None:
            row.settle(answer)
        elif self._desk.worth_retrying(answer.error):
            row.owner = None
            again.append((row, answer.error))
        else:
            row.settle(replace(answer, error=replace(answer.error, attempts=row.attempts)))

    def _on_strange(self, line: Mapping[str, Any]) -> None:
        if "summary" in line:
            return
        error = line.get("error")
        if "id" not in line and isinstance(error, Mapping):
            raise BrokenError(str(error.get("message") or "the service gave up in the middle of its answers"))
        self._strange += 1

    def _warn_of_strange(self) -> None:
        if self._strange:
            logger.warning("ignored %d answers with an id that was not asked, or was answered before", self._strange)

    def _release(self) -> list[Pending]:
        """Give up the rows without an answer, and return those that somebody still waits for."""
        rows, self._missing = list(self._missing.values()), {}
        self._done_with(len(rows))
        for row in rows:
            row.owner = None
        return [row for row in rows if not row.done]

    def _fail_rest(self, error: RowError) -> None:
        self._missing = {}
        for row in self._rows:
            if row.owner is self:
                row.fail(error)

    def _done_with(self, rows: int) -> None:
        self._unanswered -= rows
        self._desk.batcher.answered(rows)


def _by_error(again: Sequence[tuple[Pending, RowError]]) -> dict[RowError, list[Pending]]:
    # Rows that failed alike come back together: one timer, and one request, for all of them.
    groups: dict[RowError, list[Pending]] = {}
    for row, error in again:
        groups.setdefault(replace(error, attempts=0), []).append(row)
    return groups
