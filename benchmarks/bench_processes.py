"""Process pools: the cost of a task, of an array out and back, and of a new pool."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
from peers import joblib, loky, mpire
from timing import Row, Settings, ratio_row, take_turns

import pydistrib
from pydistrib.pools import nursery

SUBJECT = "Process pools"
WORKERS = 2
TASKS = 4000
ITEMS = 10000
FEW = 1000  # for peers that take 100 us and more a task
ROUND_TRIPS = 200
MANY = 1000  # tasks with the same array
INFORMED = 3  # rounds for what has no bar

Calls = dict[str, Callable[[], object]]


def nothing(x: Any) -> Any:
    return x


def first_of(array: Any, i: int) -> float:
    return float(array[i])


def compute_until(path: str) -> None:
    """Keep a worker, and a CPU, until the file is there."""
    while not os.path.exists(path):
        sum(range(10000))


class Peers:
    """The pools of one run, with two workers each, all warm."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        fork = multiprocessing.get_context("fork")
        self.ours = stack.enter_context(pydistrib.Pool(WORKERS, context="fork"))
        self.pool = stack.enter_context(fork.Pool(WORKERS))
        # name -> an executor of concurrent.futures' interface
        self.executors: dict[str, Any] = {
            "ProcessPoolExecutor": stack.enter_context(ProcessPoolExecutor(WORKERS, fork))
        }
        if loky is not None:
            executor = loky.get_reusable_executor(WORKERS)
            stack.callback(executor.shutdown)
            self.executors["loky"] = executor
        self.joblib = None
        if joblib is not None:
            self.joblib = stack.enter_context(joblib.Parallel(WORKERS))
            self.joblib_single = joblib.Parallel(WORKERS, batch_size=1)
        self.mpire = None
        if mpire is not None:
            self.mpire = stack.enter_context(
                mpire.WorkerPool(WORKERS, start_method="fork", keep_alive=True)
            )
        for call in self.one_by_one(range(100)).values():
            call()

    def one_by_one(self, items: range) -> Calls:
        """A no-op task for each item."""
        calls: Calls = {
            "ours": lambda: self.ours.map(nothing, items, 1),
            "Pool": lambda: self.pool.map(nothing, items, 1),
        }
        for name, executor in self.executors.items():
            calls[name] = lambda executor=executor: list(executor.map(nothing, items))
        if self.joblib is not None:
            task = joblib.delayed(nothing)
            calls["joblib"] = lambda: self.joblib_single(task(i) for i in items)
        if self.mpire is not None:
            calls["mpire"] = lambda: self.mpire.map(nothing, items, chunk_size=1)
        return calls

    def in_chunks(self, items: range) -> Calls:
        """The same, each pool in the chunks that suit it best."""
        chunk = -(-len(items) // (4 * WORKERS))
        calls: Calls = {
            "ours": lambda: self.ours.map(nothing, items),
            "Pool": lambda: self.pool.map(nothing, items),
        }
        for name, executor in self.executors.items():
            calls[name] = lambda executor=executor: list(
                executor.map(nothing, items, chunksize=chunk)
            )
        if self.joblib is not None:
            task = joblib.delayed(nothing)
            calls["joblib"] = lambda: self.joblib(task(i) for i in items)
        if self.mpire is not None:
            calls["mpire"] = lambda: self.mpire.map(nothing, items)
        return calls

    def calls(self, count: int) -> Calls:
        """Single calls, all started before the first result is taken."""
        calls = {
            "ours": _calls(self.ours, count),
            "ours, submit": _submits(self.ours, count),
            "Pool": _calls(self.pool, count),
        }
        for name, executor in self.executors.items():
            calls[name] = _submits(executor, count)
        if self.mpire is not None:
            calls["mpire"] = _calls(self.mpire, count)
        return calls

    def single(self, count: int, function: Callable[..., Any], *args: Any) -> Calls:
        """One call after the other."""
        calls: Calls = {
            "ours": lambda: _repeat(count, self.ours.apply, function, args),
            "Pool": lambda: _repeat(count, self.pool.apply, function, args),
        }
        for name, executor in self.executors.items():
            calls[name] = lambda executor=executor: _repeat(
                count, lambda f, a: executor.submit(f, *a).result(), function, args
            )
        if self.joblib is not None:
            task = joblib.delayed(function)
            calls["joblib"] = lambda: _repeat(
                count, lambda f, a: self.joblib([task(*a)]), function, args
            )
        if self.mpire is not None:
            calls["mpire"] = lambda: _repeat(count, self.mpire.apply, function, args)
        return calls


def _repeat(
    count: int, call: Callable[[Any, Any], object], function: Any, args: tuple[Any, ...]
) -> None:
    for _ in range(count):
        call(function, args)


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


def rows(settings: Settings) -> list[Row]:
    with contextlib.ExitStack() as stack:
        peers = Peers(stack)
        result = [
            *_many(settings, peers),
            *_others(settings, peers),
            *_busy(settings, peers),
            *_arrays(settings, peers),
            _one_array_for_many(peers.ours),
        ]
    return [*result, *_start(settings)]


def _versus(
    settings: Settings, case: str, calls: Calls, bars: dict[str, float], ours: str = "ours"
) -> Iterator[Row]:
    """Let them take turns, fewer where there is no bar; a row for each that is not ours."""
    times = take_turns(calls, settings.rounds if bars else min(INFORMED, settings.rounds))
    for peer in calls:
        if not peer.startswith("ours"):
            yield ratio_row(SUBJECT, case, peer, times[ours], times[peer], bars.get(peer))


def _only(calls: Calls, *names: str) -> Calls:
    return {name: calls[name] for name in names if name in calls}


def _many(settings: Settings, peers: Peers) -> Iterator[Row]:
    """The bars: against `Pool`, which is the fastest of the peers at all of them."""
    items = range(ITEMS)
    yield from _versus(
        settings,
        f"{ITEMS} no-op tasks, map with chunksize=1",
        _only(peers.one_by_one(items), "ours", "Pool"),
        {"Pool": 4.0},
    )
    yield from _versus(
        settings,
        f"{ITEMS} no-op tasks, imap",
        {
            "ours": lambda: list(peers.ours.imap(nothing, items)),
            "Pool": lambda: list(peers.pool.imap(nothing, items)),
        },
        {},
    )
    yield from _versus(
        settings,
        f"{TASKS} no-op tasks, apply_async",
        _only(peers.calls(TASKS), "ours", "Pool"),
        {"Pool": 5.0},
    )
    yield from _versus(
        settings,
        f"{ROUND_TRIPS} round trips, one after the other",
        _only(peers.single(ROUND_TRIPS, nothing, 1), "ours", "Pool"),
        {"Pool": 5.0},
    )


def _others(settings: Settings, peers: Peers) -> Iterator[Row]:
    """All peers, without a bar: fewer tasks, for some take a while."""
    few = range(FEW)
    yield from _versus(
        settings, f"{FEW} no-op tasks, one by one", peers.one_by_one(few), {}
    )
    yield from _versus(
        settings,
        f"{ITEMS} no-op tasks, in each peer's best chunks",
        peers.in_chunks(range(ITEMS)),
        {},
    )
    calls = peers.calls(FEW)
    del calls["Pool"]
    yield from _versus(
        settings, f"{FEW} no-op tasks, submit", calls, {}, ours="ours, submit"
    )
    singles = peers.single(20, nothing, 1)
    del singles["Pool"]
    yield from _versus(settings, "20 round trips, one after the other", singles, {})


def _busy(settings: Settings, peers: Peers) -> Iterator[Row]:
    """Round trips while the other worker computes, and with it has one of the CPUs."""
    calls = _only(
        peers.single(ROUND_TRIPS, nothing, 1), "ours", "Pool", "ProcessPoolExecutor", "loky"
    )
    starts: dict[str, Callable[[str], Any]] = {
        "ours": lambda path: peers.ours.apply_async(compute_until, (path,)),
        "Pool": lambda path: peers.pool.apply_async(compute_until, (path,)),
    }
    for name, executor in peers.executors.items():
        starts[name] = lambda path, executor=executor: executor.submit(compute_until, path)

    def busy(name: str) -> Callable[[], float]:
        def call() -> float:
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "done")
                starts[name](path)
                time.sleep(0.005)
                start = time.perf_counter()
                calls[name]()
                seconds = time.perf_counter() - start
                open(path, "x").close()
                time.sleep(0.02)
            return seconds

        return call

    yield from _versus(
        settings,
        f"{ROUND_TRIPS} round trips while the other worker computes",
        {name: busy(name) for name in calls},
        {"Pool": 5.0},
    )


