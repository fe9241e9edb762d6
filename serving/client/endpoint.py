"""Where a serving application is, and what opens it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Name one serving application; small and picklable, so that it travels to Spark's workers.

    Args:
        url: Base URL without a path, such as `http://127.0.0.1:8642`.
        token: Bearer token, or None for a service that asks for none. Never shown by `repr`.
        home: LAKEMILL_HOME of a local service, so that its serving.json can tell why it is not up.

    Example:
        >>> Endpoint("http://127.0.0.1:8642/", "secret")
        Endpoint(url='http://127.0.0.1:8642', home=None)
    """

    url: str
    token: str | None = field(default=None, repr=False)
    home: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", self.url.rstrip("/"))

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers that authorise a request."""
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
