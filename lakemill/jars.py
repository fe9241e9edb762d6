"""Bring the Delta jars: fixed coordinates and digests, fetched once by the Ivy that pyspark ships.

They live in the environment, `<sys.prefix>/share/lakemill/jars`, beside an Ivy cache of their own: neither
`~/.m2` nor `~/.ivy2` is read or written. Only what Spark does not already ship is fetched.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import util
from pathlib import Path

from filelock import FileLock

from lakemill import conf_files, java
from lakemill.errors import SetupError

logger = logging.getLogger(__name__)

_TIMEOUT_S = 900
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Jar:
    """Hold the coordinates of one jar, its size in bytes and its hex SHA-256."""

    organisation: str
    module: str
    revision: str
    size: int
    sha256: str

    @property
    def file_name(self) -> str:
        """Return the name of its file."""
        return f"{self.module}-{self.revision}.jar"


_DELTA = "4.4.0"
_UNITY = "0.6.0"
JARS: tuple[Jar, ...] = (
    Jar(
        "io.delta",
        "delta-spark_4.2_2.13",
        _DELTA,
        9515916,
        "27d4fd8b1f879535c573ed1c718177d6a27f24d3e626ba02e216369725721ead",
    ),
    Jar(
        "io.delta", "delta-storage", _DELTA, 113863, "c46735481fa8e326b0957be02b4420cbcab4b325bb08009b7f2045a95133f1cc"
    ),
    Jar(
        "io.delta",
        "delta-kernel-api",
        _DELTA,
        2838619,
        "ee9b5a14ac3b7efdff4d61a58478fe8eb0e5a3fbca43889dca7290795fe79a11",
    ),
    Jar(
        "io.delta",
        "delta-kernel-defaults",
        _DELTA,
        227185,
        "225c975199e4718b38ee5b7e6da7f19e9585024262b2cec2656b32151a856b0b",
    ),
    Jar(
        "io.delta",
        "delta-kernel-unitycatalog",
        _DELTA,
        43048,
        "cea22dfb4ac562b3cd27bf652697750e8336009d73fb06631363aaaad5345ffa",
    ),
    # delta-spark's storage and catalog classes name these two even where no Unity Catalog is used.
    Jar(
        "io.unitycatalog",
        "unitycatalog-client",
        _UNITY,
        564136,
        "48257499a86b801a3e2372cec55ac226ca1c1c7eabe5c118e7302f29a1fdbc19",
    ),
    Jar(
        "io.unitycatalog",
        "unitycatalog-hadoop",
        _UNITY,
        78389,
        "c47b63c961c87102b9e1d63809a0915ba4c86b7652f57c8d39ca3a05b441a150",
    ),
)


def folder() -> Path:
    """Return the folder of the jars in this environment."""
    return Path(sys.prefix) / "share" / "lakemill" / "jars"


def paths() -> list[Path]:
    """Return the Delta jars for `spark.jars`; fetch those that are missing.

    Looks only at names and sizes, so that a session pays nothing for it; `check` reads the bytes.

    Raises:
        SetupError: Jars are missing and cannot be fetched; the hint says what would help.

    Example:
        >>> ",".join(str(path) for path in paths()).startswith("/")
        True
    """
    if any(not _has_size(jar) for jar in JARS):
        ensure()
    return [folder() / jar.file_name for jar in JARS]


def check() -> list[str]:
    """Return the file names of the jars that are missing or damaged (their SHA-256 differs)."""
    return [jar.file_name for jar in JARS if not _is_whole(folder() / jar.file_name, jar)]


def ensure() -> list[Path]:
    """Make sure that every jar is there, byte for byte; safe when several processes do it at once.

    Raises:
        SetupError: Java or the registry is missing, or a jar is not the one that was published.
    """
    if check():
        _prepare()
        with FileLock(folder().parent / "jars.lock"):
            # Another process may have fetched them while this one waited.
            missing = [jar for jar in JARS if jar.file_name in check()]
            if missing:
                _fetch(missing)
    return [folder() / jar.file_name for jar in JARS]


def _prepare() -> None:
    try:
        folder().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(
            f"the Delta jars cannot be kept in {folder()}: {error.strerror}",
            hint="run lakemill from a virtual environment that you may write to",
        ) from error


def _has_size(jar: Jar) -> bool:
    try:
        return (folder() / jar.file_name).stat().st_size == jar.size
    except OSError:
        return False


def _is_whole(path: Path, jar: Jar) -> bool:
    if not path.is_file() or path.stat().st_size != jar.size:
        return False
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest() == jar.sha256


def _fetch(missing: Sequence[Jar]) -> None:
    logger.info("Fetching %d Delta jars into %s", len(missing), folder())
    # On the same file system as the jars, so that a rename puts each in place whole or not at all.
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder().parent) as scratch:
        _run_ivy(missing, Path(scratch))
        for jar in missing:
            _put_in_place(Path(scratch) / jar.file_name, jar)


def _put_in_place(path: Path, jar: Jar) -> None:
    if not _is_whole(path, jar):
        # A damaged copy in the cache would be handed out again the next time.
        shutil.rmtree(_cache(), ignore_errors=True)
        raise SetupError(
            f"{jar.file_name}: what was fetched is not the jar that was published (SHA-256 differs)",
            hint="run `lakemill setup` again; if it stays so, ask whoever runs your Maven mirror",
        )
    os.replace(path, folder() / jar.file_name)  # noqa: PTH105  (it replaces a damaged copy too)


def _cache() -> Path:
    return folder().parent / "ivy-cache"


def _run_ivy(missing: Sequence[Jar], target: Path) -> None:
    wanted = target / "ivy.xml"
    wanted.write_text(_ivy_file(missing), encoding="utf-8")
    command = [
        str(java.find().executable),
        f"-Dlakemill.ivy.cache={_cache()}",
        f"-Divy.default.ivy.user.dir={_cache()}",
        *("-cp", str(_ivy_jar()), "org.apache.ivy.Main"),
        *("-settings", str(_ivy_settings()), "-cache", str(_cache()), "-ivy", str(wanted)),
        *("-retrieve", str(target / "[artifact]-[revision].[ext]")),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise _unreachable(f"nothing after {_TIMEOUT_S} s") from error
    logger.debug("Ivy said: %s", done.stdout)
    if done.returncode != 0:
        raise _unreachable(_cause(done.stdout + done.stderr))


def _unreachable(cause: str) -> SetupError:
    return SetupError(
        f"the Delta jars cannot be fetched from Maven Central: {cause}",
        hint="check the network; behind a mirror, copy ivysettings.xml into your conf folder and name the mirror there",
    )


def _cause(output: str) -> str:
    # Ivy prints pages; the line that tells why is a warning or an error near the end.
    marks = ("Server access error", "not found", "FAILED", "Exception", "ERROR")
    lines = [line.strip(" :\t") for line in output.splitlines()]
    return next((line for mark in marks for line in lines if mark in line), lines[-1] if lines else "no output")


def _ivy_settings() -> Path:
    found = conf_files.find("ivysettings.xml")
    if found is None:
        raise SetupError("ivysettings.xml is not in the package", hint="install lakemill again")
    return found


def _ivy_jar() -> Path:
    spec = util.find_spec("pyspark")
    places = [] if spec is None else [Path(place) / "jars" for place in spec.submodule_search_locations or []]
    found = sorted(path for place in places for path in place.glob("ivy-*.jar"))
    if not found:
        raise SetupError("pyspark's own Ivy is missing", hint="install pyspark 4.2.0, such as with `make setup`")
    return found[-1]


def _ivy_file(jars: Sequence[Jar]) -> str:
    rows = "\n".join(
        f'    <dependency org="{jar.organisation}" name="{jar.module}" rev="{jar.revision}" '
        'transitive="false" conf="default->master"/>'
        for jar in jars
    )
    return (
        '<ivy-module version="2.0">\n  <info organisation="lakemill" module="jars"/>\n'
        '  <configurations><conf name="default"/></configurations>\n'
        f"  <dependencies>\n{rows}\n  </dependencies>\n</ivy-module>\n"
    )
