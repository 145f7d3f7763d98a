"""What the figures were taken on."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def describe(directory: Path) -> dict[str, str]:
    """Return the facts that figures depend on, by name."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return {
        "cpu": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9:.0f} GB",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "file system": file_system(directory),
        "load before": load,
    }


def _processor() -> str:
    for line in _lines("/proc/cpuinfo"):
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def file_system(directory: Path) -> str:
    """Return the type of the file system that holds a directory, and its device."""
    path = str(directory.resolve())
    best = ("", "unknown")
    for line in _lines("/proc/self/mountinfo"):
        fields = line.split(" ")
        point = fields[4]
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best[0]):
            kind, device = fields[fields.index("-") + 1 :][:2]
            best = (point, f"{kind} on {device}")
    return best[1]


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
