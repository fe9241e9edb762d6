"""A job of its own for each test: source table, job file, and how often the service was asked."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyspark.sql import SparkSession

from lakemill.jobs import runner
from lakemill.jobs.runner import RunResult
from lakemill.pipelines.flow import Watch
from lakemill.serving.contract_server import ContractServer

_numbers = itertools.count()


@dataclass
class Job:
    """Hold one job; `run` runs it, `asked` counts the prompts that reached the engine so far."""

    spark: SparkSession
    contract: ContractServer
    conf: Path
    number: int

    @property
    def name(self) -> str:
        return f"job{self.number}"

    @property
    def source(self) -> str:
        return f"source{self.number}"

    @property
    def sink(self) -> str:
        return f"sink{self.number}"

    def write(self, **changes: Any) -> Job:
        """Write the job file; a key given here replaces the one below."""
        spec = {
            "job": self.name,
            "source": {"table": self.source},
            "steps": {
                "brief": {"function": "ai_summarize", "input": "body", "max_words": 10},
                "topic": {"function": "ai_classify", "input": "concat(title, ' ', brief)", "labels": ["card", "app"]},
                "facts": {"function": "ai_extract", "input": "body", "schema": {"what": {"type": "string"}}},
            },
            "sink": {"table": self.sink, "key": ["id"], "keep_results": True},
        }
        file = self.conf / "jobs" / f"{self.name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(spec | changes, sort_keys=False), encoding="utf-8")
        return self

    def fill(self, *rows: str) -> Job:
        """Make the source from SQL rows `(id, title, body)`; # becomes the job's number.

        Texts must differ from those of other tests, or the ledger has their answers already.
        """
        rows = tuple(row.replace("#", str(self.number)) for row in rows)
        self.spark.sql(f"CREATE TABLE {self.source} AS SELECT * FROM VALUES {', '.join(rows)} AS t(id, title, body)")
        return self

    def run(self, watch: Watch | None = None) -> RunResult:
        return runner.run_job(self.name, conf_dir=self.conf, watch=watch)

    @property
    def asked(self) -> int:
        return sum(len(batch.prompts) for batch in self.contract.engine.batches)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.spark.sql(sql.format(job=self)).collect()]


@pytest.fixture
def job(spark: SparkSession, contract: ContractServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A job file in a folder of its own, on the contract service."""
    monkeypatch.setenv("LAKEMILL_ENDPOINT", contract.url)
    monkeypatch.setenv("LAKEMILL_TOKEN", contract.token or "")
    return Job(spark, contract, tmp_path / "conf", next(_numbers)).write()


@pytest.fixture
def crash(monkeypatch: pytest.MonkeyPatch) -> Callable[[object, str], None]:
    """Make a function of a module end as a killed process would, once."""

    def arm(module: object, name: str) -> None:
        real = getattr(module, name)

        def die(*args: Any, **kwargs: Any) -> Any:
            monkeypatch.setattr(module, name, real)
            raise KeyboardInterrupt(name)

        monkeypatch.setattr(module, name, die)

    return arm
