"""How many cores there are for this container, and how many threads each of its workers gets of them."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import torch

CGROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def cores(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """The whole cores that this process may use: those it may run on, or fewer if its cgroup has a quota."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([there, *_quotas(cgroups, membership)])))


def share_of_cores(workers: int) -> int:
    """The threads of one of so many workers; with more, they would slow each other down."""
    return max(1, cores() // workers)


def limit_threads(workers: int, environment: Mapping[str, str]) -> int:
    """Gives this process its share of the cores, unless OMP_NUM_THREADS says otherwise; returns its threads."""
    if not environment.get("OMP_NUM_THREADS", "").strip():
        torch.set_num_threads(share_of_cores(workers))
    threads = torch.get_num_threads()
    cv2.setNumThreads(threads)  # which does not go by OMP_NUM_THREADS
    return threads


def _quotas(cgroups: Path, membership: Path) -> Iterator[float]:
    """In cores, from this process's cgroup and those around it."""
    try:
        lines = membership.read_text().splitlines()
    except FileNotFoundError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # A container sees its own cgroup as the root, whatever path it is said to have.
        for folder in (path.lstrip("/"), *map(str, Path(path.lstrip("/")).parents)):
            quota = _quota_v1(cgroups / "cpu" / folder) if controllers else _quota_v2(cgroups / folder)
            if quota is not None:
                yield quota


def _quota_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except FileNotFoundError:
        return None
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(folder: Path) -> float | None:
    try:
        quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    except FileNotFoundError:
        return None
    return None if quota < 0 else quota / period
