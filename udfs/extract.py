"""`ai_extract(content, labels [, options])` → STRUCT, or `ai_extract(content, schema [, options])` → VARIANT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyspark.sql.types import ArrayType, DataType, StringType, StructField, StructType, VariantType

from lakemill.errors import UsageError
from lakemill.udfs import arguments, extract_schema, options, prompts
from lakemill.udfs.arguments import OPTIONS, Bound, Parameter
from lakemill.udfs.call import Task, pack
from lakemill.udfs.families import Context, Plan
from lakemill.udfs.readers import Extracted, Fields, Reader

_LEAST, _MOST = 96, 2048
_TOKENS = {"string": 48, "array": 4}  # a text; how many items an array is given room for
_OTHER, _NAME = 8, 12  # a number, a truth value or one of a list; the name of a field and its punctuation
_MOST_FIELDS = 128


class Extract:
    """Find named values in a text: texts by an array of names, typed ones by a schema."""

    name = "ai_extract"
    parameters = (
        Parameter("content", required=True, column=True),
        Parameter("labels", required=True),
        OPTIONS,
    )
    content = "content"
    on_error = "null"

    def plan(self, bound: Bound, context: Context) -> Plan:
        """Check the call; an array asks for texts, a STRING is a schema."""
        given = options.read(context.function, bound)
        result, reader, fields = _asked(context.function, bound)
        schema = extract_schema.json_schema(fields)
        places = frozenset({"content", "fields", "instructions"})
        task = Task(
            kind="generate",
            result=result,
            prompt=prompts.load(self.name, given.prompt, places=places, conf_dir=context.conf_dir),
            reader=reader,
            values=(("fields", extract_schema.told(fields)), ("instructions", given.instructions_text)),
            params=pack({"max_tokens": given.max_tokens or _bound(schema), "temperature": given.temperature}),
            response_format=pack({"type": "json_schema", "json_schema": {"name": "fields", "schema": schema}}),
            own_limit=given.max_tokens is not None,
        )
        return Plan(task, given.model, given.on_error)


def _asked(function: str, bound: Bound) -> tuple[DataType, Reader, extract_schema.Fields]:
    argument = bound["labels"]
    value = arguments.constant(function, bound, "labels", "array of names, or a schema as STRING")
    if isinstance(argument.type, StringType) and isinstance(value, str):
        try:
            fields = extract_schema.parse(value)
        except UsageError as error:
            raise UsageError(f"{function}: schema: {error.message}") from error
        return VariantType(), Extracted(pack(extract_schema.json_schema(fields))), fields
    if not isinstance(argument.type, ArrayType) or not arguments.is_text_list(value, argument) or not value:
        raise arguments.wrong(
            function, "labels", "a non-empty literal array of strings, or a schema as STRING", argument
        )
    names = _names(function, value)
    struct = StructType([StructField(name, StringType()) for name in names])
    return struct, Fields(tuple(names)), extract_schema.of_names(names)


def _bound(schema: Mapping[str, Any]) -> int:
    # Small models run on inside a text: room for what was asked, not for a page.
    return min(_MOST, max(_LEAST, _room(schema)))


def _room(schema: Mapping[str, Any]) -> int:
    if "properties" in schema:
        return sum(_NAME + _room(field) for field in schema["properties"].values())
    if "anyOf" in schema:
        return max(_room(one) for one in schema["anyOf"])
    if "items" in schema:
        return _TOKENS["array"] * _room(schema["items"])
    kinds = schema.get("type", "string")
    text = "string" in ([kinds] if isinstance(kinds, str) else kinds) and "enum" not in schema
    return _TOKENS["string"] if text else _OTHER


def _names(function: str, names: Sequence[str]) -> Sequence[str]:
    seen: dict[str, str] = {}
    for name in names:
        earlier = seen.setdefault(name.lower(), name)
        if earlier is not name:
            raise UsageError(f"{function}: labels must differ in more than case, found '{earlier}' and '{name}'")
    if len(names) > _MOST_FIELDS:
        raise UsageError(f"{function}: labels must be at most {_MOST_FIELDS}, found {len(names)}")
    return names
