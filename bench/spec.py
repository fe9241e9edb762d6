"""What both sides of a benchmark are told, and how each runs in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Spec:
    """Describe one measurement.

    Args:
        model: Catalog name.
        engine: `vllm` or `contract`.
        max_tokens: Bound of each answer.
        texts: The rows' contents.
        prompts: The chat messages that the SQL function makes of each text.
        home: LAKEMILL_HOME of the measurement, with an empty journal.
        weights: Folder of the weights; None for the contract engine.
    """

    model: str
    engine: str
    max_tokens: int
    texts: list[str]
    prompts: list[list[dict[str, str]]]
    home: str
    weights: str | None = None


@dataclass(frozen=True)
class Rate:
    """Hold what one side did. `failed` rows have no value; `generations` were really computed."""

    rows: int
    seconds: float
    prompt_tokens: int
    completion_tokens: int
    generations: int
    failed: int
    start_s: float

    @property
    def rows_per_s(self) -> float:
        """Return the rate that is compared."""
        return self.rows / self.seconds

    def to_json(self) -> dict[str, Any]:
        """Return the figures for a report."""
        tokens_per_s = round(self.completion_tokens / self.seconds, 1)
        rounded = {"seconds": round(self.seconds, 2), "start_s": round(self.start_s, 1)}
        return asdict(self) | rounded | {"rows_per_s": round(self.rows_per_s, 3), "output_tokens_per_s": tokens_per_s}


def run_side(module: str, spec: Spec) -> Rate:
    """Run one side in a process of its own, and return what it measured.

    Raises:
        subprocess.CalledProcessError: The side failed; it has said why on its standard error.
    """
    home = Path(spec.home)
    (home / "spec.json").write_text(json.dumps(asdict(spec)), encoding="utf-8")
    # vLLM logs to standard output, which is for the figures alone.
    subprocess.run([sys.executable, "-m", module, spec.home], check=True, stdout=sys.stderr)
    return Rate(**json.loads((home / f"{module}.json").read_text(encoding="utf-8")))


def read(home: str) -> Spec:
    """Return the spec that `run_side` wrote."""
    return Spec(**json.loads((Path(home) / "spec.json").read_text(encoding="utf-8")))


def write(home: str, module: str, rate: Rate) -> None:
    """Leave a rate for `run_side`."""
    (Path(home) / f"{module}.json").write_text(json.dumps(asdict(rate)), encoding="utf-8")
