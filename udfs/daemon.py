"""Spark's Python daemon, with what every worker imports imported before it forks.

A worker that Spark's own daemon forks imports pandas, pyarrow and the row client itself: one second of one core
for every function, partition and query that finds no idle worker. Here the daemon does it once. The one thread
that these imports start is jemalloc's, which knows how to follow a fork.
"""

from __future__ import annotations

import gc
import importlib

from pyspark import daemon

PRELOAD = ("pandas", "pyarrow", "pyspark.worker", "pyspark.sql.pandas.serializers", "lakemill.udfs.worker")


def main() -> None:
    """Import what workers need, then do what Spark's daemon does."""
    for name in PRELOAD:
        importlib.import_module(name)
    gc.freeze()  # the collector would copy pages that all workers share
    daemon.manager()


if __name__ == "__main__":
    main()
