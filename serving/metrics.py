"""Counters of a service, as `GET /metrics` tells them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.exposition import generate_latest

from lakemill.rows import RowAnswer

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Count what one service did. Each service has a registry of its own, so that tests do not share counts."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.registry = registry
        self.requests = Counter("lakemill_requests", "Row requests accepted.", registry=registry)
        self.open_rows = Gauge("lakemill_open_rows", "Rows taken in and not yet answered.", registry=registry)
        self.rows = Counter(
            "lakemill_rows",
            "Rows answered, by ok or error code.",
            ["model", "outcome"],
            registry=registry,
        )
        self.generations = Counter(
            "lakemill_generations", "Rows really handed to the engine.", ["model"], registry=registry
        )
        self.journal_hits = Counter(
            "lakemill_journal_hits", "Rows answered from the journal.", ["model"], registry=registry
        )
        self.shared = Counter("lakemill_shared", "Rows that shared one in flight.", ["model"], registry=registry)
        self.journal_errors = Counter(
            "lakemill_journal_errors", "Journal reads and writes that failed.", registry=registry
        )
        self.prompt_tokens = Counter(
            "lakemill_prompt_tokens", "Prompt tokens of generations.", ["model"], registry=registry
        )
        self.completion_tokens = Counter(
            "lakemill_completion_tokens", "Completion tokens of generations.", ["model"], registry=registry
        )

    def answered(self, model: str, answer: RowAnswer) -> None:
        """Count one answered row."""
        outcome = "ok" if answer.error is None else answer.error.code.value
        self.rows.labels(model, outcome).inc()

    def expose(self) -> bytes:
        """Return every count in Prometheus' text format."""
        return generate_latest(self.registry)
