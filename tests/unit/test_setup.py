from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner

from lakemill import jars, setup
from lakemill.errors import SetupError
from lakemill.settings import Paths

MAKE = "import sqlite3, sys; base = sqlite3.connect(sys.argv[1]); base.execute('create table t (a)'); base.close()"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    # MLflow's own migrations take seconds; tests/integration runs the real ones.
    monkeypatch.setattr(setup, "_MAKE_DATABASE", MAKE)


def test_the_database_is_made_once_and_whole(home: Paths) -> None:
    assert setup.bring_database(home) == str(home.mlflow_db)
    made = home.mlflow_db.stat().st_mtime_ns
    assert sqlite3.connect(home.mlflow_db).execute("select count(*) from t").fetchone() == (0,)
    assert setup.bring_database(home) == str(home.mlflow_db)
    assert home.mlflow_db.stat().st_mtime_ns == made
    assert {path.name for path in home.home.iterdir()} == {"mlflow.db", "locks"}


def test_a_database_that_cannot_be_made_leaves_nothing(home: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "_MAKE_DATABASE", MAKE + "; sys.exit('disk full')")
    with pytest.raises(SetupError, match="MLflow cannot make its database: disk full"):
        setup.bring_database(home)
    assert {path.name for path in home.home.iterdir()} == {"locks"}


def test_without_vllm_there_is_no_model_to_bring(home: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup.util, "find_spec", lambda _name: None)
    assert "served elsewhere" in setup.bring_model(setup.settings.load())
    assert not home.models.exists()


def test_the_command_says_what_it_brought(home: Paths, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(jars, "ensure", list)
    monkeypatch.setattr(setup, "bring_archive", lambda: "there")
    monkeypatch.setattr(setup, "bring_model", lambda _found, _conf: "there")
    result = CliRunner().invoke(setup.setup, ["--home", str(tmp_path / "other")], catch_exceptions=False)
    assert result.exit_code == 0
    assert [line.partition(":")[0] for line in result.output.splitlines()] == [
        "Delta jars",
        "Spark's class archive",
        "default model",
        "MLflow database",
    ]
    assert (tmp_path / "other" / "mlflow.db").is_file()
