"""What happens when rows, engines or tokens fail: told, recorded, bounded, never silent."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import pytest
from pyspark.errors import PythonException
from pyspark.sql import SparkSession

import lakemill
from lakemill import control
from lakemill.serving.contract import serve_contract
from lakemill.serving.contract_server import ContractServer
from lakemill.udfs.session import flush

MODEL = "smollm2-135m-instruct"


@pytest.fixture
def other(spark: SparkSession) -> Iterator[SparkSession]:
    """A session of its own in the same JVM, without functions yet."""
    session = spark.newSession()
    yield session
    flush(session)


def test_on_error_fail_fails_the_query(spark: SparkSession) -> None:
    query = "SELECT ai_summarize('x [[lakemill:fail INTERNAL]]', map('on_error', 'fail'))"
    with pytest.raises(PythonException, match="ai_summarize: INTERNAL: the row asked"):
        spark.sql(query).collect()


def test_the_session_may_ask_for_failing(spark: SparkSession) -> None:
    query = "SELECT {} AS v"
    bad = "'y [[lakemill:fail INTERNAL]]'"
    spark.conf.set("spark.lakemill.onError", "fail")
    try:
        with pytest.raises(PythonException, match="INTERNAL"):
            spark.sql(query.format(f"ai_summarize({bad})")).collect()
        quiet = query.format(f"ai_summarize({bad}, map('on_error', 'null'))")
        assert spark.sql(quiet).collect()[0].v is None
        assert spark.sql(query.format(f"try_ai_summarize({bad})")).collect()[0].v.error.code == "INTERNAL"
    finally:
        spark.conf.unset("spark.lakemill.onError")


def test_the_session_may_name_another_model(other: SparkSession) -> None:
    with serve_contract() as server:
        lakemill.attach(other, server.url, server.token)
        other.conf.set("spark.lakemill.model", "nope")
        with pytest.raises(Exception, match="unknown model 'nope'"):
            other.sql("SELECT ai_summarize('x')")
        named = f"SELECT try_ai_summarize('x', map('model', '{MODEL}')).model AS v"
        assert other.sql(named).collect()[0].v.startswith(f"{MODEL}@")


def test_failures_are_told_once_a_query_and_recorded(spark: SparkSession, caplog: pytest.LogCaptureFixture) -> None:
    flush(spark, 120)
    caplog.clear()
    bad = "if(id % 4 = 0, ' [[lakemill:fail TIMEOUT]]', if(id = 1, ' [[lakemill:empty]]', ''))"
    texts = f"concat('told ', id, {bad})"
    with caplog.at_level(logging.WARNING, logger="lakemill"):
        rows = spark.sql(f"SELECT ai_summarize({texts}) AS v FROM range(8)").collect()
        flush(spark, 120)
    assert sum(row.v is None for row in rows) == 3
    told = [record.getMessage() for record in caplog.records if record.name == "lakemill.udfs.watcher"]
    warning = (
        "ai_summarize: 3 of 8 rows failed (TIMEOUT 2, INVALID_OUTPUT 1); "
        "try_ai_summarize shows each error, lakemill.run_errors keeps them"
    )
    assert told == [warning]
    keys = [row.k for row in spark.sql(f"SELECT lakemill_key_ai_summarize({texts}) AS k FROM range(8)").collect()]
    kept = {row.key: row for row in spark.table(control.RUN_ERRORS).collect() if row.key in keys}
    assert [kept[keys[i]].code for i in (0, 1, 4)] == ["TIMEOUT", "INVALID_OUTPUT", "TIMEOUT"]
    assert len(kept) == 3
    one = kept[keys[0]]
    assert (one.origin, one.function, one.retryable, one.attempts >= 1) == ("sql", "ai_summarize", True, True)
    assert one.model.startswith(f"{MODEL}@")
    assert one.run_id.startswith(spark.sparkContext.applicationId)


def test_a_query_without_failures_tells_nothing(spark: SparkSession, caplog: pytest.LogCaptureFixture) -> None:
    flush(spark, 120)
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="lakemill"):
        spark.sql("SELECT ai_summarize('all is well')").collect()
        flush(spark, 120)
    assert not caplog.records


def test_a_wrong_token_is_a_row_error(other: SparkSession, contract: ContractServer) -> None:
    lakemill.attach(other, contract.url, "not-the-token")
    row = other.sql("SELECT try_ai_summarize('x') AS v").collect()[0].v
    assert (row.result, row.error.code) == (None, "UNAUTHENTICATED")


def test_a_service_that_is_down_is_a_row_error(other: SparkSession) -> None:
    with serve_contract() as server:
        pass
    lakemill.attach(other, server.url, "any")
    row = other.sql("SELECT try_ai_query('any-model', 'x') AS v").collect()[0].v
    assert (row.result, row.error.code, row.error.retryable) == (None, "ENGINE_UNAVAILABLE", True)


def test_an_engine_that_stops_in_the_middle_ends_the_query(other: SparkSession) -> None:
    with serve_contract(die_after=300) as server:
        lakemill.attach(other, server.url, server.token)
        began = time.monotonic()
        query = "SELECT try_ai_summarize(concat('dies ', id)) AS v FROM range(0, 2000, 1, 2)"
        rows = other.sql(query).select("v.result", "v.error.code").collect()
        assert time.monotonic() - began < 120
    assert len(rows) == 2_000
    codes = {row.code for row in rows if row.result is None}
    assert codes == {"ENGINE_UNAVAILABLE"}
    assert 0 < sum(row.result is not None for row in rows) <= 300


def test_the_token_is_nowhere_to_be_seen(
    spark: SparkSession, contract: ContractServer, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = spark.sql("SELECT try_ai_summarize(concat('x', id)) AS v FROM range(2)")
    frame.explain(extended=True)
    plan = capsys.readouterr().out + frame._jdf.queryExecution().toString()
    settings = " ".join(f"{key}={found}" for key, found in spark.sparkContext.getConf().getAll())
    assert contract.token
    assert "try_ai_summarize" in plan
    assert contract.token not in plan + settings
