"""`lakemill serve`: start, show or stop the serving application of a home."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from lakemill import settings
from lakemill.serving import detached
from lakemill.serving.launch import OnStage
from lakemill.serving.status import EngineName, ServingStatus
from lakemill.serving.supervisor import DEFAULT_PORT, Options, Supervisor
from lakemill.settings import Paths

NOT_READY = 1
NOT_RUNNING = 3


@click.command()
@click.option("--model", "models", multiple=True, metavar="NAME", help="Catalog name; default: those with autostart.")
@click.option("--engine", type=click.Choice(get_args(EngineName)), default="vllm", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True, help="0: any free one.")
@click.option("--home", type=click.Path(file_okay=False, path_type=Path), help="LAKEMILL_HOME.")
@click.option("--conf-dir", type=click.Path(exists=True, file_okay=False), help="Folder of your YAML files.")
@click.option("--detach", "action", flag_value="detach", help="Return when it is ready; it goes on in the background.")
@click.option(
    "--status", "action", flag_value="status", help="Tell how it is: exit 0 ready, 1 not ready, 3 not running."
)
@click.option("--stop", "action", flag_value="stop", help="End it.")
def serve(
    models: tuple[str, ...], engine: EngineName, port: int, home: Path | None, conf_dir: str | None, action: str | None
) -> None:
    """Start, show or stop the serving application."""
    paths = settings.load(conf_dir, home=home).paths
    if action == "status":
        sys.exit(_status(paths))
    if action == "stop":
        _stop(paths)
        return
    options = Options(paths.home, conf_dir, engine, models, port)
    if action == "detach":
        _detach(options, paths)
    else:
        _foreground(options, paths)


def _foreground(options: Options, paths: Paths) -> None:
    started = time.monotonic()
    with _progress() as show:

        def on_stage(stage: str) -> None:
            show(stage)
            if stage == "ready":
                _say_ready(watched.status, paths, time.monotonic() - started)
                click.echo("stop it with Ctrl-C")

        watched = Supervisor(options, on_stage=on_stage)
        watched.run()
    click.echo("stopped")


def _detach(options: Options, paths: Paths) -> None:
    started = time.monotonic()
    with _progress() as show:
        found = detached.start(options, paths, on_stage=show)
    _say_ready(found, paths, time.monotonic() - started)
    click.echo(f"log: {detached.log_path(paths)}\nstop it with: lakemill serve --stop")


def _stop(paths: Paths) -> None:
    with _progress() as show:
        show("stopping")
        pid = detached.stop(paths)
    click.echo(f"nothing runs in {paths.home}" if pid is None else f"stopped (pid {pid})")


def _status(paths: Paths) -> int:
    report = detached.report(paths)
    found = report.status
    if found is None or not report.running:
        click.echo(f"not running in {paths.home}")
        if found is not None and found.error is not None:
            click.echo(f"the last start failed: {found.error['message']}")
        return NOT_RUNNING
    minutes, seconds = divmod(int(time.time() - found.started_at), 60)
    click.echo(f"state:  {found.state}{f' ({found.stage})' if found.stage != found.state else ''}")
    click.echo(f"url:    {found.url or 'none yet'}")
    click.echo(f"pid:    {found.pid} (started by {'lakemill serve' if found.owner == 'serve' else 'a query'})")
    click.echo(f"engine: {found.engine}")
    click.echo(f"models: {_models(found)}")
    click.echo(f"health: {report.cause or 'ok'}")
    click.echo(f"uptime: {minutes} min {seconds} s")
    return 0 if report.cause is None else NOT_READY


def _models(found: ServingStatus) -> str:
    return ", ".join(f"{model.name}@{model.version}" for model in found.models) or "none yet"


def _say_ready(found: ServingStatus, paths: Paths, seconds: float) -> None:
    model = found.models[0].name
    body = f'{{"model": "{model}", "rows": [{{"id": "1", "messages": [{{"role": "user", "content": "Say hi"}}]}}]}}'
    click.echo(f"ready after {seconds:.0f} s: {found.url} ({_models(found)}; engine {found.engine})")
    secret = f"$(cat {paths.token})" if paths.token.exists() else "$LAKEMILL_TOKEN"
    click.echo(f"token: {paths.token if paths.token.exists() else 'as in LAKEMILL_TOKEN'}")
    click.echo(f"""try: curl -s {found.url}/v1/rows -H "Authorization: Bearer {secret}" -d '{body}'""")


@contextmanager
def _progress() -> Iterator[OnStage]:
    """Show stages: a spinner with the time on a terminal, one plain line a stage elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda stage: click.echo(f"serve: {stage}", err=True)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting")

        def show(stage: str) -> None:
            bar.update(task, description=stage, visible=stage != "ready")

        yield show
