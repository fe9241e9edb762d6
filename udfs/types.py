"""Spark types ↔ JSON: the schema that constrains an answer, and the check that makes its JSON a cell.

A cell of the wrong type would end the whole query, so every value is checked against its type first.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation, localcontext
from typing import Any

from pyspark.sql.types import (
    ArrayType,
    BooleanType,
    ByteType,
    DataType,
    DateType,
    DecimalType,
    DoubleType,
    FloatType,
    IntegerType,
    LongType,
    MapType,
    ShortType,
    StringType,
    StructType,
    TimestampNTZType,
    TimestampType,
    VariantVal,
)

from lakemill.errors import UsageError

_BITS: Mapping[type[DataType], int] = {ByteType: 8, ShortType: 16, IntegerType: 32, LongType: 64}
_FLOAT_MAX = 3.4028234663852886e38
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_SUPPORTED = (
    "STRING, BOOLEAN, TINYINT, SMALLINT, INT, BIGINT, FLOAT, DOUBLE, DECIMAL, DATE, TIMESTAMP, TIMESTAMP_NTZ, "
    "ARRAY, MAP<STRING, …>, STRUCT"
)


class MismatchError(ValueError):
    """Raised when a JSON value does not fit its type; the message says where and what was found."""


def json_schema(kind: DataType) -> dict[str, Any]:
    """Return the JSON schema of a Spark type; the fields of a STRUCT are required.

    Raises:
        UsageError: A model cannot be asked for this type.

    Example:
        >>> json_schema(ArrayType(IntegerType()))
        {'type': 'array', 'items': {'type': 'integer'}}
    """
    if isinstance(kind, StructType):
        return _object_schema(kind)
    if isinstance(kind, ArrayType):
        return {"type": "array", "items": json_schema(kind.elementType)}
    if isinstance(kind, MapType) and type(kind.keyType) is StringType:
        return {"type": "object", "additionalProperties": json_schema(kind.valueType)}
    if type(kind) not in _SCALARS:
        raise UsageError(f"type {kind.simpleString().upper()} is not supported (supported: {_SUPPORTED})")
    return dict(_SCALARS[type(kind)])


def _object_schema(kind: StructType) -> dict[str, Any]:
    if not kind.fields:
        raise UsageError("a STRUCT needs at least one field")
    names = [field.name for field in kind.fields]
    twice = next((name for name in names if [n.lower() for n in names].count(name.lower()) > 1), None)
    if twice is not None:
        raise UsageError(f"field {twice} is named twice")
    return {
        "type": "object",
        "properties": {field.name: json_schema(field.dataType) for field in kind.fields},
        "required": names,
        "additionalProperties": False,
    }


def cell(value: Any, kind: DataType, place: str = "$") -> Any:
    """Return a parsed JSON value as the cell of a Spark type (Arrow takes it as it is).

    `value` comes from `json.loads(…, parse_float=Decimal)`, so that decimals keep their digits.

    Raises:
        MismatchError: The value does not fit.
    """
    if isinstance(kind, StructType):
        return _struct(value, kind, place)
    if isinstance(kind, ArrayType):
        items = _expect(value, list, "an array", place)
        return [cell(item, kind.elementType, f"{place}[{i}]") for i, item in enumerate(items)]
    if isinstance(kind, MapType):
        entries = _expect(value, dict, "an object", place)
        return [(clean(key), cell(item, kind.valueType, f"{place}.{key}")) for key, item in entries.items()]
    return _READERS[type(kind)](value, kind, place)


def _struct(value: Any, kind: StructType, place: str) -> dict[str, Any]:
    entries = _expect(value, dict, "an object", place)
    missing = next((field.name for field in kind.fields if field.name not in entries), None)
    if missing is not None:
        raise MismatchError(f"{place}: field {missing} is missing")
    unknown = next((name for name in entries if name not in kind.names), None)
    if unknown is not None:
        raise MismatchError(f"{place}: unknown field {clean(unknown)}")
    return {field.name: cell(entries[field.name], field.dataType, f"{place}.{field.name}") for field in kind.fields}


def clean(text: str) -> str:
    r"""Return text without lone surrogates, which neither Arrow nor UTF-8 can carry.

    Example:
        >>> clean("a\ud800b") == "a\ufffdb"
        True
    """
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def variant(value: Any) -> dict[str, bytes]:
    """Return a JSON value as the cell of a VARIANT.

    Raises:
        MismatchError: The value is too large or too deep for a VARIANT.
    """
    try:
        built = VariantVal.parseJson(json.dumps(value, default=_plain_number))
    except Exception as error:
        raise MismatchError(f"the answer is no VARIANT: {error}") from error
    return {"value": bytes(built.value), "metadata": bytes(built.metadata)}


def _plain_number(value: Any) -> int | float:
    if not isinstance(value, Decimal):
        raise TypeError(f"{type(value).__name__} is no JSON value")
    return int(value) if value == value.to_integral_value() and abs(value) < Decimal(2) ** 63 else float(value)


def _expect(value: Any, kind: type, name: str, place: str) -> Any:
    if not isinstance(value, kind):
        raise _mismatch(name, value, place)
    return value


def _mismatch(expected: str, value: Any, place: str) -> MismatchError:
    shown = clean(json.dumps(value, ensure_ascii=False, default=str))
    return MismatchError(f"{place}: expected {expected}, found {shown if len(shown) <= 60 else shown[:59] + '…'}")


def _text(value: Any, _: DataType, place: str) -> str:
    return clean(_expect(value, str, "a string", place))


def _boolean(value: Any, _: DataType, place: str) -> bool:
    return bool(_expect(value, bool, "true or false", place))


def _number(value: Any, expected: str, place: str) -> int | Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise _mismatch(expected, value, place)
    return value


def _integer(value: Any, kind: DataType, place: str) -> int:
    number = _number(value, "a whole number", place)
    bound = 1 << (_BITS[type(kind)] - 1)
    # Compare before converting: int(Decimal('1e999999')) would take for ever.
    if not -bound <= number < bound or number != int(number):
        raise _mismatch(f"a whole number within {kind.simpleString().upper()}", value, place)
    return int(number)


def _float(value: Any, kind: DataType, place: str) -> float:
    exact = Decimal(_number(value, "a number", place))
    limit = _FLOAT_MAX if isinstance(kind, FloatType) else math.inf
    number = float(exact) if abs(exact) < Decimal("1.8e308") else math.inf
    if math.isinf(number) or abs(number) > limit:
        raise _mismatch(f"a number within {kind.simpleString().upper()}", value, place)
    return number


def _decimal(value: Any, kind: DataType, place: str) -> Decimal:
    assert isinstance(kind, DecimalType)
    number = Decimal(_number(value, "a number", place))
    with localcontext() as context:
        context.prec = kind.precision
        try:
            return number.quantize(Decimal(1).scaleb(-kind.scale), rounding=ROUND_HALF_UP)
        except InvalidOperation as error:
            raise _mismatch(f"a number within {kind.simpleString().upper()}", value, place) from error


def _date(value: Any, _: DataType, place: str) -> date:
    text = _expect(value, str, "a date (YYYY-MM-DD)", place)
    try:
        if _DATE.fullmatch(text) is not None:
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise _mismatch("a date (YYYY-MM-DD)", value, place)


def _moment(value: Any, place: str) -> datetime:
    text = _expect(value, str, "a time (ISO 8601)", place)
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise _mismatch("a time (ISO 8601)", value, place) from error


def _timestamp(value: Any, _: DataType, place: str) -> datetime:
    moment = _moment(value, place)
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError as error:
        raise _mismatch("a time within TIMESTAMP", value, place) from error


def _timestamp_ntz(value: Any, _: DataType, place: str) -> datetime:
    return _moment(value, place).replace(tzinfo=None)


_READERS: Mapping[type[DataType], Callable[[Any, DataType, str], Any]] = {
    StringType: _text,
    BooleanType: _boolean,
    **dict.fromkeys(_BITS, _integer),
    FloatType: _float,
    DoubleType: _float,
    DecimalType: _decimal,
    DateType: _date,
    TimestampType: _timestamp,
    TimestampNTZType: _timestamp_ntz,
}
_INTEGER: Mapping[str, Any] = {"type": "integer"}
_SCALARS: Mapping[type[DataType], Mapping[str, Any]] = {
    StringType: {"type": "string"},
    BooleanType: {"type": "boolean"},
    ByteType: _INTEGER,
    ShortType: _INTEGER,
    IntegerType: _INTEGER,
    LongType: _INTEGER,
    FloatType: {"type": "number"},
    DoubleType: {"type": "number"},
    DecimalType: {"type": "number"},
    DateType: {"type": "string", "format": "date"},
    TimestampType: {"type": "string", "format": "date-time"},
    TimestampNTZType: {"type": "string", "format": "date-time"},
}
