"""`session`, `attach` and `sql`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

import lakemill
from lakemill.errors import SessionError
from lakemill.serving.contract_server import ContractServer


def test_session_attaches_the_active_one(spark: SparkSession, contract: ContractServer) -> None:
    again = lakemill.session(endpoint=contract.url, token=contract.token)
    assert again.sparkContext is spark.sparkContext
    assert again.sql("SELECT ai_summarize('x') AS v").collect()[0].v


def test_session_refuses_an_active_one_that_lacks_a_setting(spark: SparkSession, contract: ContractServer) -> None:
    with pytest.raises(SessionError, match=r"lacks the setting spark\.master=local\[7\] \(found local\[2\]\)"):
        lakemill.session(endpoint=contract.url, token=contract.token, conf={"spark.master": "local[7]"})


def test_a_setting_that_can_change_is_changed(spark: SparkSession, contract: ContractServer) -> None:
    conf = {"spark.sql.shuffle.partitions": "3"}
    active = lakemill.session(endpoint=contract.url, token=contract.token, conf=conf)
    assert active.conf.get("spark.sql.shuffle.partitions") == "3"
    active.conf.set("spark.sql.shuffle.partitions", "2")


def test_the_catalog_lists_tables_beside_a_temporary_view(spark: SparkSession) -> None:
    # Spark fails here in a session that interprets in place of generating code.
    spark.sql("CREATE OR REPLACE TEMPORARY VIEW beside_tables AS SELECT 1 AS one")
    assert "beside_tables" in {table.name for table in spark.catalog.listTables()}
    spark.catalog.dropTempView("beside_tables")


def test_workers_find_their_modules_imported(spark: SparkSession) -> None:
    def parents(batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            line = Path(f"/proc/{os.getppid()}/cmdline").read_text()
            yield pa.RecordBatch.from_pydict({"line": [line] * len(batch)})

    rows = spark.range(1).mapInArrow(parents, "line STRING").collect()
    assert "lakemill.udfs.daemon" in rows[0].line


def test_sql_uses_the_attached_session(spark: SparkSession) -> None:
    assert lakemill.sql("SELECT ai_summarize('x') AS v").collect()[0].v


def test_attach_changes_no_setting(spark: SparkSession, contract: ContractServer) -> None:
    other = spark.newSession()
    before = {row.key: row.value for row in other.sql("SET").collect()}
    assert lakemill.attach(other, contract.url, contract.token) is other
    assert {row.key: row.value for row in other.sql("SET").collect()} == before


def test_attach_twice_is_fine(spark: SparkSession, contract: ContractServer) -> None:
    other = spark.newSession()
    for _ in range(2):
        lakemill.attach(other, contract.url, contract.token)
    assert other.sql("SELECT ai_summarize('x') AS v").collect()[0].v


def test_a_new_session_needs_its_own_attach(spark: SparkSession) -> None:
    with pytest.raises(Exception, match="UNRESOLVED_ROUTINE"):
        spark.newSession().sql("SELECT ai_summarize('x')")


def test_the_endpoint_may_be_a_setting_of_the_session(
    spark: SparkSession, contract: ContractServer, lakemill_home: Path
) -> None:
    other = spark.newSession()
    other.conf.set("spark.lakemill.endpoint", contract.url)
    lakemill.attach(other, token=contract.token)
    assert other.sql("SELECT ai_summarize('x') AS v").collect()[0].v


def test_spark_connect_is_refused_with_the_reason() -> None:
    class ConnectSession:
        pass

    with pytest.raises(SessionError, match="Spark Connect session: it has no function registry"):
        lakemill.attach(ConnectSession())  # type: ignore[arg-type]
