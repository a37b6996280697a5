"""How many processors this process may really use. A container's quota is not in `os.cpu_count()`."""

from __future__ import annotations

import math
import os
from pathlib import Path


def granted(root: Path = Path("/")) -> int:
    """Whole processors, at least 1: the smaller of the affinity mask and the cgroup's quota, rounded up."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota = cgroup_quota(root)
    return available if quota is None else max(1, min(available, math.ceil(quota)))


def pin_thread(number: int) -> None:
    """Keeps the calling thread on one processor, the `number`th of those that this process may use; Linux only."""
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(os.getpid()))
        os.sched_setaffinity(0, {allowed[number % len(allowed)]})  # 0: this thread


def cgroup_quota(root: Path = Path("/")) -> float | None:
    """Processors that the cgroup grants, such as 1.5; None where nothing limits it. Reads cgroup v2, then v1.

    The tightest limit on the way up from this process's own cgroup counts.
    """
    quotas = [quota for folder in _folders(root) if (quota := _read_quota(folder)) is not None]
    return min(quotas, default=None)


def _folders(root: Path) -> list[Path]:
    """Every folder that may hold a limit: v2's own path and its parents, and v1's cpu controller likewise."""
    base = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    folders = [base, base / "cpu", base / "cpu,cpuacct"]
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        tops = [base] if not controllers else [base / "cpu", base / "cpu,cpuacct"]
        parts = Path(path.lstrip("/")).parts
        folders += [top.joinpath(*parts[: depth + 1]) for top in tops for depth in range(len(parts))]
    return folders


def _read_quota(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():  # v2: "<quota> <period>", or "max <period>"
            quota, period = (folder / "cpu.max").read_text().split()
            return None if quota == "max" else int(quota) / int(period)
        quota_us = int((folder / "cpu.cfs_quota_us").read_text())  # v1: -1 is no limit
        return quota_us / int((folder / "cpu.cfs_period_us").read_text()) if quota_us > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
