"""One run of a flow in DESIGN's order: plan, infer, sink, record."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from lakemill import control
from lakemill.errors import JobError, RowFailedError
from lakemill.pipelines import delta, infer, plan as plans, sink, source, steps
from lakemill.pipelines.flow import Counts, Flow, Watch
from lakemill.pipelines.plan import Plan
from lakemill.pipelines.record import Dataset, Outcome, Recorder
from lakemill.pipelines.steps import Call
from lakemill.serving.client import Endpoint, discovery

log = logging.getLogger(__name__)


class StoppedError(JobError):
    """Raised when a run was asked to stop; what was done is kept, and the next run goes on."""

    exit_code = 3


@dataclass(frozen=True)
class Finished:
    """Hold what a run came to. `run_id` is None and `sink_version` the present one where nothing was to do."""

    state: str
    run_id: str | None
    plan_id: str
    resumed: bool
    source_version: int
    sink_version: int | None
    model: str
    counts: Counts
    phases: Mapping[str, float]
    seconds: float


@dataclass
class Pipeline:
    """Run one flow in one session. `spec` is the job's YAML, for the record."""

    spark: SparkSession
    flow: Flow
    endpoint: Endpoint
    recorder: Recorder
    watch: Watch
    spec: str
    conf_dir: str | None = None
    phases: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def run(self) -> Finished:
        """Do what is not yet done.

        Raises:
            JobError: The job cannot go on, or failed by its own rules.
            StoppedError: `watch` asked to stop.
        """
        with self._phase("plan", self.flow.source):
            plan, calls = self._plan()
        if not plan.work:
            return self._nothing(plan)
        self._check_stop()
        params = {"plan_id": plan.plan_id, "plan": plan.number, "source_version": plan.source_version}
        params |= {"model": plan.model, "sink": self.flow.sink, "source": self.flow.source, "spec": self.flow.digest}
        params |= {f"prompt.{name}": version for name, version in plan.prompts.items()}
        run_id = self.recorder.start(
            self.flow.job, params=params | _settings(self.flow), tags={"lakemill.plan_id": plan.plan_id}, spec=self.spec
        )
        try:
            return self._work(plan, calls, run_id)
        except BaseException as error:
            self._failed(plan, run_id, error)
            raise

    def _plan(self) -> tuple[Plan, tuple[Call, ...]]:
        version = source.newest(self.spark, self.flow)
        model = self._model()
        calls = steps.bind(self.flow, source.read(self.spark, self.flow, version), self.conf_dir)
        return plans.make(self.spark, self.flow, calls, version=version, model=model), calls

    def _model(self) -> str:
        """Resolve the model once: a move while the job runs changes nothing for it."""
        known = discovery.models(self.endpoint)
        if known is None:
            # Not up yet, and it does not tell what it will serve: the keys need the version.
            discovery.wait_ready(self.endpoint, on_progress=self._tell_start)
            known = discovery.models(self.endpoint) or {}
        if self.flow.model not in known:
            raise JobError(
                f"job {self.flow.job}: model {self.flow.model!r} is not served at {self.endpoint.url}",
                hint=f"models served: {', '.join(sorted(known)) or 'none'}",
            )
        return known[self.flow.model].qualified

    def _nothing(self, plan: Plan) -> Finished:
        there = delta.version(self.spark, self.flow.sink) if delta.exists(self.spark, self.flow.sink) else None
        return self._finished("nothing to do", None, plan, there, Counts())

    def _work(self, plan: Plan, calls: Sequence[Call], run_id: str) -> Finished:
        self._infer(plan, calls, run_id)
        self._check_stop()
        with sink.joined(self.spark, self.flow, calls, plan) as frame:
            with self._phase("count"):
                counts = sink.count(self.spark, frame, calls, plan)
                failures = self._record_failures(frame, calls, plan, run_id, counts)
            self._judge(plan, run_id, counts, failures)
            with self._phase("sink", self.flow.sink):
                version = sink.merge(self.spark, self.flow, frame, calls, plan, run_id=run_id)
        with self._phase("record"):
            self.recorder.finish(run_id, self._outcome(plan, counts, failures, version))
        done = self._finished("done", run_id, plan, version, counts)
        self._append_run(plan, run_id, "done", counts=counts, sink_version=version)
        return done

    def _infer(self, plan: Plan, calls: Sequence[Call], run_id: str) -> None:
        if not plan.counts["open"] or infer.is_done(self.spark, plan):
            return
        with self._phase("wait", "model"):
            discovery.wait_ready(self.endpoint, on_progress=self._tell_start)
        self._check_stop()
        with self._phase("infer", f"{plan.counts['open']} calls"):
            self.watch.asking(plan.counts["open"])
            try:
                infer.run(self.spark, self.flow, calls, plan, run_id=run_id)
            finally:
                self.watch.asked()

    def _record_failures(
        self, frame: DataFrame, calls: Sequence[Call], plan: Plan, run_id: str, counts: Counts
    ) -> list[dict[str, Any]]:
        if not counts.failed:
            return []
        errors = sink.flat_errors(frame, calls)
        sink.record_errors(self.spark, self.flow, errors, plan, run_id=run_id)
        return sink.sample_errors(errors)

    def _judge(self, plan: Plan, run_id: str, counts: Counts, failures: list[dict[str, Any]]) -> None:
        """Fail the job by its own rules, before the sink is touched; the ledger has every answer already."""
        broken = _broken_rule(self.flow, counts)
        if broken is None:
            return
        plans.abandon(self.spark, self.flow, plan)
        first = failures[0]
        raise _RuleError(
            f"job {self.flow.job}: {broken}; the first is step {first['step']} of row {first['row_key']}: "
            f"{first['code']}: {first['message']}",
            hint=f"SELECT * FROM lakemill.run_errors WHERE run_id = '{run_id}'",
            outcome=self._outcome(plan, counts, failures, None),
        )

    def _failed(self, plan: Plan, run_id: str, error: BaseException) -> None:
        stopped = self.watch.stopping or not isinstance(error, Exception)
        outcome = error.outcome if isinstance(error, _RuleError) else None
        counts = outcome.counts if outcome is not None else None
        state, status = ("stopped", "KILLED") if stopped else ("failed", "FAILED")
        try:
            self.recorder.fail(run_id, str(error) or type(error).__name__, outcome=outcome, status=status)
            self._append_run(plan, run_id, state, counts=counts, error=str(error))
        except Exception:
            log.warning("the end of run %s could not be recorded", run_id, exc_info=True)

    def _outcome(self, plan: Plan, counts: Counts, failures: list[dict[str, Any]], sink_version: int | None) -> Outcome:
        datasets = [self._dataset(self.flow.source, plan.source_version, "source")]
        if sink_version is not None:
            datasets.append(self._dataset(self.flow.sink, sink_version, "sink"))
        return Outcome(
            counts=counts,
            seconds=time.monotonic() - self.started,
            phases=dict(self.phases),
            rows_per_second=self._rate(counts),
            datasets=datasets,
            failures=failures,
            latencies=sink.latencies(self.spark, plan) if counts.asked else {},
        )

    def _dataset(self, table: str, version: int, context: str) -> Dataset:
        location = self.spark.sql(f"DESCRIBE DETAIL {table}").select("location").first()
        assert location is not None
        return Dataset(table, str(location[0]), version, context)

    def _rate(self, counts: Counts) -> float:
        seconds = self.phases.get("infer", 0.0)
        return counts.rows / seconds if seconds else 0.0

    def _finished(
        self, state: str, run_id: str | None, plan: Plan, sink_version: int | None, counts: Counts
    ) -> Finished:
        return Finished(
            state=state,
            run_id=run_id,
            plan_id=plan.plan_id,
            resumed=plan.resumed,
            source_version=plan.source_version,
            sink_version=sink_version,
            model=plan.model,
            counts=counts,
            phases=dict(self.phases),
            seconds=time.monotonic() - self.started,
        )

    def _append_run(
        self,
        plan: Plan,
        run_id: str,
        state: str,
        *,
        counts: Counts | None = None,
        sink_version: int | None = None,
        error: str | None = None,
    ) -> None:
        numbers = {} if counts is None else {**vars(counts), "failed_by_code": dict(counts.failed_by_code)}
        control.append_run(
            self.spark,
            {
                **numbers,
                "run_id": run_id,
                "job": self.flow.job,
                "state": state,
                "started_at": self.started_at,
                "finished_at": datetime.now(UTC),
                "seconds": time.monotonic() - self.started,
                "spec": self.flow.digest,
                "plan_id": plan.plan_id,
                "plan": plan.number,
                "source": self.flow.source,
                "source_version": plan.source_version,
                "sink": self.flow.sink,
                "sink_version": sink_version,
                "model": plan.model,
                "prompts": dict(plan.prompts),
                "phases": dict(self.phases),
                "error": error,
                "rows_per_second": None if counts is None else self._rate(counts),
            },
        )

    @contextmanager
    def _phase(self, name: str, detail: str = "") -> Iterator[None]:
        self.watch.phase(name, detail)
        began = time.monotonic()
        try:
            yield
        finally:
            self.phases[name] = self.phases.get(name, 0.0) + time.monotonic() - began

    def _tell_start(self, stage: str, seconds: float) -> None:
        self._check_stop()
        self.watch.phase("wait", f"model: {stage}")

    def _check_stop(self) -> None:
        if self.watch.stopping:
            raise StoppedError(
                f"job {self.flow.job} was stopped; what was done is kept",
                hint=f"lakemill run {self.flow.job} goes on from there",
            )


