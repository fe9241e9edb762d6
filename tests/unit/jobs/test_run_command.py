from __future__ import annotations

from typing import Any

from click.testing import CliRunner

from lakemill.errors import JobError
from lakemill.jobs import cli, runner
from lakemill.spark import SHORT_WORK


def test_the_command_asks_for_a_session_of_short_work(monkeypatch) -> None:
    told: dict[str, Any] = {}

    def run_job(job: str, **given: Any) -> None:
        told.update(given, job=job)
        raise JobError("enough is seen")

    monkeypatch.setattr(runner, "run_job", run_job)
    result = CliRunner().invoke(cli.run, ["packages"])
    assert isinstance(result.exception, JobError)
    assert (told["job"], told["conf"]) == ("packages", SHORT_WORK)
