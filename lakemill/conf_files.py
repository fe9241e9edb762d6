"""Find the operator's YAML files, one file at a time.

The places, in order: `--conf-dir`, `LAKEMILL_CONF`, `./conf`, and the copy inside the package. A file
missing from one place is looked up in the next, so an operator keeps only the files that differ.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from lakemill.errors import ConfError


def conf_dirs(conf_dir: str | os.PathLike[str] | None = None) -> list[Path]:
    """Return the folders that are searched, first match first."""
    named = [conf_dir, os.environ.get("LAKEMILL_CONF"), "conf"]
    own = [Path(place).resolve() for place in named if place]
    packaged = Path(str(resources.files("lakemill.conf")))
    return list(dict.fromkeys([*(place for place in own if place.is_dir()), packaged]))


def find(name: str, conf_dir: str | os.PathLike[str] | None = None) -> Path | None:
    """Return the first file called `name` (such as `models/m.yaml`), or None."""
    return next((path for place in conf_dirs(conf_dir) if (path := place / name).is_file()), None)


def files_in(folder: str, conf_dir: str | os.PathLike[str] | None = None) -> dict[str, Path]:
    """Return the YAML files of a folder by their stem; a file found first hides its namesakes."""
    found: dict[str, Path] = {}
    for path in _yaml_files(folder, conf_dir):
        found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def _yaml_files(folder: str, conf_dir: str | os.PathLike[str] | None) -> Iterator[Path]:
    for place in conf_dirs(conf_dir):
        yield from sorted((place / folder).glob("*.yaml"))


def read(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ConfError: The file cannot be read, is not YAML, or does not hold a mapping.
    """
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfError(f"{path}: cannot be read: {error}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfError(f"{path}: expected a mapping of settings, found a {type(value).__name__}")
    return value
