"""Dask: what the post does with a client, and the same on pydistrib.DaskPool."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
from timing import Row, Settings, Timing, ratio_row, take_turns

import pydistrib

SUBJECT = "Dask, a LocalCluster of two processes with a thread each"


def post_distance(a: Any, b: Any) -> Any:
    return abs(a - b)


def post_row(point: Any, beta: Any, distance: Any) -> Any:
    output = np.full(len(beta), 0.0)
    for j in range(len(beta)):
        output[j] = distance(point, beta[j])
    return output


class AsOnce:
    """A client whose equal calls are calls all the same, as they are in a first run."""

    def __init__(self, client: Any) -> None:
        self.gather = client.gather
        self.scatter = partial(client.scatter, hash=False)
        self.submit = partial(client.submit, pure=False)


def post_kernel(client: Any, alpha: Any, beta: Any) -> Any:
    """The post's kernel on Dask."""
    covariance = np.full((len(alpha), len(beta)), None)
    scattered = client.scatter(beta)
    futures = [client.submit(post_row, a, scattered, post_distance) for a in alpha]
    for i, row in enumerate(client.gather(futures)):
        covariance[i, :] = row
    return covariance.astype(np.float32).round(3)


def nothing(_: Any) -> None:
    """Do nothing."""


def total(array: Any, i: int) -> float:
    return float(array[i])


def rows(settings: Settings) -> list[Row]:
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        return []
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="localhost:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
        pydistrib.DaskPool(client) as pool,
    ):
        pool.map(nothing, range(100))
        return [
            *_kernels(settings, client, pool),
            *_pairwise(settings, pool),
            _map(settings, client, pool),
            *_array(settings, client, pool),
        ]


def _kernels(settings: Settings, client: Any, pool: Any) -> list[Row]:
    random = np.random.default_rng(0)
    alpha, beta = random.random(1000), random.random(1000)
    ways = {
        "post": partial(post_kernel, AsOnce(client), alpha, beta),
        "kernel": lambda: pydistrib.kernel(post_distance, alpha, beta, pool=pool),
        "import": partial(post_kernel, pool, alpha, beta),
    }
    expected = ways["post"]()
    assert all(np.array_equal(way(), expected) for way in ways.values())
    times = take_turns(ways, 3)
    case = "the post's kernel, n = m = 1000"
    note = "Less than two tiles: it is computed in the calling process."
    return [
        ratio_row(
            SUBJECT, f"{case}, kernel(pool=)", "the post's cell", times["kernel"],
            times["post"], 300.0, note,
        ),
        ratio_row(
            SUBJECT, f"{case}, only the import changed", "the post's cell",
            times["import"], times["post"], None,
        ),
    ]  # fmt: skip


def _pairwise(settings: Settings, pool: Any) -> list[Row]:
    n = 5000 if settings.quick else 20_000
    result = []
    for dtype in (np.float32, np.float64):
        x = np.random.default_rng(0).standard_normal((n, 32)).astype(dtype)
        y = np.random.default_rng(1).standard_normal((n, 32)).astype(dtype)
        ways = {
            "local": lambda x=x, y=y: pydistrib.pairwise(x, y, workers=2),
            "dask": lambda x=x, y=y: pydistrib.pairwise(x, y, pool=pool),
        }
        times = take_turns(ways, 2)  # a call takes seconds
        local, dask = times["local"], times["dask"]
        result.append(
            Row(
                SUBJECT,
                f"pairwise euclidean, n = m = {n}, d = 32, {np.dtype(dtype).name}",
                "the local call, two threads",
                dask.minimum / local.minimum,
                "x its time",
                1.3,
                "lower",
                ours=dask,
                theirs=local,
            )
        )
    return result


def _map(settings: Settings, client: Any, pool: Any) -> Row:
    def by_client() -> None:
        client.gather(client.map(nothing, range(1000), pure=False))

    ways = {"client": by_client, "pool": lambda: pool.map(nothing, range(1000))}
    times = take_turns(ways, 5)
    return ratio_row(
        SUBJECT, "map of 1,000 calls of nothing", "client.map and gather",
        times["pool"], times["client"], 3.0,
    )  # fmt: skip


def _array(settings: Settings, client: Any, pool: Any) -> list[Row]:
    array = np.random.default_rng(0).random(12_500_000)

    def received() -> int:
        logs = client.run(lambda dask_worker: list(dask_worker.transfer_incoming_log))
        return sum(entry["total"] for log in logs.values() for entry in log)

    engine, sent = pool._engine, list[int]()

    def send(value: Any) -> Any:
        sent.append(value.nbytes)
        return engine.scatter(value)

    engine.arrays.send = send
    before, start = received(), time.perf_counter()
    pool.gather([pool.submit(total, array, i) for i in range(100)])
    seconds = time.perf_counter() - start
    copies = (sum(sent) + received() - before) / array.nbytes
    return [
        Row(
            SUBJECT, "100 MB as an argument of 100 calls", "once a worker", copies,
            "copies", 2.0, "lower", ours=Timing(seconds, seconds),
        )
    ]  # fmt: skip
