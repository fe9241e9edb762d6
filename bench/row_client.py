"""CPU time that the row client spends on a row, window included, against the contract engine.

The engine runs in processes of its own and answers at once, so what is counted is the client's.
`python -m bench.row_client --rows 20000` prints one JSON line.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import click

from bench import machine
from lakemill import settings
from lakemill.rows import RowAnswer
from lakemill.serving import detached
from lakemill.serving.client import Ask, RowClient, discovery, process
from lakemill.serving.supervisor import Options
from lakemill.settings import Settings

_BATCH = 256


@click.command(help=__doc__)
@click.option("--rows", default=20_000, show_default=True, help="Rows, all different.")
def main(rows: int) -> None:
    """Measure, and print one JSON line."""
    with tempfile.TemporaryDirectory(prefix="lakemill-bench-") as folder:
        loaded = settings.load(home=folder)
        options = Options(Path(folder), engine="contract", models=(loaded.default_model,), port=0)
        detached.start(options, loaded.paths, on_stage=lambda _: None)
        try:
            cpu_s, seconds = _measure(loaded, rows)
        finally:
            process.close()
            detached.stop(loaded.paths)
    line = {
        "case": "row_client",
        "rows": rows,
        "cpu_us_a_row": round(cpu_s / rows * 1e6, 1),
        "rows_per_s": round(rows / seconds, 1),
    }
    print(json.dumps(line | machine.facts("bench.row_client")))


def _measure(loaded: Settings, rows: int) -> tuple[float, float]:
    found = discovery.find(loaded)
    assert found is not None
    client = RowClient.shared(found)

    async def call(text: str) -> RowAnswer:
        return await client.ask(Ask("generate", loaded.default_model, prompt=text, params={"max_tokens": 8}))

    def run(name: str, count: int) -> None:
        texts = [f"{name} {number}" for number in range(count)]
        batches = (texts[at : at + _BATCH] for at in range(0, count, _BATCH))
        failed = [answer.error for answers in client.map(batches, call, size=len) for answer in answers if answer.error]
        if failed:
            raise RuntimeError(f"{len(failed)} rows failed; the first: {failed[0]}")

    run("warm", _BATCH)
    cpu, clock = time.process_time(), time.perf_counter()
    run("row", rows)
    return time.process_time() - cpu, time.perf_counter() - clock


if __name__ == "__main__":
    main()
