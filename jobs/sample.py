"""`lakemill sample`: real tables to try things on, made from what every environment has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

import click

from lakemill import settings as settings_module
from lakemill import warehouse

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

PACKAGES = "packages"
_SCHEMA = "name STRING NOT NULL, version STRING, license STRING, summary STRING, description STRING"
_LICENSE_CLASSIFIER = "License :: "
_LONGEST_LICENSE = 100


@dataclass(frozen=True, slots=True)
class Sampled:
    """Hold what was written: `version` is the table's Delta version, `changed` whether it is new."""

    table: str
    rows: int
    version: int
    changed: bool


@click.group()
def sample() -> None:
    """Write a sample table."""


@sample.command("packages")
@click.option("--rows", type=click.IntRange(min=1), help="Only the first N by name; default: all.")
@click.option("--conf-dir", type=click.Path(exists=True, file_okay=False), help="Folder of your YAML files.")
def _packages(rows: int | None, conf_dir: str | None) -> None:
    """Write the table `packages`: the metadata of the Python packages of this environment."""
    from lakemill import spark as spark_module  # noqa: PLC0415 - a second that `--help` need not wait for

    spark = spark_module.build("lakemill sample", None, settings_module.load(conf_dir), conf=spark_module.SHORT_WORK)
    try:
        click.echo(told(write_packages(spark, rows)))
    finally:
        spark_module.close()


def told(done: Sampled) -> str:
    """Return what was done in one line."""
    what = "written" if done.changed else "unchanged, nothing to write"
    return f"table {done.table}: {done.rows} rows at version {done.version} ({what})"


def write_packages(spark: SparkSession, rows: int | None = None) -> Sampled:
    """Write the packages of this environment into the table `packages`; an equal table is left as it is.

    Args:
        spark: A session of `lakemill.session()` or `lakemill.spark.build`.
        rows: Only the first so many by name; None for all.

    Returns:
        What the table holds now.
    """
    wanted = installed()[:rows]
    there = warehouse.adopt(spark, PACKAGES)
    changed = not there or sorted(map(tuple, spark.table(PACKAGES).collect())) != sorted(wanted)
    if changed:
        frame = spark.createDataFrame(list(wanted), _SCHEMA).coalesce(1)
        frame.write.format("delta").mode("overwrite").option("overwriteSchema", "true").saveAsTable(PACKAGES)
    newest = spark.sql(f"DESCRIBE HISTORY {PACKAGES} LIMIT 1").first()
    assert newest is not None
    return Sampled(PACKAGES, len(wanted), int(newest["version"]), changed)


def installed() -> Sequence[tuple[str, str, str, str, str]]:
    """Return name, version, licence, summary and description of every installed package, by name.

    Example:
        >>> any(name == "click" for name, *_ in installed())
        True
    """
    found = {_normal(name): each for each in metadata.distributions() if (name := _field(each, "Name"))}
    return [(name, *_told(found[name])) for name in sorted(found)]


def _told(of: metadata.Distribution) -> tuple[str, str, str, str]:
    told = of.metadata.json  # the description may stand in a header or after them
    return of.version, _license(of), str(told.get("summary", "")), str(told.get("description", ""))


def _license(of: metadata.Distribution) -> str:
    told = _field(of, "License-Expression") or _field(of, "License")
    if told and len(told) <= _LONGEST_LICENSE:
        return told.strip()
    # Some packages put the whole text of their licence there.
    classifiers = of.metadata.get_all("Classifier") or []
    return next((line.rpartition(" :: ")[2] for line in classifiers if line.startswith(_LICENSE_CLASSIFIER)), "")


def _field(of: metadata.Distribution, name: str) -> str:
    # A missing field is None here, and a KeyError once the package importlib_metadata is imported.
    return (of.metadata[name] or "") if name in of.metadata else ""


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
