from __future__ import annotations

from typing import Any

import pytest
from pyspark.sql.types import ArrayType, DataType, IntegerType, MapType, NullType, StringType, VariantType

from lakemill.errors import UsageError
from lakemill.udfs import arguments
from lakemill.udfs.arguments import OPTIONS, Argument, Parameter

PARAMETERS = (Parameter("content", required=True, column=True), Parameter("labels", required=True, maps=True), OPTIONS)
SUMMARY = (Parameter("content", required=True, column=True), Parameter("max_words"), OPTIONS)
MAP = MapType(StringType(), StringType())


def given(value: Any, kind: DataType | None = None, *, name: str | None = None, constant: bool = True) -> Argument:
    return Argument(repr(value), kind or StringType(), constant, name, evaluate=lambda: value)


def test_positions_names_and_both() -> None:
    by_position = arguments.bind("f", SUMMARY, [given("a"), given(3, IntegerType())])
    by_name = arguments.bind("f", SUMMARY, [given(3, IntegerType(), name="MAX_words"), given("a", name="content")])
    mixed = arguments.bind("f", SUMMARY, [given("a"), given(3, IntegerType(), name="max_words")])
    assert by_position.keys() == by_name.keys() == mixed.keys() == {"content", "max_words"}


@pytest.mark.parametrize(
    ("parameters", "call", "names"),
    [
        (SUMMARY, [given("a"), given({}, MAP)], ["content", "options"]),
        (SUMMARY, [given("a"), given(1, IntegerType()), given({}, MAP)], ["content", "max_words", "options"]),
        (PARAMETERS, [given("a"), given({}, MAP)], ["content", "labels"]),
        (PARAMETERS, [given("a"), given({}, MAP), given({}, MAP)], ["content", "labels", "options"]),
        (
            PARAMETERS,
            [given("a"), given([], ArrayType(StringType())), given({}, MAP)],
            ["content", "labels", "options"],
        ),
    ],
)
def test_a_trailing_map_is_the_options_once_the_required_are_there(
    parameters: tuple[Parameter, ...], call: list[Argument], names: list[str]
) -> None:
    assert list(arguments.bind("f", parameters, call)) == names


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ([], "f: missing argument content (expected f(content [, max_words] [, options]))"),
        ([given("a"), given("b", name="x")], "f: unknown argument x (expected f(content [, max_words] [, options]))"),
        ([given("a"), given("b", name="content")], "f: argument content is given twice"),
        ([given("a", name="content"), given("b")], "f: the positional argument 'b' stands after a named one"),
        ([given("a")] * 4, "f: too many arguments: expected f(content [, max_words] [, options]), found 4"),
    ],
)
def test_a_wrong_call_is_refused(call: list[Argument], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        arguments.bind("f", SUMMARY, call)
    assert caught.value.message == message


def test_a_value_must_be_literal_and_of_its_type() -> None:
    bound = {"n": given(1, IntegerType(), constant=False), "t": given(1, IntegerType()), "b": given("yes")}
    with pytest.raises(UsageError, match="f: n must be a literal INT, found 1"):
        arguments.integer("f", bound, "n", default=0, least=0)
    with pytest.raises(UsageError, match="f: t must be a literal STRING, found 1"):
        arguments.text("f", bound, "t")
    with pytest.raises(UsageError, match="f: b must be a literal BOOLEAN, found 'yes'"):
        arguments.boolean("f", bound, "b", default=True)


def test_what_is_not_given_is_the_default() -> None:
    assert arguments.integer("f", {}, "n", default=7, least=0) == 7
    assert arguments.text("f", {}, "t") is None
    assert arguments.boolean("f", {}, "b", default=False) is False


@pytest.mark.parametrize("kind", [ArrayType(StringType()), MAP, VariantType()])
def test_what_is_no_text_is_refused(kind: DataType) -> None:
    with pytest.raises(UsageError, match="f: content must be STRING, found"):
        arguments.text_column("f", "content", given("x", kind))


@pytest.mark.parametrize("kind", [StringType(), IntegerType(), NullType()])
def test_what_can_be_read_as_text_passes(kind: DataType) -> None:
    assert arguments.text_column("f", "content", given("x", kind)).type == kind


def test_a_long_argument_is_cut_in_messages() -> None:
    assert len(given("x" * 500).shown) == 80


def test_an_argument_shows_no_expression() -> None:
    assert "secret" not in repr(Argument("x", StringType(), True, expression="secret"))
