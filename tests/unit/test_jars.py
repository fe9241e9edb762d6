from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lakemill import jars, java
from lakemill.errors import SetupError
from lakemill.jars import Jar

CONTENT = {"alpha-1.jar": b"alpha" * 1000, "beta-2.jar": b"beta" * 1000}


def _jar(file_name: str) -> Jar:
    module, _, revision = file_name.removesuffix(".jar").partition("-")
    content = CONTENT[file_name]
    return Jar("org.example", module, revision, len(content), hashlib.sha256(content).hexdigest())


class Registry:
    """Stands in for Ivy: writes what is asked for, and counts."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.change: Callable[[bytes], bytes] = lambda content: content

    def __call__(self, missing: list[Jar], target: Path) -> None:
        for jar in missing:
            self.asked.append(jar.file_name)
            (target / jar.file_name).write_bytes(self.change(CONTENT[jar.file_name]))


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    found = Registry()
    monkeypatch.setattr(jars.sys, "prefix", str(tmp_path))
    monkeypatch.setattr(jars, "JARS", tuple(map(_jar, CONTENT)))
    monkeypatch.setattr(jars, "_run_ivy", found)
    return found


def test_fetches_once(registry: Registry) -> None:
    assert [path.read_bytes() for path in jars.paths()] == list(CONTENT.values())
    assert jars.paths() == jars.ensure() == [jars.folder() / name for name in CONTENT]
    assert registry.asked == list(CONTENT)
    assert jars.check() == []


def test_leaves_nothing_but_the_jars(registry: Registry) -> None:
    jars.ensure()
    assert sorted(path.name for path in jars.folder().iterdir()) == sorted(CONTENT)
    assert {path.name for path in jars.folder().parent.iterdir()} == {"jars", "jars.lock"}


@pytest.mark.parametrize("damage", [b"", b"ALPHA" * 1000])
def test_a_damaged_jar_is_noticed_and_made_whole(registry: Registry, damage: bytes) -> None:
    bad = jars.paths()[0]
    bad.write_bytes(damage)
    assert jars.check() == ["alpha-1.jar"]
    assert jars.ensure()[0].read_bytes() == CONTENT["alpha-1.jar"]
    assert registry.asked == ["alpha-1.jar", "beta-2.jar", "alpha-1.jar"]


def test_what_is_not_as_published_is_never_put_in_place(registry: Registry) -> None:
    registry.change = bytes.upper
    with pytest.raises(SetupError, match=r"alpha-1\.jar: what was fetched is not"):
        jars.ensure()
    assert list(jars.folder().iterdir()) == []


def test_two_at_once_fetch_once(registry: Registry) -> None:
    threads = [threading.Thread(target=jars.ensure) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert registry.asked == list(CONTENT)
    assert jars.check() == []


def test_without_java_the_hint_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jars.sys, "prefix", str(tmp_path))
    monkeypatch.setattr(java, "installed", lambda: iter(()))
    with pytest.raises(SetupError, match="Java 17 or later") as caught:
        jars.paths()
    assert "apt-get install" in (caught.value.hint or "")


def test_an_environment_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "share").write_text("a file where a folder is needed")
    monkeypatch.setattr(jars.sys, "prefix", str(tmp_path))
    with pytest.raises(SetupError, match="cannot be kept"):
        jars.paths()


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        ("x\n\t\t:: UNRESOLVED\n  Server access error at url x\nBUILD", "Server access error at url x"),
        ("::::\n:: io.delta#d;1: not found\n", "io.delta#d;1: not found"),
        ("", "no output"),
    ],
)
def test_the_cause_is_one_line_of_what_ivy_prints(output: str, cause: str) -> None:
    assert jars._cause(output) == cause


def test_coordinates_are_those_of_the_pinned_delta() -> None:
    delta = [jar for jar in jars.JARS if jar.organisation == "io.delta"]
    assert {jar.revision for jar in delta} == {"4.4.0"}
    assert "delta-spark_4.2_2.13-4.4.0.jar" in {jar.file_name for jar in delta}
    assert all(len(jar.sha256) == 64 and jar.size > 0 for jar in jars.JARS)


def test_the_ivy_file_asks_for_no_dependencies() -> None:
    text = jars._ivy_file(jars.JARS)
    assert text.count('transitive="false"') == len(jars.JARS)
