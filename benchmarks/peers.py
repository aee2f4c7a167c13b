"""
The peers, at their best settings, and what is installed of them.

A peer that is not installed is absent: `ABSENT` names it, and its rows are left out.
"""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Callable
from typing import Any

import numpy as np

ABSENT: list[str] = []


def _optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        ABSENT.append(name)
        return None


joblib = _optional("joblib")
loky = _optional("loky")
mpire = _optional("mpire")
numba = _optional("numba")
numexpr = _optional("numexpr")
torch = _optional("torch")
scipy = _optional("scipy")
sklearn = _optional("sklearn")
threadpoolctl = _optional("threadpoolctl")

if scipy is not None:
    from scipy.spatial.distance import cdist
if sklearn is not None:
    from sklearn.metrics.pairwise import euclidean_distances, rbf_kernel

__all__ = ["cdist", "euclidean_distances", "rbf_kernel"]


def set_threads(threads: int) -> None:
    """Give every peer the same number of threads."""
    if numba is not None:
        numba.set_num_threads(threads)
    if numexpr is not None:
        numexpr.set_num_threads(threads)
    if torch is not None:
        torch.set_num_threads(threads)
    if threadpoolctl is not None:
        threadpoolctl.threadpool_limits(threads)


def numba_abs_difference(fastmath: bool) -> Callable[[Any, Any, Any], None]:
    """Compile abs(a - b) of all pairs, rows in parallel."""

    @numba.njit(parallel=True, fastmath=fastmath)
    def fill(a: Any, b: Any, out: Any) -> None:
        for i in numba.prange(a.shape[0]):
            x = a[i]
            for j in range(b.shape[0]):
                out[i, j] = abs(x - b[j])

    return fill  # type: ignore[no-any-return]


def machine() -> dict[str, str]:
    """Describe the machine and what runs on it."""
    from pydistrib import __version__, _core

    simd = _core.simd_info()
    described = {
        "CPU": f"{_cpu_name()}, {os.cpu_count()} online",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "pydistrib": f"{__version__}, SIMD {simd['active']}",
        "NumPy": np.__version__,
    }
    for module in (scipy, sklearn, numexpr, numba, torch):
        if module is not None:
            described[module.__name__] = module.__version__
    for pool in threadpoolctl.threadpool_info() if threadpoolctl is not None else []:
        if pool["user_api"] == "blas":
            name = os.path.basename(pool["filepath"]).split("-")[0]
            described[f"BLAS {name}"] = (
                f"{pool['internal_api']} {pool['version']}, kernels "
                f"{pool.get('architecture', '?')}, {pool['num_threads']} threads"
            )
    if ABSENT:
        described["absent"] = ", ".join(ABSENT)
    return described


class Others:
    """How much of the machine other processes took meanwhile; timings tell so little."""

    def __init__(self) -> None:
        self._busy, self._all = _jiffies()
        self._own = sum(os.times()[:4])

    def share(self) -> str:
        """Their share of the CPU time of all CPUs, in words."""
        busy, total = _jiffies()
        if total <= self._all:
            return "unknown"
        own = (sum(os.times()[:4]) - self._own) * os.sysconf("SC_CLK_TCK")
        share = max(busy - self._busy - own, 0) / (total - self._all)
        return f"{share:.0%} of the CPU time went to other processes"


def _jiffies() -> tuple[int, int]:
    """Clock ticks of all CPUs that were busy, and all; zeros where that is not known."""
    try:
        with open("/proc/stat") as lines:
            ticks = [int(word) for word in lines.readline().split()[1:9]]
    except OSError:
        return 0, 0
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)  # but for idle and iowait


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
