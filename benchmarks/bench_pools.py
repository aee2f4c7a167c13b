"""Thread pools: the cost of a task, and how near to ideal those run that free the GIL."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from threading import Event
from typing import Any

import numpy as np
from timing import Row, Settings, Timing, ratio_row, take_turns

import pydistrib

try:
    import joblib
except ImportError:
    joblib = None
try:
    import mpire
except ImportError:
    mpire = None

SUBJECT = "Thread pools"
WORKERS = 2
TASKS = 5000
ITEMS = 20000


def nothing(x: Any) -> Any:
    return x


def rows(settings: Settings) -> list[Row]:
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(pydistrib.ThreadPool(WORKERS))
        pool = stack.enter_context(ThreadPool(WORKERS))
        executor = stack.enter_context(ThreadPoolExecutor(WORKERS))
        result = [
            *_many(settings, ours, pool, executor),
            *_others(settings, ours, stack),
            *_round_trip(settings, ours, pool, executor),
        ]
    result += _start(settings)
    for workers in (2, 8, 64):
        result += _ideal(settings, workers)
    return [*result, _memory(), _idle()]


def _wait_all(results: list[Any]) -> None:
    for result in results:
        result.get()


def _many(settings: Settings, ours: Any, pool: Any, executor: Any) -> Iterator[Row]:
    items = range(ITEMS)
    args = (1,)

    def calls(target: Any) -> Callable[[], object]:
        return lambda: _wait_all([target.apply_async(nothing, args) for _ in range(TASKS)])

    def submits(target: Any) -> Callable[[], object]:
        return lambda: [
            f.result() for f in [target.submit(nothing, 1) for _ in range(TASKS)]
        ]

    def drain(results: Any) -> None:
        for _ in results:
            pass

    cases: list[
        tuple[str, float | None, str, Callable[[], object], Callable[[], object]]
    ] = [
        ("apply_async", 8.0, "ThreadPool", calls(ours), calls(pool)),
        ("submit", None, "ThreadPoolExecutor", submits(ours), submits(executor)),
        ("submit", None, "ThreadPool.apply_async", submits(ours), calls(pool)),
        (
            "map, chunksize=1",
            5.0,
            "ThreadPool",
            lambda: ours.map(nothing, items, 1),
            lambda: pool.map(nothing, items, 1),
        ),
        (
            "map",
            1.0,
            "ThreadPool",
            lambda: ours.map(nothing, items),
            lambda: pool.map(nothing, items),
        ),
        (
            "imap",
            5.0,
            "ThreadPool",
            lambda: drain(ours.imap(nothing, items)),
            lambda: drain(pool.imap(nothing, items)),
        ),
    ]
    for case, target, peer, our_call, peer_call in cases:
        times = take_turns({"ours": our_call, "theirs": peer_call}, settings.rounds)
        count = TASKS if case in ("apply_async", "submit") else ITEMS
        yield ratio_row(
            SUBJECT,
            f"{count} no-op tasks, {case}",
            peer,
            times["ours"],
            times["theirs"],
            target,
        )


def _others(settings: Settings, ours: Any, stack: contextlib.ExitStack) -> Iterator[Row]:
    """Peers that have no bar of their own: for information."""
    items = range(2000)
    contestants: dict[str, Callable[[], object]] = {
        "ours": lambda: ours.map(nothing, items, 1)
    }
    if joblib is not None:
        parallel = stack.enter_context(joblib.Parallel(WORKERS, backend="threading"))
        task = joblib.delayed(nothing)
        contestants["joblib threading"] = lambda: parallel(task(i) for i in items)
    if mpire is not None:
        workers = stack.enter_context(
            mpire.WorkerPool(WORKERS, start_method="threading", keep_alive=True)
        )
        contestants["mpire threading"] = lambda: workers.map(nothing, items, chunk_size=1)
    times = take_turns(contestants, settings.rounds)
    for peer in contestants:
        if peer != "ours":
            yield ratio_row(
                SUBJECT,
                "2000 no-op tasks, one by one",
                peer,
                times["ours"],
                times[peer],
                None,
            )


def _round_trip(settings: Settings, ours: Any, pool: Any, executor: Any) -> Iterator[Row]:
    def trips(call: Callable[[], object]) -> Callable[[], float]:
        def many() -> float:
            start = time.perf_counter()
            for _ in range(100):
                call()
            return (time.perf_counter() - start) / 100

        return many

    times = take_turns(
        {
            "ours": trips(lambda: ours.apply(nothing, (1,))),
            "ThreadPool": trips(lambda: pool.apply(nothing, (1,))),
            "ThreadPoolExecutor": trips(lambda: executor.submit(nothing, 1).result()),
        },
        settings.rounds,
    )
    for peer in ("ThreadPool", "ThreadPoolExecutor"):
        yield ratio_row(
            SUBJECT, "round trip of one task", peer, times["ours"], times[peer], 1.0
        )


def _start(settings: Settings) -> Iterator[Row]:
    def seconds(
        make: Callable[[], Any], run: Callable[[Any], object]
    ) -> Callable[[], float]:
        def start() -> float:
            begin = time.perf_counter()
            pool = make()
            run(pool)
            elapsed = time.perf_counter() - begin
            if isinstance(pool, ThreadPoolExecutor):
                pool.shutdown()
            else:
                pool.terminate()
                pool.join()
            return elapsed

        return start

    times = take_turns(
        {
            "ours": seconds(
                lambda: pydistrib.ThreadPool(WORKERS), lambda p: p.apply(nothing, (1,))
            ),
            "executor": seconds(
                lambda: pydistrib.ThreadPoolExecutor(WORKERS),
                lambda p: p.submit(nothing, 1).result(),
            ),
            "ThreadPool": seconds(
                lambda: ThreadPool(WORKERS), lambda p: p.apply(nothing, (1,))
            ),
            "ThreadPoolExecutor": seconds(
                lambda: ThreadPoolExecutor(WORKERS),
                lambda p: p.submit(nothing, 1).result(),
            ),
        },
        2 * settings.rounds,
    )
    case = "start to first result"
    for name, ours in (("", "ours"), (", ThreadPoolExecutor", "executor")):
        yield ratio_row(
            SUBJECT,
            case + name,
            "ThreadPoolExecutor",
            times[ours],
            times["ThreadPoolExecutor"],
            1.0,
        )
    yield ratio_row(SUBJECT, case, "ThreadPool", times["ours"], times["ThreadPool"], None)


def _ideal(settings: Settings, workers: int) -> Iterator[Row]:
    """
    Wall time over ideal: the same tasks one by one, divided by what can run at a time.

    Of minima, since on a machine that others use too the ideal is not to be had else.
    """
    data = bytes(1_000_000)
    points = np.random.default_rng(0).random((400, 16))
    cpus = pydistrib.cpu_count()

    def kernel(_: Any) -> None:
        with pydistrib.num_threads(1):
            pydistrib.pairwise(points)

    cases: list[tuple[str, Callable[[Any], object], int, int]] = [
        ("1 ms sleeps", lambda _: time.sleep(0.001), 20 * workers, workers),
        (
            "SHA-256 of 1 MB",
            lambda _: hashlib.sha256(data).digest(),
            64,
            min(workers, cpus),
        ),
        ("pairwise of 400 x 16", kernel, 128, min(workers, cpus)),
    ]
    with pydistrib.ThreadPool(workers) as ours, ThreadPool(workers) as pool:
        for case, task, count, width in cases:
            few = range(count)
            alone = range(max(4, count // workers))
            times = take_turns(
                {
                    "alone": lambda task=task, alone=alone: [task(i) for i in alone],
                    "ours": lambda task=task, few=few: ours.map(task, few),
                    "pool": lambda task=task, few=few: pool.map(task, few, 1),
                },
                settings.rounds,
            )
            ideal = times["alone"].minimum / len(alone) * count / width
            for name, peer in (
                ("ours", "ideal"),
                ("pool", "ideal: ThreadPool, chunksize=1"),
            ):
                yield Row(
                    SUBJECT,
                    f"{count} times {case}, {workers} workers",
                    peer,
                    times[name].minimum / ideal,
                    "of ideal",
                    1.05 if name == "ours" else None,
                    "lower",
                    ours=times[name],
                    theirs=Timing(ideal, ideal),
                )


def _memory() -> Row:
    count = 100_000
    gate = Event()
    args = (1,)
    with pydistrib.ThreadPool(1) as pool:
        blocker = pool.apply_async(gate.wait)
        results: list[Any] = [None] * count
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for i in range(count):
            results[i] = pool.apply_async(nothing, args)
        used = (tracemalloc.get_traced_memory()[0] - before) / count
        tracemalloc.stop()
        gate.set()
        blocker.get()
        results[-1].get()
    return Row(SUBJECT, f"{count} queued tasks, each", "", used, "bytes", 200, "lower")


def _idle() -> Row:
    with pydistrib.ThreadPool(WORKERS) as pool:
        pool.map(nothing, range(1000))
        time.sleep(0.1)
        before = time.process_time()
        time.sleep(1.0)
        share = 100 * (time.process_time() - before)
    return Row(SUBJECT, "CPU of an idle pool", "", share, "% of a CPU", 0.5, "lower")
