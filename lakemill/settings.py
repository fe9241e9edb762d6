"""The settings of one process: environment over `conf/lakemill.yaml` over the defaults below."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from lakemill import conf_files
from lakemill.errors import ConfError


class Settings(BaseSettings):
    """Hold what a process is told from outside. Build it with `load`."""

    model_config = SettingsConfigDict(env_prefix="LAKEMILL_", frozen=True, extra="forbid")

    home: Path = Field(default=Path(".lakemill"), description="Folder of everything durable (LAKEMILL_HOME).")
    endpoint: str | None = Field(
        default=None, description="URL of a serving application, such as http://127.0.0.1:8642."
    )
    token: str | None = Field(default=None, description="Bearer token of that application.", repr=False)
    default_model: str = Field(default="smollm2-135m-instruct", description="Model used where none is named.")
    default_embedding_model: str | None = Field(default=None, description="Model of ai_embed and ai_similarity.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over what `load` passes in from the YAML file."""
        return env_settings, init_settings

    @cached_property
    def paths(self) -> Paths:
        """Return where everything under LAKEMILL_HOME lies."""
        return Paths(self.home.expanduser().resolve())


class Paths:
    """Name every place under LAKEMILL_HOME, so that no module joins paths of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.warehouse = home / "warehouse"
        self.mlflow_db = home / "mlflow.db"
        self.mlflow_artifacts = home / "mlflow-artifacts"
        self.journal = home / "journal"
        self.models = home / "models"
        self.cache = home / "cache"
        self.logs = home / "logs"
        self.serving_json = home / "serving.json"
        self.token = home / "token"
        self.locks = home / "locks"


def load(conf_dir: str | os.PathLike[str] | None = None, **overrides: Any) -> Settings:
    """Load the settings.

    Raises:
        ConfError: A value is not valid; the message names the key and where it came from.

    Example:
        >>> load(home="/tmp/mill").paths.token.name
        'token'
    """
    path = conf_files.find("lakemill.yaml", conf_dir)
    values = {} if path is None else conf_files.read(path)
    try:
        settings = Settings(**values)
        # What the caller passes wins over both: validated by a second, cheap pass.
        return settings if not overrides else Settings.model_validate(settings.model_copy(update=_given(overrides)))
    except ValidationError as error:
        raise ConfError(_explain(error, path)) from error


def _given(overrides: dict[str, Any]) -> dict[str, Any]:
    given = {key: value for key, value in overrides.items() if value is not None}
    return given | ({"home": Path(given["home"])} if "home" in given else {})


def _explain(error: ValidationError, path: Path | None) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    allowed = ", ".join(sorted(Settings.model_fields))
    return f"{path or 'settings'} or LAKEMILL_{key.upper()}: {key}: {first['msg']} (allowed keys: {allowed})"
