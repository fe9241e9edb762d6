"""How much memory a process may still take: the machine's, or its container's where that is less."""

from __future__ import annotations

from pathlib import Path

import psutil

GIB = 2**30
_CGROUP = Path("/sys/fs/cgroup")


def available(cgroup: Path = _CGROUP) -> int:
    """Return bytes that can be taken without pushing anything out but page cache."""
    machine = int(psutil.virtual_memory().available)
    room = _room(cgroup, "memory.max", "memory.current", "inactive_file")
    if room is None:
        v1 = cgroup / "memory"
        room = _room(v1, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    return machine if room is None else max(min(machine, room), 0)


def _room(folder: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    try:
        most = int((folder / limit).read_text(encoding="ascii"))  # "max" is no number: no limit
        used = int((folder / usage).read_text(encoding="ascii"))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return None
    return most - used + int(stat.get(reclaimable, 0))
