"""Process pools: the cost of a task, of an array out and back, and of a new pool."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
from timing import Row, Settings, ratio_row, take_turns

import pydistrib
from pydistrib.pools import nursery

try:
    import joblib
except ImportError:
    joblib = None
try:
    import loky
except ImportError:
    loky = None
try:
    import mpire
except ImportError:
    mpire = None

SUBJECT = "Process pools"
WORKERS = 2
TASKS = 4000
ITEMS = 10000
ROUND_TRIPS = 200
MANY = 1000  # tasks with the same array


def nothing(x: Any) -> Any:
    return x


def first_of(array: Any, i: int) -> float:
    return float(array[i])


def rows(settings: Settings) -> list[Row]:
    fork = multiprocessing.get_context("fork")
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(pydistrib.Pool(WORKERS, context="fork"))
        pool = stack.enter_context(fork.Pool(WORKERS))
        executor = stack.enter_context(ProcessPoolExecutor(WORKERS, fork))
        for target in (ours, pool):
            target.map(nothing, range(100))
        list(executor.map(nothing, range(100)))
        result = [
            *_many(settings, ours, pool, executor),
            *_others(settings, ours, stack),
            *_arrays(settings, ours, pool),
            _one_array_for_many(ours),
        ]
    return [*result, *_start(settings, fork)]


def _calls(target: Any, count: int) -> Callable[[], object]:
    def call() -> None:
        for result in [target.apply_async(nothing, (1,)) for _ in range(count)]:
            result.get()

    return call


def _submits(target: Any, count: int) -> Callable[[], object]:
    def call() -> None:
        for future in [target.submit(nothing, 1) for _ in range(count)]:
            future.result()

    return call


def _round_trips(target: Any) -> Callable[[], object]:
    def call() -> None:
        for _ in range(ROUND_TRIPS):
            target.apply(nothing, (1,))

    return call


def _many(settings: Settings, ours: Any, pool: Any, executor: Any) -> Iterator[Row]:
    items = range(ITEMS)
    cases: list[
        tuple[str, float | None, str, Callable[[], object], Callable[[], object]]
    ] = [
        (
            f"{ITEMS} no-op tasks, map with chunksize=1",
            4.0,
            "Pool",
            lambda: ours.map(nothing, items, 1),
            lambda: pool.map(nothing, items, 1),
        ),
        (
            f"{ITEMS} no-op tasks, imap",
            None,
            "Pool",
            lambda: list(ours.imap(nothing, items)),
            lambda: list(pool.imap(nothing, items)),
        ),
        (
            f"{ITEMS} no-op tasks, map",
            None,
            "Pool",
            lambda: ours.map(nothing, items),
            lambda: pool.map(nothing, items),
        ),
        (
            f"{TASKS} no-op tasks, apply_async",
            5.0,
            "Pool",
            _calls(ours, TASKS),
            _calls(pool, TASKS),
        ),
        (
            f"{TASKS} no-op tasks, submit",
            None,
            "ProcessPoolExecutor",
            _submits(ours, TASKS),
            _submits(executor, TASKS),
        ),
        (
            f"{ROUND_TRIPS} round trips, one after the other",
            5.0,
            "Pool",
            _round_trips(ours),
            _round_trips(pool),
        ),
    ]
    for case, target, peer, our_call, peer_call in cases:
        times = take_turns({"ours": our_call, "theirs": peer_call}, settings.rounds)
        yield ratio_row(SUBJECT, case, peer, times["ours"], times["theirs"], target)


def _others(settings: Settings, ours: Any, stack: contextlib.ExitStack) -> Iterator[Row]:
    """Peers that have no bar of their own: for information."""
    items = range(1000)
    contestants: dict[str, Callable[[], object]] = {
        "ours": lambda: ours.map(nothing, items, 1)
    }
    if loky is not None:
        executor = loky.get_reusable_executor(WORKERS)
        stack.callback(executor.shutdown)
        contestants["loky"] = lambda: list(executor.map(nothing, items))
    if joblib is not None:
        parallel = stack.enter_context(joblib.Parallel(WORKERS))
        task = joblib.delayed(nothing)
        contestants["joblib"] = lambda: parallel(task(i) for i in items)
    if mpire is not None:
        workers = stack.enter_context(
            mpire.WorkerPool(WORKERS, start_method="fork", keep_alive=True)
        )
        contestants["mpire"] = lambda: workers.map(nothing, items, chunk_size=1)
    times = take_turns(contestants, settings.rounds)
    for peer in contestants:
        if peer != "ours":
            yield ratio_row(
                SUBJECT,
                f"{len(items)} no-op tasks, one by one",
                peer,
                times["ours"],
                times[peer],
                None,
            )


def _arrays(settings: Settings, ours: Any, pool: Any) -> Iterator[Row]:
    for mib, target in ((1, None), (32, 8.0)):
        array = np.random.default_rng(1).random(mib << 17)
        times = take_turns(
            {
                "ours": lambda array=array: ours.apply(np.negative, (array,)),
                "theirs": lambda array=array: pool.apply(np.negative, (array,)),
            },
            settings.rounds,
        )
        yield ratio_row(
            SUBJECT,
            f"{mib} MiB array out and back, np.negative",
            "Pool",
            times["ours"],
            times["theirs"],
            target,
        )


def _one_array_for_many(ours: Any) -> Row:
    array = np.ones(100 << 17)
    results = [ours.apply_async(first_of, (array, i)) for i in range(MANY)]
    most = 0
    for i, result in enumerate(results):
        if i % 50 == 0:
            most = max(most, ours._engine.board.used)
        result.get()
    return Row(
        SUBJECT,
        f"{MANY} tasks with the same 100 MiB array: its copies",
        "-",
        most / array.nbytes,
        "copies",
        1.1,
        "lower",
    )


def _first_result(make: Callable[[], Any]) -> Callable[[], float]:
    def call() -> float:
        start = time.perf_counter()
        pool = make()
        pool.apply(nothing, (1,))
        seconds = time.perf_counter() - start
        pool.terminate()
        pool.join()
        return seconds

    return call


def _start(settings: Settings, fork: Any) -> Iterator[Row]:
    nursery.warm_up()
    _first_result(lambda: pydistrib.Pool(WORKERS, context="forkserver"))()
    times = take_turns(
        {
            "fork": _first_result(lambda: pydistrib.Pool(WORKERS, context="fork")),
            "zygote": _first_result(lambda: pydistrib.Pool(WORKERS, context="forkserver")),
            "theirs": _first_result(lambda: fork.Pool(WORKERS)),
        },
        settings.rounds,
    )
    for method in ("fork", "zygote"):
        yield Row(
            SUBJECT,
            f"first result of a new pool, {method}",
            "-",
            times[method].median * 1e3,
            "ms",
            30.0,
            "lower",
        )
    yield ratio_row(
        SUBJECT,
        "first result of a new pool, fork",
        "Pool",
        times["fork"],
        times["theirs"],
        None,
    )
