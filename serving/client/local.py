"""What a local serving application says of itself in LAKEMILL_HOME/serving.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from lakemill.serving.client.endpoint import Endpoint
from lakemill.serving.engine import ModelInfo

_CLOCK_SLACK_S = 5.0


@dataclass(frozen=True, slots=True)
class LocalState:
    """Hold serving.json; `state` is starting, ready, failed or stopping, `url` empty until it is known."""

    url: str
    pid: int
    state: str
    owner: str = "serve"
    stage: str = ""
    error: str | None = None
    hint: str | None = None
    models: Mapping[str, ModelInfo] = field(default_factory=dict)
    started_at: float = 0.0

    @property
    def alive(self) -> bool:
        """Tell whether the process that wrote the file still runs (and is not another with its number)."""
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            return not self.started_at or process.create_time() <= self.started_at + _CLOCK_SLACK_S
        except psutil.Error:
            return False

    @property
    def starting(self) -> bool:
        """Tell whether the application is on its way up."""
        return self.state == "starting" and self.alive

    @property
    def usable(self) -> bool:
        """Tell whether the application answers or soon will."""
        return bool(self.url) and self.state in {"starting", "ready"} and self.alive

    @property
    def failure(self) -> str | None:
        """Return why the application will not come up, or None while it may."""
        if self.state == "failed":
            return self.error or "the serving application failed to start"
        if self.state == "starting" and not self.alive:
            return f"the serving application ended while it was starting ({self.stage or 'no stage told'})"
        return None


def read(serving_json: Path) -> LocalState | None:
    """Return the state in the file, or None where there is no file or no sense in it."""
    try:
        return _state(json.loads(serving_json.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def of(endpoint: Endpoint) -> LocalState | None:
    """Return the state of the local application that an endpoint names, or None for any other."""
    if endpoint.home is None:
        return None
    state = read(Path(endpoint.home) / "serving.json")
    return state if state is not None and state.url == endpoint.url else None


def _state(value: Mapping[str, Any]) -> LocalState:
    error = value.get("error") or {}
    return LocalState(
        url=str(value.get("url") or "").rstrip("/"),
        pid=int(value["pid"]),
        state=str(value["state"]),
        owner=str(value.get("owner") or "serve"),
        stage=str(value.get("stage") or ""),
        error=error.get("message"),
        hint=error.get("hint"),
        models=models(value.get("models") or []),
        started_at=float(value.get("started_at") or 0.0),
    )


def models(listed: list[Mapping[str, Any]]) -> dict[str, ModelInfo]:
    """Return models by name, from serving.json (`name`) or from GET /v1/models (`id`)."""
    infos = [_model(value) for value in listed]
    return {info.name: info for info in infos}


def _model(value: Mapping[str, Any]) -> ModelInfo:
    name = str(value.get("name") or value["id"])
    kinds = tuple(value.get("kinds") or ("generate", "choose", "count"))
    return ModelInfo(name, str(value.get("version") or ""), int(value.get("context") or 0), kinds)
