"""What a function is: its parameters, and how a call of it becomes a task."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pyspark.sql.types import DataType

from lakemill.udfs.arguments import Bound, Parameter
from lakemill.udfs.call import Task
from lakemill.udfs.result import Shape


@dataclass(frozen=True)
class Context:
    """Hold what a family may use while a query is analysed. `function` is the name as the query has it."""

    function: str
    parse_ddl: Callable[[str], DataType]
    conf_dir: str | os.PathLike[str] | None = None


@dataclass(frozen=True)
class Plan:
    """Hold a checked call: the task, the model asked for (None: the session's), and what a failure does.

    `on_error` is None where the call does not say; `value` is the shape of the plain form.
    """

    task: Task
    model: str | None = None
    on_error: str | None = None
    value: Shape = Shape.VALUE


class Family(Protocol):
    """Name one SQL function and make tasks of its calls; one module each."""

    @property
    def name(self) -> str:
        """Return the name of the plain form."""
        ...

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Return the parameters by position."""
        ...

    @property
    def content(self) -> str:
        """Return the name of the parameter that differs from row to row."""
        ...

    @property
    def on_error(self) -> str:
        """Return what the plain form does with a failed row unless told: `null` or `fail`."""
        ...

    def plan(self, bound: Bound, context: Context) -> Plan:
        """Check the arguments of one call and return its plan.

        Raises:
            UsageError: An argument is wrong; the message is one line for the user.
        """
        ...
