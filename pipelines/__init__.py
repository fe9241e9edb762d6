"""Pipelines: source at a fixed version → written plan → chunk asked → ledger → MERGE → MLflow."""
