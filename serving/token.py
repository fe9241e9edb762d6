"""The bearer token of a home: made once, readable by its owner alone."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import stat

from lakemill.errors import ServingError
from lakemill.settings import Paths

logger = logging.getLogger(__name__)


def ensure(paths: Paths, *, given: str | None = None) -> str:
    """Return the token to ask for: `given` where there is one, else the one in LAKEMILL_HOME/token.

    The file is made where it is missing, with mode 0600; two processes at once get the same token.

    Raises:
        ServingError: The file cannot be made or read, or is empty.
    """
    if given:
        return given
    try:
        if not paths.token.exists():
            _make(paths)
        _close_to_others(paths)
        token = paths.token.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ServingError(f"{paths.token}: the token cannot be made or read: {error}") from error
    if not token:
        raise ServingError(
            f"{paths.token}: the token is empty", hint="remove the file; a new one is made at the next start"
        )
    return token


def _make(paths: Paths) -> None:
    paths.home.mkdir(parents=True, exist_ok=True)
    part = paths.token.with_name(f"token.{os.getpid()}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
        # A link, not a rename: whoever comes second keeps the first one's token.
        with contextlib.suppress(FileExistsError):
            os.link(part, paths.token)
    finally:
        part.unlink()


def _close_to_others(paths: Paths) -> None:
    mode = stat.S_IMODE(paths.token.stat().st_mode)
    if mode & 0o077:
        logger.warning("%s had mode %o, others could read it; it is 600 now", paths.token, mode)
        paths.token.chmod(0o600)
