"""Prompt templates: versioned files `conf/prompts/<function>/<n>.yaml` with a system and a user message.

The version that enters a key is the file's number and a digest of its text, so an edited file is another
version and asks anew.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lakemill import conf_files, keys
from lakemill.errors import ConfError, UsageError

_PLACE = re.compile(r"\{\{(\w+)\}\}")
_DIGITS = 8
_KEYS = frozenset({"description", "system", "user"})


@dataclass(frozen=True, slots=True)
class Prompt:
    """Hold one template. `version` is its number and a digest of its text."""

    version: str
    system: str
    user: str

    def messages(self, values: Mapping[str, str]) -> tuple[dict[str, str], ...]:
        """Return the chat messages with every place filled.

        The places are filled in one pass, so a value that looks like a place stays as it is.

        Raises:
            KeyError: A place has no value.

        Example:
            >>> Prompt("1", "Be brief.", "{{content}}").messages({"content": "{{x}}"})[1]["content"]
            '{{x}}'
        """
        return (
            {"role": "system", "content": _fill(self.system, values)},
            {"role": "user", "content": _fill(self.user, values)},
        )


def _fill(template: str, values: Mapping[str, str]) -> str:
    return _PLACE.sub(lambda place: values[place[1]], template)


def load(
    function: str,
    number: str | None = None,
    *,
    places: frozenset[str],
    conf_dir: str | os.PathLike[str] | None = None,
) -> Prompt:
    """Return a function's template: the given number, or the highest there is.

    `places` are the names that the function can fill.

    Raises:
        UsageError: There is no such number; the message lists those there are.
        ConfError: The file is not a template, or has a place that the function cannot fill.
    """
    files = conf_files.files_in(f"prompts/{function}", conf_dir)
    known = sorted((stem for stem in files if stem.isdigit()), key=int)
    if not known:
        raise ConfError(f"conf/prompts/{function}: found no prompt file", hint="expected files such as 1.yaml")
    chosen = known[-1] if number is None else number
    if chosen not in known:
        raise UsageError(f"prompt must be one of {', '.join(known)}, found '{chosen}'")
    return _read(files[chosen], places)


def _read(path: Path, places: frozenset[str]) -> Prompt:
    values = conf_files.read(path)
    texts = [values.get("system"), values.get("user")]
    if not values.keys() <= _KEYS or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ConfError(f"{path}: expected the texts system and user (and a description), found {', '.join(values)}")
    system, user = str(texts[0]), str(texts[1])
    unknown = sorted(set(_PLACE.findall(system + user)) - places)
    if unknown:
        raise ConfError(f"{path}: unknown place {unknown[0]}", hint=f"places to fill: {', '.join(sorted(places))}")
    if "content" not in _PLACE.findall(user):
        raise ConfError(f"{path}: user: the place for content is missing", hint="write {{content}} where the text goes")
    digest = keys.digest({"system": system, "user": user})[:_DIGITS]
    return Prompt(f"{path.stem}.{digest}", system, user)
