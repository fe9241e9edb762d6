"""Show on the driver that a serving application still starts, while the workers wait for it."""

from __future__ import annotations

import logging
import sys
import threading

from lakemill.errors import ServingError
from lakemill.serving.client import Endpoint, discovery

_log = logging.getLogger(__name__)
_QUIET_S = 1.0
_PLAIN_S = 15.0


class Progress:
    """Tell the stage of a start, once an endpoint: in place on a terminal, now and then elsewhere."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._shown = False
        self._lock = threading.Lock()
        self._last: tuple[str, float] = ("", -_PLAIN_S)

    def show(self) -> None:
        """Begin to show, in a thread of its own; only a local service tells its stages."""
        with self._lock:
            if self._shown or self._endpoint.home is None:
                return
            self._shown = True
        threading.Thread(target=self._run, name="lakemill-progress", daemon=True).start()

    def _run(self) -> None:
        try:
            discovery.wait_ready(self._endpoint, on_progress=self._tell)
        except ServingError as error:
            # The rows tell it too; here it comes at once, with what can be done.
            _log.warning("%s", error)
        finally:
            if self._last[0] and sys.stderr.isatty():
                sys.stderr.write("\r\x1b[K")
                sys.stderr.flush()

    def _tell(self, stage: str, seconds: float) -> None:
        if seconds < _QUIET_S:
            return
        if sys.stderr.isatty():
            self._last = (stage, seconds)
            sys.stderr.write(f"\r\x1b[Kserving application starts: {stage} ({seconds:.0f} s)")
            sys.stderr.flush()
        elif stage != self._last[0] or seconds - self._last[1] >= _PLAIN_S:
            self._last = (stage, seconds)
            sys.stderr.write(f"serving application starts: {stage} ({seconds:.0f} s)\n")
            sys.stderr.flush()
