"""The body of the UDF: Arrow batches of texts → rows in one rolling window → Arrow batches of results."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from pyspark import TaskContext
from pyspark.accumulators import Accumulator
from pyspark.sql.pandas.types import to_arrow_type

from lakemill.errors import RowFailedError
from lakemill.rows import RowResult
from lakemill.serving.client import RowClient
from lakemill.udfs.call import Call
from lakemill.udfs.generate import row_result
from lakemill.udfs.result import Shape, cell, error_message
from lakemill.udfs.tally import Tally

_ROW_OVERHEAD = 64


@dataclass(frozen=True)
class Worker:
    """Answer the rows of one partition for one call; Spark calls it with an iterator of Arrow arrays.

    Yields one array a batch, in order and of the same length.
    """

    call: Call
    tally: Accumulator[Tally] | None = field(default=None, compare=False, repr=False)

    def __call__(self, batches: Iterator[pa.Array]) -> Iterator[pa.Array]:
        """Yield the call's column, batch by batch.

        Raises:
            RowFailedError: A row failed, and the call fails the query.
        """
        query = _query_id()
        for results in self._results(texts_of(batch) for batch in batches):
            self._report(results, query)
            yield self._column(results)

    def _results(self, batches: Iterator[list[str | None]]) -> Iterator[Sequence[RowResult | None]]:
        if self.call.shape is Shape.KEY:
            for texts in batches:
                yield [None if text is None else RowResult(self.call.key([text])) for text in texts]
            return
        client = RowClient.shared(self.call.endpoint)

        async def answer(text: str | None) -> RowResult | None:
            return None if text is None else await row_result(client, self.call, text)

        yield from client.map(batches, answer, size=_size)

    def _report(self, results: Sequence[RowResult | None], query: str | None) -> None:
        if self.call.fail:
            _fail_first(self.call.function, results)
        if self.tally is not None and self.call.record and self.call.shape is not Shape.KEY:
            self.tally.add(Tally.of(self.call.function, results, query, self.call.qualified))

    def _column(self, results: Sequence[RowResult | None]) -> pa.Array:
        cells = [cell(row, self.call.shape, self.call.task.result) for row in results]
        return pa.array(cells, type=to_arrow_type(self.call.type, timezone="UTC"))


def texts_of(batch: pa.Array) -> list[str | None]:
    """Return a column of bytes as texts; NULL and blank ones are None.

    Bytes that are not UTF-8 become U+FFFD, so that they cost no other row its answer.
    """
    return [_text(value) for value in batch.to_pylist()]


def _text(value: bytes | None) -> str | None:
    text = None if value is None else value.decode("utf-8", "replace")
    return text if text and not text.isspace() else None


def _size(text: str | None) -> int:
    return 0 if text is None else len(text) + _ROW_OVERHEAD


def _fail_first(function: str, results: Sequence[RowResult | None]) -> None:
    failed = next((row for row in results if row is not None and row.error is not None), None)
    if failed is None:
        return
    # Spark ends this process with the exception, so the switch outlives nothing: a row's error is
    # told without the traceback of code that did its work.
    os.environ["SPARK_HIDE_TRACEBACK"] = "1"
    raise RowFailedError(f"{function}: {error_message(failed.error)}")


def _query_id() -> str | None:
    context: Any = TaskContext.get()
    return None if context is None else context.getLocalProperty("spark.sql.execution.id")
