"""lakemill: an open `ai_query` for ordinary Spark clusters.

`row → prompt → key → (journal / ledger hit?) → row batch → replica → completion → checked value or
typed error → struct column → ledger → sink`
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lakemill.jobs.runner import RunResult as RunResult
    from lakemill.jobs.runner import run_job as run_job
    from lakemill.udfs.session import attach as attach
    from lakemill.udfs.session import session as session
    from lakemill.udfs.session import sql as sql

__version__ = "0.1.0"
__all__ = ["RunResult", "attach", "run_job", "session", "sql"]

_HOMES = {
    "RunResult": "lakemill.jobs.runner",
    "attach": "lakemill.udfs.session",
    "run_job": "lakemill.jobs.runner",
    "session": "lakemill.udfs.session",
    "sql": "lakemill.udfs.session",
}


def __getattr__(name: str) -> Any:
    # The facade names what lies in the layers above; importing it must import none of them.
    if name not in _HOMES:
        raise AttributeError(f"module 'lakemill' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
