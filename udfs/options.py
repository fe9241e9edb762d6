"""The `options` argument that every function but ai_query takes: `map('model', 'm', 'max_tokens', '64')`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lakemill.errors import UsageError
from lakemill.udfs.arguments import Bound, constant, wrong

COMMON = ("model", "prompt", "max_tokens", "temperature", "on_error", "instructions", "cache")
MAX_INSTRUCTIONS = 20_000
_LATER = {"multilabel", "examples", "citations"}


@dataclass(frozen=True, slots=True)
class Options:
    """Hold the checked options of one call; None where the caller said nothing."""

    model: str | None = None
    prompt: str | None = None
    max_tokens: int | None = None
    temperature: float = 0.0
    on_error: str | None = None
    instructions: str | None = None

    @property
    def instructions_text(self) -> str:
        """Return the instructions as they stand at the end of a system message."""
        return "" if self.instructions is None else f"\nFurther instructions: {self.instructions}"


def read(function: str, bound: Bound) -> Options:
    """Read and check the options of a call.

    Raises:
        UsageError: The map is not a literal, a key is unknown, or a value is not valid.
    """
    if "options" not in bound:
        return Options()
    given = constant(function, bound, "options", "MAP<STRING, STRING>")
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        raise wrong(function, "options", "a literal MAP<STRING, STRING>", bound["options"])
    _check_keys(function, given)
    return Options(
        model=given.get("model"),
        prompt=given.get("prompt"),
        max_tokens=_whole(function, given, "max_tokens"),
        temperature=_temperature(function, given),
        on_error=_one_of(function, given, "on_error", ("null", "fail")),
        instructions=_instructions(function, given),
    )


def _check_keys(function: str, given: Mapping[str, str]) -> None:
    for key in given:
        if key in _LATER:
            raise UsageError(f"{function}: option {key} is not supported yet (known options: {', '.join(COMMON)})")
        if key not in COMMON:
            raise UsageError(f"{function}: unknown option {key} (known options: {', '.join(COMMON)})")
    if _one_of(function, given, "cache", ("on", "off")) == "off":
        raise UsageError(f"{function}: option cache: 'off' is not supported yet, only 'on'")


def _whole(function: str, given: Mapping[str, str], key: str) -> int | None:
    if key not in given:
        return None
    if not given[key].isascii() or not given[key].isdigit() or int(given[key]) < 1:
        raise UsageError(f"{function}: option {key} must be a whole number of at least 1, found '{given[key]}'")
    return int(given[key])


def _temperature(function: str, given: Mapping[str, str]) -> float:
    try:
        value = float(given.get("temperature", "0"))
    except ValueError:
        value = math.nan
    if not 0 <= value <= 2:
        raise UsageError(f"{function}: option temperature must lie in 0 to 2, found '{given['temperature']}'")
    return value


def _one_of(function: str, given: Mapping[str, str], key: str, allowed: tuple[str, ...]) -> str | None:
    if key in given and given[key] not in allowed:
        listed = " or ".join(f"'{value}'" for value in allowed)
        raise UsageError(f"{function}: option {key} must be {listed}, found '{given[key]}'")
    return given.get(key)


def _instructions(function: str, given: Mapping[str, str]) -> str | None:
    value = given.get("instructions")
    if value is not None and len(value) > MAX_INSTRUCTIONS:
        raise UsageError(f"{function}: option instructions: at most {MAX_INSTRUCTIONS} characters, found {len(value)}")
    return value or None
