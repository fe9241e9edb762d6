"""The contract of the function builder with the internals of the pinned Spark."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession
from pyspark.sql.types import StringType

from lakemill.errors import UsageError
from lakemill.udfs import builder
from lakemill.udfs.arguments import Argument
from lakemill.udfs.catalyst import Catalyst


@pytest.fixture
def seen(spark: SparkSession) -> list[Argument]:
    """What the function `probe` was given, in the last query that named it."""
    catalyst = Catalyst(spark)
    builder.prepare(catalyst)
    given: list[Argument] = []

    def build(children: Any) -> Any:
        given[:] = catalyst.arguments(children)
        return catalyst.udf("probe", _lengths, StringType()).builder(catalyst.seq([catalyst.bytes_of(given[0])]))

    builder.register(catalyst, "probe", build)
    return given


def _lengths(batches: Iterator[pa.Array]) -> Iterator[pa.Array]:
    for batch in batches:
        yield pa.array([str(len(value)) for value in batch.to_pylist()])


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("'text'", "text"),
        ("1 + 1", 2),
        ("true", True),
        ("NULL", None),
        ("0.25", 0.25),
        ("concat('a', 'b')", "ab"),
        ("array('a', NULL)", ["a", None]),
        ("map('k', 'v', 'n', NULL)", {"k": "v", "n": None}),
        ("named_struct('a', 1, 'b', array('x'))", {"a": 1, "b": ["x"]}),
    ],
)
def test_constants_are_read_while_the_query_is_analysed(
    spark: SparkSession, seen: list[Argument], sql: str, expected: object
) -> None:
    spark.sql(f"SELECT probe('x', {sql})")
    assert seen[1].constant
    assert seen[1].evaluate() == expected


def test_names_columns_and_types_arrive(spark: SparkSession, seen: list[Argument]) -> None:
    spark.sql("SELECT probe(t, more => array(t)) FROM VALUES ('x') AS s(t)")
    assert [(each.name, each.constant, each.type.simpleString()) for each in seen] == [
        (None, False, "string"),
        ("more", False, "array<string>"),
    ]


def test_a_constant_that_cannot_be_evaluated_is_one_line(spark: SparkSession, seen: list[Argument]) -> None:
    spark.sql("SELECT probe('x', map('a', 1, 'a', 2))")
    with pytest.raises(UsageError, match=r"^\[DUPLICATED_MAP_KEY\]"):
        seen[1].evaluate()


def test_what_is_built_runs_and_has_a_plain_name(spark: SparkSession, seen: list[Argument]) -> None:
    frame = spark.sql("SELECT probe(t) FROM VALUES ('abc'), ('🦆') AS s(t)")
    assert frame.columns == ["probe(t)"]
    assert [row[0] for row in frame.collect()] == ["3", "4"]


def test_an_error_of_ours_is_an_analysis_exception_with_its_position(spark: SparkSession) -> None:
    def refuse(_: Any) -> Any:
        raise UsageError("probe: not like this", hint="like that")

    builder.register(Catalyst(spark), "refused", refuse)
    with pytest.raises(AnalysisException) as caught:
        spark.sql("SELECT 1 +\n  refused(2)")
    assert str(caught.value) == "probe: not like this (like that); line 2 pos 2"


def test_any_other_error_is_one_line_too(spark: SparkSession) -> None:
    def broken(_: Any) -> Any:
        raise ZeroDivisionError("a\nb")

    builder.register(Catalyst(spark), "broken", broken)
    with pytest.raises(AnalysisException) as caught:
        spark.sql("SELECT broken(1)")
    assert str(caught.value) == "broken: internal error: ZeroDivisionError: a b; line 1 pos 7"


@pytest.mark.parametrize(
    ("ddl", "expected"),
    [("INT", "int"), ("STRUCT<a: INT>", "struct<a:int>"), ("a INT, b ARRAY<STRING>", "struct<a:int,b:array<string>>")],
)
def test_types_are_parsed(spark: SparkSession, ddl: str, expected: str) -> None:
    assert Catalyst(spark).parse_ddl(ddl).simpleString() == expected


def test_no_type_is_one_line(spark: SparkSession) -> None:
    with pytest.raises(UsageError) as caught:
        Catalyst(spark).parse_ddl("STRUCT<a")
    assert caught.value.message.startswith("'STRUCT<a' is no type: ")
    assert "\n" not in caught.value.message
