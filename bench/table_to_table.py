"""Rows per second from a Delta table through `ai_summarize` to a Delta table, over vLLM's own offline rate.

Both sides answer the same prompts with the same model, bounds and temperature, one after the other, each
in processes of its own; the order turns with every round. Start-up is not counted, and nothing comes from
the journal. `python -m bench.table_to_table --rows 1000` prints one JSON line a round.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from pyspark.sql.types import StringType

from bench import machine
from bench.spec import Rate, Spec, run_side
from bench.texts import texts
from lakemill import settings
from lakemill.serving import catalog, weights
from lakemill.settings import Paths
from lakemill.udfs.families import Context
from lakemill.udfs.summarize import Summarize

SIDES = ("bench.offline", "bench.online")


@click.command(help=__doc__)
@click.option("--rows", default=1000, show_default=True, help="Rows of the table.")
@click.option("--engine", type=click.Choice(["vllm", "contract"]), default="vllm", show_default=True)
@click.option("--model", help="Catalog name; default: default_model.")
@click.option("--max-tokens", default=64, show_default=True, help="Bound of each answer.")
@click.option("--rounds", default=1, show_default=True, help="Measurements; the order turns with each.")
@click.option("--output", type=click.Path(path_type=Path), help="File that the JSON lines are also added to.")
def main(rows: int, engine: str, model: str | None, max_tokens: int, rounds: int, output: Path | None) -> None:
    """Measure, and print one JSON line a round."""
    loaded = settings.load()
    source, contents = texts(rows)
    facts = {"text": source} | machine.facts("bench.table_to_table")
    told = _spec(model or loaded.default_model, engine, max_tokens, contents, loaded.paths)
    ratios: list[float] = []
    for number in range(rounds):
        found = _round(told, loaded.paths, number)
        _tell(_line(told, number, found) | facts, output)
        if len(found) == len(SIDES):
            ratios.append(found["bench.online"].rows_per_s / found["bench.offline"].rows_per_s)
    if len(ratios) > 1:
        spread = [round(value, 3) for value in sorted(ratios)]
        _tell(
            {"case": "table_to_table", "rounds": rounds, "ratio_median": statistics.median(spread), "ratios": spread},
            output,
        )


def _spec(model: str, engine: str, max_tokens: int, contents: list[str], paths: Paths) -> Spec:
    task = Summarize().plan({}, Context("ai_summarize", lambda _: StringType())).task
    prompts = [[dict(message) for message in task.messages(text)] for text in contents]
    folder = None if engine == "contract" else str(weights.ensure(catalog.entry(model), paths))
    return Spec(model, engine, max_tokens, contents, prompts, home="", weights=folder)


def _round(told: Spec, paths: Paths, number: int) -> dict[str, Rate]:
    sides = SIDES if number % 2 == 0 else SIDES[::-1]
    if told.engine == "contract":
        sides = ("bench.online",)
    found: dict[str, Rate] = {}
    for side in sides:
        home = Path(tempfile.mkdtemp(prefix="lakemill-bench-"))
        try:
            _lend_weights(paths, Paths(home))
            found[side] = run_side(side, replace(told, home=str(home)))
        finally:
            shutil.rmtree(home, ignore_errors=True)
    return found


def _lend_weights(paths: Paths, own: Paths) -> None:
    # A home of its own has an empty journal; only the weights need not be unpacked again.
    paths.models.mkdir(parents=True, exist_ok=True)
    own.models.symlink_to(paths.models, target_is_directory=True)


def _line(told: Spec, number: int, found: dict[str, Rate]) -> dict[str, Any]:
    offline, online = found.get("bench.offline"), found["bench.online"]
    return {
        "case": "table_to_table",
        "round": number + 1,
        "first": next(iter(found)).removeprefix("bench."),
        "engine": told.engine,
        "model": told.model,
        "rows": len(told.texts),
        "max_tokens": told.max_tokens,
        "lakemill": online.to_json(),
        "offline": None if offline is None else offline.to_json(),
        "ratio": None if offline is None else round(online.rows_per_s / offline.rows_per_s, 3),
    }


def _tell(line: dict[str, Any], output: Path | None) -> None:
    text = json.dumps(line)
    print(text, flush=True)
    if output is not None:
        with output.open("a", encoding="utf-8") as lines:
            lines.write(text + "\n")


if __name__ == "__main__":
    main()
