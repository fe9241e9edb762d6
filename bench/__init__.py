"""Benchmarks, side by side: what lakemill does, and what the engine can do alone, in the same run."""

from __future__ import annotations
