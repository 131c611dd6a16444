"""How many cores and how much memory this process may really use: a container has less than its host."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

NVIDIA_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))  # of the driver, and of Windows below Linux
CGROUP_ROOT = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def available_cores() -> int:
    """Cores of this process: its affinity mask, cut by the CPU quotas of its control groups."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _cgroup_folders():
        quota = _words(folder / "cpu.max")
        if len(quota) == 2 and quota[0] != "max":
            cores = min(cores, int(quota[0]) // int(quota[1]))
    return max(cores, 1)


def has_nvidia_driver() -> bool:
    """Whether there may be a CUDA device: asked before torch, which knows but takes a second to import."""
    return sys.platform == "win32" or any(device.exists() for device in NVIDIA_DEVICES)


def available_memory() -> int:
    """Bytes this process can still take: what the system has free, cut by its control groups' limits."""
    available = _system_memory()
    for folder in _cgroup_folders():
        limit, used = _words(folder / "memory.max"), _words(folder / "memory.current")
        if limit and used and limit[0] != "max":
            available = min(available, max(int(limit[0]) - int(used[0]), 0))
    return available


def _system_memory() -> int:
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _cgroup_folders() -> Iterator[Path]:
    """The control group (version 2) of this process and the groups around it."""
    for line in _lines(OWN_CGROUP):
        if line.startswith("0::"):
            group = CGROUP_ROOT / line[3:].strip().lstrip("/")
            yield group
            yield from (folder for folder in group.parents if folder.is_relative_to(CGROUP_ROOT))


def _words(path: Path) -> list[str]:
    lines = _lines(path)
    return lines[0].split() if lines else []


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:  # not Linux, or hidden from us: no limit is known
        return []
