"""`ai_classify(content, labels [, options])` → STRING, one of the labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyspark.sql.types import DataType, DoubleType, MapType, StringType, StructField

from lakemill.errors import UsageError
from lakemill.udfs import arguments, options, prompts
from lakemill.udfs.arguments import OPTIONS, Bound, Parameter
from lakemill.udfs.call import Task, pack
from lakemill.udfs.families import Context, Plan
from lakemill.udfs.readers import Label

FEWEST, MOST = 2, 500
_LONGEST = 100
_EXTRA = (
    StructField("confidence", DoubleType()),
    StructField("scores", MapType(StringType(), DoubleType())),
)


class Classify:
    """Choose one label of a list, or of a map label → description, by the model's own probabilities."""

    name = "ai_classify"
    parameters = (
        Parameter("content", required=True, column=True),
        Parameter("labels", required=True, maps=True),
        OPTIONS,
    )
    content = "content"
    on_error = "null"

    def plan(self, bound: Bound, context: Context) -> Plan:
        """Check the call; both the plain and the `try_` form score every label."""
        given = options.read(context.function, bound)
        for name, value in (("max_tokens", given.max_tokens), ("temperature", given.temperature or None)):
            if value is not None:
                raise UsageError(f"{context.function}: option {name} does not apply: labels are scored, not written")
        labels = _labels(context.function, bound)
        places = frozenset({"content", "labels", "instructions"})
        task = Task(
            kind="choose",
            result=StringType(),
            prompt=prompts.load(self.name, given.prompt, places=places, conf_dir=context.conf_dir),
            reader=Label(tuple(labels)),
            values=(("instructions", given.instructions_text), ("labels", _listed(labels))),
            response_format=pack({"type": "choice", "choices": list(labels)}),
            own_limit=True,
            extra=_EXTRA,
        )
        return Plan(task, given.model, given.on_error)


def _labels(function: str, bound: Bound) -> Mapping[str, str]:
    argument = bound["labels"]
    expected = "a non-empty literal array of strings, or a map label → description"
    value = arguments.constant(function, bound, "labels", "array of strings")
    if arguments.is_text_list(value, argument):
        _check_differ(function, value)
        described: Mapping[str, str] | None = dict.fromkeys(value, "")
    else:
        described = _described(argument.type, value)
    if not described:
        raise arguments.wrong(function, "labels", expected, argument)
    _check(function, list(described))
    return described


def _check_differ(function: str, labels: list[str]) -> None:
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise UsageError(f"{function}: labels must differ, found '{twice}' twice")


def _described(kind: DataType, value: Any) -> Mapping[str, str] | None:
    if isinstance(kind, MapType) and isinstance(kind.keyType, StringType) and isinstance(value, dict):
        texts = all(label.strip() and isinstance(told, str) for label, told in value.items())
        return value if value and texts else None
    return None


def _check(function: str, labels: list[str]) -> None:
    if not FEWEST <= len(labels) <= MOST:
        raise UsageError(f"{function}: labels must be {FEWEST} to {MOST}, found {len(labels)}")
    padded = next((label for label in labels if label != label.strip() or len(label) > _LONGEST), None)
    if padded is not None:
        raise UsageError(
            f"{function}: a label has 1 to {_LONGEST} characters and no space around it, found '{padded[:_LONGEST]}'"
        )


def _listed(labels: Mapping[str, str]) -> str:
    return "\n".join(f"- {label}: {told}" if told.strip() else f"- {label}" for label, told in labels.items())
