"""Every number that bounds the row client."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Bound what one worker process holds, sends, waits for and retries.

    256 rows a request and a few requests in flight keep an engine as busy as its own offline mode
    does (one row a request loses 2x to 7x). All times are seconds.

    Args:
        window_rows: Rows whose call runs at the same time.
        window_bytes: Bytes of those rows; also of the batches read ahead of the one that is due.
        rows_per_request: Rows of one `POST /v1/rows`, at most.
        bytes_per_request: Bytes of its rows, at most (a single larger row still goes alone).
        requests_in_flight: Requests on their way at the same time.
        linger_s: How long a first row waits for company while other requests are on their way.
        fill_s: How long a small group waits to grow while the engine has a full request to work on.
        attempts: How often a row is sent, at most.
        retry_s: How long after its first failure a row is still sent again.
        backoff_s: Upper end of the first pause; it doubles with each attempt.
        backoff_max_s: Upper end of any pause, and of a Retry-After that is honoured.
        connect_s: Time to open a connection.
        silence_s: A stream without a byte for so long is asked about at /healthz.
        health_s: Time for /healthz to answer.
        silence_max_s: A stream without a byte for so long counts as cut, whatever /healthz says.
        row_timeout_s: A row without an answer for so long fails with TIMEOUT.
        start_s: A local service that is starting is waited for so long.
        patience_s: With nothing reached for so long, all waiting rows fail.
        probe_s: Pause between two looks at an endpoint that could not be reached.
    """

    window_rows: int = 512
    window_bytes: int = 32 * 2**20
    rows_per_request: int = 256
    bytes_per_request: int = 8 * 2**20
    requests_in_flight: int = 4
    linger_s: float = 0.003
    fill_s: float = 0.25
    attempts: int = 5
    retry_s: float = 60.0
    backoff_s: float = 0.5
    backoff_max_s: float = 10.0
    connect_s: float = 5.0
    silence_s: float = 10.0
    health_s: float = 5.0
    silence_max_s: float = 300.0
    row_timeout_s: float = 600.0
    start_s: float = 600.0
    patience_s: float = 5.0
    probe_s: float = 1.0
