"""What a run tells people: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable

import click
from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lakemill.serving.client import Endpoint

_ANSWERED = re.compile(rb"^lakemill_rows_total\{[^}]*\} ([0-9.e+]+)$", re.MULTILINE)
_POLL_S = 0.5
_PLAIN_S = 10.0
Answered = Callable[[], int | None]


def answered(endpoint: Endpoint) -> int | None:
    """Return how many rows a service answered so far, or None when it does not tell."""
    request = urllib.request.Request(f"{endpoint.url}/metrics", headers=endpoint.headers)  # noqa: S310 - our service
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=2) as response:
            body: bytes = response.read()
    except (OSError, urllib.error.URLError):
        return None
    return int(sum(float(found) for found in _ANSWERED.findall(body)))


class Stop:
    """Hold whether somebody asked the run to stop. A watch that tells nothing, for the library."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def ask(self) -> None:
        """Ask the run to stop at the next safe point."""
        self._event.set()

    @property
    def stopping(self) -> bool:
        """Return whether the run is asked to stop."""
        return self._event.is_set()

    def phase(self, name: str, detail: str = "") -> None:
        """Hear that a phase begins."""

    def asking(self, calls: int) -> None:
        """Hear that at most `calls` calls are about to be asked."""

    def asked(self) -> None:
        """Hear that all of them are answered."""


class Shown(Stop):
    """Show the phases and how many calls are answered; `count` gives the service's own counter."""

    def __init__(self, count: Answered, *, prefix: str = "") -> None:
        super().__init__()
        self._count = count
        self._prefix = prefix
        self._console = RichConsole(stderr=True)
        self._last = ""
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def phase(self, name: str, detail: str = "") -> None:
        """Tell a phase once: it is said again only when it changes."""
        line = f"{name}: {detail}" if detail else name
        if line != self._last:
            self._last = line
            click.echo(f"{self._prefix}{line}", err=True)

    def asking(self, calls: int) -> None:
        """Begin to show how many calls are answered."""
        self._ended.clear()
        show = self._bar if self._console.is_terminal else self._lines
        self._thread = threading.Thread(target=show, args=(calls,), name="lakemill-bar", daemon=True)
        self._thread.start()

    def asked(self) -> None:
        """End the bar."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _bar(self, calls: int) -> None:
        columns = (
            TextColumn(f"{self._prefix}asking"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as bar:
            task = bar.add_task("asking", total=calls)
            self._follow(calls, lambda done: self._advance(bar, task, done))

    @staticmethod
    def _advance(bar: Progress, task: TaskID, done: int) -> None:
        bar.update(task, completed=done)

    def _lines(self, calls: int) -> None:
        began = told = time.monotonic()

        def tell(done: int) -> None:
            nonlocal told
            now = time.monotonic()
            if done and now - told >= _PLAIN_S:
                told = now
                left = (now - began) / done * (calls - done)
                click.echo(f"{self._prefix}infer: {done} of {calls} calls, about {left:.0f} s left", err=True)

        self._follow(calls, tell)

    def _follow(self, calls: int, tell: Callable[[int], None]) -> None:
        before = self._count() or 0
        while not self._ended.wait(_POLL_S):
            now = self._count()
            if now is not None:
                tell(min(calls, max(0, now - before)))
