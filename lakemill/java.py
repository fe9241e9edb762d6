"""Find a Java that Spark runs on: JAVA_HOME, then PATH, then /usr/lib/jvm."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lakemill.errors import SetupError

MINIMUM = 17
HINT = "install one (Debian, Ubuntu: apt-get install -y openjdk-17-jre-headless) or set JAVA_HOME to it"

_JVM_FOLDER = Path("/usr/lib/jvm")
_VERSION = re.compile(r'(?:JAVA_VERSION=|version )"(?:1\.)?(\d+)')


@dataclass(frozen=True, slots=True)
class Java:
    """Hold one Java installation: its home folder and its major version (17, 21, …)."""

    home: Path
    version: int

    @property
    def executable(self) -> Path:
        """Return the path of its `java` command."""
        return self.home / "bin" / "java"


def find(minimum: int = MINIMUM) -> Java:
    """Return the first Java that is new enough, in the order in which Spark itself looks.

    Raises:
        SetupError: There is none; the message lists those that were found and are too old.

    Example:
        >>> find().version >= 17
        True
    """
    found = list(installed())
    good = next((java for java in found if java.version >= minimum), None)
    if good is not None:
        return good
    seen = ", ".join(f"{java.home} has {java.version}" for java in found) or "none found"
    raise SetupError(f"Java {minimum} or later is needed by Spark ({seen})", hint=HINT)


def installed() -> Iterator[Java]:
    """Yield every Java of this machine once, the preferred one first."""
    seen: set[Path] = set()
    for home in _homes():
        if home in seen or (version := _version(home)) is None:
            continue
        seen.add(home)
        yield Java(home, version)


def _homes() -> Iterator[Path]:
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home).resolve()
    if command := shutil.which("java"):
        yield Path(command).resolve().parent.parent
    # The oldest that is new enough is what Spark was tested with longest.
    others = ((path.resolve(), _version(path.resolve())) for path in _JVM_FOLDER.glob("*"))
    yield from (home for home, version in sorted(others, key=lambda pair: (pair[1] or 0, pair[0])) if version)


@cache
def _version(home: Path) -> int | None:
    command = home / "bin" / "java"
    if not os.access(command, os.X_OK):
        return None
    match = _VERSION.search(_release(home)) or _VERSION.search(_ask(command))
    return int(match.group(1)) if match else None


def _release(home: Path) -> str:
    # Every JDK has this file; reading it is free, starting a JVM is not.
    try:
        return (home / "release").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _ask(command: Path) -> str:
    try:
        done = subprocess.run([command, "-version"], capture_output=True, text=True, timeout=30, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stderr + done.stdout
