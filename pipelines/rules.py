"""When a job with failed rows is a failed job."""

from __future__ import annotations

from lakemill.errors import RowFailedError
from lakemill.pipelines.flow import Counts, Flow
from lakemill.pipelines.record import Outcome


class RuleError(RowFailedError):
    """Raised when too many rows failed; the ledger has every answer, the sink is as it was."""

    def __init__(self, message: str, *, hint: str | None = None, outcome: Outcome | None = None) -> None:
        super().__init__(message, hint=hint)
        self.outcome = outcome


def broken(flow: Flow, counts: Counts) -> str | None:
    """Return which rule of the job its failed rows break, or None."""
    if not counts.failed:
        return None
    codes = ", ".join(f"{code} {number}" for code, number in counts.failed_by_code.items())
    if flow.on_error == "fail":
        return f"{counts.failed} calls failed ({codes}) and on_error is fail"
    if flow.max_errors is not None and counts.failed_rows > flow.max_errors:
        return f"{counts.failed_rows} rows failed ({codes}), more than limits.max_errors = {flow.max_errors}"
    ratio = counts.failed_rows / max(1, counts.rows)
    if flow.max_error_ratio is not None and ratio > flow.max_error_ratio:
        return (
            f"{counts.failed_rows} of {counts.rows} rows failed ({codes}), "
            f"more than limits.max_error_ratio = {flow.max_error_ratio:g}"
        )
    return None
