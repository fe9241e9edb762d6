"""Sessions with the AI functions: one of our own, or one that the user brings."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping

from pyspark.sql import DataFrame, SparkSession

from lakemill import settings as settings_module
from lakemill import spark as spark_module
from lakemill.errors import SessionError
from lakemill.serving.client import Endpoint, discovery
from lakemill.settings import Settings
from lakemill.udfs.catalyst import spark_errors_logger
from lakemill.udfs.functions import Functions
from lakemill.udfs.progress import Progress
from lakemill.udfs.watcher import Watcher

_log = logging.getLogger(__name__)
ENDPOINT_CONF = "spark.lakemill.endpoint"
_DELTA = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
}
# By the JVM's session: Python may hold several objects for one.
_attached: dict[str, tuple[Functions, Watcher]] = {}
_lock = threading.Lock()


def session(  # the facade: each is named in the manual
    app_name: str = "lakemill",
    master: str | None = None,
    endpoint: str | None = None,
    token: str | None = None,
    conf: Mapping[str, str] | None = None,
    *,
    conf_dir: str | os.PathLike[str] | None = None,
) -> SparkSession:
    """Return a Spark session with Delta and the AI functions.

    The active session is used where there is one. The serving application is found, or started.

    Args:
        app_name: Name that Spark shows for the application.
        master: Spark master; None means `local[*]`.
        endpoint: URL of a serving application; None: the setting's, the running one, or a new one.
        token: Its bearer token; None: the setting's, or the file in LAKEMILL_HOME.
        conf: Spark settings that win over those of lakemill.
        conf_dir: Folder of the operator's YAML files.

    Raises:
        SessionError: The active session lacks a setting; the message names it.

    Example:
        >>> spark = lakemill.session()  # doctest: +SKIP
        >>> spark.sql("SELECT ai_query('smollm2-135m-instruct', 'Say hi')").show()  # doctest: +SKIP
    """
    active = SparkSession.getActiveSession()
    if active is not None:
        _refuse_connect(active)
        _check_active(active, {**_DELTA, **(conf or {})})
        return _attach(active, endpoint, token, conf_dir)
    loaded = settings_module.load(conf_dir)
    # Before the JVM: the two starts then overlap.
    served = discovery.find_or_start(_with_conf(loaded, conf), endpoint=endpoint, token=token, conf_dir=conf_dir)
    spark = spark_module.build(app_name, master, loaded, conf=conf)
    _register(spark, served, loaded, conf_dir)
    # People see the exception itself; a second copy of it with the stack of the JVM hides its one line.
    spark_errors_logger().disabled = True
    return spark


def attach(
    spark: SparkSession,
    endpoint: str | None = None,
    token: str | None = None,
    *,
    conf_dir: str | os.PathLike[str] | None = None,
) -> SparkSession:
    """Register the AI functions in a session of the user's, and return it.

    Returns at once: where a serving application has to be started, the first use waits for it. The
    session's settings stay as they are. `newSession()` needs an `attach` of its own.

    Raises:
        SessionError: The session is one of Spark Connect, whose functions cannot follow their arguments.
    """
    _refuse_connect(spark)
    return _attach(spark, endpoint, token, conf_dir)


def sql(query: str) -> DataFrame:
    """Return the DataFrame of a query in the active session, or in one made by `session()`.

    Example:
        >>> lakemill.sql("SELECT ai_summarize(body) FROM tickets").show()  # doctest: +SKIP
    """
    spark = SparkSession.getActiveSession()
    if spark is None or _id(spark) not in _attached:
        spark = session()
    return spark.sql(query)


def flush(spark: SparkSession, timeout_s: float = 30.0) -> None:
    """Wait until the failures of the queries that ended are told and recorded.

    Spark tells of the end of a query a moment after its rows; a program that ends at once calls this.
    """
    found = _attached.get(_id(spark))
    if found is not None:
        found[1].flush(timeout_s)


def _attach(
    spark: SparkSession, endpoint: str | None, token: str | None, conf_dir: str | os.PathLike[str] | None
) -> SparkSession:
    loaded = settings_module.load(conf_dir)
    named = endpoint or loaded.endpoint or spark.conf.get(ENDPOINT_CONF, None)
    served = discovery.find_or_start(loaded, endpoint=named, token=token, conf_dir=conf_dir)
    _register(spark, served, loaded, conf_dir)
    return spark


def _register(spark: SparkSession, served: Endpoint, loaded: Settings, conf_dir: str | os.PathLike[str] | None) -> None:
    with _lock:
        earlier = _attached.pop(_id(spark), None)
        if earlier is not None:
            earlier[1].stop()
        progress = Progress(served)
        functions = Functions(
            spark, served, default_model=loaded.default_model, conf_dir=conf_dir, on_use=progress.show
        )
        functions.register()
        _attached[_id(spark)] = functions, Watcher(functions)
    _log.debug("attached the functions of %s", served.url)


def _id(spark: SparkSession) -> str:
    return str(spark._jsparkSession.sessionUUID())  # noqa: SLF001


def _with_conf(loaded: Settings, conf: Mapping[str, str] | None) -> Settings:
    named = None if loaded.endpoint else (conf or {}).get(ENDPOINT_CONF)
    return loaded if named is None else loaded.model_copy(update={"endpoint": named})


def _refuse_connect(spark: object) -> None:
    if not hasattr(spark, "_jsparkSession"):
        raise SessionError(
            "this is a Spark Connect session: it has no function registry in which a function's type can follow "
            "its arguments",
            hint="use a classic session: lakemill.session(), or SparkSession.builder with a master",
        )


def _check_active(spark: SparkSession, wanted: Mapping[str, str]) -> None:
    for key, value in wanted.items():
        found = spark.conf.get(key, None)
        has = value in (found or "").split(",") if key == "spark.sql.extensions" else found == value
        if not has and key not in _DELTA and spark.conf.isModifiable(key):
            spark.conf.set(key, value)
        elif not has:
            raise SessionError(
                f"the active Spark session lacks the setting {key}={value} (found {found or 'nothing'})",
                hint="stop it and let lakemill.session() build one, or use lakemill.attach(spark) as it is",
            )
