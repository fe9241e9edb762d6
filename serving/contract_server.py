"""Run a contract service in a thread of this process: what tests talk to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from lakemill.rows import KINDS
from lakemill.serving import catalog, status
from lakemill.serving.app_server import AppServer, listen
from lakemill.serving.contract import ContractEngine
from lakemill.serving.engine import ModelInfo
from lakemill.serving.journal import Journal, MemoryJournal, SqliteJournal, path_in
from lakemill.serving.service import Limits, RowService
from lakemill.settings import Paths


class ContractServer:
    """Hold a running contract service; a context manager.

    Attributes:
        url: Its address.
        token: The bearer token that it asks for.
        engine: The engine of its first model (`asked` counts request keys).
        engines: Every engine by model name.
        service: The row service.
    """

    def __init__(self, engines: Sequence[ContractEngine], journal: Journal, token: str | None, **options: Any) -> None:
        self.token = token
        self.engine = engines[0]
        self.engines = {engine.model.name: engine for engine in engines}
        self.service = RowService(self.engines, journal, token, limits=options.get("limits"))
        self._app = AppServer(self.service, listen(options.get("port", 0)))
        self._paths: Paths | None = options.get("paths")
        self.url = self._app.url

    def start(self) -> Self:
        """Start serving; with a home, write its serving.json and token."""
        self._app.start()
        if self._paths is not None:
            models = [status.ModelStatus.of(engine.model) for engine in self.engines.values()]
            found = status.ServingStatus(url=self.url, pid=os.getpid(), owner="serve", engine="contract", state="ready")
            status.write(self._paths, found.with_models(models))
            if self.token is not None:
                self._paths.token.write_text(self.token, encoding="utf-8")
                self._paths.token.chmod(0o600)
        return self

    def stop(self) -> None:
        """Stop serving; safe to call twice."""
        self._app.stop()
        if self._paths is not None:
            status.remove(self._paths, os.getpid())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def serve_contract(
    home: str | os.PathLike[str] | None = None,
    *,
    token: str | None = "contract-token",  # noqa: S107 - for tests on a loopback port
    models: Sequence[ModelInfo] | None = None,
    port: int = 0,
    limits: Limits | None = None,
    **engine: Any,
) -> ContractServer:
    """Start a contract service on a free loopback port, in a thread.

    Args:
        home: A LAKEMILL_HOME: the journal, the token and serving.json go there. None keeps answers in memory.
        token: The bearer token to ask for; None asks for none.
        models: What to serve; default: every model of the catalog.
        port: Port on 127.0.0.1; 0 takes any free one.
        limits: What is taken in at once.
        engine: Options of `ContractEngine`.

    Returns:
        The running service; `stop()` it, or use it as a context manager.

    Example:
        >>> with serve_contract() as server:
        ...     server.url.startswith("http://127.0.0.1:")
        True
    """
    infos = models or [ModelInfo(e.name, e.version, e.context, KINDS) for e in catalog.entries().values()]
    paths = None if home is None else Paths(Path(home).resolve())
    journal = MemoryJournal() if paths is None else SqliteJournal(path_in(paths))
    engines = [ContractEngine(info, **engine) for info in infos]
    return ContractServer(engines, journal, token, paths=paths, port=port, limits=limits).start()
