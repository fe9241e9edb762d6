"""A step as SQL: the call that gives its row result, and the call that gives its key without asking."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame
from pyspark.sql.types import DataType

from lakemill.errors import ConfError
from lakemill.pipelines.flow import Flow, Step
from lakemill.udfs import prompts
from lakemill.udfs.registry import FAMILIES

_CONTENT = {family.name: family.content for family in FAMILIES}
# What a YAML key is called in SQL where the two differ.
_RENAMED = {("ai_extract", "schema"): "labels"}
_JSON = {"schema", "responseFormat", "returnType"}
_PLACES = frozenset({"content", "fields", "format", "instructions", "labels", "limit"})


@dataclass(frozen=True)
class Call:
    """Hold one step, checked against the source. `reads` names the earlier steps that its input may use."""

    step: Step
    model: str
    type: DataType
    prompt: str
    reads: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return the name of the step, which is the column of its value."""
        return self.step.name

    @property
    def result(self) -> str:
        """Return the name of the column of its row result."""
        return f"{self.step.name}_result"

    def ask(self, unless: str = "false") -> str:
        """Return the SQL of the row result; rows where `unless` holds are not asked."""
        return render(self.step, self.model, "try_", unless)

    def key(self, unless: str = "false") -> str:
        """Return the SQL of the call key; NULL for rows where `unless` holds and for NULL or blank input."""
        return render(self.step, self.model, "lakemill_key_", unless)


def functions() -> list[str]:
    """Return the functions that a step may call."""
    return sorted(_CONTENT)


def bind(flow: Flow, frame: DataFrame, conf_dir: str | os.PathLike[str] | None = None) -> tuple[Call, ...]:
    """Check every step against the columns of the source and those of the steps before it.

    Raises:
        ConfError: A step's name is taken, or Spark refuses its call; the message says why.
    """
    _check_names(flow, frame.columns)
    calls: list[Call] = []
    for step in flow.steps:
        call, frame = _bind(flow, step, frame, tuple(earlier.name for earlier in calls), conf_dir)
        calls.append(call)
    return tuple(calls)


def _bind(
    flow: Flow, step: Step, frame: DataFrame, earlier: Sequence[str], conf_dir: str | os.PathLike[str] | None
) -> tuple[Call, DataFrame]:
    sql = render(step, flow.model, "try_", "false")
    try:
        wider = frame.selectExpr("*", f"{sql} AS `__asked`")
    except PySparkException as error:
        reason = " ".join((error.getMessage() or str(error)).split())
        hint = f"its call is {sql}; columns: {', '.join(frame.columns)}"
        raise ConfError(f"job {flow.job}: steps.{step.name}: {reason}", hint=hint) from error
    kind = wider.schema["__asked"].dataType
    # A name inside a text literal counts too: the step is then only planned later than it could be.
    reads = tuple(name for name in earlier if re.search(rf"\b{re.escape(name)}\b", step.input, re.IGNORECASE))
    options = step.arguments.get("options") or {}
    number = options.get("prompt")
    prompt = prompts.load(step.function, number and str(number), places=_PLACES, conf_dir=conf_dir)
    call = Call(step, flow.model, kind, prompt.version, reads)
    return call, wider.selectExpr("*", f"`__asked`.result AS `{step.name}`").drop("__asked")


def _check_names(flow: Flow, columns: Sequence[str]) -> None:
    taken = {column.lower(): "is a column of the source" for column in columns}
    for step in flow.steps:
        for name in (step.name, f"{step.name}_result"):
            if name.lower() in taken:
                raise ConfError(f"job {flow.job}: steps.{step.name}: the column {name} {taken[name.lower()]}")
            taken[name.lower()] = f"is written by step {step.name}"


def render(step: Step, model: str, prefix: str, unless: str) -> str:
    """Return the SQL of a step's call, every argument by name.

    Example:
        >>> render(Step("s", "ai_summarize", "body", {"max_words": 9}), "m", "try_", "false")
        "try_ai_summarize(content => (body), max_words => 9, options => map('model', 'm'))"
    """
    content = f"({step.input})" if unless == "false" else f"if({unless}, NULL, ({step.input}))"
    arguments = {_CONTENT[step.function]: content}
    for name, value in _with_model(step, model).items():
        told = json.dumps(value, ensure_ascii=False) if name in _JSON and not isinstance(value, str) else value
        arguments[_RENAMED.get((step.function, name), name)] = _argument(name, told)
    return f"{prefix}{step.function}({', '.join(f'{name} => {sql}' for name, sql in arguments.items())})"


def _with_model(step: Step, model: str) -> dict[str, Any]:
    given = dict(step.arguments)
    if step.function == "ai_query":
        return {"endpoint": model, **given}
    return {**given, "options": {"model": model, **(given.get("options") or {})}}


def _argument(name: str, value: Any) -> str:
    if name == "options":
        return literal({str(key): _text(option) for key, option in value.items()})
    if name == "modelParameters" and isinstance(value, Mapping):
        return "named_struct(" + ", ".join(f"{literal(str(k))}, {literal(v)}" for k, v in value.items()) + ")"
    return literal(value)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def literal(value: Any) -> str:
    r"""Return a YAML value as a SQL literal: text, number, truth value, list (array) or mapping (map).

    Raises:
        ConfError: The value is of another kind.

    Example:
        >>> literal(["it's", 2])
        "array('it\\'s', 2)"
    """
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value!r}D"
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    if isinstance(value, Mapping):
        return "map(" + ", ".join(f"{literal(str(key))}, {literal(item)}" for key, item in value.items()) + ")"
    if isinstance(value, Sequence):
        return "array(" + ", ".join(map(literal, value)) + ")"
    raise ConfError(f"expected text, a number, a list or a mapping, found {value!r} ({type(value).__name__})")
