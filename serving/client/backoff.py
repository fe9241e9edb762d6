"""How long to pause before a row is sent again."""

from __future__ import annotations

import random
import time
from email.utils import parsedate_to_datetime


def pause(attempts: int, *, base_s: float, max_s: float, at_least_s: float = 0.0) -> float:
    """Return a pause with full jitter: anything between 0 and `base_s` doubled with each attempt.

    Full jitter spreads the workers of a cluster evenly; `at_least_s` is what the service asked for,
    and the jitter goes on top of it. Nothing exceeds `max_s` by more than that jitter.

    Example:
        >>> 0 <= pause(3, base_s=0.5, max_s=10) <= 2
        True
    """
    ceiling = min(max_s, base_s * 2.0 ** (attempts - 1))
    return min(at_least_s, max_s) + random.uniform(0.0, ceiling)  # noqa: S311 - jitter, not a secret


def retry_after_s(header: str | None) -> float:
    """Return the seconds that a Retry-After header asks for; 0 where it is missing or makes no sense.

    Example:
        >>> retry_after_s("2")
        2.0
    """
    if not header:
        return 0.0
    try:
        return max(0.0, float(header))
    except ValueError:
        return _until(header)


def _until(date: str) -> float:
    try:
        return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0
