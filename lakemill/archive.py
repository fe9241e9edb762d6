"""Keep Spark's classes in a shared archive, so that a JVM starts with them loaded and checked.

Two cores spend ten seconds less on a session and its first queries. The archive is made once, by a short
session of its own, and belongs to one JVM, one pyspark and one set of jars; a JVM ignores it otherwise.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock

from lakemill import jars, java
from lakemill.errors import SetupError

log = logging.getLogger(__name__)

_TIMEOUT_S = 600
_DIGITS = 12
TRAINING = "LAKEMILL_CLASS_ARCHIVE"
_LESSONS = "2"  # another number makes the archive anew: what `train` does has changed


def path() -> Path:
    """Return where the archive of this environment lies, be it there or not."""
    found = java.find()
    parts = [_LESSONS, version("pyspark"), f"{found.home} {found.version}", *map(_seen, jars.paths())]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:_DIGITS]
    return jars.folder().parent / f"spark-{digest}.jsa"


def flags() -> list[str]:
    """Return the JVM's flags: use the archive, or (in a training session) write it."""
    told = "-Xlog:disable -Xlog:all=error:stderr"
    made = os.environ.get(TRAINING)
    if made:
        return [f"-XX:ArchiveClassesAtExit={made}", *told.split()]
    return [f"-XX:SharedArchiveFile={path()}", "-Xshare:auto", *told.split()] if path().is_file() else []


def ensure() -> Path:
    """Make the archive where it is missing; takes about half a minute and 200 MB.

    Raises:
        SetupError: The training session failed; everything works without the archive, only slower.
    """
    made = path()
    with FileLock(made.with_suffix(".lock")):
        if not made.is_file():
            _make(made)
    return made


def _make(made: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="lakemill-") as folder:
        fresh = Path(folder) / made.name
        environment = {**os.environ, TRAINING: str(fresh), "LAKEMILL_HOME": folder}
        line = [sys.executable, "-m", "lakemill.archive"]
        try:
            ended = subprocess.run(  # noqa: S603 - our own interpreter and module
                line, env=environment, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise SetupError(f"Spark's class archive was not made within {_TIMEOUT_S} s") from error
        if ended.returncode or not fresh.is_file():
            last = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise SetupError(f"Spark's class archive could not be made: {last}")
        for older in made.parent.glob("spark-*.jsa"):
            older.unlink(missing_ok=True)
        part = made.with_suffix(".part")
        shutil.move(fresh, part)
        part.replace(made)


def _seen(jar: Path) -> str:
    return f"{jar} {jar.stat().st_size}"


def _same(batches: Iterator[Any]) -> Iterator[Any]:
    yield from batches


def train() -> None:
    """Use a session as a job does, so that the classes it needs are loaded when its JVM ends."""
    from delta.tables import DeltaTable  # noqa: PLC0415 - Spark, for the training session alone

    from lakemill import settings, spark  # noqa: PLC0415 - spark itself asks this module for flags

    session = spark.build("archive", "local[1]", settings.load())
    session.sql("CREATE TABLE a AS SELECT id, cast(id AS STRING) s FROM range(9)")
    session.sql("CREATE TABLE b AS SELECT id, count(*) n, max_by(s, id) s FROM a GROUP BY id")
    rows = session.sql(
        "SELECT a.id, b.n, from_json(to_json(struct(a.s)), 's STRING').s s FROM a LEFT JOIN b USING (id)"
    )
    merge = DeltaTable.forName(session, "b").alias("t").merge(rows.alias("s"), "t.id = s.id").withSchemaEvolution()
    merge.whenMatchedUpdateAll().whenNotMatchedInsertAll().execute()
    session.createDataFrame([(1, "x")], "id INT, s STRING").write.mode("append").saveAsTable("c")
    session.sql("SELECT explode(array(id)) e FROM b VERSION AS OF 0 ORDER BY e").collect()
    kept = session.table("a").mapInArrow(_same, "id BIGINT, s STRING").persist()
    kept.selectExpr("count(*)", "count(DISTINCT s)", "count_if(map('a', s)['a'] IS NULL)").collect()
    kept.selectExpr("sha2(s, 256)", "named_struct('t', current_timestamp(), 'a', array(s)) n").orderBy("n.a").collect()
    # The archive is written while the JVM ends.
    spark.close(_TIMEOUT_S)


if __name__ == "__main__":
    train()
