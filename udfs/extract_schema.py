"""The schema language of ai_extract: a JSON array of names, or an object name → {type, description, …}.

It is not JSON Schema: every field may be null, and a JSON Schema is refused with the rewrite shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lakemill.errors import UsageError

SCALARS = ("string", "integer", "number", "boolean")
TYPES = (*SCALARS, "enum", "array", "object")
DEPTH, PROPERTIES, LABELS = 7, 128, 500
_KEYS = {"type", "description", "items", "properties", "labels"}
_OWN_KEY = {"enum": "labels", "array": "items", "object": "properties"}
_JSON_SCHEMA_TYPES = (*SCALARS, "array", "object", "null")


@dataclass(frozen=True, slots=True)
class Field:
    """Hold what one field is; `items`, `properties` and `labels` belong to array, object and enum."""

    type: str
    description: str = ""
    items: Field | None = None
    properties: Mapping[str, Field] | None = None
    labels: tuple[str, ...] = ()


Fields = Mapping[str, Field]


def of_names(names: Sequence[str]) -> Fields:
    """Return the fields of a list of names: texts."""
    return {name: Field("string") for name in names}


def parse(text: str) -> Fields:
    """Return the fields of a schema.

    Raises:
        UsageError: It is no JSON, it is JSON Schema, or it breaks a rule of the language.

    Example:
        >>> parse('{"age": {"type": "integer"}}')["age"].type
        'integer'
    """
    try:
        value = json.loads(text, object_pairs_hook=_no_twice)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"expected a JSON array of names or a JSON object name → {{type, …}}: {error}") from error
    if isinstance(value, list):
        return of_names(_names(value))
    if not isinstance(value, dict) or not value:
        raise UsageError(f"expected a JSON array of names or a JSON object name → {{type, …}}, found {_shown(value)}")
    if _is_json_schema(value):
        raise UsageError(f"this is JSON Schema; write {_rewritten(value)}")
    fields = _properties(value, "", 1)
    count = sum(_count(field) for field in fields.values())
    if count > PROPERTIES:
        raise UsageError(f"at most {PROPERTIES} fields, found {count}")
    return fields


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"field {twice} is named twice")
    return dict(pairs)


def _names(value: list[Any]) -> list[str]:
    if not value or not all(isinstance(name, str) and name.strip() for name in value):
        raise UsageError(f"expected names, found {_shown(value)}")
    if len(set(value)) < len(value):
        raise UsageError(f"names must differ, found {_shown(value)}")
    if len(value) > PROPERTIES:
        raise UsageError(f"at most {PROPERTIES} fields, found {len(value)}")
    return value


def _properties(value: Any, place: str, depth: int) -> dict[str, Field]:
    if not isinstance(value, dict) or not value:
        raise UsageError(f"{place or 'schema'}: properties must be an object name → {{type, …}}, found {_shown(value)}")
    blank = next((name for name in value if not name.strip()), None)
    if blank is not None:
        raise UsageError(f"{place or 'schema'}: a field needs a name")
    return {name: _field(spec, f"{place}.{name}" if place else name, depth) for name, spec in value.items()}


def _field(spec: Any, place: str, depth: int) -> Field:
    if depth > DEPTH:
        raise UsageError(f"{place}: nested deeper than {DEPTH}")
    if not isinstance(spec, dict) or spec.get("type") not in TYPES:
        raise UsageError(f'{place}: expected {{"type": one of {", ".join(TYPES)}}}, found {_shown(spec)}')
    kind = spec["type"]
    unknown = next((key for key in spec if key not in _KEYS), None)
    if unknown is not None:
        raise UsageError(f"{place}: unknown key {unknown} (known: {', '.join(sorted(_KEYS))}); every field may be null")
    own = _OWN_KEY.get(kind)
    alien = next((key for key in spec if key in _OWN_KEY.values() and key != own), None)
    if alien is not None:
        raise UsageError(f"{place}: {alien} does not belong to type {kind}")
    if own is not None and own not in spec:
        raise UsageError(f"{place}: type {kind} needs {own}")
    if not isinstance(spec.get("description", ""), str):
        raise UsageError(f"{place}: description must be a text, found {_shown(spec['description'])}")
    return _made(kind, spec, place, depth)


def _made(kind: str, spec: Mapping[str, Any], place: str, depth: int) -> Field:
    told = spec.get("description", "")
    if kind == "object":
        return Field(kind, told, properties=_properties(spec["properties"], place, depth + 1))
    if kind == "array":
        items = _field(spec["items"], f"{place}[]", depth + 1)
        if items.type == "array":
            raise UsageError(f"{place}: an array of arrays is not supported")
        return Field(kind, told, items=items)
    return Field(kind, told, labels=_labels(spec["labels"], place) if kind == "enum" else ())


def _labels(value: Any, place: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(label, str) and label for label in value):
        raise UsageError(f"{place}: labels must be a non-empty array of texts, found {_shown(value)}")
    if len(set(value)) < len(value) or len(value) > LABELS:
        raise UsageError(f"{place}: labels must differ and be at most {LABELS}, found {len(value)}")
    return tuple(value)


def _count(field: Field) -> int:
    inner = sum(_count(one) for one in (field.properties or {}).values())
    return 1 + inner + (0 if field.items is None else _count(field.items) - 1)


def _is_json_schema(value: Mapping[str, Any]) -> bool:
    typed = value.get("type") in _JSON_SCHEMA_TYPES or isinstance(value.get("type"), list)
    return "$schema" in value or typed or any(isinstance(value.get(key), list) for key in ("anyOf", "oneOf", "allOf"))


def _rewritten(value: Mapping[str, Any]) -> str:
    properties = value.get("properties")
    if not isinstance(properties, dict) or not properties:
        return '{"name": {"type": "string", "description": "…"}, …}'
    return json.dumps({name: _respelled(spec) for name, spec in properties.items()}, ensure_ascii=False)


def _respelled(spec: Any) -> dict[str, Any]:
    if not isinstance(spec, dict):
        return {"type": "string"}
    kinds = spec["type"] if isinstance(spec.get("type"), list) else [spec.get("type", "string")]
    kind = next((one for one in kinds if one in TYPES), "string")
    told = {"description": spec["description"]} if isinstance(spec.get("description"), str) else {}
    if isinstance(spec.get("enum"), list):
        return {"type": "enum", "labels": [str(label) for label in spec["enum"] if label is not None], **told}
    if kind == "object":
        inner = spec.get("properties") or {}
        return {"type": kind, "properties": {name: _respelled(one) for name, one in inner.items()}, **told}
    return {"type": kind, **({"items": _respelled(spec.get("items"))} if kind == "array" else {}), **told}


def json_schema(fields: Fields) -> dict[str, Any]:
    """Return the JSON schema that constrains the answer: every field is there, and may be null."""
    return {
        "type": "object",
        "properties": {name: _nullable(field) for name, field in fields.items()},
        "required": list(fields),
        "additionalProperties": False,
    }


def _nullable(field: Field) -> dict[str, Any]:
    if field.type in SCALARS:
        return {"type": [field.type, "null"]}
    if field.type == "enum":
        return {"enum": [*field.labels, None]}
    return {"anyOf": [_strict(field), {"type": "null"}]}


def _strict(field: Field) -> dict[str, Any]:
    if field.properties is not None:
        return json_schema(field.properties)
    if field.items is not None:
        return {"type": "array", "items": _strict(field.items)}
    return {"enum": list(field.labels)} if field.type == "enum" else {"type": field.type}


def told(fields: Fields, indent: str = "") -> str:
    """Return the fields as the prompt lists them."""
    return "\n".join(line for name, field in fields.items() for line in _told(name, field, indent))


def _told(name: str, field: Field, indent: str) -> list[str]:
    inner = field.items if field.items is not None else field
    kind = f"one of {', '.join(inner.labels)}" if inner.type == "enum" else inner.type
    many = f"list of {kind}" if field.items is not None else kind
    line = f"{indent}- {name} ({many})" + (f": {field.description}" if field.description else "")
    return [line, *(told(inner.properties, indent + "  ").splitlines() if inner.properties else [])]


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:79] + "…"
