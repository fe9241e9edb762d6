"""Table to table: Delta → `ai_summarize` in SQL → Delta, by the real application. Run by `bench.spec.run_side`."""

from __future__ import annotations

import os
import re
import sys
import time
import urllib.request

from pyspark.sql import SparkSession

import lakemill
from bench import spec
from lakemill import settings
from lakemill import spark as spark_module
from lakemill.serving import detached
from lakemill.serving.client import Endpoint, discovery
from lakemill.serving.supervisor import Options
from lakemill.settings import Settings

_WARM_ROWS = 16
_COUNTER = re.compile(
    r"^lakemill_(generations|prompt_tokens|completion_tokens|journal_hits|shared)_total\S* (\S+)$", re.M
)


def main(home: str) -> None:
    """Start the application, warm up, fill one table from the other, and leave the rate."""
    told = spec.read(home)
    # One home for this process, Spark's workers and the application.
    os.environ["LAKEMILL_HOME"] = home
    loaded = settings.load()
    began = time.perf_counter()
    options = Options(loaded.paths.home, engine=told.engine, models=(told.model,), port=0)  # type: ignore[arg-type]
    detached.start(options, loaded.paths, on_stage=lambda stage: print(f"serving: {stage}", file=sys.stderr))
    start_s = time.perf_counter() - began
    try:
        spec.write(home, "bench.online", _measure(told, loaded, start_s))
    finally:
        spark_module.close()
        detached.stop(loaded.paths)


def _measure(told: spec.Spec, loaded: Settings, start_s: float) -> spec.Rate:
    endpoint = discovery.find(loaded)
    assert endpoint is not None
    spark = lakemill.session("bench", endpoint=endpoint.url, token=endpoint.token)
    _write(spark, "texts", told.texts)
    _write(spark, "warm", [f"How do I pay for number {n} with my old card?" for n in range(_WARM_ROWS)])
    _summarise(spark, told, "warm")
    before = _counters(endpoint)
    seconds = _summarise(spark, told, "texts")
    counts = {name: value - before.get(name, 0) for name, value in _counters(endpoint).items()}
    if counts.get("journal_hits") or counts.get("shared"):
        raise RuntimeError(f"answers came from elsewhere than the engine: {counts}")
    return spec.Rate(
        rows=spark.table("texts_ai").count(),
        seconds=seconds,
        prompt_tokens=counts.get("prompt_tokens", 0),
        completion_tokens=counts.get("completion_tokens", 0),
        generations=counts["generations"],
        failed=spark.table("texts_ai").where("summary IS NULL").count(),
        start_s=start_s,
    )


def _write(spark: SparkSession, name: str, texts: list[str]) -> None:
    rows = list(enumerate(texts))
    spark.createDataFrame(rows, "id INT, text STRING").coalesce(1).write.format("delta").saveAsTable(name)


def _summarise(spark: SparkSession, told: spec.Spec, name: str) -> float:
    call = f"ai_summarize(text, options => map('model', '{told.model}', 'max_tokens', '{told.max_tokens}'))"
    started = time.perf_counter()
    spark.sql(f"CREATE TABLE {name}_ai USING DELTA AS SELECT id, text, {call} AS summary FROM {name}")
    return time.perf_counter() - started


def _counters(endpoint: Endpoint) -> dict[str, int]:
    request = urllib.request.Request(f"{endpoint.url}/metrics", headers=endpoint.headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as response:
        found = _COUNTER.findall(response.read().decode())
    totals: dict[str, int] = {}
    for name, value in found:
        totals[name] = totals.get(name, 0) + int(float(value))
    return totals


if __name__ == "__main__":
    main(sys.argv[1])
