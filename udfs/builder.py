"""Register SQL functions whose return type follows their arguments: Catalyst function builders in Python.

Rests on internals of the pinned Spark: `tests/integration/udfs/test_builder.py` is its contract.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, ClassVar

from py4j.protocol import Py4JJavaError
from pyspark.java_gateway import ensure_callback_server_started

from lakemill.errors import LakemillError
from lakemill.udfs.catalyst import Catalyst

_log = logging.getLogger(__name__)


class _Builder:
    """Spark calls `call` with the argument expressions whenever a query names the function."""

    class Java:
        implements: ClassVar[list[str]] = ["org.apache.spark.api.java.function.Function"]

    def __init__(self, catalyst: Catalyst, name: str, build: Callable[[Any], Any]) -> None:
        self._catalyst = catalyst
        self._name = name
        self._build = build

    def call(self, children: Any) -> Any:
        try:
            return self._build(children)
        except LakemillError as error:
            message = " ".join(f"{error.message}{'' if error.hint is None else f' ({error.hint})'}".split())
        except Exception as error:
            _log.debug("%s: the call could not be built", self._name, exc_info=True)
            message = f"{self._name}: internal error: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        # py4j hands a Java exception on as it is; anything else would reach the user as a traceback.
        raise Py4JJavaError("", self._catalyst.analysis_error(message))


def register(catalyst: Catalyst, name: str, build: Callable[[Any], Any]) -> None:
    """Register a function in the session: `build` takes a Scala Seq of expressions and returns one.

    A `LakemillError` that `build` raises becomes an AnalysisException with the position of the call.
    """
    builder = _Builder(catalyst, name, build)
    # A plain java.util.Function proxy would wrap checked exceptions; this one lets them through.
    function = catalyst.module("org.apache.spark.api.java.JavaPairRDD").toScalaFunction(builder)
    registry = catalyst.jsession.sessionState().functionRegistry()
    registry.createOrReplaceTempFunction(name, function, "python_udf")


def prepare(catalyst: Catalyst) -> None:
    """Let the JVM call back into Python, and let Java exceptions raised there through."""
    ensure_callback_server_started(catalyst.gateway)
    catalyst.gateway.python_parameters.propagate_java_exceptions = True
    # py4j logs each exception that it hands on with a traceback of its own.
    logging.getLogger("py4j.clientserver").setLevel(logging.CRITICAL)
