from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import machine, spec, table_to_table
from bench.texts import texts

RATE = spec.Rate(10, 2.0, 100, 50, 10, 1, 3.0)
TOLD = spec.Spec("m", "vllm", 8, ["a"] * 10, [], "")


def test_texts_are_different_and_spread_over_the_source(tmp_path: Path):
    source = tmp_path / "train.csv"
    lines = [f'"question, number {n // 2}",topic' for n in range(20)]
    source.write_text("\n".join(["text,category", *lines, ",topic"]))
    name, found = texts(5, source=source)
    assert name == "banking77"
    assert found == [f"question, number {n}" for n in range(0, 10, 2)]
    with pytest.raises(ValueError, match="10 different texts, 11 were asked for"):
        texts(11, source=source)


def test_texts_of_the_installed_packages_stand_in(tmp_path: Path):
    name, found = texts(50, source=tmp_path / "absent.csv")
    assert name == "packages"
    assert len(set(found)) == 50


def test_a_line_holds_both_rates_and_their_ratio():
    slow = spec.Rate(10, 4.0, 100, 50, 10, 0, 3.0)
    line = table_to_table._line(TOLD, 0, {"bench.offline": RATE, "bench.online": slow})
    assert (line["ratio"], line["first"], line["round"]) == (0.5, "offline", 1)
    assert (line["offline"]["rows_per_s"], line["lakemill"]["output_tokens_per_s"]) == (5.0, 12.5)
    assert table_to_table._line(TOLD, 1, {"bench.online": slow})["ratio"] is None


def test_the_order_turns_and_every_side_has_an_empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ran: list[str] = []

    def run_side(side: str, told: spec.Spec) -> spec.Rate:
        ran.append(side)
        assert [path.name for path in Path(told.home).iterdir()] == ["models"]
        return RATE

    monkeypatch.setattr(table_to_table, "run_side", run_side)
    paths = table_to_table.Paths(tmp_path)
    for number in range(2):
        assert len(table_to_table._round(TOLD, paths, number)) == 2
    assert ran == ["bench.offline", "bench.online", "bench.online", "bench.offline"]


def test_a_side_runs_in_a_process_of_its_own_and_leaves_its_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module = tmp_path / "side.py"
    module.write_text(
        "import sys\nfrom bench import spec\nspec.write(sys.argv[1], 'side', spec.Rate(1, 1.0, 2, 3, 1, 0, 0.5))\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(spec.__file__).parents[1]}")
    told = spec.Spec("m", "contract", 8, ["ü"], [[{"role": "user", "content": "ü"}]], str(tmp_path))
    assert spec.run_side("side", told).completion_tokens == 3
    assert spec.read(str(tmp_path)) == told


def test_the_facts_are_json():
    facts = json.loads(json.dumps([machine.versions(), machine.machine()]))
    assert "pyspark" in facts[0]
    assert facts[1]["cores"] >= 1
