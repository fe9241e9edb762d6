"""One run of a flow: plan, infer, sink, record."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import SparkSession

from lakemill import control
from lakemill.errors import JobError
from lakemill.pipelines import delta, infer, rules, sink, source, steps, tally
from lakemill.pipelines import plan as plans
from lakemill.pipelines.flow import Counts, Flow, Watch
from lakemill.pipelines.plan import Plan
from lakemill.pipelines.record import Dataset, Outcome, Recorder
from lakemill.pipelines.steps import Call
from lakemill.pipelines.tally import Tally
from lakemill.pipelines.work import Work
from lakemill.serving.client import Endpoint, discovery

_log = logging.getLogger(__name__)


class StoppedError(JobError):
    """Raised when a run was asked to stop; what was done is kept, and the next run goes on."""

    exit_code = 3


@dataclass(frozen=True)
class Finished:
    """Hold what a run came to. `run_id` is None, and `sink_version` the present one, where nothing was to do."""

    state: str
    run_id: str | None
    plan: Plan
    sink_version: int | None
    counts: Counts
    phases: Mapping[str, float]


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
    began: float = field(default_factory=time.monotonic)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def run(self) -> Finished:
        """Do what is not yet done.

        Raises:
            JobError: The job cannot go on.
            RowFailedError: Too many rows failed, by the job's own rules.
            StoppedError: `watch` asked to stop.
        """
        try:
            return self._run()
        except StoppedError:
            raise
        except Exception as error:
            if not self.watch.stopping:
                raise
            # Spark's jobs were cancelled to stop sooner, and each tells that in its own way.
            raise self._stopped() from error

    def _run(self) -> Finished:
        with self._phase("plan", self.flow.source):
            plan, calls = self._plan()
        if not plan.work:
            return self._nothing(plan)
        self._check_stop()
        run_id = self.recorder.start(
            self.flow.job, params=_params(self.flow, plan), tags={"lakemill.plan_id": plan.plan_id}, spec=self.spec
        )
        work = Work(self.spark, self.flow, calls, plan, run_id)
        try:
            return self._work(work)
        except BaseException as error:
            self._failed(work, error)
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
            # It does not tell yet what it will serve, and the keys need the version.
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
        return Finished("nothing to do", None, plan, there, Counts(), dict(self.phases))

    def _work(self, work: Work) -> Finished:
        self._infer(work)
        self._check_stop()
        with sink.joined(work) as frame:
            with self._phase("count"):
                told = tally.take(work, frame)
                failures = sink.record_errors(work, sink.errors(work, frame)) if told.counts.failed else []
            self._judge(work, told, failures)
            self._check_stop()
            with self._phase("sink", self.flow.sink):
                version = sink.merge(work, frame)
        with self._phase("record"):
            self.recorder.finish(work.run_id, self._outcome(work, told, failures, version))
        self._append_run(work, "done", counts=told.counts, sink_version=version)
        return Finished("done", work.run_id, work.plan, version, told.counts, dict(self.phases))

    def _infer(self, work: Work) -> None:
        calls = work.plan.counts["open"]
        if not calls or infer.is_done(work):
            return
        with self._phase("wait", "model"):
            discovery.wait_ready(self.endpoint, on_progress=self._tell_start)
        self._check_stop()
        with self._phase("infer", f"{calls} calls"):
            self.watch.asking(calls)
            try:
                infer.run(work)
            finally:
                self.watch.asked()

    def _judge(self, work: Work, told: Tally, failures: list[dict[str, Any]]) -> None:
        """Fail the job by its own rules, before the sink is touched; the ledger has every answer already."""
        rule = rules.broken(self.flow, told.counts)
        if rule is None:
            return
        plans.abandon(self.spark, self.flow, work.plan)
        first = failures[0]
        raise rules.RuleError(
            f"job {self.flow.job}: {rule}; the first is step {first['step']} of row {first['row_key']}: "
            f"{first['code']}: {first['message']}",
            hint=f"lakemill.run_errors has each of them, with run_id {work.run_id}",
            outcome=self._outcome(work, told, failures, None),
        )

    def _failed(self, work: Work, error: BaseException) -> None:
        stopped = self.watch.stopping or not isinstance(error, Exception)
        state, status = ("stopped", "KILLED") if stopped else ("failed", "FAILED")
        outcome = error.outcome if isinstance(error, rules.RuleError) else None
        reason = str(error).strip() or type(error).__name__
        try:
            self.recorder.fail(work.run_id, reason, outcome=outcome, status=status)
            self._append_run(work, state, counts=None if outcome is None else outcome.counts, error=reason)
        except Exception:
            _log.warning("the end of run %s could not be recorded", work.run_id, exc_info=True)

    def _outcome(self, work: Work, told: Tally, failures: list[dict[str, Any]], sink_version: int | None) -> Outcome:
        flow = self.flow
        datasets = [Dataset(flow.source, delta.location(self.spark, flow.source), work.plan.source_version, "source")]
        if sink_version is not None:
            datasets.append(Dataset(flow.sink, delta.location(self.spark, flow.sink), sink_version, "sink"))
        return Outcome(
            counts=told.counts,
            seconds=time.monotonic() - self.began,
            phases=dict(self.phases),
            rows_per_second=self._rate(told.counts),
            datasets=datasets,
            failures=failures,
            latencies=told.latencies,
        )

    def _rate(self, counts: Counts) -> float:
        seconds = self.phases.get("infer", 0.0)
        return counts.rows / seconds if seconds else 0.0

    def _append_run(self, work: Work, state: str, *, counts: Counts | None = None, **told: Any) -> None:
        plan = work.plan
        record = {
            "run_id": work.run_id,
            "job": self.flow.job,
            "state": state,
            "started_at": self.started_at,
            "finished_at": datetime.now(UTC),
            "seconds": time.monotonic() - self.began,
            "spec": self.flow.digest,
            "plan_id": plan.plan_id,
            "plan": plan.number,
            "source": self.flow.source,
            "source_version": plan.source_version,
            "sink": self.flow.sink,
            "model": plan.model,
            "prompts": dict(plan.prompts),
            "phases": dict(self.phases),
            **told,
        }
        if counts is not None:
            record |= {**vars(counts), "rows_per_second": self._rate(counts)}
        control.append_run(self.spark, record)

    @contextmanager
    def _phase(self, name: str, detail: str = "") -> Iterator[None]:
        self.watch.phase(name, detail)
        began = time.monotonic()
        try:
            yield
        finally:
            self.phases[name] = self.phases.get(name, 0.0) + time.monotonic() - began

    def _tell_start(self, stage: str, seconds: float) -> None:
        del seconds  # the watch shows how long a phase takes
        self._check_stop()
        self.watch.phase("wait", f"model: {stage}")

    def _check_stop(self) -> None:
        if self.watch.stopping:
            raise self._stopped()

    def _stopped(self) -> StoppedError:
        return StoppedError(
            f"job {self.flow.job} was stopped; what was done is kept",
            hint=f"lakemill run {self.flow.job} goes on from there",
        )


def _params(flow: Flow, plan: Plan) -> dict[str, Any]:
    told: dict[str, Any] = {
        "source": flow.source,
        "source_version": plan.source_version,
        "sink": flow.sink,
        "sink.key": ", ".join(flow.keys),
        "keep_results": flow.keep_results,
        "model": plan.model,
        "plan": plan.number,
        "plan_id": plan.plan_id,
        "spec": flow.digest,
        "on_error": flow.on_error,
        "limits.max_error_ratio": flow.max_error_ratio,
        "limits.max_errors": flow.max_errors,
    }
    for step in flow.steps:
        told |= {f"steps.{step.name}.function": step.function, f"steps.{step.name}.input": step.input}
        told |= {f"steps.{step.name}.{name}": value for name, value in step.arguments.items()}
        told[f"steps.{step.name}.prompt_version"] = plan.prompts[step.name]
    return told
