from __future__ import annotations

from pathlib import Path

from lakemill import archive, spark
from lakemill.settings import Paths

PATHS = Paths(Path("/home/me"))
JARS = [Path("/jars/a.jar"), Path("/jars/b.jar")]


def _options(master: str) -> dict[str, str]:
    return spark.options(PATHS, master, JARS, Path("/tmp/s"))


def test_a_local_session_listens_on_loopback_alone() -> None:
    values = _options("local[2]")
    assert values["spark.driver.host"] == values["spark.driver.bindAddress"] == "127.0.0.1"
    assert values["spark.driver.extraClassPath"] == "/jars/a.jar:/jars/b.jar"
    assert values["spark.python.daemon.module"] == "lakemill.udfs.daemon"
    assert "spark.jars" not in values


def test_a_cluster_gets_the_jars_and_its_own_address() -> None:
    values = _options("spark://host:7077")
    assert values["spark.jars"] == "/jars/a.jar,/jars/b.jar"
    assert "spark.driver.host" not in values
    assert "spark.python.daemon.module" not in values


def test_short_work_is_not_compiled_and_other_work_is() -> None:
    short = spark.options(PATHS, "local[2]", JARS, Path("/tmp/s"), short=True)
    assert short["spark.sql.codegen.factoryMode"] == "NO_CODEGEN"
    assert "-XX:TieredStopAtLevel=1" in short["spark.driver.extraJavaOptions"]
    values = _options("local[2]")
    assert "spark.sql.codegen.factoryMode" not in values
    assert "-XX:TieredStopAtLevel=1" not in values["spark.driver.extraJavaOptions"]


def test_tables_lie_in_the_home_and_scratch_outside() -> None:
    values = _options("local[2]")
    assert values["spark.sql.warehouse.dir"] == "file:///home/me/warehouse"
    assert values["spark.local.dir"] == "/tmp/s"
    assert "-Djava.io.tmpdir=/tmp/s" in values["spark.driver.extraJavaOptions"]


def test_the_archive_is_used_where_it_is(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.delenv(archive.TRAINING, raising=False)
    monkeypatch.setattr(archive, "path", lambda: tmp_path / "spark-1.jsa")
    assert archive.flags() == []
    (tmp_path / "spark-1.jsa").touch()
    assert archive.flags()[0] == f"-XX:SharedArchiveFile={tmp_path / 'spark-1.jsa'}"
    monkeypatch.setenv(archive.TRAINING, "/tmp/fresh.jsa")
    assert archive.flags()[0] == "-XX:ArchiveClassesAtExit=/tmp/fresh.jsa"


def test_close_without_a_session_does_nothing() -> None:
    spark.close()
