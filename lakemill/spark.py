"""Build the Spark session that lakemill gives to people who bring none of their own.

Delta, the workers' Python, settings for small tables, loopback only, an in-memory catalog that knows
every Delta table under `LAKEMILL_HOME/warehouse`, and scratch space that is gone when the process ends.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkRuntimeError
from pyspark.java_gateway import launch_gateway
from pyspark.sql import SparkSession

from lakemill import archive, jars, java, warehouse
from lakemill.errors import SetupError
from lakemill.settings import Paths, Settings

log = logging.getLogger(__name__)

ROWS_A_BATCH = 256
_JVM_STOP_S = 20.0

_DELTA = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    # CREATE TABLE without USING gives a table that the next process finds again.
    "spark.sql.sources.default": "delta",
    "spark.sql.catalogImplementation": "in-memory",
}
# With the defaults a MERGE of three rows takes 20 s, nearly all of it empty tasks.
_SMALL_TABLES = {
    "spark.databricks.delta.snapshotPartitions": "1",
    "spark.sql.shuffle.partitions": "2",
    "spark.default.parallelism": "2",
}
# For sessions that run a few of lakemill's own queries and end: generating code for each query of a job costs
# ten CPU seconds, and the optimising compiler thirty. Not for those that people get: what runs for minutes wants
# the compiler, and Spark's interpreter fails in places of its own (`spark.catalog.listTables()` beside a
# temporary view is one).
SHORT_WORK: Mapping[str, str] = {"spark.lakemill.shortWork": "true"}
_INTERPRETED = {"spark.sql.codegen.factoryMode": "NO_CODEGEN"}
_QUICK_COMPILER = "-XX:TieredStopAtLevel=1"
_PYTHON = {
    "spark.sql.execution.arrow.maxRecordsPerBatch": str(ROWS_A_BATCH),
    "spark.sql.execution.arrow.pyspark.enabled": "true",
}
_QUIET = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false"}
# Internal to Spark, and so only where we also know that executors find lakemill.
_READY_WORKERS = {"spark.python.daemon.module": "lakemill.udfs.daemon"}
_LOOPBACK = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}


def build(
    app_name: str, master: str | None, settings: Settings, *, conf: Mapping[str, str] | None = None
) -> SparkSession:
    """Return a new Spark session with Delta and the tables of `LAKEMILL_HOME` registered.

    Args:
        app_name: Name that Spark shows for the application.
        master: Spark master; None means `local[*]`.
        settings: Where LAKEMILL_HOME lies.
        conf: Spark settings that win over those of lakemill.

    Raises:
        SetupError: There is no Java, or the Delta jars are missing and cannot be fetched.
    """
    chosen = master or "local[*]"
    scratch = Path(tempfile.mkdtemp(prefix="lakemill-"))
    given = dict(conf or {})
    short = SHORT_WORK.items() <= given.items()
    values = options(settings.paths, chosen, jars.paths(), scratch, short=short) | given
    for name in ("PYSPARK_PYTHON", "PYSPARK_DRIVER_PYTHON"):
        os.environ[name] = sys.executable
    builder = SparkSession.builder.appName(app_name).master(chosen)
    atexit.register(_end, scratch)
    _start_jvm(values | {"spark.master": chosen}, settings.paths)
    with _own_interrupt():
        spark = builder.config(map=dict(values)).getOrCreate()
    warehouse.refresh(spark, settings.paths)
    return spark


def options(
    paths: Paths, master: str, jar_paths: Sequence[Path], scratch: Path, *, short: bool = False
) -> dict[str, str]:
    """Return the Spark settings of a session; `scratch` takes everything that need not last.

    `short` is for a session that runs a few queries of lakemill's own and ends.
    """
    local = master.startswith("local")
    places = {
        "spark.sql.warehouse.dir": paths.warehouse.as_uri(),
        "spark.local.dir": str(scratch),
        "spark.pyspark.python": sys.executable,
        "spark.driver.extraJavaOptions": _java_options(scratch, short=short),
    }
    chosen = (_LOOPBACK | _READY_WORKERS if local else {}) | (_INTERPRETED if short else {})
    return _DELTA | _SMALL_TABLES | _PYTHON | _QUIET | places | _jars(jar_paths, local=local) | chosen


def _java_options(scratch: Path, *, short: bool) -> str:
    log4j = Path(str(resources.files("lakemill.conf"))) / "log4j2.xml"
    flags = [
        *([_QUICK_COMPILER] if short else []),
        "-XX:+UseSerialGC",  # the parallel collector costs two cores more than it gives
        *archive.flags(),
        f"-Djava.io.tmpdir={scratch}",
        f"-Dderby.system.home={scratch}",
    ]
    return " ".join([*flags, f"-Dlog4j2.configurationFile={log4j.as_uri()}"])


def _jars(jar_paths: Sequence[Path], *, local: bool) -> dict[str, str]:
    if local:
        # On one machine the class path is enough; spark.jars would copy each jar twice at every start.
        return {"spark.driver.extraClassPath": os.pathsep.join(map(str, jar_paths))}
    return {"spark.jars": ",".join(map(str, jar_paths))}


def _start_jvm(values: Mapping[str, str], paths: Paths) -> None:
    # Left alone, the JVM writes warnings of its own between the lines that people read.
    if SparkContext._gateway is not None:  # noqa: SLF001 - pyspark names no other way to choose its JVM's output
        return
    paths.logs.mkdir(parents=True, exist_ok=True)
    # Spark takes JAVA_HOME, then PATH, however old what it finds there is.
    os.environ["JAVA_HOME"] = str(java.find().home)
    conf = SparkConf(loadDefaults=False).setAll(list(values.items()))
    errors = paths.logs / "spark.log"
    with errors.open("ab") as sink:
        try:
            gateway = launch_gateway(conf, {"stderr": sink})
        except PySparkRuntimeError as error:
            raise SetupError(
                f"Spark's JVM does not start: {error}", hint=f"Java 17 is needed (lakemill doctor); see {errors}"
            ) from error
    SparkContext._ensure_initialized(gateway=gateway, conf=conf)  # noqa: SLF001


@contextlib.contextmanager
def _own_interrupt() -> Iterator[None]:
    """Keep what the caller does on Ctrl-C; pyspark's handler replaces only Python's default."""
    before = signal.getsignal(signal.SIGINT)
    yield
    main = threading.current_thread() is threading.main_thread()
    if main and before not in (signal.default_int_handler, None):
        signal.signal(signal.SIGINT, before)


def _end(scratch: Path) -> None:
    close()
    shutil.rmtree(scratch, ignore_errors=True)


def close(timeout_s: float = _JVM_STOP_S) -> None:
    """Stop the session of this process and wait until its JVM is gone; safe to call twice.

    A JVM that has not ended after `timeout_s` seconds is killed.
    """
    gateway = SparkContext._gateway  # noqa: SLF001 - pyspark names no other way to end its JVM
    if gateway is None:
        return
    _end_quietly()
    with contextlib.suppress(Exception):  # a signal in the middle of a call leaves its connection useless
        active = SparkSession.getActiveSession()
        if active is not None:
            active.stop()
    with contextlib.suppress(Exception):
        gateway.shutdown()
    _await(getattr(gateway, "proc", None), timeout_s)
    SparkContext._gateway = None  # noqa: SLF001
    SparkContext._jvm = None  # noqa: SLF001


def _end_quietly() -> None:
    # Spark's accumulators come over a socket; its thread prints a traceback where the JVM goes first.
    server: Any = getattr(SparkContext._active_spark_context, "_accumulatorServer", None)  # noqa: SLF001
    if server is not None:
        server.handle_error = lambda *_: None


def _await(process: subprocess.Popen[bytes] | None, timeout_s: float) -> None:
    # The JVM ends when its standard input closes.
    if process is None:
        return
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        log.warning("the JVM (process %s) does not end; it is killed", process.pid)
        process.kill()
        process.wait()
