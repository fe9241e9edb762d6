"""The row client: rows of a table → requests of many rows → answers, in the order of the rows.

`Ask` → `Window` (what runs) → `Batcher` (what shares a request) → `Delivery` (one request) →
`Transport` (HTTP) → `RowAnswer`; `Desk` holds them together, `Breaker` ends what cannot be reached.
"""

from __future__ import annotations

from lakemill.serving.client.ask import Ask
from lakemill.serving.client.endpoint import Endpoint
from lakemill.serving.client.limits import ClientLimits
from lakemill.serving.client.row_client import RowClient
from lakemill.serving.engine import ModelInfo

__all__ = ["Ask", "ClientLimits", "Endpoint", "ModelInfo", "RowClient"]
