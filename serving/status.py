"""`LAKEMILL_HOME/serving.json`: what the serving application of this home is doing, for whoever looks."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeAlias

from lakemill.errors import LakemillError
from lakemill.rows import Kind
from lakemill.serving.engine import ModelInfo
from lakemill.settings import Paths

State: TypeAlias = Literal["starting", "ready", "failed", "stopping"]
Owner: TypeAlias = Literal["serve", "auto"]
EngineName: TypeAlias = Literal["vllm", "contract"]


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """Describe one model that is served, or will be."""

    name: str
    version: str
    context: int
    kinds: tuple[Kind, ...]

    @classmethod
    def of(cls, model: ModelInfo) -> ModelStatus:
        """Return the description of a model."""
        return cls(model.name, model.version, model.context, model.kinds)


@dataclass(frozen=True, slots=True)
class ServingStatus:
    """Hold what serving.json says. `error` has a message and a hint where the start failed."""

    url: str | None
    pid: int
    owner: Owner
    engine: EngineName
    state: State
    stage: str = ""
    error: dict[str, str | None] | None = None
    models: tuple[ModelStatus, ...] = ()
    started_at: float = field(default_factory=time.time)

    def at(self, state: State, stage: str = "", *, url: str | None = None) -> ServingStatus:
        """Return the status with another state and stage."""
        return replace(self, state=state, stage=stage, url=url or self.url)

    def failed(self, error: LakemillError) -> ServingStatus:
        """Return the status of a start that failed, with its cause."""
        return replace(self, state="failed", error={"message": error.message, "hint": error.hint})

    def with_models(self, models: Sequence[ModelStatus]) -> ServingStatus:
        """Return the status with the models that are served."""
        return replace(self, models=tuple(models))


def read(paths: Paths) -> ServingStatus | None:
    """Return what serving.json says, or None where there is none that can be read."""
    try:
        value: dict[str, Any] = json.loads(paths.serving_json.read_text(encoding="utf-8"))
        models = tuple(ModelStatus(m["name"], m["version"], m["context"], tuple(m["kinds"])) for m in value["models"])
        return ServingStatus(**{**value, "models": models})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(paths: Paths, status: ServingStatus) -> None:
    """Write serving.json so that a reader sees the old or the new one, never half of it."""
    paths.home.mkdir(parents=True, exist_ok=True)
    part = paths.serving_json.with_name(f"serving.json.{os.getpid()}")
    part.write_text(json.dumps(asdict(status), indent=2) + "\n", encoding="utf-8")
    part.replace(paths.serving_json)


def remove(paths: Paths, pid: int) -> None:
    """Remove serving.json where it is that of process `pid`."""
    found = read(paths)
    if found is not None and found.pid == pid:
        paths.serving_json.unlink(missing_ok=True)
