"""Real texts to measure with."""

from __future__ import annotations

import csv
from pathlib import Path

from lakemill.jobs import sample

BANKING = Path(__file__).parents[1].parent / "shared" / "data" / "banking77" / "train.csv"
_LONGEST = 600


def texts(count: int, *, source: Path = BANKING) -> tuple[str, list[str]]:
    """Return where the texts come from, and `count` of them, all different.

    Customer questions where they lie beside the project, else descriptions of installed packages.

    Raises:
        ValueError: There are fewer texts than asked for.
    """
    name, found = ("banking77", _questions(source)) if source.is_file() else ("packages", _descriptions())
    distinct = list(dict.fromkeys(text for text in found if text.strip()))
    if len(distinct) < count:
        raise ValueError(f"{name} has {len(distinct)} different texts, {count} were asked for")
    # Spread over the source, which is sorted by topic.
    return name, [distinct[at * len(distinct) // count] for at in range(count)]


def _questions(source: Path) -> list[str]:
    with source.open(encoding="utf-8", newline="") as lines:
        return [row["text"] for row in csv.DictReader(lines)]


def _descriptions() -> list[str]:
    paragraphs = [part for row in sample.installed() for part in row[-1].split("\n\n")]
    return [" ".join(part.split())[:_LONGEST] for part in paragraphs if len(part) > 80]
