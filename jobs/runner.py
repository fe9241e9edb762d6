"""Run a job: its file → a session → its pipeline → a result."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

import lakemill
from lakemill import settings as settings_module
from lakemill.jobs import spec as specs
from lakemill.jobs.console import Stop
from lakemill.jobs.glance import nothing_new
from lakemill.pipelines.flow import Counts, Flow, Watch
from lakemill.pipelines.record import Recorder
from lakemill.pipelines.run import Finished, Pipeline, StoppedError
from lakemill.serving.client import discovery
from lakemill.settings import Paths, Settings

_LOCK_POLL_S = 0.5


@dataclass(frozen=True)
class RunResult:
    """Hold what a run came to.

    `state` is "done" or "nothing to do"; `run_id` is MLflow's, None where nothing was to do; `seconds`
    and `phases` are in seconds.
    """

    job: str
    state: str
    run_id: str | None
    plan_id: str | None
    source: str
    source_version: int
    sink: str
    sink_version: int | None
    model: str | None
    counts: Counts
    seconds: float
    phases: Mapping[str, float] = field(default_factory=dict)
    resumed: bool = False


def run_job(
    name_or_path: str | os.PathLike[str],
    *,
    conf_dir: str | os.PathLike[str] | None = None,
    watch: Watch | None = None,
    conf: Mapping[str, str] | None = None,
) -> RunResult:
    """Do what is not yet done of a job, and return what came of it.

    Args:
        name_or_path: A job of conf/jobs, or the path of its file.
        conf_dir: Folder of the operator's YAML files.
        watch: Hears how far the run is, and may ask it to stop.
        conf: Spark settings, as `lakemill.session` takes them.

    Raises:
        ConfError: The file is missing or not valid.
        JobError: The job failed, or was stopped (`StoppedError`).

    Example:
        >>> lakemill.run_job("packages").counts.rows  # doctest: +SKIP
        64
    """
    began = time.monotonic()
    path = specs.find(name_or_path, conf_dir)
    spec = specs.load(path)
    settings = settings_module.load(conf_dir)
    flow = spec.flow(settings.default_model)
    heard = watch if watch is not None else Stop()
    with _only_one(settings.paths, flow, heard):
        seen = nothing_new(settings.paths, flow)
        if seen is not None:
            return _unchanged(flow, seen, time.monotonic() - began)
        recorder = Recorder(settings.paths)
        finished = _pipeline(flow, path, settings, recorder, heard, conf_dir=conf_dir, conf=conf).run()
        return _result(flow, finished, time.monotonic() - began)


def _pipeline(
    flow: Flow,
    path: Path,
    settings: Settings,
    recorder: Recorder,
    watch: Watch,
    *,
    conf_dir: str | os.PathLike[str] | None,
    conf: Mapping[str, str] | None,
) -> Pipeline:
    watch.phase("start", "Spark")
    spark = lakemill.session(f"lakemill {flow.job}", conf=conf, conf_dir=conf_dir)
    endpoint = discovery.find_or_start(settings, conf_dir=conf_dir)
    text = path.read_text(encoding="utf-8")
    folder = None if conf_dir is None else os.fspath(conf_dir)
    return Pipeline(spark, flow, endpoint, recorder, watch, text, folder)


class _only_one:  # noqa: N801 - reads as the context manager it is
    """Hold the job's lock: two runs at once would plan the same rows twice."""

    def __init__(self, paths: Paths, flow: Flow, watch: Watch) -> None:
        folder = paths.locks / "jobs"
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / f"{flow.job}.lock")
        self._watch = watch
        self._job = flow.job

    def __enter__(self) -> None:
        while True:
            try:
                self._lock.acquire(timeout=_LOCK_POLL_S)
            except Timeout:
                self._watch.phase("wait", f"another run of {self._job} is at work")
                if self._watch.stopping:
                    raise StoppedError(f"job {self._job} was stopped before it began") from None
            else:
                return

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _unchanged(flow: Flow, seen: tuple[int, int], seconds: float) -> RunResult:
    source_version, sink_version = seen
    return RunResult(
        job=flow.job,
        state="nothing to do",
        run_id=None,
        plan_id=None,
        source=flow.source,
        source_version=source_version,
        sink=flow.sink,
        sink_version=sink_version,
        model=None,
        counts=Counts(),
        seconds=seconds,
    )


def _result(flow: Flow, finished: Finished, seconds: float) -> RunResult:
    return RunResult(
        job=flow.job,
        state=finished.state,
        run_id=finished.run_id,
        plan_id=finished.plan.plan_id,
        source=flow.source,
        source_version=finished.plan.source_version,
        sink=flow.sink,
        sink_version=finished.sink_version,
        model=finished.plan.model,
        counts=finished.counts,
        seconds=seconds,
        phases=finished.phases,
        resumed=finished.plan.resumed,
    )
