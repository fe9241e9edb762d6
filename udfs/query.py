"""`ai_query(endpoint, request [, returnType] [, failOnError] [, modelParameters] [, responseFormat])`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from pyspark.sql.types import DataType, MapType, StringType, StructType

from lakemill.errors import UsageError
from lakemill.udfs import arguments, prompts, types
from lakemill.udfs.arguments import Bound, Parameter
from lakemill.udfs.call import Task, pack
from lakemill.udfs.families import Context, Plan
from lakemill.udfs.readers import JsonText, Reader, Text, Typed
from lakemill.udfs.result import Shape

MAX_TOKENS = 512
_COUNTS = {"max_tokens": 1, "top_k": -1, "seed": 0}
_FRACTIONS = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "repetition_penalty": (0.0, 2.0),
}
PARAMETERS = (*_COUNTS, *_FRACTIONS, "stop")
_SEED_MAX = 2**31 - 1

# How an answer is to look: its Spark type, its reader, and the response format (None: free text).
_Form = tuple[DataType, Reader, Mapping[str, Any] | None]


class Query:
    """Ask a model whatever the request says; the answer is text, JSON or a typed value."""

    name = "ai_query"
    parameters = (
        Parameter("endpoint", required=True),
        Parameter("request", required=True, column=True),
        Parameter("returnType"),
        Parameter("failOnError"),
        Parameter("modelParameters", maps=True),
        Parameter("responseFormat"),
        Parameter("files"),
    )
    content = "request"
    on_error = "fail"

    def plan(self, bound: Bound, context: Context) -> Plan:
        """Check the call."""
        function = context.function
        if "files" in bound:
            raise UsageError(f"{function}: argument files is not supported: only text can be asked about")
        model = arguments.text(function, bound, "endpoint")
        fails = arguments.boolean(function, bound, "failOnError", default=True)
        result, reader, form = _form(context, bound)
        params = _parameters(function, bound)
        task = Task(
            kind="generate",
            result=result,
            prompt=prompts.load(self.name, places=frozenset({"content", "format"}), conf_dir=context.conf_dir),
            reader=reader,
            values=(("format", _told(form)),),
            params=pack({"max_tokens": MAX_TOKENS, "temperature": 0.0, **params}),
            response_format=None if form is None else pack(form),
            own_limit="max_tokens" in params,
        )
        return Plan(task, model, "fail" if fails else "null", Shape.VALUE if fails else Shape.PAIR)


def _form(context: Context, bound: Bound) -> _Form:
    returned = arguments.text(context.function, bound, "returnType")
    asked = arguments.text(context.function, bound, "responseFormat")
    if returned is not None and asked is not None:
        raise UsageError(f"{context.function}: give returnType or responseFormat, not both")
    if returned is not None:
        return _typed(context, "returnType", returned)
    if asked is None or asked.strip().lower() == "text":
        return StringType(), Text(), None
    if asked.strip().startswith("{"):
        return _json_form(context.function, asked)
    return _typed(context, "responseFormat", asked)


def _typed(context: Context, name: str, ddl: str) -> _Form:
    try:
        kind = context.parse_ddl(ddl)
        if name == "responseFormat" and not isinstance(kind, StructType):
            raise UsageError(f"expected text, a JSON object, or the DDL of a STRUCT, found '{ddl}'")
        if type(kind) is StringType:
            return kind, Text(), None
        schema = types.json_schema(kind)
    except UsageError as error:
        raise UsageError(f"{context.function}: {name}: {error.message}") from error
    wrapped = not isinstance(kind, StructType)
    return kind, Typed(kind, wrapped), _schema_form(_wrap(schema) if wrapped else schema)


def _wrap(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    # Models write an object more surely than a bare number or list.
    return {"type": "object", "properties": {"result": schema}, "required": ["result"], "additionalProperties": False}


def _schema_form(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def _json_form(function: str, text: str) -> _Form:
    try:
        form = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{function}: responseFormat is no JSON: {error}") from error
    kind = form.get("type")
    if kind == "text":
        return StringType(), Text(), None
    if kind == "json_object":
        return StringType(), JsonText(), {"type": "json_object"}
    if kind != "json_schema":
        raise UsageError(f"{function}: responseFormat: type must be text, json_object or json_schema, found {kind!r}")
    schema = _schema_of(function, form.get("json_schema"))
    return StringType(), JsonText(pack(schema)), _schema_form(schema)


def _schema_of(function: str, outer: Any) -> Mapping[str, Any]:
    schema = outer.get("schema") if isinstance(outer, dict) else None
    if not isinstance(schema, dict):
        raise UsageError(
            f"{function}: responseFormat: expected "
            '{"type": "json_schema", "json_schema": {"name": …, "schema": {…}}}'
        )
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise UsageError(f"{function}: responseFormat: not a JSON schema: {error.message}") from error
    return schema


def _told(form: Mapping[str, Any] | None) -> str:
    if form is None:
        return ""
    if form["type"] == "json_object":
        return "\nAnswer with one JSON object and nothing else."
    schema = json.dumps(form["json_schema"]["schema"], ensure_ascii=False)
    return f"\nAnswer with one JSON value that follows this JSON schema, and nothing else: {schema}"


def _parameters(function: str, bound: Bound) -> dict[str, Any]:
    if "modelParameters" not in bound:
        return {}
    given = arguments.constant(function, bound, "modelParameters", "named_struct or map")
    if not isinstance(bound["modelParameters"].type, StructType | MapType) or not isinstance(given, dict):
        raise arguments.wrong(function, "modelParameters", "a literal named_struct or map", bound["modelParameters"])
    unknown = next((name for name in given if name not in PARAMETERS), None)
    if unknown is not None:
        raise UsageError(f"{function}: modelParameters: unknown {unknown} (known: {', '.join(PARAMETERS)})")
    return {name: _parameter(function, name, value) for name, value in given.items() if value is not None}


def _parameter(function: str, name: str, value: Any) -> Any:
    if name == "stop":
        texts = [value] if isinstance(value, str) else value
        if isinstance(texts, list) and texts and all(isinstance(text, str) and text for text in texts):
            return texts
        raise UsageError(f"{function}: modelParameters: stop must be a text or an array of texts, found {value!r}")
    number = _number(value)
    if name in _COUNTS:
        most = _SEED_MAX
        if number is not None and number == int(number) and _COUNTS[name] <= number <= most:
            return int(number)
        raise UsageError(
            f"{function}: modelParameters: {name} must be a whole number of at least {_COUNTS[name]}, found {value!r}"
        )
    low, high = _FRACTIONS[name]
    if number is not None and low <= number <= high:
        return float(number)
    raise UsageError(f"{function}: modelParameters: {name} must lie in {low:g} to {high:g}, found {value!r}")


def _number(value: Any) -> float | None:
    # A map has values of one type, so its numbers may come as text.
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if abs(number) < 2**53 else None
