"""What every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakemill.settings import Paths


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """An empty LAKEMILL_HOME of one test, and no other LAKEMILL_ setting from outside."""
    for name in ("LAKEMILL_CONF", "LAKEMILL_ENDPOINT", "LAKEMILL_TOKEN", "LAKEMILL_DEFAULT_MODEL"):
        monkeypatch.delenv(name, raising=False)
    place = tmp_path / "home"
    place.mkdir()
    monkeypatch.setenv("LAKEMILL_HOME", str(place))
    return Paths(place)
