"""The one module that imports MLflow: runs, metrics, tables and plots through a client of its own.

No global state of MLflow is touched, so a run that the caller has open stays the caller's.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.data.delta_dataset_source import DeltaDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param
from mlflow.utils.time import get_current_time_millis

from lakemill.pipelines.record import Dataset, Outcome

EXPERIMENT = "lakemill"
JOB_TAG = "lakemill.job"
_LONGEST = 6000
_COUNTS = (
    "rows",
    "calls",
    "asked",
    "ledger_hits",
    "deduplicated",
    "skipped",
    "cached",
    "failed",
    "failed_rows",
    "deleted",
    "prompt_tokens",
    "completion_tokens",
)


class Tracking:
    """Speak to one tracking store; `artifacts` is where a new experiment keeps its files."""

    def __init__(self, uri: str, artifacts: str | None) -> None:
        # It tells at length how it makes its tables.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
        self._client = MlflowClient(uri)
        self._experiment = self._find_or_create(artifacts)

    def start(self, job: str, *, params: Mapping[str, Any], tags: Mapping[str, str], spec: str) -> str:
        """Begin a run and return its id; `spec` is the job's YAML."""
        run = self._client.create_run(self._experiment, run_name=job, tags={JOB_TAG: job, **tags})
        run_id = str(run.info.run_id)
        told = [Param(key, str(value)[:_LONGEST]) for key, value in params.items()]
        self._client.log_batch(run_id, params=told)
        self._client.log_text(run_id, spec, "job.yaml")
        return run_id

    def tell(self, run_id: str, outcome: Outcome) -> None:
        """Write the numbers, datasets, plot and failures of a run."""
        now = get_current_time_millis()
        metrics = [Metric(key, value, now, 0) for key, value in numbers(outcome).items()]
        self._client.log_batch(run_id, metrics=metrics)
        self._client.log_inputs(run_id, datasets=[_input(dataset) for dataset in outcome.datasets])
        if outcome.latencies:
            self._client.log_figure(run_id, plot(outcome.latencies), "latency.png")
        if outcome.failures:
            self._client.log_table(run_id, _columns(outcome.failures), "failures.json")

    def tell_error(self, run_id: str, error: str) -> None:
        """Write why a run did not come to its end."""
        self._client.set_tag(run_id, "lakemill.error", error[:_LONGEST])
        self._client.log_text(run_id, error, "error.txt")

    def end(self, run_id: str, status: str) -> None:
        """Close a run as FINISHED, FAILED or KILLED."""
        self._client.set_terminated(run_id, status)

    def end_orphans(self, job: str) -> None:
        """Close the job's open runs; its lock is the caller's, so that they belong to nobody."""
        query = f"tags.`{JOB_TAG}` = '{job}' and attributes.status = 'RUNNING'"
        for run in self._client.search_runs([self._experiment], filter_string=query):
            self.end(run.info.run_id, "KILLED")

    def _find_or_create(self, artifacts: str | None) -> str:
        found = self._client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(self._client.create_experiment(EXPERIMENT, artifact_location=artifacts))
        except Exception:
            # Another process made it in the same moment.
            found = self._client.get_experiment_by_name(EXPERIMENT)
            if found is None:
                raise
            return str(found.experiment_id)


def numbers(outcome: Outcome) -> dict[str, float]:
    """Return the metrics of a run by name."""
    counts = outcome.counts
    told = {name: float(getattr(counts, name)) for name in _COUNTS}
    told |= {f"failed.{code}": float(count) for code, count in counts.failed_by_code.items()}
    told |= {f"seconds.{phase}": seconds for phase, seconds in outcome.phases.items()}
    return told | {"seconds": outcome.seconds, "rows_per_second": outcome.rows_per_second}


def _input(dataset: Dataset) -> DatasetInput:
    # By path and version: a DataFrame would be evaluated, and with it the model asked again.
    source = DeltaDatasetSource(path=dataset.path, delta_table_version=dataset.version)
    described = MetaDataset(source=source, name=f"{dataset.name}@v{dataset.version}", digest=f"v{dataset.version}")
    tag = InputTag(key="mlflow.data.context", value=dataset.context)
    return DatasetInput(dataset=described._to_mlflow_entity(), tags=[tag])  # noqa: SLF001 - as mlflow.log_input does


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def plot(latencies: Mapping[str, Sequence[float]]) -> Figure:
    """Return the share of calls answered over time, one line a step; latencies in ms."""
    # The Figure itself, not pyplot: no window system, and no state beside the caller's own plots.
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for step, values in latencies.items():
        ordered = sorted(values)
        shares = [(index + 1) / len(ordered) for index in range(len(ordered))]
        axes.step(ordered, shares, where="post", label=step)
    axes.set(xlabel="latency of a call (ms)", ylabel="share of calls answered", ylim=(0, 1.02), title="Latency by step")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    return figure
