"""The tables under `LAKEMILL_HOME/warehouse`, as an in-memory catalog sees them.

A user's table `t` lies in `warehouse/t`, a table `d.t` of another database in `warehouse/d.db/t`
(lakemill's own are in database `lakemill`). What one process wrote is registered by the next, as a
managed table: DROP takes the files too, and CREATE TABLE IF NOT EXISTS finds what is there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pyspark.sql import SparkSession

from lakemill.settings import Paths

log = logging.getLogger(__name__)

OWN_DATABASE = "lakemill"
_SUFFIX = ".db"
_TABLE_FIELDS = 22
_CATALOG = "org.apache.spark.sql.catalyst.catalog"


def table_path(paths: Paths, name: str) -> Path:
    """Return where the table `name` (`table` or `database.table`) lies.

    Example:
        >>> table_path(Paths(Path("/home/me")), "lakemill.runs").as_posix()
        '/home/me/warehouse/lakemill.db/runs'
    """
    database, _, table = name.lower().rpartition(".")
    if database in ("", "default"):
        return paths.warehouse / table
    return paths.warehouse / f"{database}{_SUFFIX}" / table


def tables(paths: Paths) -> list[str]:
    """Return the Delta tables on disk as `database.table`, sorted."""
    return sorted(f"{database}.{folder.name}" for database, folder in _folders(paths))


def exists(paths: Paths, name: str) -> bool:
    """Tell whether a Delta table called `name` lies on disk."""
    return _is_delta(table_path(paths, name))


def refresh(spark: SparkSession, paths: Paths) -> list[str]:
    """Register every Delta table on disk that the session does not know; forget those that are gone.

    Returns:
        The tables that were registered now, as `database.table`.
    """
    paths.warehouse.mkdir(parents=True, exist_ok=True)
    on_disk = tables(paths)
    for database in sorted({OWN_DATABASE, *(name.split(".")[0] for name in on_disk)} - {"default"}):
        spark.sql(f"CREATE DATABASE IF NOT EXISTS `{database}`")
    catalog = _Catalog(spark)
    _forget(catalog, paths, set(on_disk))
    new = [name for name in on_disk if not catalog.has(name)]
    for name in new:
        catalog.register(name, table_path(paths, name))
    log.debug("registered %s tables under %s", len(new), paths.warehouse)
    return new


def adopt(spark: SparkSession, name: str) -> bool:
    """Register the table `name` if its files lie in the session's own warehouse folder.

    Returns:
        Whether the session knows the table now.
    """
    catalog = _Catalog(spark)
    full = name if "." in name else f"default.{name}"
    if catalog.has(full):
        return True
    root = urlsplit(spark.conf.get("spark.sql.warehouse.dir", "") or "").path
    folder = table_path(Paths(Path(root).parent), full) if Path(root).name == "warehouse" else None
    if folder is None or not _is_delta(folder):
        return False
    catalog.register(full, folder)
    return True


def _folders(paths: Paths) -> Iterator[tuple[str, Path]]:
    for place in _subfolders(paths.warehouse):
        if place.name.endswith(_SUFFIX):
            database = place.name.removesuffix(_SUFFIX)
            yield from ((database, folder) for folder in _subfolders(place) if _is_delta(folder))
        elif _is_delta(place):
            yield "default", place


def _subfolders(place: Path) -> list[Path]:
    if not place.is_dir():
        return []
    return [folder for folder in place.iterdir() if folder.is_dir() and not folder.name.startswith((".", "_"))]


def _is_delta(folder: Path) -> bool:
    # A CREATE that was killed leaves a log folder without a commit: no table yet.
    return any((folder / "_delta_log").glob("*.json"))


def _forget(catalog: _Catalog, paths: Paths, on_disk: set[str]) -> None:
    root = paths.warehouse.as_uri()
    for name in catalog.managed_under(root) - on_disk:
        catalog.forget(name)


class _Catalog:
    """Speak to the session's catalog directly: SQL has no way to register files as a managed table."""

    def __init__(self, spark: SparkSession) -> None:
        self._jvm: Any = spark._jvm  # noqa: SLF001
        self._catalog: Any = spark._jsparkSession.sessionState().catalog()  # noqa: SLF001

    def _identifier(self, name: str) -> Any:
        database, table = name.split(".")
        option = self._jvm.scala.Option.apply(database)
        return self._jvm.org.apache.spark.sql.catalyst.TableIdentifier(table, option)

    def has(self, name: str) -> bool:
        return bool(self._catalog.tableExists(self._identifier(name)))

    def managed_under(self, root: str) -> set[str]:
        """Return the session's tables that lie in the warehouse, as `database.table`."""
        external = self._catalog.externalCatalog()
        found = {}
        for database in _strings(external.listDatabases()):
            for table in _strings(external.listTables(database)):
                found[f"{database}.{table}"] = external.getTable(database, table)
        return {name for name, table in found.items() if _location(table).startswith(root)}

    def forget(self, name: str) -> None:
        database, table = name.split(".")
        # The files are gone already; external so that nothing else is deleted in their place.
        external = self._catalog.externalCatalog()
        external.dropTable(database, table, True, True)
        self._catalog.refreshTable(self._identifier(name))

    def register(self, name: str, path: Path) -> None:
        self._catalog.createTable(self._describe(name, path), True, False)

    def _describe(self, name: str, path: Path) -> Any:
        companion = getattr(self._jvm, f"{_CATALOG}.CatalogTable$").__getattr__("MODULE$")
        described = [self._identifier(name), self._managed(), self._storage(path), self._no_schema()]
        provider = self._jvm.scala.Option.apply("delta")
        rest = [getattr(companion, f"apply$default${i}")() for i in range(6, _TABLE_FIELDS + 1)]
        return companion.apply(*described, provider, *rest)

    def _managed(self) -> Any:
        return getattr(self._jvm, f"{_CATALOG}.CatalogTableType$").__getattr__("MODULE$").MANAGED()

    def _storage(self, path: Path) -> Any:
        empty = getattr(self._jvm, f"{_CATALOG}.CatalogStorageFormat$").__getattr__("MODULE$").empty()
        fields = [empty.productElement(i) for i in range(empty.productArity())]
        location = self._jvm.scala.Option.apply(self._jvm.java.net.URI(path.as_uri()))
        return empty.copy(location, *fields[1:])

    def _no_schema(self) -> Any:
        # Delta reads the schema from its own log.
        return self._jvm.org.apache.spark.sql.types.StructType()


def _strings(scala_sequence: Any) -> list[str]:
    return [scala_sequence.apply(i) for i in range(scala_sequence.size())]


def _location(table: Any) -> str:
    # A Java file URI may say file:/x where Python's says file:///x.
    uri = table.storage().locationUri()
    return Path(uri.get().getPath()).as_uri() if uri.isDefined() else ""
