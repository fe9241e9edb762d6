"""Tables of one process as another sees them: registered, dropped with their files, made anew."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import psutil
from deltalake import write_deltalake
from pyspark.sql import SparkSession

from lakemill import settings, warehouse

# What another process does with tables of this one.
_OTHER = """
import json, sys, psutil
from lakemill import settings, spark
session = spark.build("other", "local[1]", settings.load())
def rows(query):
    return [list(row) for row in session.sql(query).collect()]
told = {"read": rows("SELECT a FROM kept_here"), "again": rows("CREATE TABLE IF NOT EXISTS kept_here AS SELECT 9 AS a")}
session.sql("DROP TABLE dropped_there")
session.sql("CREATE TABLE remade_there_first AS SELECT 1 AS x")
session.sql("DROP TABLE remade_there")
session.sql("CREATE TABLE remade_there AS SELECT 'new' AS b")
told["remade"] = rows("SELECT * FROM remade_there")
print(json.dumps(told))
print(json.dumps({"scratch": session.conf.get("spark.local.dir")}))
print(json.dumps({"jvm": [child.pid for child in psutil.Process().children(recursive=True)]}))
"""


def _lives(pid: int) -> bool:
    # One that nobody waited for yet is a zombie, which holds nothing.
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_two_processes_share_their_tables(spark: SparkSession, lakemill_home: Path) -> None:
    paths = settings.load().paths
    for name in ("kept_here", "dropped_there", "remade_there"):
        spark.sql(f"CREATE TABLE {name} AS SELECT 1 AS a")

    ended = subprocess.run(
        [sys.executable, "-c", _OTHER],
        env=os.environ | {"LAKEMILL_HOME": str(lakemill_home)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    told, scratch, jvm = map(json.loads, ended.stdout.splitlines())
    assert told == {"read": [[1]], "again": [], "remade": [["new"]]}
    assert not (lakemill_home / "warehouse" / "dropped_there").exists()
    assert not Path(scratch["scratch"]).exists()
    assert jvm["jvm"]
    assert not any(_lives(pid) for pid in jvm["jvm"])

    assert "default.remade_there_first" in warehouse.refresh(spark, paths)
    assert not spark.catalog.tableExists("dropped_there")
    assert [tuple(row) for row in spark.sql("SELECT * FROM remade_there").collect()] == [("new",)]
    assert [tuple(row) for row in spark.sql("SELECT * FROM kept_here").collect()] == [(1,)]


def test_a_table_that_another_writer_made_is_one_of_ours(spark: SparkSession, lakemill_home: Path) -> None:
    place = lakemill_home / "warehouse" / "theirs"
    write_deltalake(str(place), pd.DataFrame({"a": [1, 2]}))

    assert warehouse.adopt(spark, "theirs")
    assert spark.sql("SELECT sum(a) FROM theirs").first()[0] == 3
    spark.sql("INSERT INTO theirs VALUES (5)")
    spark.sql("DROP TABLE theirs")
    assert not place.exists()
    spark.sql("CREATE TABLE theirs AS SELECT 'b' AS b")
    assert spark.table("theirs").columns == ["b"]


def test_what_is_not_there_is_not_adopted(spark: SparkSession) -> None:
    assert not warehouse.adopt(spark, "nowhere")
    assert not warehouse.adopt(spark, "no_database.nowhere")


def test_a_database_of_the_users_own(spark: SparkSession, lakemill_home: Path) -> None:
    write_deltalake(str(lakemill_home / "warehouse" / "shop.db" / "orders"), pd.DataFrame({"a": [1]}))
    assert "shop.orders" in warehouse.refresh(spark, settings.load().paths)
    assert spark.sql("SELECT a FROM shop.orders").first()[0] == 1
