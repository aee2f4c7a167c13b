"""
A dict that processes share: against servers, files and other shared memory.

UltraDict, which does not build everywhere, is no part of the extra `bench`: ``pip install
UltraDict atomics`` beside it.  Redis needs a redis-server on the path.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from peers import ABSENT
from timing import Row, Settings, Timing, ratio_row, take_turns

import pydistrib

SUBJECT = "Shared dict"
LOOP = 200  # operations of a call that is timed; slow peers do fewer
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None

# A store, and loops of so many reads or writes of a key, as its users write them.
Loop = Callable[[str, int], None]
Store = tuple[Any, Loop, Loop]

try:
    import diskcache
except ImportError:
    diskcache = None
    ABSENT.append("diskcache")
try:
    import lmdb
except ImportError:
    lmdb = None
    ABSENT.append("lmdb")
try:
    import redis
except ImportError:
    redis = None
    ABSENT.append("redis")
try:
    from UltraDict import UltraDict
except ImportError:
    UltraDict = None
    ABSENT.append("UltraDict")


def rows(settings: Settings) -> list[Row]:
    with contextlib.ExitStack() as stack:
        stores = dict(_stores(stack))
        result = [*_ints(settings, stores), *_arrays(settings, stores)]
    result += [*_bare(settings), _two_processes(settings)]
    return [*result, _after_death(settings)]


def _mapping(store: Any) -> Store:
    def get(key: str, count: int) -> None:
        for _ in range(count):
            store[key]

    def set_(key: str, count: int) -> None:
        for _ in range(count):
            store[key] = 12345

    return store, get, set_


def _stores(stack: contextlib.ExitStack) -> Iterator[tuple[str, Store]]:
    yield "ours", _mapping(pydistrib.SharedDict())
    manager = stack.enter_context(multiprocessing.get_context("fork").Manager())
    yield "Manager().dict", _mapping(manager.dict())
    if UltraDict is not None:
        ultra = UltraDict(buffer_size=200_000, auto_unlink=True)
        stack.callback(ultra.unlink)
        yield "UltraDict", _mapping(ultra)
    folder = stack.enter_context(tempfile.TemporaryDirectory(dir=MEMORY))
    if diskcache is not None:
        cache = stack.enter_context(diskcache.Cache(folder + "/diskcache"))
        yield "diskcache", _mapping(cache)
    if lmdb is not None:
        yield "LMDB", _lmdb(stack, folder)
    server = shutil.which("redis-server")
    if redis is not None and server is not None:
        yield "Redis", _redis(stack, folder, server)
    elif redis is not None:
        ABSENT.append("redis-server")


def _lmdb(stack: contextlib.ExitStack, folder: str) -> Store:
    """LMDB at its quickest: nothing is synced, and it lies in memory."""
    environment = lmdb.open(folder + "/lmdb", map_size=1 << 28, sync=False, writemap=True)
    stack.callback(environment.close)

    def get(key: str, count: int) -> None:
        for _ in range(count):
            with environment.begin() as transaction:
                int(transaction.get(key.encode()))

    def set_(key: str, count: int) -> None:
        for _ in range(count):
            with environment.begin(write=True) as transaction:
                transaction.put(key.encode(), b"%d" % 12345)

    return environment, get, set_


def _redis(stack: contextlib.ExitStack, folder: str, server: str) -> Store:
    path = folder + "/redis.sock"
    process = subprocess.Popen(
        [server, "--port", "0", "--unixsocket", path, "--save", "", "--dir", folder],
        stdout=subprocess.DEVNULL,
    )
    stack.callback(process.wait)
    stack.callback(process.terminate)
    client = redis.Redis(unix_socket_path=path)
    until = time.monotonic() + 10
    while time.monotonic() < until:
        with contextlib.suppress(redis.ConnectionError):
            client.ping()
            break
        time.sleep(0.05)

    def get(key: str, count: int) -> None:
        for _ in range(count):
            int(client.get(key))

    def set_(key: str, count: int) -> None:
        for _ in range(count):
            client.set(key, 12345)

    return client, get, set_


def _per_step(loop: Loop, count: int = LOOP) -> Callable[[], float]:
    """Seconds of one operation, of a loop over many."""

    def many() -> float:
        start = time.perf_counter()
        loop("key", count)
        return (time.perf_counter() - start) / count

    return many


BARS = {"Manager().dict": 100.0, "UltraDict": 5.0}


def _ints(settings: Settings, stores: dict[str, Store]) -> Iterator[Row]:
    for which, case in ((2, "set of an int"), (1, "get of an int")):
        contestants = {name: _per_step(store[which]) for name, store in stores.items()}
        times = take_turns(contestants, settings.rounds)
        for name in stores:
            if name != "ours":
                ours, theirs = times["ours"], times[name]
                yield ratio_row(SUBJECT, case, name, ours, theirs, BARS.get(name))


def _bare(settings: Settings) -> Iterator[Row]:
    """Nanoseconds of our own operations, in loops that are long."""
    shared, get, set_ = _mapping(pydistrib.SharedDict(key=12345))

    def add(key: str, count: int) -> None:
        for _ in range(count):
            shared.add(key)

    loops = {"get": get, "set": set_, "add": add}
    times = take_turns(
        {name: _per_step(loop, 10_000) for name, loop in loops.items()}, settings.rounds
    )
    for name, bar in (("get", 100.0), ("set", 150.0), ("add", None)):
        value = times[name].minimum * 1e9
        case = f"{name} of an int, the loop included"
        yield Row(SUBJECT, case, "", value, "ns", bar, "lower", ours=times[name])


def _arrays(settings: Settings, stores: dict[str, Store]) -> Iterator[Row]:
    array = np.random.default_rng(0).random(1_000_000)
    names = [name for name in ("ours", "Manager().dict", "diskcache") if name in stores]
    for name in names:
        stores[name][0]["key"] = array

    def store(into: Any) -> Callable[[], object]:
        return lambda: into.__setitem__("key", array)

    read = take_turns(
        {n: _per_step(stores[n][1], LOOP if n == "ours" else 1) for n in names},
        settings.rounds,
    )
    written = take_turns({n: store(stores[n][0]) for n in names}, settings.rounds)
    case, ours = "get of an array of 8 MB", read["ours"]
    yield Row(SUBJECT, case, "", ours.median * 1e6, "us", 5.0, "lower", ours=ours)
    for name in names[1:]:
        yield ratio_row(SUBJECT, case, name, ours, read[name], None)
    for name in names[1:]:
        ours, theirs = written["ours"], written[name]
        yield ratio_row(SUBJECT, "set of an array of 8 MB", name, ours, theirs, None)


BURSTS = 300
BURST = 10_000


def _write_in_bursts(shared: Any, i: int, gate: Any, times: Any) -> None:
    """Write to a key of its own in bursts of under a millisecond, all processes at once."""
    for burst in range(times.shape[1]):
        gate[i] = burst + 1
        while gate.min() <= burst:
            pass
        begin = time.perf_counter()
        for _ in range(BURST):
            shared["key", i] = 1
        times[i, burst] = begin, time.perf_counter()


def _two_processes(settings: Settings) -> Row:
    """
    Sets a second of two processes on keys of their own, over those of one.

    Of the best bursts: short enough that both now and then have a CPU all the time, also
    where others use the machine.
    """
    fork = multiprocessing.get_context("fork")
    shared, best = pydistrib.SharedDict(), {}
    for count in (1, 2):
        gate = pydistrib.shared_empty(count, np.int64)
        times = pydistrib.shared_empty((count, BURSTS * settings.rounds, 2))
        processes = [
            fork.Process(target=_write_in_bursts, args=(shared, i, gate, times))
            for i in range(count)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        best[count] = float((times[..., 1].max(axis=0) - times[..., 0].min(axis=0)).min())
    return Row(
        SUBJECT,
        "two processes, each on its own key",
        "one process",
        2 * best[1] / best[2],
        "x",
        1.8,
        ours=Timing(best[2], best[2]),
        theirs=Timing(best[1], best[1]),
    )


def _write_for_ever(shared: Any) -> None:
    while True:
        shared["key"] = 1
        shared["text"] = "x" * 100


def _after_death(settings: Settings) -> Row:
    """The next two operations after a writer was killed."""
    fork = multiprocessing.get_context("fork")
    shared = pydistrib.SharedDict(key=0)
    seconds = []
    for i in range(10 * settings.rounds):
        process = fork.Process(target=_write_for_ever, args=(shared,))
        process.start()
        time.sleep(0.005 + 0.0001 * i)
        process.kill()
        process.join()
        start = time.perf_counter()
        shared["key"] = 2
        shared["text"] = 2
        seconds.append(time.perf_counter() - start)
    return Row(
        SUBJECT,
        f"next operation after kill -9 of a writer, worst of {len(seconds)}",
        "",
        max(seconds) * 1e6,
        "us",
        1000.0,
        "lower",
    )
