"""`lakemill demo`: a real table, a real model, start to finish, in one process that leaves nothing behind."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from lakemill import settings as settings_module
from lakemill.errors import LakemillError, ServingError
from lakemill.jobs.cli import shown, told
from lakemill.serving import detached, processes, status
from lakemill.serving.status import EngineName
from lakemill.serving.supervisor import Options
from lakemill.settings import Paths, Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from lakemill.jobs.runner import RunResult

JOB = "packages"
_APPEAR_S = 30.0
_POLL_S = 0.05
_QUERIES = (
    "SELECT name, topic, brief FROM packages_ai WHERE brief IS NOT NULL ORDER BY name LIMIT 6",
    "SELECT topic, count(*) AS n, round(avg(topic_result.confidence), 2) AS sure FROM packages_ai GROUP BY topic",
    "SELECT ai_query('{model}', 'Say hi to a data engineer in one short sentence.') AS answer",
)


@click.command()
@click.option("--rows", type=click.IntRange(min=1), default=64, show_default=True, help="Packages to enrich.")
@click.option("--engine", type=click.Choice(get_args(EngineName)), default="vllm", show_default=True)
@click.option("--conf-dir", type=click.Path(exists=True, file_okay=False), help="Folder of your YAML files.")
def demo(rows: int, engine: EngineName, conf_dir: str | None) -> None:
    """Enrich a real table with a real model, start to finish; leave no process behind."""
    settings = settings_module.load(conf_dir)
    processes.exit_on_sigterm()
    clock = _Clock()
    with _served(settings, engine, conf_dir, clock) as service:
        _show(settings, rows, conf_dir, clock, service)
    clock.tell("stop", "lakemill serve --stop")
    click.echo(_where(settings.paths))
    click.echo(clock.summary())


@dataclass
class _Clock:
    """Say what is done, as the command that does it, and how long each part took."""

    began: float = field(default_factory=time.monotonic)
    took: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.monotonic)

    def announce(self, command: str) -> None:
        click.secho(f"\n$ {command}", bold=True)

    def tell(self, name: str, command: str) -> None:
        now = time.monotonic()
        self.took[name] = now - self._last
        self._last = now
        click.echo(f"  [{self.took[name]:.1f} s] {command}")

    def summary(self) -> str:
        parts = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in self.took.items())
        return f"took {time.monotonic() - self.began:.0f} s: {parts}"


class _Service:
    """A serving application that starts in the background; `wait` for it before the first question."""

    def __init__(self, options: Options, paths: Paths) -> None:
        self._options = options
        self._paths = paths
        self._error: LakemillError | None = None
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._start, name="lakemill-demo-serve", daemon=True)
        self._thread.start()
        self._wait_named()

    def wait(self) -> float:
        """Return when it is ready, with the seconds that its start took.

        Raises:
            LakemillError: The start failed; the message is the cause.
        """
        while self._thread.is_alive():
            self._thread.join(_POLL_S)  # in short steps, so that Ctrl-C is heard
        if self._error is not None:
            raise self._error
        return self._seconds

    def _start(self) -> None:
        try:
            detached.start(self._options, self._paths, on_stage=lambda stage: click.echo(f"  serve: {stage}", err=True))
        except LakemillError as error:
            self._error = error
        self._seconds = time.monotonic() - self._began

    def _wait_named(self) -> None:
        # From here on a session finds this application and starts none of its own.
        deadline = time.monotonic() + _APPEAR_S
        while status.read(self._paths) is None and self._thread.is_alive():
            if time.monotonic() > deadline:
                raise ServingError(f"the serving application does not appear in {self._paths.serving_json}")
            time.sleep(_POLL_S)


@contextmanager
def _served(settings: Settings, engine: EngineName, conf_dir: str | None, clock: _Clock) -> Iterator[_Service | None]:
    paths = settings.paths
    if detached.report(paths).running:
        clock.announce("lakemill serve --status")
        click.echo("  a serving application runs here already; it is used, and left running")
        yield None
        return
    clock.announce("lakemill serve --detach      (meanwhile, the rest goes on)")
    paths.serving_json.unlink(missing_ok=True)  # of one that was killed
    try:
        yield _Service(Options(paths.home, conf_dir, engine, port=0), paths)
    finally:
        detached.stop(paths)


def _show(settings: Settings, rows: int, conf_dir: str | None, clock: _Clock, service: _Service | None) -> None:
    from lakemill import spark as spark_module  # noqa: PLC0415 - Spark, while the model is starting
    from lakemill.jobs import sample  # noqa: PLC0415
    from lakemill.udfs.session import session  # noqa: PLC0415

    spark = session("lakemill demo", conf=spark_module.SHORT_WORK, conf_dir=conf_dir)
    try:
        clock.announce(f"lakemill sample packages --rows {rows}")
        clock.tell("Spark and sample", sample.told(sample.write_packages(spark, rows)))
        clock.announce(f"lakemill run {JOB}")
        result = _run(settings, conf_dir, service)
        clock.tell("job", told(result))
        if service is not None:
            click.echo(f"  the model was ready {service.wait():.0f} s after its start")
        _ask(spark, settings, clock)
    finally:
        spark_module.close()


def _run(settings: Settings, conf_dir: str | None, service: _Service | None) -> RunResult:
    from lakemill.jobs import runner  # noqa: PLC0415

    try:
        return runner.run_job(JOB, conf_dir=conf_dir, watch=shown(settings))
    except LakemillError:
        if service is not None:
            service.wait()  # a start that failed is the better reason
        raise


def _ask(spark: SparkSession, settings: Settings, clock: _Clock) -> None:
    from lakemill.udfs.print_rows import print_rows  # noqa: PLC0415

    for query in _QUERIES:
        text = query.format(model=settings.default_model)
        clock.announce(f'lakemill sql -e "{text}"')
        print_rows(spark.sql(text), "table", sys.stdout)
    clock.tell("queries", "three queries")


def _where(paths: Paths) -> str:
    home = _relative(paths.home)
    return "\n".join(
        (
            "\nwhere everything lies:",
            f'  tables    {home}/warehouse      lakemill sql -e "SELECT * FROM packages_ai LIMIT 5"',
            f'  ledger    {home}/warehouse      lakemill sql -e "SELECT * FROM lakemill.ledger LIMIT 5"',
            f"  runs      {home}/mlflow.db      lakemill ui      (or: make ui)",
            f"  answers   {home}/journal        a second run pays for none of them again",
            f"  logs      {home}/logs",
        )
    )


def _relative(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
