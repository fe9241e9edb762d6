"""The models that a query may name, asked of the service while the query is analysed."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from lakemill.errors import ModelNotFoundError
from lakemill.serving.client import Endpoint, ModelInfo, discovery

_FRESH_S = 5.0


class Models:
    """Answer which models a service has; an answer stays fresh for a few seconds."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._lock = threading.Lock()
        self._known: Mapping[str, ModelInfo] | None = None
        self._asked_at = -_FRESH_S

    def find(self, name: str, kind: str) -> ModelInfo | None:
        """Return the model called `name`, or None when the service cannot be asked (its rows will tell why).

        Raises:
            ModelNotFoundError: The service has no such model, or it cannot answer this kind of row.
        """
        known = self._models(fresh=False)
        if known is not None and name not in known:
            known = self._models(fresh=True)
        if known is None:
            return None
        if name not in known:
            raise ModelNotFoundError(f"unknown model '{name}' (served: {', '.join(sorted(known)) or 'none'})")
        if kind not in known[name].kinds:
            raise ModelNotFoundError(f"model '{name}' does not {kind} (it can: {', '.join(known[name].kinds)})")
        return known[name]

    def _models(self, *, fresh: bool) -> Mapping[str, ModelInfo] | None:
        with self._lock:
            if fresh or time.monotonic() - self._asked_at > _FRESH_S:
                self._known = discovery.models(self._endpoint)
                self._asked_at = time.monotonic()
            return self._known