def _arrays(settings: Settings, peers: Peers) -> Iterator[Row]:
    for mib, bar in ((1, None), (32, 8.0)):
        array = np.random.default_rng(1).random(mib << 17)
        case = f"{mib} MiB array out and back, np.negative"
        calls = peers.single(1, np.negative, array)
        bars = {} if bar is None else {"Pool": bar}
        for call in calls.values():
            call()  # the first touches fresh memory
        yield from _versus(settings, case, _only(calls, "ours", "Pool"), bars)
        del calls["Pool"]
        yield from _versus(settings, case, calls, {})


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
        pool.apply(np.ones, (10,))
        seconds = time.perf_counter() - start
        pool.terminate()
        pool.join()
        return seconds

    return call


def _start(settings: Settings) -> Iterator[Row]:
    """New pools; what they run is a function of NumPy, which the workers have to have."""
    fork = multiprocessing.get_context("fork")
    nursery.warm_up()
    _first_result(lambda: pydistrib.Pool(WORKERS, context="forkserver"))()
    times = take_turns(
        {
            "fork": _first_result(lambda: pydistrib.Pool(WORKERS, context="fork")),
            "zygote": _first_result(lambda: pydistrib.Pool(WORKERS, context="forkserver")),
            "Pool": _first_result(lambda: fork.Pool(WORKERS)),
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
            ours=times[method],
        )
        yield ratio_row(
            SUBJECT,
            f"first result of a new pool, {method}",
            "Pool, fork",
            times[method],
            times["Pool"],
            None,
        )
