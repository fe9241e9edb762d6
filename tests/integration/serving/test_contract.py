from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from lakemill.serving.contract import serve_contract

sys.path.insert(0, str(Path(__file__).parents[2] / "contract"))
pytest.register_assert_rewrite("row_protocol")

from row_protocol import RowProtocol  # noqa: E402


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    with serve_contract(tmp_path_factory.mktemp("home")) as server:
        yield SimpleNamespace(url=server.url, token=server.token, model=server.engine.model.name)


class TestContractEngine(RowProtocol):
    """The contract engine passes the suite that vLLM passes."""
