from __future__ import annotations

from pathlib import Path

import pytest

from lakemill import java
from lakemill.errors import SetupError


def _install(place: Path, version: str, *, release: bool = True) -> Path:
    command = place / "bin" / "java"
    command.parent.mkdir(parents=True)
    command.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-01-01' >&2\n")
    command.chmod(0o755)
    if release:
        (place / "release").write_text(f'IMPLEMENTOR="x"\nJAVA_VERSION="{version}"\n')
    return place


@pytest.fixture(autouse=True)
def _bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(java, "_JVM_FOLDER", tmp_path / "jvm")


@pytest.mark.parametrize(("text", "version"), [("17.0.15", 17), ("1.8.0_392", 8), ("25", 25), ("21.0.1+12", 21)])
@pytest.mark.parametrize("release", [True, False])
def test_reads_the_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, version: int, release: bool
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(java.shutil, "which", lambda _name: None)
    monkeypatch.setenv("JAVA_HOME", str(_install(tmp_path / "j", text, release=release)))
    assert [found.version for found in java.installed()] == [version]


def test_java_home_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(tmp_path / "jvm" / "java-17", "17.0.1")
    monkeypatch.setenv("JAVA_HOME", str(_install(tmp_path / "mine", "21.0.1")))
    assert java.find().home == tmp_path / "mine"


def test_one_that_is_too_old_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(_install(tmp_path / "old", "11.0.1")))
    _install(tmp_path / "jvm" / "java-25", "25.0.1")
    _install(tmp_path / "jvm" / "java-17", "17.0.1")
    assert java.find().executable == tmp_path / "jvm" / "java-17" / "bin" / "java"


def test_none_is_an_error_that_lists_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(_install(tmp_path / "old", "1.8.0_1")))
    with pytest.raises(SetupError, match=r"Java 17 or later .*/old has 8") as caught:
        java.find()
    assert "JAVA_HOME" in (caught.value.hint or "")


def test_a_folder_that_is_no_java_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jvm" / "docs").mkdir(parents=True)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "gone"))
    with pytest.raises(SetupError, match="none found"):
        java.find()
