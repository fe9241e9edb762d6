"""Every exception that lakemill raises, and nothing else.

A job, a command or a query fails by exception; a row fails by value (`lakemill.rows.RowError`).
"""

from __future__ import annotations

from typing import Any


class LakemillError(Exception):
    """Base class of every exception that lakemill raises.

    Args:
        message: What was wrong, and where.
        hint: What would be right, or the next step. Shown on a line of its own.

    Example:
        >>> print(LakemillError("port 8642 is taken", hint="choose another with --port"))
        port 8642 is taken
          → choose another with --port
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  → {self.hint}"

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments are lost by the default pickling, and the error would be masked in a worker.
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(kind: type[LakemillError], message: str, hint: str | None) -> LakemillError:
    return kind(message, hint=hint)


class ConfError(LakemillError):
    """Raised when a file under conf/ or a setting is missing, unreadable or not valid."""

    exit_code = 2


class UsageError(LakemillError):
    """Raised when a function or a command is called in a way that cannot be right."""

    exit_code = 2


class SessionError(LakemillError):
    """Raised when a Spark session lacks something that lakemill needs."""


class SetupError(LakemillError):
    """Raised when a part of the environment (Java, jars, weights, memory) is missing or damaged."""


class ServingError(LakemillError):
    """Raised when the serving application cannot start, stop or answer as a whole."""


class ModelNotFoundError(LakemillError):
    """Raised when a model is named that neither the catalog nor the serving application knows."""

    exit_code = 2


class RowFailedError(LakemillError):
    """Raised when a row failed and the query or the job asked to fail with it."""


class JobError(LakemillError):
    """Raised when a job cannot go on."""


class RequestRefusedError(LakemillError):
    """Raised when the service refuses a request as a whole, before any row is asked.

    Args:
        code: A code of `lakemill.rows.ErrorCode`.
        message: What was wrong, with the key of the request that is at fault.
        status: The HTTP status of the refusal.
        retry_after_s: Seconds after which asking again makes sense, where it does.
    """

    def __init__(self, code: str, message: str, *, status: int = 400, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild_refusal, (self.code, self.message, self.status, self.retry_after_s))


def _rebuild_refusal(code: str, message: str, status: int, retry_after_s: int | None) -> RequestRefusedError:
    return RequestRefusedError(code, message, status=status, retry_after_s=retry_after_s)
