"""Find the serving application, or start one: argument → setting → serving.json → a process of our own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from lakemill.errors import ServingError
from lakemill.serving.client import http_get, launcher, local, user_lock
from lakemill.serving.client.endpoint import Endpoint
from lakemill.serving.engine import ModelInfo
from lakemill.settings import Paths, Settings

_POLL_S = 0.25
# A remote service that cannot even be reached is not starting; a local one tells what it does.
_UNREACHED_S = 10.0
Progress = Callable[[str, float], None]


def find(settings: Settings, *, endpoint: str | None = None, token: str | None = None) -> Endpoint | None:
    """Return the serving application: the argument's, the setting's, or the one in LAKEMILL_HOME.

    None where nothing is named and nothing local runs (a serving.json of a dead process does not count).
    """
    paths = settings.paths
    state = local.read(paths.serving_json)
    url = endpoint or settings.endpoint
    given = token or settings.token
    if url is None:
        return None if state is None or not state.usable else _local_endpoint(state, paths, given)
    if state is not None and state.usable and state.url == url.rstrip("/"):
        return _local_endpoint(state, paths, given)
    return Endpoint(url, given or _token(paths))


def find_or_start(
    settings: Settings,
    *,
    endpoint: str | None = None,
    token: str | None = None,
    conf_dir: str | os.PathLike[str] | None = None,
) -> Endpoint:
    """Return the serving application, started as a subprocess where none is found.

    Returns long before the application is ready (`wait_ready`). Two processes that come at once get
    the same one. It lives until 60 s after its last user, and this process is one until it ends.

    Raises:
        ServingError: The subprocess ended at once or said nothing; with the last line of its log.
    """
    paths = settings.paths
    if endpoint or settings.endpoint:
        found = find(settings, endpoint=endpoint, token=token)
        assert found is not None
        return found
    paths.locks.mkdir(parents=True, exist_ok=True)
    user_lock.hold(paths)  # before the look: a service about to end sees its new user
    with FileLock(paths.locks / "start.lock"):
        found = find(settings, token=token)
        if found is not None:
            return found
        return _local_endpoint(launcher.start(paths, conf_dir=conf_dir), paths, token or settings.token)


def models(endpoint: Endpoint) -> dict[str, ModelInfo] | None:
    """Return the models that may be named, by name; None when the service cannot tell.

    While a local service starts, its serving.json answers in its place.
    """
    state = local.of(endpoint)
    if state is not None and state.starting:
        return dict(state.models) or None
    try:
        status, body = http_get.get(endpoint, "/v1/models")
        return local.models(body["data"]) if status == 200 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def wait_ready(endpoint: Endpoint, *, timeout_s: float = 600.0, on_progress: Progress | None = None) -> None:
    """Wait until the service answers that all is well.

    `on_progress` hears the stage of the start and the seconds so far, about four times a second.

    Raises:
        ServingError: The start failed (with its cause), or was not done in time.
    """
    began = time.monotonic()
    while (stage := _stage(endpoint, time.monotonic() - began)) is not None:
        seconds = time.monotonic() - began
        if seconds > timeout_s:
            raise ServingError(f"{endpoint.url} is not ready after {timeout_s:.0f} s: {stage}")
        if on_progress is not None:
            on_progress(stage, seconds)
        time.sleep(_POLL_S)


def _stage(endpoint: Endpoint, seconds: float) -> str | None:
    """Return what the service is still busy with, or None when it is ready."""
    state = local.of(endpoint)
    if state is not None and state.failure is not None:
        raise ServingError(state.failure, hint=state.hint or _log_hint(endpoint))
    if state is not None and state.starting:
        return state.stage or "starting"
    if endpoint.home is not None and (state is None or not state.alive):
        raise ServingError(f"the serving application at {endpoint.url} has ended", hint=_log_hint(endpoint))
    return _health(endpoint, seconds)


def _health(endpoint: Endpoint, seconds: float) -> str | None:
    try:
        status, body = http_get.get(endpoint, "/healthz")
    except (OSError, ValueError) as error:
        if seconds > _UNREACHED_S or isinstance(error, ValueError):
            raise ServingError(
                f"no serving application answers at {endpoint.url}: {error}",
                hint="start one with `lakemill serve`, or name another with LAKEMILL_ENDPOINT",
            ) from error
        return f"not reached yet: {error}"
    return None if status == 200 else f"not well yet (HTTP {status}): {body}"


def _local_endpoint(state: local.LocalState, paths: Paths, token: str | None) -> Endpoint:
    return Endpoint(state.url, token or _token(paths), str(paths.home))


def _token(paths: Paths) -> str | None:
    try:
        return paths.token.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _log_hint(endpoint: Endpoint) -> str | None:
    if endpoint.home is None:
        return None
    paths = Paths(Path(endpoint.home))
    return f"see {paths.logs / 'serving.log'}; its last line: {launcher.log_tail(paths)}"
