"""The arguments of a call: names, positions and defaults, and checks of what must be literal.

Knows nothing of Catalyst: `lakemill.udfs.catalyst` turns expressions into `Argument`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyspark.sql.types import ArrayType, AtomicType, BinaryType, DataType, MapType, NullType, StringType

from lakemill.errors import UsageError

_SHOWN = 80


@dataclass(frozen=True)
class Argument:
    """Hold one argument as the query has it.

    `name` is None where it came by position; `evaluate` gives the value of a constant as JSON types.
    """

    sql: str
    type: DataType
    constant: bool
    name: str | None = None
    expression: Any = field(default=None, repr=False)
    evaluate: Callable[[], Any] = field(default=lambda: None, repr=False)

    @property
    def shown(self) -> str:
        """Return the argument for an error message, cut where it is long."""
        text = " ".join(self.sql.split())
        return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


@dataclass(frozen=True, slots=True)
class Parameter:
    """Hold one parameter of a function. A `column` may differ from row to row; the others are constants."""

    name: str
    required: bool = False
    column: bool = False
    maps: bool = False


Bound = Mapping[str, Argument]

OPTIONS = Parameter("options", maps=True)


def bind(function: str, parameters: Sequence[Parameter], given: Sequence[Argument]) -> Bound:
    """Give every argument its parameter.

    A trailing positional map becomes `options` once the required arguments are there.

    Raises:
        UsageError: An argument is unknown, missing, given twice, or stands after a named one.
    """
    bound: dict[str, Argument] = {}
    for index, argument in enumerate(given):
        name = _name_of(function, parameters, given, index)
        if name in bound:
            raise UsageError(f"{function}: argument {name} is given twice")
        bound[name] = argument
    missing = [p.name for p in parameters if p.required and p.name not in bound]
    if missing:
        raise UsageError(f"{function}: missing argument {missing[0]} (expected {signature(function, parameters)})")
    return bound


def signature(function: str, parameters: Sequence[Parameter]) -> str:
    """Return the call as messages show it.

    Example:
        >>> signature("ai_gen", [Parameter("prompt", required=True), OPTIONS])
        'ai_gen(prompt [, options])'
    """
    needed = ", ".join(p.name for p in parameters if p.required)
    optional = "".join(f" [, {p.name}]" for p in parameters if not p.required)
    return f"{function}({needed}{optional})"


def _name_of(function: str, parameters: Sequence[Parameter], given: Sequence[Argument], index: int) -> str:
    argument = given[index]
    if argument.name is not None:
        return _known(function, parameters, argument.name)
    if any(earlier.name is not None for earlier in given[:index]):
        raise UsageError(f"{function}: the positional argument {argument.shown} stands after a named one")
    if _is_trailing_options(parameters, given, index):
        return OPTIONS.name
    if index >= len(parameters):
        raise UsageError(
            f"{function}: too many arguments: expected {signature(function, parameters)}, found {len(given)}"
        )
    return parameters[index].name


def _known(function: str, parameters: Sequence[Parameter], name: str) -> str:
    names = {p.name.lower(): p.name for p in parameters}
    if name.lower() not in names:
        raise UsageError(f"{function}: unknown argument {name} (expected {signature(function, parameters)})")
    return names[name.lower()]


def _is_trailing_options(parameters: Sequence[Parameter], given: Sequence[Argument], index: int) -> bool:
    if parameters[-1] != OPTIONS or not isinstance(given[index].type, MapType):
        return False
    by_position = [argument for argument in given if argument.name is None]
    if index != len(by_position) - 1 or (index < len(parameters) and parameters[index].maps):
        return False
    there = {p.name for p in parameters[:index]} | {argument.name for argument in given if argument.name}
    return all(p.name in there for p in parameters if p.required)


def text_column(function: str, name: str, argument: Argument) -> Argument:
    """Return an argument that can be read as text.

    Raises:
        UsageError: Its type cannot.
    """
    readable = isinstance(argument.type, AtomicType | NullType | StringType | BinaryType)
    if not readable or argument.type.typeName() in {"variant", "geometry", "geography"}:
        raise UsageError(f"{function}: {name} must be STRING, found {argument.shown} of type {_type(argument)}")
    return argument


def text(function: str, bound: Bound, name: str, default: str | None = None) -> str | None:
    """Return a literal STRING argument, or the default where it is not given.

    Raises:
        UsageError: It is not a literal, or not a string.
    """
    if name not in bound:
        return default
    value = constant(function, bound, name, "STRING")
    if not isinstance(bound[name].type, StringType) or value is None:
        raise _wrong(function, name, "a literal STRING", bound[name])
    return str(value)


def boolean(function: str, bound: Bound, name: str, *, default: bool) -> bool:
    """Return a literal BOOLEAN argument, or the default where it is not given.

    Raises:
        UsageError: It is not a literal, or not a boolean.
    """
    if name not in bound:
        return default
    value = constant(function, bound, name, "BOOLEAN")
    if not isinstance(value, bool):
        raise _wrong(function, name, "a literal BOOLEAN", bound[name])
    return value


def integer(function: str, bound: Bound, name: str, *, default: int, least: int) -> int:
    """Return a literal whole number of at least `least`, or the default where it is not given.

    Raises:
        UsageError: It is not a literal, not a whole number, or too small.
    """
    if name not in bound:
        return default
    value = constant(function, bound, name, "INT")
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise _wrong(function, name, f"a literal whole number of at least {least}", bound[name])
    return value


def constant(function: str, bound: Bound, name: str, kind: str) -> Any:
    """Return the value of an argument that must be the same for every row.

    Raises:
        UsageError: It is a column, or cannot be evaluated.
    """
    argument = bound[name]
    if not argument.constant:
        raise _wrong(function, name, f"a literal {kind}", argument)
    try:
        return argument.evaluate()
    except UsageError as error:
        raise UsageError(f"{function}: {name}: {error.message}") from error


def _wrong(function: str, name: str, expected: str, argument: Argument) -> UsageError:
    return UsageError(f"{function}: {name} must be {expected}, found {argument.shown}")


def wrong(function: str, name: str, expected: str, argument: Argument) -> UsageError:
    """Return the error that says what an argument must be and what was found."""
    return _wrong(function, name, expected, argument)


def is_text_list(value: Any, argument: Argument) -> bool:
    """Tell whether a constant is an array of strings without NULL or blank ones."""
    if not isinstance(argument.type, ArrayType) or not isinstance(value, list):
        return False
    return all(isinstance(item, str) and item.strip() for item in value)


def _type(argument: Argument) -> str:
    return argument.type.simpleString().upper()