class _RuleError(RowFailedError):
    def __init__(self, message: str, *, hint: str | None = None, outcome: Outcome | None = None) -> None:
        super().__init__(message, hint=hint)
        self.outcome = outcome


def _broken_rule(flow: Flow, counts: Counts) -> str | None:
    if not counts.failed:
        return None
    codes = ", ".join(f"{code} {number}" for code, number in counts.failed_by_code.items())
    if flow.on_error == "fail":
        return f"{counts.failed} calls failed ({codes}) and on_error is fail"
    if flow.max_errors is not None and counts.failed_rows > flow.max_errors:
        return f"{counts.failed_rows} rows failed ({codes}), more than limits.max_errors = {flow.max_errors}"
    ratio = counts.failed_rows / max(1, counts.rows)
    if flow.max_error_ratio is not None and ratio > flow.max_error_ratio:
        return (
            f"{counts.failed_rows} of {counts.rows} rows failed ({codes}), "
            f"more than limits.max_error_ratio = {flow.max_error_ratio:g}"
        )
    return None


def _settings(flow: Flow) -> dict[str, Any]:
    told: dict[str, Any] = {
        "on_error": flow.on_error,
        "keep_results": flow.keep_results,
        "sink.key": ", ".join(flow.keys),
        "limits.max_error_ratio": flow.max_error_ratio,
        "limits.max_errors": flow.max_errors,
    }
    for step in flow.steps:
        told |= {f"steps.{step.name}.function": step.function, f"steps.{step.name}.input": step.input}
        told |= {f"steps.{step.name}.{name}": value for name, value in step.arguments.items()}
    return told
