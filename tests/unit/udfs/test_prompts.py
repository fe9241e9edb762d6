from __future__ import annotations

from pathlib import Path

import pytest

from lakemill.errors import ConfError, UsageError
from lakemill.udfs import prompts
from lakemill.udfs.prompts import Prompt

PLACES = frozenset({"content", "limit"})


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A conf folder with two versions of one prompt."""
    folder = tmp_path / "prompts" / "ai_probe"
    folder.mkdir(parents=True)
    (folder / "2.yaml").write_text("system: Two.{{limit}}\nuser: '{{content}}'\n")
    (folder / "10.yaml").write_text("system: Ten.\nuser: '{{content}}'\n")
    return tmp_path


def load(conf: Path, number: str | None = None) -> Prompt:
    return prompts.load("ai_probe", number, places=PLACES, conf_dir=conf)


def test_the_highest_number_is_the_default(conf: Path) -> None:
    assert load(conf).system == "Ten."
    assert load(conf, "2").system == "Two.{{limit}}"


def test_an_edited_file_is_another_version(conf: Path) -> None:
    before = load(conf).version
    (conf / "prompts/ai_probe/10.yaml").write_text("system: Ten!\nuser: '{{content}}'\n")
    assert before.startswith("10.")
    assert load(conf).version != before


def test_a_description_is_no_part_of_the_version(conf: Path) -> None:
    before = load(conf).version
    (conf / "prompts/ai_probe/10.yaml").write_text("description: x\nsystem: Ten.\nuser: '{{content}}'\n")
    assert load(conf).version == before


def test_an_unknown_number_lists_those_there_are(conf: Path) -> None:
    with pytest.raises(UsageError, match="prompt must be one of 2, 10, found '3'"):
        load(conf, "3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("system: x\n", "expected the texts system and user"),
        ("system: x\nuser: '{{content}} {{nope}}'\n", "unknown place nope"),
        ("system: x\nuser: y\n", "user: the place for content is missing"),
        ("system: x\nuser: '{{content}}'\nmodel: z\n", "expected the texts system and user"),
    ],
)
def test_a_file_that_is_no_template_is_refused(conf: Path, text: str, message: str) -> None:
    (conf / "prompts/ai_probe/11.yaml").write_text(text)
    with pytest.raises(ConfError, match=message):
        load(conf)


def test_places_are_filled_in_one_pass() -> None:
    prompt = Prompt("1", "{{limit}}", "{{content}} {{limit}}")
    system, user = prompt.messages({"content": "{{limit}} \\1 {{content}}", "limit": "few"})
    assert system == {"role": "system", "content": "few"}
    assert user == {"role": "user", "content": "{{limit}} \\1 {{content}} few"}


@pytest.mark.parametrize("function", ["ai_query", "ai_summarize", "ai_classify", "ai_extract"])
def test_every_shipped_prompt_has_a_system_message(function: str) -> None:
    places = frozenset({"content", "format", "limit", "instructions", "labels", "fields"})
    assert prompts.load(function, places=places).system.strip()
