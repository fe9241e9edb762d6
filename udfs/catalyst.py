"""Read and make Catalyst expressions through py4j. Internals of the pinned Spark live here and in `builder`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from pyspark.logger import PySparkLogger
from pyspark.sql import SparkSession
from pyspark.sql.types import DataType, NullType, _parse_datatype_json_string
from pyspark.sql.udf import _wrap_function
from pyspark.util import PythonEvalType

from lakemill.errors import UsageError
from lakemill.udfs.arguments import Argument


class Catalyst:
    """Hold the gateway of one session, and make expressions in it."""

    def __init__(self, spark: SparkSession) -> None:
        self.spark = spark
        self.gateway: Any = spark.sparkContext._gateway  # noqa: SLF001
        self.jvm = cast("Any", spark.sparkContext._jvm)  # noqa: SLF001
        self.jsession: Any = spark._jsparkSession  # noqa: SLF001
        self.expressions: Any = self.jvm.org.apache.spark.sql.catalyst.expressions
        self.none: Any = self.module("scala.None")

    def module(self, name: str) -> Any:
        """Return a Scala object, such as `scala.None`."""
        place: Any = self.jvm
        for part in f"{name}$".split("."):
            place = getattr(place, part)
        return getattr(place, "MODULE$")

    def seq(self, items: Sequence[Any]) -> Any:
        """Return a Scala Seq."""
        return self.jvm.PythonUtils.toSeq(list(items))

    def arguments(self, children: Any) -> list[Argument]:
        """Return the arguments of a call from its Scala Seq of expressions."""
        return [self._argument(children.apply(index)) for index in range(children.size())]

    def _argument(self, expression: Any) -> Argument:
        if expression.getClass().getSimpleName() == "NamedArgumentExpression":
            return self._plain(expression.value(), str(expression.key()))
        return self._plain(expression, None)

    def _plain(self, expression: Any, name: str | None) -> Argument:
        resolved = expression.resolved()
        return Argument(
            sql=expression.sql(),
            type=_parse_datatype_json_string(expression.dataType().json()) if resolved else NullType(),
            constant=resolved and expression.foldable(),
            name=name,
            expression=expression,
            evaluate=lambda: self.value(expression),
        )

    def value(self, expression: Any) -> Any:
        """Return the value of a constant expression as JSON types.

        Raises:
            UsageError: It cannot be evaluated.
        """
        field = self.expressions.Literal.create("v", self.module("org.apache.spark.sql.types.StringType"))
        struct = self.expressions.CreateNamedStruct(self.seq([field, expression]))
        options = self.jvm.PythonUtils.toScalaMap({"ignoreNullFields": "false"})
        to_json = self.expressions.StructsToJson(options, struct, self.jvm.scala.Option.apply("UTC"))
        try:
            with _quiet():
                return json.loads(to_json.replacement().eval(None).toString())["v"]
        except Exception as error:
            raise UsageError(_first_line(error)) from error

    def bytes_of(self, argument: Argument) -> Any:
        """Return a text argument as bytes: text that is not UTF-8 would kill the worker.

        The casts are unmarked, so that they do not show in column names.
        """
        text = argument.expression
        if argument.type.typeName() != "binary":
            text = self._cast(text, "String")
        return self._cast(text, "Binary")

    def _cast(self, expression: Any, kind: str) -> Any:
        mode = self.module("org.apache.spark.sql.catalyst.expressions.EvalMode").LEGACY()
        zone = self.jvm.scala.Option.apply(self.jsession.sessionState().conf().sessionLocalTimeZone())
        to = self.module(f"org.apache.spark.sql.types.{kind}Type")
        return self.expressions.Cast(expression, to, zone, mode)

    def parse_ddl(self, text: str) -> DataType:
        """Return the type that a DDL text names: `INT`, `STRUCT<a: INT>` or `a INT, b STRING`.

        Raises:
            UsageError: It is no type.
        """
        try:
            with _quiet():
                kind = self.jvm.org.apache.spark.sql.types.DataType.fromDDL(text)
            return _parse_datatype_json_string(kind.json())
        except Exception as error:
            raise UsageError(f"'{text}' is no type: {_first_line(error)}") from error

    def udf(self, name: str, function: Callable[..., Any], returns: DataType) -> Any:
        """Return a Python UDF over iterators of Arrow arrays, ready to be built over expressions.

        It is deterministic: an answer is a function of its key.
        """
        wrapped = _wrap_function(self.spark.sparkContext, function, returns)
        kind = self.jsession.parseDataType(returns.json())
        make = self.jvm.org.apache.spark.sql.execution.python.UserDefinedPythonFunction
        return make(name, wrapped, kind, PythonEvalType.SQL_SCALAR_ARROW_ITER_UDF, True)

    def analysis_error(self, message: str) -> Any:
        """Return Spark's AnalysisException; Spark adds the position of the call."""
        values = self.jvm.PythonUtils.toScalaMap({"errorMessage": message})
        condition = self.jvm.scala.Option.apply("USER_RAISED_EXCEPTION")
        context = self.gateway.new_array(self.jvm.org.apache.spark.QueryContext, 0)
        none = self.none
        make = self.jvm.org.apache.spark.sql.AnalysisException
        return make(message, none, none, none, condition, values, context, none, none)


def spark_errors_logger() -> PySparkLogger:
    """Return the logger to which pyspark writes every exception of the JVM, as JSON with its stack."""
    # Never by logging.getLogger: the first to name it decides its class, and pyspark needs its own.
    return PySparkLogger.getLogger("SQLQueryContextLogger")


@contextmanager
def _quiet() -> Iterator[None]:
    # pyspark logs every exception of the JVM; these become one line of our own.
    logger = spark_errors_logger()
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _first_line(error: Exception) -> str:
    described = getattr(error, "java_exception", None)
    text = str(described.getMessage() if described is not None else error)
    return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
