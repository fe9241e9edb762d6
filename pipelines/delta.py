"""What Delta knows of a table beside its rows: the version, the transactions, the commit's own words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from lakemill import warehouse
from lakemill.errors import JobError
from lakemill.pipelines.session_conf import set_for_now

_WRITE = "spark.databricks.delta.write."
_METADATA = "spark.databricks.delta.commitInfo.userMetadata"


def exists(spark: SparkSession, table: str) -> bool:
    """Tell whether the session knows the table, or finds its files where it belongs."""
    return bool(spark.catalog.tableExists(table)) or warehouse.adopt(spark, table)


def version(spark: SparkSession, table: str) -> int:
    """Return the newest version of a Delta table.

    Raises:
        JobError: There is no such table, or it is not a Delta table.
    """
    if not exists(spark, table):
        raise JobError(f"table {table} does not exist", hint=f"tables there are: {_listed(spark)}")
    if spark.catalog.getTable(table).tableType in ("VIEW", "TEMPORARY"):
        raise JobError(f"{table} is a view; a job reads a Delta table at a fixed version")
    found = int(_snapshot(spark, table).version())
    if found < 0:
        raise JobError(f"table {table} is not a Delta table", hint="write it with USING delta")
    return found


def never_written(spark: SparkSession, table: str) -> bool:
    """Tell without a query whether a table that was made empty has had no commit since."""
    return int(_snapshot(spark, table).version()) == 0


def location(spark: SparkSession, table: str) -> str:
    """Return the folder of a Delta table, as Hadoop names it."""
    return str(_snapshot(spark, table).path().getParent().toString())


def transaction(spark: SparkSession, table: str, app: str) -> int | None:
    """Return the last transaction number that `app` committed to the table, or None."""
    if not exists(spark, table):
        return None
    found = _snapshot(spark, table).transactions().get(app)
    return int(found.get()) if found.isDefined() else None


def append(frame: DataFrame, table: str, *, app: str, number: int) -> None:
    """Append to a table in one commit; Delta drops a second commit of the same `app` and `number`."""
    writer = frame.write.format("delta").mode("append").option("txnAppId", app).option("txnVersion", number)
    writer.saveAsTable(table)


@contextmanager
def commit(spark: SparkSession, *, app: str, number: int, metadata: Mapping[str, Any]) -> Iterator[None]:
    """Give what is committed inside a transaction number and words of its own (for MERGE, which takes no options)."""
    values = {
        f"{_WRITE}txnAppId": app,
        f"{_WRITE}txnVersion": str(number),
        _METADATA: json.dumps(dict(metadata), sort_keys=True),
    }
    with set_for_now(spark, values):
        yield


def _snapshot(spark: SparkSession, table: str) -> Any:
    jvm: Any = spark._jvm  # noqa: SLF001 - Python's DeltaTable does not tell transactions
    session: Any = spark._jsparkSession  # noqa: SLF001
    identifier = session.sessionState().sqlParser().parseTableIdentifier(table)
    pair = jvm.org.apache.spark.sql.delta.DeltaLog.forTableWithSnapshot(session, identifier)
    return pair._2()  # noqa: SLF001 - the second of a Scala pair


def _listed(spark: SparkSession) -> str:
    names = [row.tableName for row in spark.sql("SHOW TABLES").collect() if not row.isTemporary]
    return ", ".join(names[:20]) or "none"
