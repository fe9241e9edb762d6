"""The process that owns a serving application: starts it, says how it is, ends everything it started.

`python -m lakemill.serving.supervisor --home H [--engine contract] …` runs until SIGTERM or SIGINT. One runs a
home at a time. serving.json is written before anything heavy is imported.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import filelock

from lakemill import settings
from lakemill.errors import LakemillError, ServingError
from lakemill.serving import idle, launch, processes, status, token
from lakemill.serving.launch import OnStage, Running
from lakemill.serving.status import EngineName, Owner, ServingStatus, State
from lakemill.settings import Paths

logger = logging.getLogger(__name__)

DEFAULT_PORT = 8642
DEFAULT_IDLE_S = 60.0
_CHECK_S = 10.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LOCK_WAIT_S = 0.5
_PATIENCE_S = 60.0  # for one that is about to end: vLLM takes its time


@dataclass(frozen=True, slots=True)
class Options:
    """Say what to run. `models` empty: those with autostart. `port` 0: any free one."""

    home: Path
    conf_dir: str | None = None
    engine: EngineName = "vllm"
    models: tuple[str, ...] = ()
    port: int = DEFAULT_PORT
    owner: Owner = "serve"
    idle_s: float = DEFAULT_IDLE_S


class AlreadyRunningError(ServingError):
    """Raised when an application runs in this home already."""


class _StopError(BaseException):
    """A signal asked to stop while something was being started."""


@contextmanager
def held(paths: Paths, *, patience_s: float = _PATIENCE_S) -> Iterator[None]:
    """Hold the right to run the application of a home; wait for one that is about to end.

    Raises:
        AlreadyRunningError: Another process holds it; the message says which.
    """
    paths.locks.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(paths.locks / "serving.lock")
    deadline = time.monotonic() + patience_s
    while True:
        try:
            lock.acquire(timeout=_LOCK_WAIT_S)
            break
        except filelock.Timeout as error:
            if _stays(paths) or time.monotonic() > deadline:
                raise AlreadyRunningError(_who(paths)) from error
    try:
        yield
    finally:
        lock.release()


def _stays(paths: Paths) -> bool:
    found = status.read(paths)
    return found is not None and found.state in ("starting", "ready")


def _who(paths: Paths) -> str:
    found = status.read(paths)
    if found is None:
        return f"an application is being started or stopped in {paths.home}"
    place = found.url or "no address yet"
    return f"an application runs in {paths.home} already: pid {found.pid}, {found.state}, {place}"


class Supervisor:
    """Run the application of one home, from start to end, in this process.

    Args:
        options: What to run.
        on_stage: Told every stage of the start, and "ready" at its end.
    """

    def __init__(self, options: Options, *, on_stage: OnStage | None = None) -> None:
        self.options = options
        self.settings = settings.load(options.conf_dir, home=options.home)
        self.paths = self.settings.paths
        self._on_stage = on_stage
        self._stopping = threading.Event()
        self._starting = False
        self._status = ServingStatus(None, os.getpid(), options.owner, options.engine, "starting", "checking")

    @property
    def status(self) -> ServingStatus:
        """Return what serving.json says."""
        return self._status

    def run(self) -> None:
        """Run until a signal, or until idle.

        Raises:
            AlreadyRunningError: Another one runs in this home; its serving.json is left alone.
            LakemillError: The start failed; serving.json says why.
        """
        launch.quiet()
        with held(self.paths), self._signals():
            status.write(self.paths, self._status)
            others = processes.descendants()
            processes.adopt_orphans()
            try:
                self._starting = True
                if self._stopping.is_set():
                    raise _StopError
                self._run()
            except (_StopError, SystemExit):
                # SystemExit: Ray's own handler, where a signal meets it before `_tell` took the signals back.
                logger.info("stopped while starting")
            except LakemillError as error:
                self._fail(error)
                raise
            except Exception as error:
                logger.exception("the start failed")
                failure = ServingError(f"the application failed: {type(error).__name__}: {error}")
                self._fail(failure)
                raise failure from error
            finally:
                self._stopping.set()
                processes.end_all(but=others)
                if self._status.state != "failed":
                    status.remove(self.paths, os.getpid())

    def _run(self) -> None:
        watch = idle.IdleWatch(self.paths.locks / "users", idle_s=self.options.idle_s, on_idle=_ask_to_stop)
        if self.options.owner == "auto":
            watch.start()
        app: Running | None = None
        try:
            app = self._start()
            watch.url = self._status.url
            self._tell("ready", "ready")
            self._stay(app)
        finally:
            self._starting = False
            watch.stop()
            if self._status.state == "ready":
                self._tell("stopping", "stopping")
            if app is not None:
                app.stop()

    def _start(self) -> Running:
        options = self.options
        entries = launch.choose(options.models, options.conf_dir)
        self._status = self._status.with_models([status.ModelStatus.of(entry.info) for entry in entries])
        port = launch.free_port(options.port)
        self._tell("starting", "checking", url=f"http://127.0.0.1:{port}")
        secret = token.ensure(self.paths, given=self.settings.token)
        if options.engine == "vllm":
            launch.check_memory(entries)
        plan = launch.Plan(options.engine, entries, self.paths, port, secret)
        app = launch.start(plan, on_stage=lambda stage: self._tell("starting", stage))
        self._starting = False
        return app

    def _stay(self, app: Running) -> None:
        asked = time.monotonic()
        well = True
        while not self._stopping.wait(0.5):
            if time.monotonic() - asked < _CHECK_S:
                continue
            asked = time.monotonic()
            try:
                app.check()
                cause = None
            except ServingError as error:
                cause = error.message
            if (cause is None) != well:
                well = cause is None
                self._tell("ready", "ready" if cause is None else f"not well: {cause}")

    def _tell(self, state: State, stage: str, *, url: str | None = None) -> None:
        self._take_signals()
        self._status = self._status.at(state, stage, url=url)
        status.write(self.paths, self._status)
        logger.info("%s: %s", state, stage)
        if self._on_stage is not None:
            self._on_stage(stage)

    def _fail(self, error: LakemillError) -> None:
        self._status = self._status.failed(error)
        status.write(self.paths, self._status)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        before = {each: signal.getsignal(each) for each in _SIGNALS}
        self._take_signals()
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def _take_signals(self) -> None:
        # Again at every stage: ray.init puts a SIGTERM handler of its own in place, which drains and exits with 1.
        for each in _SIGNALS:
            signal.signal(each, self._signalled)

    def _signalled(self, number: int, _: FrameType | None) -> None:
        logger.info("signal %s: stopping", signal.Signals(number).name)
        first = not self._stopping.is_set()
        self._stopping.set()
        if first and self._starting:
            # Starting is one long call of other people's code: only an exception ends it.
            self._starting = False
            raise _StopError


def _ask_to_stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Read the command line of the supervisor."""
    parser = argparse.ArgumentParser("lakemill.serving.supervisor", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="LAKEMILL_HOME")
    parser.add_argument("--conf-dir", help="folder of the operator's YAML files")
    parser.add_argument("--engine", choices=("vllm", "contract"), default="vllm")
    parser.add_argument("--model", action="append", default=[], help="catalog name; default: those with autostart")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 takes any free one")
    parser.add_argument("--owner", choices=("serve", "auto"), default="serve")
    parser.add_argument("--idle-exit", type=float, default=DEFAULT_IDLE_S, help="seconds without users (owner auto)")
    given = parser.parse_args(arguments)
    return Options(
        given.home, given.conf_dir, given.engine, tuple(given.model), given.port, given.owner, given.idle_exit
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the supervisor; return the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    options = parse(arguments)
    try:
        Supervisor(options).run()
    except AlreadyRunningError as error:
        logger.info("%s", error)
        return 0 if options.owner == "auto" else error.exit_code
    except LakemillError as error:
        logger.error("%s", error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
