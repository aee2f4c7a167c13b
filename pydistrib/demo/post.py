"""
The post's examples, each in its original form and on pydistrib.

A cell that the import alone changes is written once and takes the library as an
argument: the standard one for the original, pydistrib for ours.
"""

from __future__ import annotations

import multiprocessing.pool
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import pydistrib
from pydistrib.demo.comparison import Comparison, Example, MissingPackage, Setting
from pydistrib.demo.server import file_content

DOWNLOADS: Final = 5

Fetch = Callable[[int], bytes]
Distance = Callable[[Any, Any], Any]


def fake_download(seconds: float, num: int) -> bytes:
    """Wait as long as a download takes."""
    time.sleep(seconds)
    return file_content(num)


def download_in_a_loop(fetch: Fetch) -> list[bytes]:
    """Fetch one file after the other."""
    return [fetch(num) for num in range(DOWNLOADS)]


def download_on_threads(library: Any, fetch: Fetch) -> list[bytes]:
    """Fetch every file on a thread of its own."""
    files = [b""] * DOWNLOADS

    def keep(num: int) -> None:
        files[num] = fetch(num)

    threads = [library.Thread(target=keep, args=(num,)) for num in range(DOWNLOADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return files


def download_by_map(library: Any, fetch: Fetch) -> list[bytes]:
    """Fetch every file by the map of a pool of threads."""
    with library.ThreadPool(DOWNLOADS) as pool:
        files: list[bytes] = pool.map(fetch, range(DOWNLOADS))
    return files


def count_under_a_lock(library: Any, steps: int) -> int:
    """Count on five threads in one variable."""
    lock = library.Lock()
    count = 0

    def step() -> None:
        nonlocal count
        for _ in range(steps):
            with lock:
                count += 1

    threads = [library.Thread(target=step) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return count


def _fill(procnum: int, return_dict: Any, items: int) -> None:
    for i in range(items):
        return_dict[procnum, i] = i


def fill_by_processes(library: Any, items: int) -> dict[Any, Any]:
    """Let five processes store so many items each in one dict."""
    manager = library.Manager()
    return_dict = manager.dict()
    jobs = [
        library.Process(target=_fill, args=(procnum, return_dict, items))
        for procnum in range(5)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    filled: dict[Any, Any] = return_dict.copy()
    manager.shutdown()
    return filled


def _identify(procnum: int) -> tuple[int, int]:
    return procnum, os.getpid()


def map_jobs(library: Any) -> list[tuple[int, int]]:
    """Let a pool of five processes say, for five jobs, which of them ran each."""
    with library.Pool(processes=5) as pool:
        return list(pool.map(_identify, range(5)))


def absolute_distance(a: Any, b: Any) -> Any:
    """Give the distance of two numbers."""
    return abs(a - b)


def gaussian(a: Any, b: Any) -> Any:
    """Give the Gaussian kernel of two points."""
    return np.exp(-0.5 * ((a - b) ** 2).sum())


def brute_force_kernel(
    distance: Distance, alpha: NDArray[Any], beta: NDArray[Any]
) -> NDArray[Any]:
    """Call a function on every pair, in two nested loops."""
    matrix = np.zeros((len(alpha), len(beta)))
    for i in range(len(alpha)):
        for j in range(len(beta)):
            matrix[i, j] = distance(alpha[i], beta[j])
    return matrix.astype(np.float32).round(3)


def _kernel_row(
    i: int, point: Any, beta: NDArray[Any], distance: Distance
) -> tuple[int, NDArray[Any]]:
    row = np.zeros(len(beta))
    for j in range(len(beta)):
        row[j] = distance(point, beta[j])
    return i, row


def kernel_by_callback(
    new_pool: Callable[[], Any],
    distance: Distance,
    alpha: NDArray[Any],
    beta: NDArray[Any],
) -> NDArray[Any]:
    """Let a pool compute the rows, one task a row, and a callback put them in place."""
    matrix = np.zeros((len(alpha), len(beta)))

    def place(result: tuple[int, NDArray[Any]]) -> None:
        i, row = result
        matrix[i] = row

    with new_pool() as pool:
        flags = [
            pool.apply_async(_kernel_row, (i, point, beta, distance), callback=place)
            for i, point in enumerate(alpha)
        ]
        for flag in flags:
            flag.get()
    return matrix.astype(np.float32).round(3)


def collect_as_completed(client: Any, as_completed: Any, count: int) -> dict[int, int]:
    """Submit calls one by one, and collect results in the order in which they are done."""
    submit = partial(client.submit, _square)
    return dict(
        future.result() for future in as_completed([submit(i) for i in range(count)])
    )


def _square(i: int) -> tuple[int, int]:
    return i, i * i


def kernel_by_rows(
    client: Any, distance: Distance, alpha: NDArray[Any], beta: NDArray[Any]
) -> NDArray[Any]:
    """Scatter the columns' points, submit a task for each row, and gather the rows."""
    scattered = client.scatter(beta)
    futures = [
        client.submit(_kernel_row, i, point, scattered, distance)
        for i, point in enumerate(alpha)
    ]
    matrix = np.zeros((len(alpha), len(beta)))
    for i, row in client.gather(futures):
        matrix[i] = row
    return matrix.astype(np.float32).round(3)


def same_bits(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Tell whether two arrays are of one type and shape and equal in every bit."""
    return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def _compare_downloads(
    way: Callable[[Any, Fetch], list[bytes]], library: Any, name: str, setting: Setting
) -> Comparison:
    seconds = setting.server.seconds
    fetch = setting.server.download
    return Comparison(
        size=f"{DOWNLOADS} x {seconds:g} s",
        original_name="loop of sleeps",
        original=lambda: download_in_a_loop(partial(fake_download, seconds)),
        ours=lambda: way(pydistrib, fetch),
        same=lambda a, b: a == b,
        repeats=1,
        peer_name=f"{name}, same code",
        peer=lambda: way(library, fetch),
    )


def _compare_counters(setting: Setting) -> Comparison:
    steps = 20_000 if setting.quick else 200_000
    return Comparison(
        size=f"5 x {steps:,}",
        original_name="threading",
        original=lambda: count_under_a_lock(threading, steps),
        ours=lambda: count_under_a_lock(pydistrib, steps),
        same=lambda a, b: bool(a == b == 5 * steps),
    )


def _compare_dicts(items: int, setting: Setting) -> Comparison:
    items = items // 10 if setting.quick and items > 10 else items
    return Comparison(
        size=f"5 x {items:,}",
        original_name="Manager().dict()",
        original=lambda: fill_by_processes(multiprocessing, items),
        ours=lambda: fill_by_processes(pydistrib, items),
        same=lambda a, b: a == b and len(b) == 5 * items,
    )


def _compare_jobs(setting: Setting) -> Comparison:
    return Comparison(
        size="5 jobs",
        original_name="standard Pool",
        original=lambda: map_jobs(multiprocessing),
        ours=lambda: map_jobs(pydistrib),
        same=_are_jobs_of_others,
    )


def _are_jobs_of_others(*runs: list[tuple[int, int]]) -> bool:
    """Tell whether each run has all jobs in order, none of them run by this process."""
    return all(
        [procnum for procnum, _ in jobs] == list(range(5))
        and os.getpid() not in {pid for _, pid in jobs}
        for jobs in runs
    )


def _numbers(count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(0)
    return rng.random(count), rng.random(count)


def _compare_kernels(
    distance: Distance,
    broadcast: Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]],
    ours: Any,
    alpha: NDArray[Any],
    beta: NDArray[Any],
) -> Comparison:
    dimensions = f", d = {alpha.shape[1]}" if alpha.ndim == 2 else ""
    return Comparison(
        size=f"{len(alpha)} x {len(beta)}{dimensions}",
        original_name="the double loop",
        original=lambda: brute_force_kernel(distance, alpha, beta),
        ours=lambda: pydistrib.kernel(ours, alpha, beta),
        same=same_bits,
        note=lambda: _went(ours, alpha, beta),
        peer_name="NumPy broadcasting",
        peer=lambda: broadcast(alpha[:, np.newaxis], beta).astype(np.float32).round(3),
    )


def _went(function: Any, alpha: NDArray[Any], beta: NDArray[Any]) -> str:
    """Say which way a function goes, and why."""
    return str(pydistrib.explain(function, alpha, beta)).splitlines()[0]


def _compare_functions(setting: Setting) -> Comparison:
    return _compare_kernels(
        absolute_distance, absolute_distance, absolute_distance, *_numbers(1000)
    )


def _compare_metrics(setting: Setting) -> Comparison:
    metric = pydistrib.absolute_distance
    return _compare_kernels(absolute_distance, absolute_distance, metric, *_numbers(1000))


def _compare_points(setting: Setting) -> Comparison:
    count = 200 if setting.quick else 400
    points = np.random.default_rng(0).standard_normal((2, count, 4))

    def broadcast(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(np.exp(-0.5 * ((a - b) ** 2).sum(axis=-1)))

    return _compare_kernels(gaussian, broadcast, gaussian, *points)


def _compare_callbacks(setting: Setting) -> Comparison:
    alpha, beta = _numbers(300 if setting.quick else 1000)

    def on(library: Any) -> NDArray[Any]:
        return kernel_by_callback(library.Pool, absolute_distance, alpha, beta)

    return Comparison(
        size=f"{len(alpha)} x {len(beta)}",
        original_name="standard Pool",
        original=lambda: on(multiprocessing),
        ours=lambda: on(pydistrib),
        same=same_bits,
        peer_name="pydistrib.kernel",
        peer=lambda: pydistrib.kernel(absolute_distance, alpha, beta),
    )


def _distributed() -> Any:
    try:
        import distributed
    except ImportError:
        raise MissingPackage("Dask", "pip install 'pydistrib[dask]'") from None
    return distributed


def _compare_as_completed(setting: Setting) -> Comparison:
    distributed = _distributed()
    count = 200 if setting.quick else 1000

    def original() -> dict[int, int]:
        with distributed.Client(**_DASK) as client:
            return collect_as_completed(client, distributed.as_completed, count)

    def ours() -> dict[int, int]:
        with pydistrib.DaskPool(**_DASK) as pool:
            return collect_as_completed(pool, pool.as_completed, count)

    return Comparison(
        size=f"{count:,} calls",
        original_name="dask.distributed",
        original=original,
        ours=ours,
        same=lambda a, b: a == b,
        repeats=1 if setting.quick else 3,
    )


def _compare_dask_kernels(setting: Setting) -> Comparison:
    distributed = _distributed()
    alpha, beta = _numbers(300 if setting.quick else 1000)

    def on(client: Any) -> NDArray[Any]:
        with client:
            return kernel_by_rows(client, absolute_distance, alpha, beta)

    def kernel() -> NDArray[Any]:
        with pydistrib.DaskPool(**_DASK) as pool:
            return pydistrib.kernel(absolute_distance, alpha, beta, pool=pool)

    return Comparison(
        size=f"{len(alpha)} x {len(beta)}",
        original_name="dask.distributed",
        original=lambda: on(distributed.Client(**_DASK)),
        ours=lambda: on(pydistrib.DaskPool(**_DASK)),
        same=same_bits,
        repeats=1 if setting.quick else 3,
        note=lambda: "a cluster is started in every call, on both sides",
        peer_name="pydistrib.kernel(pool=)",
        peer=kernel,
    )


# The post's kind of cluster; a dashboard on a free port.
_DASK: Final = {"processes": False, "dashboard_address": "localhost:0"}

EXAMPLES: Final = (
    Example(
        "downloads on a Thread each",
        partial(_compare_downloads, download_on_threads, threading, "threading"),
        needs=("Thread",),
    ),
    Example(
        "downloads by ThreadPool.map",
        partial(
            _compare_downloads,
            download_by_map,
            multiprocessing.pool,
            "standard ThreadPool",
        ),
        needs=("ThreadPool",),
    ),
    Example("counter under a Lock", _compare_counters, needs=("Thread", "Lock")),
    Example(
        "dict filled by processes, an item each",
        partial(_compare_dicts, 1),
        needs=("Process", "Manager"),
    ),
    Example(
        "dict filled by processes, many items",
        partial(_compare_dicts, 2000),
        needs=("Process", "Manager"),
    ),
    Example("five jobs by Pool.map", _compare_jobs, needs=("Pool",)),
    Example("kernel of a Python function", _compare_functions),
    Example("kernel of a built-in metric", _compare_metrics),
    Example("kernel of a function of rows", _compare_points),
    Example("kernel by apply_async", _compare_callbacks, needs=("Pool",)),
    Example("Dask: submit, as_completed", _compare_as_completed, needs=("DaskPool",)),
    Example("Dask: kernel by rows", _compare_dask_kernels, needs=("DaskPool",)),
)
