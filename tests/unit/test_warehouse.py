from __future__ import annotations

from pathlib import Path

import pytest

from lakemill import warehouse
from lakemill.settings import Paths


@pytest.mark.parametrize(
    ("name", "place"),
    [("t", "t"), ("default.t", "t"), ("T", "t"), ("lakemill.runs", "lakemill.db/runs"), ("d.t", "d.db/t")],
)
def test_where_a_table_lies(name: str, place: str) -> None:
    assert warehouse.table_path(Paths(Path("/home")), name) == Path("/home/warehouse") / place


def test_tables_are_folders_with_a_commit(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    for place in ("a", "lakemill.db/runs"):
        log = paths.warehouse / place / "_delta_log"
        log.mkdir(parents=True)
        (log / "00000000000000000000.json").touch()
    (paths.warehouse / "begun" / "_delta_log").mkdir(parents=True)  # killed before its first commit
    (paths.warehouse / "files").mkdir()
    (paths.warehouse / "note.txt").touch()
    assert warehouse.tables(paths) == ["default.a", "lakemill.runs"]
    assert warehouse.exists(paths, "a")
    assert not warehouse.exists(paths, "begun")


def test_no_warehouse_no_tables(tmp_path: Path) -> None:
    assert warehouse.tables(Paths(tmp_path / "none")) == []
