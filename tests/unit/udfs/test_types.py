from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import types as T  # noqa: N812
from pyspark.sql.pandas.types import to_arrow_type
from pyspark.sql.types import BinaryType, DataType, MapType, StringType, StructField, StructType

from lakemill.errors import UsageError
from lakemill.udfs import types


def parsed(text: str) -> Any:
    return json.loads(text, parse_float=Decimal)


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (T.StringType(), '"a"', "a"),
        (T.StringType(), r'"a\ud800b"', "a\ufffdb"),
        (T.BooleanType(), "true", True),
        (T.ByteType(), "-128", -128),
        (T.IntegerType(), "3.0", 3),
        (T.LongType(), "9223372036854775807", 2**63 - 1),
        (T.DoubleType(), "0.1", 0.1),
        (T.FloatType(), "1", 1.0),
        (T.DecimalType(10, 2), "12.345", Decimal("12.35")),
        (
            T.DecimalType(38, 0),
            "12345678901234567890123456789012345678",
            Decimal("12345678901234567890123456789012345678"),
        ),
        (T.DateType(), '"2024-02-29"', dt.date(2024, 2, 29)),
        (T.TimestampType(), '"2024-02-29T12:30:00+02:00"', dt.datetime(2024, 2, 29, 10, 30, tzinfo=dt.UTC)),
        (T.TimestampType(), '"2024-02-29T12:30:00Z"', dt.datetime(2024, 2, 29, 12, 30, tzinfo=dt.UTC)),
        (T.TimestampNTZType(), '"2024-02-29T12:30:00"', dt.datetime(2024, 2, 29, 12, 30)),  # noqa: DTZ001
        (T.ArrayType(T.IntegerType()), "[1, 2]", [1, 2]),
        (T.MapType(T.StringType(), T.IntegerType()), '{"a": 1}', [("a", 1)]),
    ],
)
def test_a_value_that_fits_is_a_cell_that_arrow_takes(kind: DataType, text: str, expected: object) -> None:
    found = types.cell(parsed(text), kind)
    assert found == expected
    assert len(pa.array([found, None], type=to_arrow_type(kind, timezone="UTC"))) == 2


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (T.StringType(), "1", "$: expected a string, found 1"),
        (T.IntegerType(), "true", "$: expected a whole number, found true"),
        (T.IntegerType(), '"1"', '$: expected a whole number, found "1"'),
        (T.IntegerType(), "1.5", "$: expected a whole number within INT"),
        (T.ByteType(), "128", "$: expected a whole number within TINYINT, found 128"),
        (T.IntegerType(), "1e999999", "$: expected a whole number within INT"),
        (T.DoubleType(), "1e400", "$: expected a number within DOUBLE"),
        (T.FloatType(), "1e39", "$: expected a number within FLOAT"),
        (T.DecimalType(4, 2), "123.4", "$: expected a number within DECIMAL(4,2), found"),
        (T.DateType(), '"20240229"', "$: expected a date (YYYY-MM-DD)"),
        (T.DateType(), '"2023-02-29"', "$: expected a date (YYYY-MM-DD)"),
        (T.TimestampType(), '"soon"', "$: expected a time (ISO 8601)"),
        (T.TimestampType(), '"0001-01-01T00:00:00+14:00"', "$: expected a time within TIMESTAMP"),
        (T.BooleanType(), "null", "$: expected true or false, found null"),
        (T.ArrayType(T.StringType()), '["a", 1]', "$[1]: expected a string, found 1"),
        (StructType([StructField("a", T.IntegerType())]), "[]", "$: expected an object, found []"),
        (StructType([StructField("a", T.IntegerType())]), "{}", "$: field a is missing"),
        (StructType([StructField("a", T.IntegerType())]), '{"a": 1, "b": 2}', "$: unknown field b"),
        (StructType([StructField("a", T.IntegerType())]), '{"a": "x"}', '$.a: expected a whole number, found "x"'),
    ],
)
def test_a_value_that_does_not_fit_says_where(kind: DataType, text: str, message: str) -> None:
    with pytest.raises(types.MismatchError) as caught:
        types.cell(parsed(text), kind)
    assert str(caught.value).startswith(message)


def test_the_schema_of_a_struct_requires_its_fields() -> None:
    kind = StructType([StructField("a", T.DateType()), StructField("b", T.MapType(StringType(), T.FloatType()))])
    assert types.json_schema(kind) == {
        "type": "object",
        "properties": {
            "a": {"type": "string", "format": "date"},
            "b": {"type": "object", "additionalProperties": {"type": "number"}},
        },
        "required": ["a", "b"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (BinaryType(), "type BINARY is not supported"),
        (MapType(T.IntegerType(), StringType()), "type MAP<INT,STRING> is not supported"),
        (T.ArrayType(T.VariantType()), "type VARIANT is not supported"),
        (StructType([]), "a STRUCT needs at least one field"),
        (StructType([StructField("a", StringType()), StructField("A", StringType())]), "is named twice"),
    ],
)
def test_a_type_that_cannot_be_asked_for_is_refused(kind: DataType, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        types.json_schema(kind)


def test_a_variant_keeps_its_value() -> None:
    cell = types.variant({"a": [1, Decimal("0.5"), None, "x"], "b": Decimal("3.0")})
    assert T.VariantVal(cell["value"], cell["metadata"]).toPython() == {"a": [1, 0.5, None, "x"], "b": 3}
