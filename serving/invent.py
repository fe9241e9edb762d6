"""Invent answers from a text without a model: the same text gives the same answer, on every machine."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

_MAX_DEPTH = 12
_SMALL_DEPTH = 4  # below this a schema that holds itself takes its way out
_NAME_WORDS = 6
_FORMATS: Mapping[str, str] = {
    "date": "2024-02-29",
    "time": "12:30:00Z",
    "date-time": "2024-02-29T12:30:00Z",
    "email": "ada@example.org",
    "uri": "https://example.org/",
    "uuid": "12345678-1234-4123-8123-123456789abc",
    "ipv4": "192.0.2.1",
}


def number_of(*parts: str) -> int:
    """Return a 64-bit number that belongs to the texts."""
    joined = "\x1f".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(joined).digest()[:8], "big")


def sentence(text: str) -> str:
    """Return a short sentence: a mark of the whole text, and its first words as they are.

    Example:
        >>> sentence("The quick brown fox jumps over the lazy dog")
        'Answer d7a8fbb3 to: The quick brown fox jumps over'
    """
    return f"Answer {number_of(text):016x}"[:15] + " to: " + " ".join(text.split()[:_NAME_WORDS])


def scores(text: str, choices: Sequence[str]) -> dict[str, float]:
    """Return a probability for every choice; they sum to 1 and differ from one another."""
    weights = [1 + number_of(text, choice) % 997 for choice in choices]
    total = math.fsum(weights)
    return {choice: weight / total for choice, weight in zip(choices, weights, strict=True)}


def vector(text: str, *, size: int = 16) -> list[float]:
    """Return a vector of length 1 that belongs to the text."""
    raw = [number_of(text, str(i)) / 2**63 - 1 for i in range(size)]
    length = math.hypot(*raw) or 1.0
    return [x / length for x in raw]


def instance(schema: Any, text: str) -> Any:
    """Return a small value that a JSON schema allows, its words taken from the text.

    Knows types (unions too), enum, const, properties, items, $ref within the schema, anyOf, oneOf, allOf and
    the bounds of numbers, strings and arrays; patterns are not looked at.

    Example:
        >>> instance({"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}}, "some text")["n"] >= 3
        True
    """
    return _Inventor(schema, text).value(schema, "", 0)


class _Inventor:
    def __init__(self, root: Any, text: str) -> None:
        self._root = root
        self._text = text
        self._words = text.split() or ["word"]

    def value(self, schema: Any, path: str, depth: int) -> Any:
        if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
            return None
        schema = self._flat(schema, depth)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][number_of(self._text, path) % len(schema["enum"])]
        makers = {"object": self._object, "array": self._array, "string": self._string}
        kind = _type_of(schema)
        if kind in makers:
            return makers[kind](schema, path, depth)
        if kind in ("integer", "number"):
            return self._number(schema, path, whole=kind == "integer")
        return number_of(self._text, path) % 2 == 0 if kind == "boolean" else None

    def _flat(self, schema: Mapping[str, Any], depth: int) -> Mapping[str, Any]:
        for _ in range(_MAX_DEPTH):
            if "$ref" in schema:
                schema = {**self._target(str(schema["$ref"])), **{k: v for k, v in schema.items() if k != "$ref"}}
            elif options := schema.get("anyOf") or schema.get("oneOf"):
                rest = {k: v for k, v in schema.items() if k not in ("anyOf", "oneOf")}
                schema = {**rest, **_one_of(options, null=depth > _SMALL_DEPTH)}
            elif "allOf" in schema:
                schema = _merged([{k: v for k, v in schema.items() if k != "allOf"}, *schema["allOf"]])
            else:
                break
        return schema

    def _target(self, reference: str) -> Mapping[str, Any]:
        found: Any = self._root
        for part in reference.removeprefix("#").strip("/").split("/"):
            if part:
                found = found.get(part.replace("~1", "/").replace("~0", "~"), {}) if isinstance(found, Mapping) else {}
        return found if isinstance(found, Mapping) else {}

    def _object(self, schema: Mapping[str, Any], path: str, depth: int) -> dict[str, Any]:
        properties = schema.get("properties") or {}
        required = schema.get("required", ())
        names = [name for name in properties if depth < _SMALL_DEPTH or name in required]
        names += [name for name in required if name not in properties]
        text = {"type": "string"}
        return {name: self.value(properties.get(name, text), f"{path}/{name}", depth + 1) for name in names}

    def _array(self, schema: Mapping[str, Any], path: str, depth: int) -> list[Any]:
        size = max(int(schema.get("minItems", 0)), min(1, int(schema.get("maxItems", 1))))
        return [self.value(schema.get("items", {"type": "string"}), f"{path}/{i}", depth + 1) for i in range(size)]

    def _string(self, schema: Mapping[str, Any], path: str, _: int) -> str:
        if schema.get("format") in _FORMATS:
            return _FORMATS[schema["format"]]
        word = self._words[number_of(self._text, path) % len(self._words)]
        return word.ljust(int(schema.get("minLength", 0)), "x")[: schema.get("maxLength", 200)]

    def _number(self, schema: Mapping[str, Any], path: str, *, whole: bool) -> int | float:
        step = schema.get("multipleOf") or (1 if whole else 0.5)
        low = max(schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf))
        high = min(schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf))
        if low == -math.inf:
            low = 0 if high > step else high - 10 * step
        first = math.ceil(low / step) * step
        first += step if first == schema.get("exclusiveMinimum") else 0
        room = max(int((min(high, first + 100 * step) - first) / step), 1)
        value = first + number_of(self._text, path) % room * step
        return int(value) if whole else float(value)


def _type_of(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((each for each in kind if each != "null"), "null")
    if kind is None:
        kind = "object" if "properties" in schema else "array" if "items" in schema else "string"
    return str(kind)


def _one_of(options: Sequence[Any], *, null: bool) -> Mapping[str, Any]:
    schemas = [each for each in options if isinstance(each, Mapping)]
    return next((each for each in schemas if (each.get("type") == "null") == null), schemas[0] if schemas else {})


def _merged(schemas: Sequence[Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for schema in (each for each in schemas if isinstance(each, Mapping)):
        properties = {**merged.get("properties", {}), **schema.get("properties", {})}
        required = [*merged.get("required", []), *schema.get("required", [])]
        merged = {**merged, **schema}
        merged |= {"properties": properties, "required": required} if properties else {}
    return merged
