"""Row results as Spark sees them: the full struct, the pair of ai_query, the plain value, the key."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

from pyspark.sql.types import (
    BooleanType,
    DataType,
    DoubleType,
    IntegerType,
    StringType,
    StructField,
    StructType,
    VariantType,
)

from lakemill.rows import RowError, RowResult
from lakemill.udfs import types

_ERROR = StructType(
    [
        StructField("code", StringType()),
        StructField("message", StringType()),
        StructField("retryable", BooleanType()),
        StructField("attempts", IntegerType()),
    ]
)
_USAGE = StructType(
    [
        StructField("prompt_tokens", IntegerType()),
        StructField("completion_tokens", IntegerType()),
        StructField("cached_prompt_tokens", IntegerType()),
    ]
)
_INT_MAX = 2**31 - 1


class Shape(Enum):
    """Name what a call gives to SQL."""

    VALUE = "value"
    PAIR = "pair"
    TRY = "try"
    KEY = "key"


def row_result_type(result: DataType, extra: Sequence[StructField] = ()) -> StructType:
    """Return the type of one row result; `extra` fields follow `key`.

    Example:
        >>> row_result_type(StringType()).names[:3]
        ['result', 'errorMessage', 'error']
    """
    return StructType(
        [
            StructField("result", result),
            StructField("errorMessage", StringType()),
            StructField("error", _ERROR),
            StructField("finish_reason", StringType()),
            StructField("usage", _USAGE),
            StructField("model", StringType()),
            StructField("cached", BooleanType()),
            StructField("latency_ms", DoubleType()),
            StructField("key", StringType()),
            *extra,
        ]
    )


def shape_type(shape: Shape, result: DataType, extra: Sequence[StructField] = ()) -> DataType:
    """Return the type of a call's column."""
    if shape is Shape.TRY:
        return row_result_type(result, extra)
    if shape is Shape.PAIR:
        return StructType([StructField("result", result), StructField("errorMessage", StringType())])
    return StringType() if shape is Shape.KEY else result


def cell(row: RowResult | None, shape: Shape, result: DataType) -> Any:
    """Return one row's cell; None, for a row that was not asked, is NULL in every shape."""
    if row is None:
        return None
    if shape is Shape.KEY:
        return row.key
    if shape is Shape.TRY:
        return _full(row)
    if shape is Shape.PAIR:
        return {"result": row.result, "errorMessage": error_message(row.error)}
    if row.error is not None and isinstance(result, VariantType):
        return types.variant({"response": None, "error_message": error_message(row.error)})
    return row.result


def error_message(error: RowError | None) -> str | None:
    """Return the text of `errorMessage`: the code and what was wrong.

    Example:
        >>> from lakemill.rows import ErrorCode
        >>> error_message(RowError(ErrorCode.TIMEOUT, "no answer in 60 s"))
        'TIMEOUT: no answer in 60 s'
    """
    return None if error is None else f"{error.code.value}: {types.clean(error.message)}"


def _full(row: RowResult) -> dict[str, Any]:
    usage = {name: min(count, _INT_MAX) for name, count in row.usage.to_json().items()}
    return {
        "result": row.result,
        "errorMessage": error_message(row.error),
        "error": None if row.error is None else row.error.to_json() | {"message": types.clean(row.error.message)},
        "finish_reason": row.finish_reason,
        "usage": usage,
        "model": row.model,
        "cached": row.cached,
        "latency_ms": row.latency_ms,
        "key": row.key,
        **row.extra,
    }
