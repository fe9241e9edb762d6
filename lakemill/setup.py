"""`lakemill setup`: Delta jars → class archive → model → MLflow database; what is there already costs a second."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import util
from pathlib import Path

import click
from filelock import FileLock

from lakemill import archive, jars, settings
from lakemill.errors import SetupError
from lakemill.settings import Paths, Settings

_MLFLOW_TIMEOUT_S = 300
# Builds the tables in a file of its own; the default experiment keeps its artifacts under LAKEMILL_HOME.
_MAKE_DATABASE = """
import sys
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
SqlAlchemyStore("sqlite:///" + sys.argv[1], sys.argv[2])
"""


@click.command()
@click.option("--home", type=click.Path(file_okay=False, path_type=Path), help="LAKEMILL_HOME.")
@click.option("--conf-dir", type=click.Path(exists=True, file_okay=False), help="Folder of your YAML files.")
def setup(home: Path | None, conf_dir: str | None) -> None:
    """Bring the Delta jars, Spark's class archive, the default model and the MLflow database."""
    found = settings.load(conf_dir, home=home)
    _step("Delta jars", bring_jars)
    _step("Spark's class archive", bring_archive)
    _step("default model", lambda: bring_model(found, conf_dir))
    _step("MLflow database", lambda: bring_database(found.paths))


def _step(name: str, bring: Callable[[], str]) -> None:
    click.echo(f"{name}: ", nl=False)
    start = time.monotonic()
    said = bring()
    seconds = time.monotonic() - start
    click.echo(said if seconds < 1 else f"{said} ({seconds:.0f} s)")


def bring_jars() -> str:
    """Make sure of the Delta jars and return a line that says where they are.

    Raises:
        SetupError: They are missing and cannot be fetched.
    """
    jars.ensure()
    return str(jars.folder())


def bring_archive() -> str:
    """Make sure of the archive of Spark's classes and return its path, or why there is none: it only saves time."""
    try:
        return str(archive.ensure())
    except SetupError as error:
        return f"not made, so that sessions start slower: {error.message}"


def bring_model(found: Settings, conf_dir: str | None = None) -> str:
    """Make sure of the default model's weights and return a line that says where they are.

    Raises:
        ModelNotFoundError: The default model is not in the catalog.
        SetupError: The weights, or what unpacks them, are not installed.
    """
    if util.find_spec("vllm") is None:
        return "not needed: no vLLM is installed here, so models are served elsewhere"
    # The core imports none of the layers above it.
    catalog = importlib.import_module("lakemill.serving.catalog")
    weights = importlib.import_module("lakemill.serving.weights")
    entry = catalog.entry(found.default_model, conf_dir)
    if weights.check(entry, found.paths) is None:
        return str(weights.folder(entry, found.paths))
    return str(weights.ensure(entry, found.paths))


def bring_database(paths: Paths) -> str:
    """Make sure of the MLflow database, so that no first run waits for it, and return its path.

    Raises:
        SetupError: MLflow cannot make it; the message has the last line of what it said.
    """
    if not paths.mlflow_db.exists():
        paths.locks.mkdir(parents=True, exist_ok=True)
        with FileLock(paths.locks / "mlflow.lock"):
            if not paths.mlflow_db.exists():
                _make_database(paths)
    return str(paths.mlflow_db)


def _make_database(paths: Paths) -> None:
    with tempfile.TemporaryDirectory(prefix=".mlflow-", dir=paths.home) as scratch:
        made = Path(scratch) / "mlflow.db"
        command = [sys.executable, "-c", _MAKE_DATABASE, str(made), paths.mlflow_artifacts.as_uri()]
        quiet = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
        try:
            done = subprocess.run(  # noqa: S603
                command, env=quiet, cwd=scratch, capture_output=True, text=True, timeout=_MLFLOW_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise SetupError(f"MLflow made no database within {_MLFLOW_TIMEOUT_S} s") from error
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            raise SetupError(f"MLflow cannot make its database: {said}", hint="is mlflow installed? try `make setup`")
        # Whole or not at all: a run that starts meanwhile never sees half of the tables.
        made.rename(paths.mlflow_db)
