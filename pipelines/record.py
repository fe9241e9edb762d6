"""The record of a run in MLflow: what was asked, what came of it, and which table versions it read and wrote.

MLflow takes seconds to import and to make its database, so `Recorder` does both in a thread while the
JVM and the model start. Only the driver speaks to it; what it is told goes to `pipelines.tracking`.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lakemill.errors import JobError
from lakemill.pipelines.flow import Counts
from lakemill.settings import Paths

if TYPE_CHECKING:
    from lakemill.pipelines.tracking import Tracking


@dataclass(frozen=True)
class Dataset:
    """Name one version of a Delta table. `context` is source or sink."""

    name: str
    path: str
    version: int
    context: str


@dataclass(frozen=True)
class Outcome:
    """Hold what a finished run has to tell. `phases` and `seconds` are in seconds, latencies in ms by step."""

    counts: Counts
    seconds: float
    phases: Mapping[str, float]
    rows_per_second: float
    datasets: Sequence[Dataset] = ()
    failures: Sequence[Mapping[str, Any]] = ()
    latencies: Mapping[str, Sequence[float]] = field(default_factory=dict)


def tracking_uri(paths: Paths) -> str:
    """Return where runs are kept: `MLFLOW_TRACKING_URI`, else the SQLite file in LAKEMILL_HOME."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{paths.mlflow_db}"


def quiet(paths: Paths) -> None:
    """Set the environment so that MLflow tells nobody anything and writes nothing outside LAKEMILL_HOME."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MPLCONFIGDIR", str(paths.cache / "matplotlib"))


class Recorder:
    """Record runs. The constructor returns at once; the first use waits until MLflow is there."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._tracking: Tracking | None = None
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._open, name="lakemill-mlflow", daemon=True)
        self._thread.start()

    def start(self, job: str, *, params: Mapping[str, Any], tags: Mapping[str, str], spec: str) -> str:
        """Begin a run and return its id; runs of the job that a killed process left open are ended.

        Raises:
            JobError: MLflow cannot be used; the message says why.
        """
        tracking = self._ready()
        tracking.end_orphans(job)
        return tracking.start(job, params=params, tags=tags, spec=spec)

    def finish(self, run_id: str, outcome: Outcome) -> None:
        """Record the numbers, plots and tables of a run that came to an end, and close it."""
        tracking = self._ready()
        tracking.tell(run_id, outcome)
        tracking.end(run_id, "FINISHED")

    def fail(self, run_id: str, error: str, *, outcome: Outcome | None = None, status: str = "FAILED") -> None:
        """Close a run that failed (or was stopped: `KILLED`) with its error, and with its numbers where known."""
        tracking = self._ready()
        if outcome is not None:
            tracking.tell(run_id, outcome)
        tracking.tell_error(run_id, error)
        tracking.end(run_id, status)

    def _open(self) -> None:
        try:
            quiet(self._paths)
            for folder in (self._paths.home, self._paths.mlflow_artifacts):
                folder.mkdir(parents=True, exist_ok=True)
            module = importlib.import_module("lakemill.pipelines.tracking")
            own = self._paths.mlflow_artifacts.as_uri() if "MLFLOW_TRACKING_URI" not in os.environ else None
            self._tracking = module.Tracking(tracking_uri(self._paths), own)
        except Exception as error:
            self._failure = error

    def _ready(self) -> Tracking:
        self._thread.join()
        if self._tracking is None:
            raise JobError(
                f"MLflow cannot be used at {tracking_uri(self._paths)}: {self._failure}",
                hint="is the database damaged, or of a newer MLflow? move it away, and a new one is made",
            ) from self._failure
        return self._tracking
