"""
Types of the C extension.  Private: arguments are checked for safety, not for comfort.
"""

from collections.abc import Callable
from typing import Any, TypedDict, final

import numpy as np
from numpy.typing import DTypeLike, NDArray

class _CpuInfo(TypedDict):
    online: int
    affinity: int
    quota: float
    usable: int

class _SimdInfo(TypedDict):
    active: str
    available: tuple[str, ...]

class _ResultCacheInfo(TypedDict):
    held: int
    limit: int

@final
class Producer:
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def has_doubts(self) -> bool: ...

# What a producer x the store leaves in doubt: rows (row, col), and rows
# (row, col, rows, cols).
_Doubts = tuple[NDArray[np.intp], NDArray[np.intp]]

def call_pairs(
    function: Callable[[Any, Any], Any],
    x: NDArray[Any],
    y: NDArray[Any],
    i: NDArray[np.intp],
    j: NDArray[np.intp],
    /,
) -> NDArray[np.float64]: ...
def callable_producer(
    function: Callable[[Any, Any], Any], x: NDArray[Any], y: NDArray[Any], /
) -> Producer: ...
def cpu_info() -> _CpuInfo: ...
def empty_result(n: int, m: int, dtype: DTypeLike, /) -> NDArray[Any]: ...
def expr_operations() -> tuple[str, ...]: ...
def expr_producer(
    words: NDArray[np.int64],
    functions: tuple[tuple[np.ufunc, bool], ...],
    x: NDArray[Any],
    y: NDArray[Any],
    /,
) -> Producer: ...
def metric_producer(
    name: str, x: NDArray[Any], y: NDArray[Any], parameter: float, /
) -> Producer: ...
def result_cache_info() -> _ResultCacheInfo: ...
def set_result_cache_limit(limit: int, /) -> None: ...
def simd_info() -> _SimdInfo: ...
def simd_select(name: str, /) -> bool: ...
def store(
    producer: Producer, out: NDArray[Any], decimals: int | None, workers: int, /
) -> _Doubts | None: ...
def team_threads() -> int: ...
