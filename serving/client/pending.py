"""A row between the question and its answer."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from lakemill.rows import ErrorCode, RowAnswer, RowError

if TYPE_CHECKING:
    from lakemill.serving.client.delivery import Delivery


class Pending:
    """Hold one row that waits: its bytes, how often it was sent, and the future of its answer."""

    __slots__ = ("asked_at", "attempts", "body", "failed_at", "future", "id", "key", "owner")

    def __init__(self, row_id: str, body: bytes, future: asyncio.Future[RowAnswer], *, asked_at: float) -> None:
        self.id = row_id
        self.body = body
        self.future = future
        self.asked_at = asked_at
        self.attempts = 0
        self.failed_at: float | None = None
        self.owner: Delivery | None = None
        self.key: str | None = None

    @property
    def done(self) -> bool:
        """Tell whether nobody waits for the row any more."""
        return self.future.done()

    def settle(self, answer: RowAnswer) -> None:
        """Hand over the answer; a second one is dropped."""
        if not self.future.done():
            self.future.set_result(answer)

    def fail(self, error: RowError) -> None:
        """Hand over an error, with the number of times that the row was really sent."""
        self.settle(RowAnswer(self.id, error=replace(error, attempts=self.attempts), key=self.key))


def refused(key: str | None, code: ErrorCode, message: str) -> RowAnswer:
    """Return the answer of a row that never left the worker."""
    return RowAnswer("", error=RowError(code, message, 0), key=key)
