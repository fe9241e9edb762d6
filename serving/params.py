"""Sampling parameters and response formats: what a request may say, and the one normal form that keys carry."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jsonschema

from lakemill.errors import RequestRefusedError
from lakemill.rows import ErrorCode, Kind

_MAX_CHOICES = 4096
_SAFE_INTEGER = 2**53 - 1  # larger integers have no canonical JSON form

# What a parameter is where nobody gives it. The normal form leaves these values out, so that
# `{"temperature": 0}` and `{}` have one key.
DEFAULTS: Mapping[str, Any] = {
    "max_tokens": 512,
    "temperature": 0,
    "top_p": 1,
    "top_k": 0,
    "min_p": 0,
    "stop": [],
    "seed": None,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "repetition_penalty": 1,
}


def refuse(key: str, problem: str, *, status: int = 400) -> RequestRefusedError:
    """Return the refusal that names the key of the request at fault."""
    return RequestRefusedError(ErrorCode.INVALID_REQUEST.value, f"{key}: {problem}", status=status)


def describe(value: Any) -> str:
    """Return a value as an error message shows it: short, and as JSON people write it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}... ({type(value).__name__})"


def _number(low: float, high: float, *, open_low: bool = False) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        return (low < value if open_low else low <= value) and value <= high

    return check


def _integer(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _stop(value: Any) -> bool:
    texts = [value] if isinstance(value, str) else value
    return isinstance(texts, list) and len(texts) <= 16 and all(isinstance(t, str) and t and valid(t) for t in texts)


def valid(text: str) -> bool:
    """Tell whether a text is valid Unicode, without a lone surrogate."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


_CHECKS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "max_tokens": (_integer(1, 10_000_000), "an integer of at least 1"),
    "temperature": (_number(0, 100), "a number of at least 0"),
    "top_p": (_number(0, 1, open_low=True), "a number above 0 and at most 1"),
    "top_k": (_integer(-1, _SAFE_INTEGER), "an integer; 0 or -1 for no bound"),
    "min_p": (_number(0, 1), "a number from 0 to 1"),
    "stop": (_stop, "a text, or a list of at most 16 texts, none empty"),
    "seed": (_integer(-_SAFE_INTEGER, _SAFE_INTEGER), "an integer below 2**53"),
    "presence_penalty": (_number(-2, 2), "a number from -2 to 2"),
    "frequency_penalty": (_number(-2, 2), "a number from -2 to 2"),
    "repetition_penalty": (_number(0, 100, open_low=True), "a number above 0"),
}


def normal_params(kind: Kind, value: Any) -> dict[str, Any]:
    r"""Check sampling parameters and return their normal form: no null, no default, `stop` a list.

    Only `generate` samples: for the other kinds the parameters are checked and left out.

    Raises:
        RequestRefusedError: A parameter is unknown or has a value that it cannot have.

    Example:
        >>> normal_params("generate", {"temperature": 0.0, "stop": "\n", "max_tokens": 40})
        {'stop': ['\n'], 'max_tokens': 40}
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise refuse("params", f"expected an object, found {describe(value)}")
    given = {name: _checked(name, each) for name, each in value.items() if each is not None or name not in DEFAULTS}
    kept = {name: each for name, each in given.items() if each != DEFAULTS[name]}
    return kept if kind == "generate" else {}


def _checked(name: str, value: Any) -> Any:
    if name not in _CHECKS:
        raise refuse(f"params.{name}", f"unknown parameter; allowed: {', '.join(DEFAULTS)}")
    check, expected = _CHECKS[name]
    if not check(value):
        raise refuse(f"params.{name}", f"expected {expected}, found {describe(value)}")
    if name == "stop":
        return [value] if isinstance(value, str) else value
    return 0 if name == "top_k" and value == -1 else value


def effective_params(kind: Kind, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return normal parameters with the defaults that an engine must not choose by itself.

    Example:
        >>> effective_params("generate", {"top_p": 0.9})
        {'max_tokens': 512, 'temperature': 0, 'top_p': 0.9}
    """
    if kind != "generate":
        return dict(params)
    return {"max_tokens": DEFAULTS["max_tokens"], "temperature": DEFAULTS["temperature"], **params}


def normal_format(kind: Kind, value: Any) -> dict[str, Any] | None:
    """Check a response format and return its normal form; plain text is None.

    Raises:
        RequestRefusedError: The format is unknown, incomplete, or not one that `kind` can have.
    """
    if kind == "choose" and (not isinstance(value, dict) or value.get("type") != "choice"):
        raise refuse("response_format", 'kind "choose" needs {"type": "choice", "choices": [...]}')
    if value is None or kind in ("count", "embed"):
        return None
    if not isinstance(value, dict) or value.get("type") not in _FORMATS:
        raise refuse(
            "response_format",
            f"expected an object whose type is one of {', '.join(_FORMATS)}, found {describe(value)}",
        )
    return _FORMATS[value["type"]](value)


def _only_type(value: dict[str, Any]) -> dict[str, Any] | None:
    _no_other_key(value, "response_format", ("type",))
    return None if value["type"] == "text" else {"type": value["type"]}


def _json_schema(value: dict[str, Any]) -> dict[str, Any]:
    _no_other_key(value, "response_format", ("type", "json_schema"))
    inner = value.get("json_schema")
    if not isinstance(inner, dict) or not isinstance(inner.get("schema"), dict):
        raise refuse("response_format.json_schema", 'expected {"name": ..., "schema": {...}}')
    _no_other_key(inner, "response_format.json_schema", ("name", "schema", "strict", "description"))
    name = inner.get("name") or "answer"
    if not isinstance(name, str) or not valid(name):
        raise refuse("response_format.json_schema.name", f"expected a text, found {describe(name)}")
    _check_schema(inner["schema"])
    return {"type": "json_schema", "json_schema": {"name": name, "schema": inner["schema"]}}


def _check_schema(schema: dict[str, Any]) -> None:
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        place = ".".join(["response_format.json_schema.schema", *(str(part) for part in error.absolute_path)])
        raise refuse(place, f"not a JSON schema: {error.message[:200]}") from error


def _choice(value: dict[str, Any]) -> dict[str, Any]:
    _no_other_key(value, "response_format", ("type", "choices"))
    choices = value.get("choices")
    if not isinstance(choices, list) or not 1 <= len(choices) <= _MAX_CHOICES:
        raise refuse(
            "response_format.choices", f"expected a list of 1 to {_MAX_CHOICES} texts, found {describe(choices)}"
        )
    if not all(isinstance(choice, str) and choice.strip() and valid(choice) for choice in choices):
        raise refuse("response_format.choices", "every choice must be a text that is not blank")
    if len(set(choices)) < len(choices):
        raise refuse("response_format.choices", "a choice stands twice")
    return {"type": "choice", "choices": choices}


_FORMATS: Mapping[str, Callable[[dict[str, Any]], dict[str, Any] | None]] = {
    "text": _only_type,
    "json_object": _only_type,
    "json_schema": _json_schema,
    "choice": _choice,
}


def _no_other_key(value: Mapping[str, Any], place: str, allowed: tuple[str, ...]) -> None:
    for name in value:
        if name not in allowed:
            raise refuse(f"{place}.{describe(name)[1:-1]}", f"unknown key; allowed: {', '.join(allowed)}")
