from __future__ import annotations

from pathlib import Path

import pytest

from lakemill import conf_files
from lakemill.errors import ConfError


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The three places of an operator, each with a file of its own; the packaged one comes last."""
    found = {"flag": tmp_path / "flag", "env": tmp_path / "env", "cwd": tmp_path / "cwd" / "conf"}
    for name, place in found.items():
        (place / "models").mkdir(parents=True)
        (place / "models" / f"{name}.yaml").write_text(f"name: {name}")
    monkeypatch.setenv("LAKEMILL_CONF", str(found["env"]))
    monkeypatch.chdir(tmp_path / "cwd")
    return found


@pytest.mark.parametrize("missing", [[], ["flag"], ["flag", "env"]])
def test_the_first_place_that_has_the_file_wins(places: dict[str, Path], missing: list[str]) -> None:
    for name, place in places.items():
        if name not in missing:
            (place / "lakemill.yaml").write_text(f"default_model: {name}")
    winner = next(name for name in places if name not in missing)
    assert conf_files.find("lakemill.yaml", places["flag"]) == places[winner] / "lakemill.yaml"


def test_the_packaged_file_is_the_last_resort(places: dict[str, Path]) -> None:
    found = conf_files.find("models/smollm2-135m-instruct.yaml", places["flag"])
    assert found is not None
    assert found.parent not in [place / "models" for place in places.values()]


def test_no_file_is_none(places: dict[str, Path]) -> None:
    assert conf_files.find("models/none.yaml", places["flag"]) is None


def test_a_folder_is_the_union_of_all_places(places: dict[str, Path]) -> None:
    (places["flag"] / "models" / "env.yaml").write_text("name: hides")
    found = conf_files.files_in("models", places["flag"])
    assert {"flag", "env", "cwd", "smollm2-135m-instruct"} <= set(found)
    assert found["env"] == places["flag"] / "models" / "env.yaml"


@pytest.mark.parametrize(
    ("text", "said"), [("a: [1", "cannot be read"), ("- 1\n- 2", "found a list"), (b"\xff\xfe\x00", "cannot be read")]
)
def test_a_bad_file_is_named(tmp_path: Path, text: str | bytes, said: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfError, match=said) as caught:
        conf_files.read(path)
    assert str(path) in str(caught.value)


def test_an_empty_file_holds_no_settings(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert conf_files.read(tmp_path / "empty.yaml") == {}
