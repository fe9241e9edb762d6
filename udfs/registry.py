"""The functions there are. A later one is one module and one line here."""

from __future__ import annotations

from lakemill.udfs.classify import Classify
from lakemill.udfs.extract import Extract
from lakemill.udfs.families import Family
from lakemill.udfs.query import Query
from lakemill.udfs.summarize import Summarize

FAMILIES: tuple[Family, ...] = (Query(), Summarize(), Classify(), Extract())
