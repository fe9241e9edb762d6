"""At the end of a query: one warning with counts by code, and its failures in `lakemill.run_errors`.

Spark calls the listener on a thread of its own, after the query. The warning is cheap and is told there;
the table is written by another thread, so that nothing waits and the write's own events find nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, ClassVar

from lakemill import control
from lakemill.udfs.tally import Failure, Tally

if TYPE_CHECKING:
    from lakemill.udfs.functions import Functions

_log = logging.getLogger(__name__)
_END: Any = None
_STOP_S = 10.0


class _Listener:
    class Java:
        implements: ClassVar[list[str]] = ["org.apache.spark.sql.util.QueryExecutionListener"]

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def onSuccess(self, name: str, execution: Any, duration: int) -> None:  # noqa: N802, ARG002  # Spark's names
        self._watcher.look()

    def onFailure(self, name: str, execution: Any, error: Any) -> None:  # noqa: N802, ARG002  # Spark's names
        self._watcher.look()


class Watcher:
    """Watch the queries of one session."""

    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        self._todo: SimpleQueue[list[Failure]] = SimpleQueue()
        self._pending = 0
        self._idle = threading.Condition()
        self._records = True
        self._listener = _Listener(self)
        self._manager: Any = functions.spark._jsparkSession.listenerManager()  # noqa: SLF001
        self._manager.register(self._listener)
        self._thread = threading.Thread(target=self._write, name="lakemill-failures", daemon=True)
        self._thread.start()

    def look(self) -> None:
        """Take what the workers told, and tell the user; never raises into Spark's thread."""
        try:
            told = self._functions.drain()
            if not told.failed:
                return
            _log.warning("%s", summary(told, kept=self._records))
            with self._idle:
                self._pending += 1
            self._todo.put(told.failures)
        except Exception:
            _log.debug("the failures of a query could not be told", exc_info=True)

    def flush(self, timeout_s: float) -> None:
        """Wait until Spark's events have come and everything is written."""
        deadline = time.monotonic() + timeout_s
        context: Any = self._functions.spark.sparkContext._jsc.sc()  # noqa: SLF001
        context.listenerBus().waitUntilEmpty(int(timeout_s * 1000))
        self.look()  # rows read one by one (toLocalIterator) fail after Spark has told of their query's end
        with self._idle:
            self._idle.wait_for(lambda: self._pending == 0, max(0.0, deadline - time.monotonic()))

    def stop(self) -> None:
        """Stop watching: the functions are attached anew."""
        self._manager.unregister(self._listener)
        self._todo.put(_END)
        self._thread.join(_STOP_S)

    def _write(self) -> None:
        while (failures := self._todo.get()) is not _END:
            try:
                self._append(failures)
            finally:
                with self._idle:
                    self._pending -= 1
                    self._idle.notify_all()

    def _append(self, failures: list[Failure]) -> None:
        if not self._records:
            return
        spark = self._functions.spark
        context = spark.sparkContext
        try:
            control.append_errors(spark, [_record(each, context.applicationId, context.appName) for each in failures])
        except Exception as error:
            # The session may have ended, or have no Delta: the query itself is fine either way.
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._records = False
        described = getattr(error, "java_exception", None)
        text = str(error if described is None else described.getMessage())
        cause = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
        _log.warning("failed rows of this session are not recorded in lakemill.run_errors: %s", cause)


def summary(told: Tally, *, kept: bool = True) -> str:
    """Return the warning of a query: how many rows failed, by function and code.

    Example:
        >>> summary(Tally(rows=9, failed=Counter({("ai_gen", "TIMEOUT"): 2})))
        'ai_gen: 2 of 9 rows failed (TIMEOUT 2); try_ai_gen shows each error, lakemill.run_errors keeps them'
    """
    functions = list(dict.fromkeys(function for function, _ in told.failed))
    codes: Counter[str] = Counter()
    for (_, code), count in told.failed.items():
        codes[code] += count
    listed = ", ".join(f"{code} {count}" for code, count in codes.most_common())
    names, tries = ", ".join(functions), ", ".join(f"try_{name}" for name in functions)
    shows = "shows" if len(functions) == 1 else "show"
    return (
        f"{names}: {sum(codes.values())} of {told.rows} rows failed ({listed}); "
        f"{tries} {shows} each error{', lakemill.run_errors keeps them' if kept else ''}"
    )


def _record(failure: Failure, application: str | None, name: str | None) -> dict[str, Any]:
    return {
        "run_id": f"{application}/{failure.query}",
        "origin": "sql",
        "name": name,
        "step": None,
        "function": failure.function,
        "key": failure.key,
        "row_key": None,
        "code": failure.error.code.value,
        "message": failure.error.message,
        "retryable": failure.error.retryable,
        "attempts": failure.error.attempts,
        "model": failure.model,
        "time": datetime.fromtimestamp(failure.time, UTC),
    }
