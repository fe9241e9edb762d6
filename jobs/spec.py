"""The job file: `conf/jobs/NAME.yaml`, checked key by key before anything starts."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lakemill import conf_files
from lakemill.errors import ConfError
from lakemill.pipelines.flow import Flow, Step
from lakemill.pipelines.steps import functions

_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
_TABLE = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?$"
OnError: TypeAlias = Literal["null", "fail", "quarantine"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceSpec(_Part):
    """Say what the job reads."""

    table: str | None = Field(default=None, pattern=_TABLE, description="A Delta table.")
    query: str | None = Field(default=None, description="A SELECT. Not supported yet.")
    read: Literal["new_versions", "all"] = Field(
        default="new_versions", description="What changed since the last run; all gives the same tables."
    )


class StepSpec(BaseModel):
    """Say what one step asks. Further keys are arguments of the function, all of them literal."""

    model_config = ConfigDict(frozen=True, extra="allow")

    function: str = Field(description="A function such as ai_summarize.")
    input: str = Field(min_length=1, description="SQL expression over the source's columns and earlier steps.")


class SinkSpec(_Part):
    """Say where the rows go."""

    table: str = Field(pattern=_TABLE, description="A Delta table; made where it does not exist.")
    mode: Literal["merge", "append", "overwrite"] = Field(default="merge", description="Only merge so far.")
    key: tuple[str, ...] = Field(min_length=1, description="Columns that name a row, never NULL and unique.")
    keep_results: bool = Field(default=False, description="Keep the row result of each step as STEP_result.")


class LimitsSpec(_Part):
    """Say when the job fails or stops."""

    max_error_ratio: float | None = Field(default=None, ge=0, le=1, description="Failed rows over rows.")
    max_errors: int | None = Field(default=None, ge=0, description="Failed rows.")
    max_tokens: int | None = Field(default=None, ge=1, description="Not supported yet.")
    max_seconds: int | None = Field(default=None, ge=1, description="Not supported yet.")


class ScheduleSpec(_Part):
    """Say when the job is to run. Read by a scheduler; `lakemill run` ignores it."""

    cron: str
    timezone: str = "UTC"
    max_concurrent: int = Field(default=1, ge=1)
    catch_up: Literal["latest", "all", "none"] = "latest"
    paused: bool = False


class JobSpec(_Part):
    """Hold one job file."""

    job: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="The file's own name.")
    description: str = Field(default="", description="One sentence for people.")
    model: str | None = Field(default=None, description="A catalog name; default: default_model of lakemill.yaml.")
    source: SourceSpec
    steps: dict[str, StepSpec] = Field(min_length=1, description="Step s writes columns s and s_result.")
    sink: SinkSpec
    on_error: OnError = Field(default="null", description="What a failed call does.")
    on_version_change: Literal["keep", "backfill"] = Field(default="keep", description="Only keep so far.")
    limits: LimitsSpec = LimitsSpec()
    evaluation: dict[str, Any] | None = Field(default=None, description="Not supported yet.")
    schedule: ScheduleSpec | None = None

    @field_validator("on_error", mode="before")
    @classmethod
    def _bare_null(cls, value: Any) -> Any:
        # A bare null in YAML means the policy of that name.
        return "null" if value is None else value

    def flow(self, default_model: str) -> Flow:
        """Return what the pipeline runs."""
        assert self.source.table is not None
        assert self.on_error != "quarantine"
        steps = tuple(
            Step(name, step.function, step.input, dict(step.model_extra or {})) for name, step in self.steps.items()
        )
        return Flow(
            job=self.job,
            source=self.source.table,
            steps=steps,
            sink=self.sink.table,
            keys=self.sink.key,
            model=self.model or default_model,
            keep_results=self.sink.keep_results,
            on_error=self.on_error,
            max_error_ratio=self.limits.max_error_ratio,
            max_errors=self.limits.max_errors,
        )


def find(name_or_path: str | os.PathLike[str], conf_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the file of a job: a path that ends in .yaml, or a name under conf/jobs.

    Raises:
        ConfError: There is none; the message lists the jobs there are.
    """
    text = os.fspath(name_or_path)
    if text.endswith((".yaml", ".yml")):
        if Path(text).is_file():
            return Path(text)
        raise ConfError(f"{text}: there is no such file")
    known = conf_files.files_in("jobs", conf_dir)
    if text not in known:
        raise ConfError(
            f"job {text!r} is not in conf/jobs",
            hint=f"jobs there are: {', '.join(known) or 'none'}; a path must end in .yaml",
        )
    return known[text]


def load(path: Path) -> JobSpec:
    """Read and check a job file.

    Raises:
        ConfError: It is not valid; the message names the file, the key, what was found and what is allowed.
    """
    values = conf_files.read(path)
    try:
        spec = JobSpec(**values)
    except ValidationError as error:
        raise ConfError(_explain(path, error)) from error
    _check(path, spec)
    return spec


def _check(path: Path, spec: JobSpec) -> None:
    if spec.job != path.stem:
        raise ConfError(f"{path}: job: found {spec.job!r}, expected the file's own name {path.stem!r}")
    for name, step in spec.steps.items():
        if not re.match(_NAME, name):
            raise ConfError(f"{path}: steps.{name}: a step is a column name: letters, digits and _")
        if step.function not in functions():
            raise ConfError(
                f"{path}: steps.{name}.function: found {step.function!r}, allowed: {', '.join(functions())}"
            )
    for key, used, instead in _later(spec):
        if used:
            raise ConfError(f"{path}: {key}: not supported yet; {instead}")
    if spec.source.table is None:
        raise ConfError(f"{path}: source.table: missing; a job reads one Delta table")
    if spec.source.table.lower() == spec.sink.table.lower():
        raise ConfError(f"{path}: sink.table: found {spec.sink.table!r}, which is the source itself")


def _later(spec: JobSpec) -> Sequence[tuple[str, bool, str]]:
    model = spec.model or ""
    return (
        ("source.query", spec.source.query is not None, "write the query into a Delta table and name that"),
        ("sink.mode", spec.sink.mode != "merge", "allowed: merge"),
        ("on_error", spec.on_error == "quarantine", "allowed: null, fail"),
        ("on_version_change", spec.on_version_change == "backfill", "allowed: keep"),
        ("limits.max_tokens", spec.limits.max_tokens is not None, "leave it out"),
        ("limits.max_seconds", spec.limits.max_seconds is not None, "leave it out"),
        ("evaluation", spec.evaluation is not None, "leave it out"),
        ("model", model.startswith("models:/"), "name an entry of conf/models"),
    )


def _explain(path: Path, error: ValidationError) -> str:
    first = error.errors()[0]
    places = [str(part) for part in first["loc"]]
    key = ".".join(places) or "(whole file)"
    if first["type"] == "extra_forbidden":
        allowed = f"allowed here: {', '.join(_fields(places[:-1]))}"
        return f"{path}: {key}: unknown key ({allowed})"
    if first["type"] == "missing":
        return f"{path}: {key}: missing (allowed here: {', '.join(_fields(places[:-1]))})"
    return f"{path}: {key}: {first['msg']}, found {first.get('input')!r}"


def _fields(places: Sequence[str]) -> list[str]:
    models: dict[str, type[BaseModel]] = {
        "source": SourceSpec,
        "sink": SinkSpec,
        "limits": LimitsSpec,
        "schedule": ScheduleSpec,
        "steps": StepSpec,
    }
    return list((models[places[0]] if places else JobSpec).model_fields)
