"""`lakemill ui`: MLflow's own pages, on the runs of this LAKEMILL_HOME."""

from __future__ import annotations

import os
import subprocess
import sys

import click

from lakemill import settings as settings_module
from lakemill.errors import UsageError
from lakemill.pipelines.record import quiet, tracking_uri
from lakemill.serving import processes

DEFAULT_PORT = 8643
_STOP_S = 10.0


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=DEFAULT_PORT, show_default=True)
@click.option("--conf-dir", type=click.Path(exists=True, file_okay=False), help="Folder of your YAML files.")
def ui(port: int, conf_dir: str | None) -> None:
    """Open MLflow on the runs of this LAKEMILL_HOME, on the loopback address, until Ctrl-C."""
    paths = settings_module.load(conf_dir).paths
    uri = tracking_uri(paths)
    if uri.startswith("sqlite:") and not paths.mlflow_db.exists():
        raise UsageError(
            f"there are no runs in {paths.home}", hint="`lakemill run JOB` makes them; or set LAKEMILL_HOME"
        )
    quiet(paths)
    click.echo(f"MLflow: http://127.0.0.1:{port} (runs in {paths.home}); stop it with Ctrl-C")
    line = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    line += ["--backend-store-uri", uri, "--default-artifact-root", paths.mlflow_artifacts.as_uri()]
    # MLflow starts workers, and all of them have to end with this command, whoever of them goes first.
    processes.adopt_orphans()
    processes.exit_on_sigterm()
    process = subprocess.Popen(line, env=os.environ.copy())  # noqa: S603 - MLflow of this environment
    try:
        sys.exit(process.wait())
    except KeyboardInterrupt:
        click.echo("stopped")
    finally:
        processes.end_all(grace_s=_STOP_S)
