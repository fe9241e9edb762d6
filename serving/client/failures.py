"""What can go wrong with one request, before it becomes an error of its rows."""

from __future__ import annotations

from lakemill.rows import ErrorCode

RETRYABLE_STATUS = frozenset({408, 429, 500, 502, 503, 504})
TOO_BUSY_STATUS = frozenset({408, 429})
DIVISIBLE_STATUS = frozenset({400, 413, 422})
_CODES = {
    400: ErrorCode.INVALID_REQUEST,
    401: ErrorCode.UNAUTHENTICATED,
    403: ErrorCode.PERMISSION_DENIED,
    404: ErrorCode.MODEL_NOT_FOUND,
    408: ErrorCode.TIMEOUT,
    413: ErrorCode.INVALID_REQUEST,
    422: ErrorCode.INVALID_REQUEST,
    429: ErrorCode.RATE_LIMITED,
}


class BrokenError(Exception):
    """Raised when an exchange ended before its summary line: refused, reset, cut, silent or garbled.

    `since` is when the endpoint was last heard of (monotonic seconds), where that is known.
    """

    def __init__(self, message: str, *, since: float | None = None) -> None:
        super().__init__(message)
        self.since = since


class RefusedError(Exception):
    """Raised when the service answered a request as a whole with an HTTP error."""

    def __init__(self, status: int, code: ErrorCode, message: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s

    @property
    def retryable(self) -> bool:
        """Tell whether the same request may succeed later."""
        return self.status in RETRYABLE_STATUS

    @property
    def is_unavailable(self) -> bool:
        """Tell whether the service could not work at all, rather than being busy."""
        return self.retryable and self.status not in TOO_BUSY_STATUS

    @property
    def divisible(self) -> bool:
        """Tell whether some rows of the request may be fine without the others."""
        return self.status in DIVISIBLE_STATUS


def code_of(status: int, named: object) -> ErrorCode:
    """Return the error code of an HTTP error: the one its body names, else the status's.

    Example:
        >>> code_of(503, "RATE_LIMITED").value, code_of(503, None).value, code_of(418, "teapot").value
        ('RATE_LIMITED', 'ENGINE_UNAVAILABLE', 'INVALID_REQUEST')
    """
    if isinstance(named, str) and named in ErrorCode.__members__:
        return ErrorCode(named)
    fallback = ErrorCode.ENGINE_UNAVAILABLE if status >= 500 else ErrorCode.INVALID_REQUEST
    return _CODES.get(status, fallback)
