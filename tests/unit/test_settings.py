from __future__ import annotations

from pathlib import Path

import pytest

from lakemill import settings
from lakemill.errors import ConfError
from lakemill.settings import Paths

ALL = [f"LAKEMILL_{name.upper()}" for name in settings.Settings.model_fields]


@pytest.fixture(autouse=True)
def _bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*ALL, "LAKEMILL_CONF"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def _conf(tmp_path: Path, text: str) -> Path:
    place = tmp_path / "my"
    place.mkdir()
    (place / "lakemill.yaml").write_text(text)
    return place


def test_defaults_lie_in_the_current_folder(tmp_path: Path) -> None:
    found = settings.load()
    assert found.paths.home == tmp_path / ".lakemill"
    assert found.default_model == "smollm2-135m-instruct"
    assert found.endpoint is None


def test_argument_over_environment_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = _conf(tmp_path, "default_model: from-file\nendpoint: http://file\ntoken: file")
    monkeypatch.setenv("LAKEMILL_ENDPOINT", "http://env")
    monkeypatch.setenv("LAKEMILL_TOKEN", "env")
    found = settings.load(conf, token="argument")
    assert (found.default_model, found.endpoint, found.token) == ("from-file", "http://env", "argument")


def test_none_is_no_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEMILL_TOKEN", "env")
    assert settings.load(token=None).token == "env"


def test_home_of_the_caller_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEMILL_HOME", str(tmp_path / "env"))
    assert settings.load(home=str(tmp_path / "argument")).paths.home == tmp_path / "argument"
    assert settings.load().paths.home == tmp_path / "env"


def test_an_unknown_key_is_named_with_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(ConfError, match=r"lakemill\.yaml.*defualt_model.*allowed keys:.*default_model"):
        settings.load(_conf(tmp_path, "defualt_model: x"))


def test_the_token_is_not_shown() -> None:
    assert "hush" not in repr(settings.load(token="hush"))


def test_every_path_lies_under_home(tmp_path: Path) -> None:
    assert all(path.is_relative_to(tmp_path) for path in vars(Paths(tmp_path)).values())


def test_tilde_is_the_users_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert settings.load(home="~/mill").paths.home == tmp_path / "mill"
