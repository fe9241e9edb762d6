"""One JVM and one contract service for all integration tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

import lakemill
from lakemill import spark as spark_module
from lakemill.serving.contract import serve_contract
from lakemill.serving.contract_server import ContractServer


@pytest.fixture(scope="session")
def lakemill_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """LAKEMILL_HOME of the whole test session."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAKEMILL_HOME", str(home))
        for name in ("LAKEMILL_ENDPOINT", "LAKEMILL_TOKEN", "LAKEMILL_CONF"):
            patch.delenv(name, raising=False)
        yield home


@pytest.fixture(scope="session")
def contract() -> Iterator[ContractServer]:
    """A service whose answers are deterministic; `contract.engine.batches` holds what it was asked."""
    with serve_contract() as server:
        yield server


@pytest.fixture(scope="session")
def spark(lakemill_home: Path, contract: ContractServer) -> Iterator[SparkSession]:
    """A session with Delta and the functions on the contract service."""
    yield lakemill.session("tests", "local[2]", contract.url, contract.token)
    spark_module.close()
