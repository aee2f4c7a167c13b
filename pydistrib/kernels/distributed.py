"""
The matrix of all pairs, computed by the workers of a pool.

The matrix is cut into tiles of at least 100 ms of work, and a tile is one task.  What
travels to a worker is a `Recipe`: a metric's name, a traced function's program, or the
function itself; from it the worker makes the same producer that the caller would, so the
bits are the same.  Pairs in doubt are listed to the caller, who asks the function.

Where the values go::

    threads                   straight into the result: they share its memory
    processes of this host    into a segment of memory without a name (or the file of a
                              memory-mapped result) that they open through /proc
    others                    back to the caller, who puts them in their place

A worker finds out itself whether it can open the place.  It writes whole tiles that do not
overlap, and always the same bits, so a tile may be computed twice.

Of the pool only the protocol is known.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import mmap
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pydistrib import _core
from pydistrib._config import resolve_workers
from pydistrib.kernels.arrays import Doubts
from pydistrib.kernels.recipe import Recipe
from pydistrib.pools.protocol import PoolBase

# The least work of a tile, in seconds of one thread.
TILE_SECONDS: Final = 0.1

# Tiles that each worker should have, so that all end at about the same time.
_TILES_A_WORKER: Final = 8

# The most bytes of a tile, and the share of a worker's memory that its inputs and its
# values may each take: two tiles are there at a time, and other things.
_TILE_BYTES: Final = 128 << 20
_SHARE: Final = 16

# With fewer multiplications than this there is no need to measure.
_SURELY_SHORT: Final = 2_000_000


# --------------------------------------------------------------------------------------
# What it costs
# --------------------------------------------------------------------------------------


def seconds_a_pair(recipe: Recipe, x: NDArray[Any], y: NDArray[Any]) -> float:
    """Measure, for some ms, how long one thread takes for a pair."""
    rows = cols = 1
    while True:
        part, other = x[:rows], y[:cols]
        values = np.empty((len(part), len(other)))
        start = time.perf_counter()
        _core.store(recipe.producer(part, other), values, None, 1)
        seconds = time.perf_counter() - start
        if seconds > 0.005 or values.size == len(x) * len(y):
            return seconds / values.size
        rows, cols = min(2 * rows, len(x)), min(8 * cols, len(y))
        if rows * cols > 1 << 22:
            return seconds / values.size


# --------------------------------------------------------------------------------------
# Where values go
# --------------------------------------------------------------------------------------


@cache
def _this_host() -> str:
    """Name the kernel that runs here, and the names of processes that hold here."""
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
        return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    return ""


class Place(NamedTuple):
    """
    A part of a file, or of memory without a name, as another process finds it.

    `device` and `inode` tell that it has found the right one.  The values lie in C order,
    `width` of them a row.
    """

    host: str
    path: str
    device: int
    inode: int
    offset: int
    width: int

    def open(self, rows: int, cols: int, dtype: np.dtype[Any]) -> NDArray[Any] | None:
        """Map the values from `offset` on; None where that is not possible."""
        if not self.host or self.host != _this_host():
            return None
        try:
            descriptor = os.open(self.path, os.O_RDWR)
        except OSError:
            return None
        try:
            status = os.fstat(descriptor)
            if (status.st_dev, status.st_ino) != (self.device, self.inode):
                return None
            start = self.offset - self.offset % mmap.ALLOCATIONGRANULARITY
            values = (rows - 1) * self.width + cols
            end = self.offset + values * dtype.itemsize
            memory = mmap.mmap(descriptor, end - start, offset=start)
        except (OSError, ValueError):
            return None
        finally:
            os.close(descriptor)
        return np.ndarray(
            (rows, cols),
            dtype,
            memory,
            self.offset - start,
            (self.width * dtype.itemsize, dtype.itemsize),
        )


class Segment:
    """Memory without a name that other processes of this host can open while it is open."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.descriptor = os.memfd_create("pydistrib", os.MFD_CLOEXEC)
        os.ftruncate(self.descriptor, size)

    def place(self, offset: int, width: int) -> Place:
        """Tell others where values lie in it."""
        status = os.fstat(self.descriptor)
        path = f"/proc/{os.getpid()}/fd/{self.descriptor}"
        return Place(_this_host(), path, status.st_dev, status.st_ino, offset, width)

    def array(self, shape: tuple[int, int], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Give its content as an array of this process alone, as any other array is."""
        memory = mmap.mmap(
            self.descriptor,
            self.size,
            flags=mmap.MAP_PRIVATE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
        )
        return np.ndarray(shape, dtype, memory)

    def close(self) -> None:
        """Let go of it; arrays keep it as long as they need it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __del__(self) -> None:
        self.close()


def _can_share() -> bool:
    return hasattr(os, "memfd_create") and bool(_this_host())


def _place_of_memmap(out: NDArray[Any]) -> Place | None:
    """Tell where in its file a memory-mapped array lies; None if it is none."""
    memory = getattr(out, "_mmap", None)
    name = getattr(out, "filename", None)
    shared = getattr(out, "mode", "c") in ("r+", "w+")
    if not (isinstance(out, np.memmap) and memory is not None and name and shared):
        return None
    try:
        status = os.stat(name)
    except OSError:
        return None
    base = np.frombuffer(memory, np.uint8)
    within = out.ctypes.data - base.ctypes.data
    if not 0 <= within <= base.nbytes - out.nbytes:
        return None
    start = out.offset - out.offset % mmap.ALLOCATIONGRANULARITY
    path = os.path.abspath(name)
    device, inode = status.st_dev, status.st_ino
    return Place(_this_host(), path, device, inode, start + within, out.shape[1])


class _Target:
    """Where the caller wants the values, and how tiles get there."""

    def __init__(
        self, out: NDArray[Any] | None, shape: tuple[int, int], dtype: np.dtype[Any]
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self.out = out
        self.segment: Segment | None = None
        self.file = None if out is None else _place_of_memmap(out)
        self.staged: dict[tuple[int, int], Segment] = {}
        if out is None:
            size = shape[0] * shape[1] * dtype.itemsize
            if _can_share() and size <= _all_memory():
                self.segment = Segment(size)
            else:
                self.out = _core.empty_result(*shape, dtype)

    def place(self, rows: slice, cols: slice) -> Place | None:
        """Give a tile's place, as a worker finds it."""
        width = self.shape[1]
        offset = (rows.start * width + cols.start) * self.dtype.itemsize
        if self.segment is not None:
            return self.segment.place(offset, width)
        if self.file is not None:
            return self.file._replace(offset=self.file.offset + offset)
        if not _can_share():
            return None
        height, width = rows.stop - rows.start, cols.stop - cols.start
        segment = Segment(height * width * self.dtype.itemsize)
        self.staged[rows.start, cols.start] = segment
        return segment.place(0, width)

    def put(self, rows: slice, cols: slice, values: NDArray[Any] | None) -> None:
        """Take a tile that has arrived: its values, or None if they are in its place."""
        segment = self.staged.pop((rows.start, cols.start), None)
        if values is None and segment is not None:
            shape = (rows.stop - rows.start, cols.stop - cols.start)
            values = segment.array(shape, self.dtype)
        if values is not None:
            self._part(rows, cols)[...] = values
        if segment is not None:
            segment.close()

    def _part(self, rows: slice, cols: slice) -> NDArray[Any]:
        if self.segment is None:
            assert self.out is not None
            return self.out[rows, cols]
        place = self.place(rows, cols)
        assert place is not None
        shape = (rows.stop - rows.start, cols.stop - cols.start)
        part = place.open(*shape, self.dtype)
        assert part is not None, "it is this process's own"
        return part

    def result(self) -> NDArray[Any]:
        """Give the matrix, when all tiles have been put."""
        if self.segment is None:
            assert self.out is not None
            return self.out
        self.out = self.segment.array(self.shape, self.dtype)
        self.segment.close()
        return self.out


def _all_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


# --------------------------------------------------------------------------------------
# Tiles
# --------------------------------------------------------------------------------------


class _Part(NamedTuple):
    """
    A tile as it is sent.

    `x` may be None: then the rows are those of `y`; and so may `y`: it is the job's.
    """

    rows: slice
    cols: slice
    x: NDArray[Any] | None
    y: NDArray[Any] | None
    place: Place | None


@dataclass(frozen=True)
class _Job:
    """What all tiles have in common; called with a part, by a worker."""

    recipe: Recipe
    y: NDArray[Any] | None
    dtype: np.dtype[Any]
    decimals: int | None
    workers: int | None
    out: NDArray[Any] | None = None  # where memory is shared

    def __call__(self, part: _Part) -> tuple[NDArray[Any] | None, Doubts | None]:
        y = self.y if part.y is None else part.y
        assert y is not None
        x = y[part.rows] if part.x is None else part.x
        shape = (len(x), len(y))
        target = None
        if self.out is not None:
            target = self.out[part.rows, part.cols]
        elif part.place is not None:
            target = part.place.open(*shape, self.dtype)
        direct = target is not None and target.flags.c_contiguous
        values = target if direct else _core.empty_result(*shape, self.dtype)
        assert values is not None
        producer = self.recipe.producer(x, y)
        doubts = _core.store(producer, values, self.decimals, resolve_workers(self.workers))
        if target is None:
            return values, doubts
        if not direct:
            target[...] = values
        return None, doubts


def _blocks(count: int, size: int) -> Iterator[slice]:
    """Cut `count` into blocks of at most `size`, all about as long."""
    blocks = max(1, math.ceil(count / max(size, 1)))
    edges = [count * k // blocks for k in range(blocks + 1)]
    return (slice(a, b) for a, b in itertools.pairwise(edges))


@dataclass(frozen=True)
class _Grid:
    """How many rows and columns a tile has."""

    rows: int
    cols: int


def _grid(
    x: NDArray[Any],
    y: NDArray[Any],
    itemsize: int,
    seconds: float,
    workers: int,
    memory_limit: int | None,
) -> _Grid:
    """Choose the size of tiles, where a pair takes `seconds`."""
    n, m = len(x), len(y)
    most = _TILE_BYTES if memory_limit is None else min(_TILE_BYTES, memory_limit // _SHARE)
    input_bytes = most if memory_limit is not None else x.nbytes + y.nbytes + 1
    bytes_a_point = max(1, x.itemsize * (1 if x.ndim == 1 else x.shape[1]))
    points = max(1, input_bytes // bytes_a_point)
    work = max(TILE_SECONDS, seconds * n * m / (_TILES_A_WORKER * workers))
    pairs = max(1, int(min(work / seconds, most // itemsize)))
    cols = min(m, points, max(pairs, int(TILE_SECONDS / seconds)))
    return _Grid(min(n, points, max(1, pairs // cols)), cols)


def _parts(
    grid: _Grid, x: NDArray[Any], y: NDArray[Any], target: _Target | None
) -> Iterator[_Part]:
    """
    Cut the matrix into tiles.

    Where columns are cut, all tiles of some columns come before the next columns, so that
    a worker has to hold no more of `y`.
    """
    single = grid.cols >= len(y)
    for cols in _blocks(len(y), grid.cols):
        points = None if single else y[cols]
        for rows in _blocks(len(x), grid.rows):
            own = None if single and x is y else x[rows]
            place = None if target is None else target.place(rows, cols)
            yield _Part(rows, cols, own, points, place)


def compute_on(
    pool: PoolBase,
    recipe: Recipe,
    x: NDArray[Any],
    y: NDArray[Any],
    out: NDArray[Any] | None,
    dtype: np.dtype[Any],
    decimals: int | None,
    workers: int | None,
) -> tuple[NDArray[Any], Doubts | None] | None:
    """
    Compute the matrix of all pairs on a pool.

    Parameters
    ----------
    pool : PoolBase
        The pool.
    recipe : Recipe
        What to compute.
    x, y : ndarray
        The points.
    out : ndarray or None
        Where to.
    dtype : dtype
        Of the result.
    decimals : int or None
        Decimals to round to.
    workers : int or None
        Native threads of a tile; None leaves it to the worker.

    Returns
    -------
    (ndarray, doubts) or None
        The matrix, and what is in doubt; None if there is less work than two tiles have:
        then it is the caller's.
    """
    n, m = len(x), len(y)
    features = 1 if x.ndim == 1 else x.shape[1]
    if n * m == 0 or (recipe.way != "called" and n * m * max(features, 1) < _SURELY_SHORT):
        return None
    seconds = max(seconds_a_pair(recipe, x, y), 1e-12)
    if seconds * n * m < 2 * TILE_SECONDS:
        return None
    engine = pool._engine
    grid = _grid(x, y, dtype.itemsize, seconds, engine.workers, engine.memory_limit)
    common = y if grid.cols >= m else None
    if engine.shares_memory:
        if out is None:
            out = _core.empty_result(n, m, dtype)
        job = _Job(recipe, common, dtype, decimals, workers, out)
        return out, _gather(pool, job, grid, x, y, None)
    target = _Target(out, (n, m), dtype)
    job = _Job(recipe, common, dtype, decimals, workers)
    doubts = _gather(pool, job, grid, x, y, target)
    return target.result(), doubts


def _gather(
    pool: PoolBase,
    job: _Job,
    grid: _Grid,
    x: NDArray[Any],
    y: NDArray[Any],
    target: _Target | None,
) -> Doubts | None:
    """Run all tiles, a few at a time, and put their values in place."""
    tiles = [
        (rows, cols)
        for cols in _blocks(len(y), grid.cols)
        for rows in _blocks(len(x), grid.rows)
    ]
    pairs: list[NDArray[np.intp]] = []
    rectangles: list[NDArray[np.intp]] = []
    results = pool.imap(
        job, _parts(grid, x, y, target), buffersize=3 * pool._engine.workers
    )
    try:
        for (rows, cols), (values, doubts) in zip(tiles, results, strict=True):
            if target is not None:
                target.put(rows, cols, values)
            if doubts is not None:
                corner = (rows.start, cols.start)
                pairs.append(doubts[0] + np.array(corner, np.intp))
                rectangles.append(doubts[1] + np.array((*corner, 0, 0), np.intp))
    finally:
        results.close()
    if not pairs:
        return None
    return np.concatenate(pairs), np.concatenate(rectangles)
