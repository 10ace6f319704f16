"""The host's memory: what can still be had, of machine and container, and what a process took."""

from __future__ import annotations

import sys
from pathlib import Path

GUESS = 8 << 30
"""Bytes, where the operating system does not tell."""


def free_memory(system: Path = Path("/")) -> int:
    """Bytes that can be had: of the machine, or what limits on the process's control groups leave.

    Args:
        system: The root of the file system, in which Linux tells.
    """
    return max(0, min([_machine(system), *_control_groups(system)]))


def _machine(system: Path) -> int:
    try:  # what can be had, the page cache included
        lines = (system / "proc/meminfo").read_text().splitlines()
        found = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(found.split()[1]) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        return GUESS


def _control_groups(system: Path) -> list[int]:
    """What each memory limit above this process leaves; version 2 and version 1 of cgroups."""
    try:
        lines = (system / "proc/self/cgroup").read_text().splitlines()
    except (OSError, ValueError):
        return []
    left = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if controllers == "":
            mount, limit, used = "sys/fs/cgroup", "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            mount = "sys/fs/cgroup/memory"
            limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        top = system / mount
        group = top / name.lstrip("/")
        # A container often sees its own group as the top, whatever the name says.
        for folder in {top, group, *group.parents}:
            if folder == top or top in folder.parents:
                left += _left(folder, limit, used)
    return left


def _left(folder: Path, limit: str, used: str) -> list[int]:
    try:
        most = (folder / limit).read_text().strip()
        if most == "max":
            return []
        return [int(most) - int((folder / used).read_text()) + _cached(folder)]
    except (OSError, ValueError):
        return []


def _cached(folder: Path) -> int:
    """Bytes of files that were read and lie in memory for the time being: they give way."""
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
        found = next(line for line in lines if line.startswith("inactive_file "))
        return int(found.split()[1])
    except (OSError, StopIteration, ValueError, IndexError):
        return 0


def peak_memory(system: Path = Path("/")) -> int | None:
    """Bytes of memory that this process has held at most; None where the system does not tell.

    Args:
        system: The root of the file system, in which Linux tells.
    """
    try:
        lines = (system / "proc/self/status").read_text().splitlines()
        found = next(line for line in lines if line.startswith("VmHWM:"))
        return int(found.split()[1]) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        pass
    try:  # a process inherits this from the one that has started it, so it is asked second
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
