"""The descriptor of one call: all that a worker needs but the rows. Frozen, hashable and picklable."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from pyspark.sql.types import DataType, StructField

from lakemill import keys
from lakemill.serving.client import Ask, Endpoint
from lakemill.udfs.prompts import Prompt
from lakemill.udfs.readers import Reader
from lakemill.udfs.result import Shape, shape_type

SECOND_TRY_TOKENS = 2048
_ROOM = 4


def pack(value: Any) -> str:
    """Return a JSON value as text with sorted keys, so that equal descriptors are equal."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


@dataclass(frozen=True)
class Task:
    """Hold how one row is asked and its answer read. Made by a family while the query is analysed.

    `values` fill the prompt's places beside `content`; `params` and `response_format` are JSON texts;
    `own_limit` says that the caller set `max_tokens`, so that a second try gets no more room.
    """

    kind: Literal["generate", "choose"]
    result: DataType
    prompt: Prompt
    reader: Reader
    values: tuple[tuple[str, str], ...] = ()
    params: str = "{}"
    response_format: str | None = None
    own_limit: bool = False
    extra: tuple[StructField, ...] = ()

    @cached_property
    def fixed(self) -> str:
        """Return the digest of everything that is the same for every row: the `options` of the call key."""
        return keys.digest(
            {
                "kind": self.kind,
                "values": dict(self.values),
                "params": json.loads(self.params),
                "response_format": self.format,
                "result": self.result.simpleString(),
                "own_limit": self.own_limit,
            }
        )

    @cached_property
    def format(self) -> Mapping[str, Any] | None:
        """Return the response format as the row protocol has it."""
        return None if self.response_format is None else dict(json.loads(self.response_format))

    @cached_property
    def first_params(self) -> Mapping[str, Any]:
        """Return the sampling parameters of the first try."""
        return dict(json.loads(self.params))

    @cached_property
    def roomy_params(self) -> Mapping[str, Any] | None:
        """Return the parameters of a second try with more room, or None where there is no more to give."""
        first = self.first_params.get("max_tokens")
        if self.own_limit or first is None or first >= SECOND_TRY_TOKENS:
            return None
        return {**self.first_params, "max_tokens": min(SECOND_TRY_TOKENS, _ROOM * first)}

    def messages(self, content: str) -> tuple[dict[str, str], ...]:
        """Return the chat messages of one row."""
        return self.prompt.messages({**dict(self.values), "content": content})


@dataclass(frozen=True)
class Call:
    """Hold one call of a function. `version` is None where the service could not be asked for it."""

    function: str
    task: Task
    shape: Shape
    model: str
    version: str | None
    endpoint: Endpoint = field(repr=False)
    fail: bool = False
    run: str | None = None
    record: bool = True

    @property
    def qualified(self) -> str:
        """Return the model that is asked, as `name@version` where the version is known."""
        return self.model if self.version is None else f"{self.model}@{self.version}"

    @property
    def type(self) -> DataType:
        """Return the Spark type of the call's column."""
        return shape_type(self.shape, self.task.result, self.task.extra)

    def key(self, inputs: Sequence[str], answered_by: str | None = None) -> str:
        """Return the call key of one row.

        `answered_by`, the `name@version` of the answer, is used where the version was not known before.
        """
        model = answered_by or self.model if self.version is None else self.qualified
        return keys.call_key(
            function=self.function,
            prompt_version=self.task.prompt.version,
            inputs=inputs,
            options={"digest": self.task.fixed},
            model=model,
        )

    def ask(self, messages: Sequence[Mapping[str, str]], key: str, params: Mapping[str, Any] | None = None) -> Ask:
        """Return one request for one row."""
        return Ask(
            self.task.kind,
            self.model,
            messages=messages,
            params=self.task.first_params if params is None else params,
            response_format=self.task.format,
            key=key,
            run=self.run,
        )
