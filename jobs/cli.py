"""`lakemill run`: run a job, show how far it is, tell what came of it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import click

from lakemill import settings as settings_module
from lakemill.jobs import runner
from lakemill.jobs.console import Shown, Stop, answered
from lakemill.jobs.runner import RunResult
from lakemill.serving.client import discovery
from lakemill.settings import Settings
from lakemill.spark import SHORT_WORK


@click.command()
@click.argument("job")
@click.option("--conf-dir", type=click.Path(exists=True, file_okay=False), help="Folder of your YAML files.")
def run(job: str, conf_dir: str | None) -> None:
    """Run JOB: a name under conf/jobs, or the path of its file. Do what is not yet done.

    Exit status: 0 done or nothing to do, 1 failed, 2 wrong use, 3 stopped with work pending.
    """
    watch = shown(settings_module.load(conf_dir))
    with stopped_by_signals(watch):
        result = runner.run_job(job, conf_dir=conf_dir, watch=watch, conf=SHORT_WORK)
    click.echo(told(result))


def shown(settings: Settings) -> Shown:
    """Return a watch that shows the phases and counts what the service of these settings answers."""

    def count() -> int | None:
        endpoint = discovery.find(settings)
        return None if endpoint is None else answered(endpoint)

    return Shown(count)


def told(result: RunResult) -> str:
    """Return what came of a run in a few lines."""
    if result.state != "done":
        return f"{result.job}: nothing to do: {result.sink} holds {result.source} at version {result.source_version}"
    counts = result.counts
    lines = [
        f"{result.job}: {result.sink}@v{result.sink_version} holds {result.source}@v{result.source_version}",
        f"  rows: {counts.rows} in {result.seconds:.1f} s, model {result.model}",
        f"  calls: {counts.calls}: {counts.asked} asked, {counts.ledger_hits} in the ledger, {counts.failed} failed",
        f"  rows skipped as blank: {counts.skipped}; calls equal to another: {counts.deduplicated}",
        f"  tokens: {counts.prompt_tokens} read, {counts.completion_tokens} written",
        "  seconds: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in result.phases.items()),
    ]
    if counts.failed:
        codes = ", ".join(f"{code} {count}" for code, count in counts.failed_by_code.items())
        lines.append(f"  failed: {codes}; SELECT * FROM lakemill.run_errors WHERE run_id = '{result.run_id}'")
    lines.append(f"  MLflow run {result.run_id}")
    return "\n".join(lines)


@contextlib.contextmanager
def stopped_by_signals(watch: Stop) -> Iterator[None]:
    """Let SIGINT and SIGTERM ask the run to stop at the next safe point; a second one ends it at once."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        del number, frame
        if watch.stopping:
            raise KeyboardInterrupt
        watch.ask()
        click.echo("stopping; what is committed is kept, and the next run goes on", err=True)
        # From a thread of its own: this one may be inside a call to the JVM, which goes on when we return.
        threading.Thread(target=_cancel, name="lakemill-cancel", daemon=True).start()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _cancel() -> None:
    from pyspark import SparkContext  # noqa: PLC0415 - loaded by then, or there is nothing to cancel

    context = SparkContext._active_spark_context  # noqa: SLF001 - pyspark has no public name for it
    with contextlib.suppress(Exception):
        if context is not None:
            context.cancelAllJobs()
