"""Readers: what makes a model's answer a value, or says why it is none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import Any, NoReturn, Protocol

from jsonschema import Draft202012Validator
from pyspark.sql.types import DataType

from lakemill.rows import ErrorCode, RowAnswer
from lakemill.udfs import types

_SHOWN = 120


class UnusableError(Exception):
    """Raised when an answer is no value; the row asks once more, then carries `code` and `message`."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Reading:
    """Hold a value that passed, and the further columns of the `try_` form."""

    value: Any
    extra: Mapping[str, Any] = field(default_factory=dict)


class Reader(Protocol):
    """Check one answer that came back whole. Frozen and picklable: it travels to the workers."""

    def read(self, answer: RowAnswer) -> Reading:
        """Return the value.

        Raises:
            UnusableError: The answer is no value.
        """
        ...


@dataclass(frozen=True, slots=True)
class Text:
    """Take the answer as text; an empty one is no value."""

    def read(self, answer: RowAnswer) -> Reading:
        """Return the text without surrounding space."""
        return Reading(text_of(answer))


@dataclass(frozen=True, slots=True)
class JsonText:
    """Take the answer as the text of a JSON value; `schema` is a JSON schema's text, or None for any object."""

    schema: str | None = None

    def read(self, answer: RowAnswer) -> Reading:
        """Return the JSON text as the model wrote it."""
        text = text_of(answer)
        value = parse_json(text)
        if self.schema is None and not isinstance(value, dict):
            raise UnusableError(ErrorCode.SCHEMA_MISMATCH, f"expected a JSON object, found {_cut(text)}")
        if self.schema is not None:
            check_schema(json.loads(text), self.schema)
        return Reading(text)


@dataclass(frozen=True, slots=True)
class Typed:
    """Take the answer as a value of a Spark type; `wrapped` says that it stands in an object as `result`."""

    type: DataType
    wrapped: bool

    def read(self, answer: RowAnswer) -> Reading:
        """Return the value as a cell of the type."""
        value = parse_json(text_of(answer))
        if self.wrapped:
            if not isinstance(value, dict) or value.keys() != {"result"}:
                raise UnusableError(ErrorCode.SCHEMA_MISMATCH, "expected an object with the field result alone")
            value = value["result"]
        try:
            return Reading(types.cell(value, self.type))
        except types.MismatchError as error:
            raise UnusableError(ErrorCode.SCHEMA_MISMATCH, str(error)) from error


@dataclass(frozen=True, slots=True)
class Label:
    """Take the answer as one of the labels, with the probability of each."""

    labels: tuple[str, ...]

    def read(self, answer: RowAnswer) -> Reading:
        """Return the label, and `confidence` and `scores` beside it."""
        if answer.result not in self.labels:
            raise UnusableError(ErrorCode.LABEL_NOT_ALLOWED, f"not one of the labels: {_cut(str(answer.result))}")
        scores = {label: float((answer.scores or {}).get(label, 0.0)) for label in self.labels}
        extra = {"confidence": scores[answer.result], "scores": list(scores.items())} if answer.scores else {}
        return Reading(answer.result, extra)


@dataclass(frozen=True, slots=True)
class Fields:
    """Take the answer as an object with one text a name; null, absent or blank is NULL."""

    names: tuple[str, ...]

    def read(self, answer: RowAnswer) -> Reading:
        """Return the struct of texts."""
        value = parse_json(text_of(answer))
        if not isinstance(value, dict):
            raise UnusableError(ErrorCode.SCHEMA_MISMATCH, "expected a JSON object")
        return Reading({name: self._one(name, value.get(name)) for name in self.names})

    def _one(self, name: str, value: Any) -> str | None:
        if value is not None and not isinstance(value, str):
            raise UnusableError(ErrorCode.SCHEMA_MISMATCH, f"$.{name}: expected a string or null")
        return types.clean(value) if value and value.strip() else None


@dataclass(frozen=True, slots=True)
class Extracted:
    """Take the answer as the VARIANT of ai_extract; `schema` is a JSON schema's text."""

    schema: str

    def read(self, answer: RowAnswer) -> Reading:
        """Return `{"response": …, "error_message": null}` as a VARIANT."""
        text = text_of(answer)
        value = parse_json(text)
        check_schema(json.loads(text), self.schema)
        try:
            return Reading(types.variant({"response": value, "error_message": None}))
        except types.MismatchError as error:
            raise UnusableError(ErrorCode.SCHEMA_MISMATCH, str(error)) from error


def text_of(answer: RowAnswer) -> str:
    """Return the answer's text without surrounding space.

    Raises:
        UnusableError: It is empty or no text.
    """
    text = types.clean(answer.result).strip() if isinstance(answer.result, str) else ""
    if not text:
        raise UnusableError(ErrorCode.INVALID_OUTPUT, "the model answered with no text")
    return text


def parse_json(text: str) -> Any:
    """Return the JSON value of a text, with every fraction as a Decimal.

    Raises:
        UnusableError: The text is no JSON.
    """
    try:
        return json.loads(text, parse_float=Decimal, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise UnusableError(ErrorCode.INVALID_OUTPUT, f"the answer is no JSON ({error}): {_cut(text)}") from error


def check_schema(value: Any, schema: str) -> None:
    """Hold a JSON value against a JSON schema's text.

    Raises:
        UnusableError: It breaks the schema; the message says where.
    """
    error = next(iter(_validator(schema).iter_errors(value)), None)
    if error is not None:
        raise UnusableError(ErrorCode.SCHEMA_MISMATCH, f"{error.json_path}: {_cut(error.message)}")


@lru_cache(maxsize=64)
def _validator(schema: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads(schema))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _cut(text: str) -> str:
    shown = types.clean(" ".join(text.split()))
    return shown if len(shown) <= _SHOWN else shown[: _SHOWN - 1] + "…"
