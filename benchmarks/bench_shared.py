"""A dict that processes share: against servers, files and other shared memory."""

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

# get and set of an int, array or None, for each store.
Store = tuple[Callable[[str], Any], Callable[[str, Any], Any]]

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
    return [*result, *_bare(settings), _two_processes(settings), _after_death(settings)]


def _stores(stack: contextlib.ExitStack) -> Iterator[tuple[str, Store]]:
    ours = pydistrib.SharedDict()
    yield "ours", (ours.__getitem__, ours.__setitem__)
    manager = stack.enter_context(multiprocessing.get_context("fork").Manager())
    managed = manager.dict()
    yield "Manager().dict", (managed.__getitem__, managed.__setitem__)
    if UltraDict is not None:
        ultra = UltraDict(buffer_size=200_000, auto_unlink=True)
        stack.callback(ultra.unlink)
        yield "UltraDict", (ultra.__getitem__, ultra.__setitem__)
    folder = stack.enter_context(tempfile.TemporaryDirectory(dir=MEMORY))
    if diskcache is not None:
        cache = stack.enter_context(diskcache.Cache(folder + "/diskcache"))
        yield "diskcache", (cache.__getitem__, cache.__setitem__)
    if lmdb is not None:
        yield "LMDB", _lmdb(stack, folder)
    server = shutil.which("redis-server")
    if redis is not None and server is not None:
        yield "Redis", _redis(stack, folder, server)
    elif redis is not None:
        ABSENT.append("redis-server")


def _lmdb(stack: contextlib.ExitStack, folder: str) -> Store:
    """LMDB at its quickest: nothing is synced, and it lies in memory."""
    environment = lmdb.open(folder + "/lmdb", map_size=1 << 30, sync=False, writemap=True)
    stack.callback(environment.close)

    def get(key: str) -> Any:
        with environment.begin() as transaction:
            return int(transaction.get(key.encode()))

    def set_(key: str, value: Any) -> None:
        with environment.begin(write=True) as transaction:
            transaction.put(key.encode(), b"%d" % value)

    return get, set_


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
    return (lambda key: int(client.get(key))), client.set


def _per_call(operation: Callable[[], object], count: int = LOOP) -> Callable[[], float]:
    """Seconds of one operation, of a loop over many."""

    def many() -> float:
        start = time.perf_counter()
        for _ in range(count):
            operation()
        return (time.perf_counter() - start) / count

    return many


BARS = {"Manager().dict": 100.0, "UltraDict": 5.0}


def _ints(settings: Settings, stores: dict[str, Store]) -> Iterator[Row]:
    def getter(store: Store) -> Callable[[], object]:
        get, set_ = store
        set_("key", 12345)
        return lambda: get("key")

    def setter(store: Store) -> Callable[[], object]:
        return lambda: store[1]("key", 12345)

    for case, operation in (("get of an int", getter), ("set of an int", setter)):
        contestants = {name: _per_call(operation(store)) for name, store in stores.items()}
        times = take_turns(contestants, settings.rounds)
        for name in stores:
            if name != "ours":
                ours, theirs = times["ours"], times[name]
                yield ratio_row(SUBJECT, case, name, ours, theirs, BARS.get(name))


def _bare(settings: Settings) -> Iterator[Row]:
    """Nanoseconds of our own operations, as `timeit` counts them."""
    shared = pydistrib.SharedDict(key=12345)

    def get() -> float:
        start = time.perf_counter()
        for _ in _MANY:
            shared["key"]
        return (time.perf_counter() - start) / len(_MANY)

    def set_() -> float:
        start = time.perf_counter()
        for _ in _MANY:
            shared["key"] = 12345
        return (time.perf_counter() - start) / len(_MANY)

    def add() -> float:
        start = time.perf_counter()
        for _ in _MANY:
            shared.add("key")
        return (time.perf_counter() - start) / len(_MANY)

    times = take_turns({"get": get, "set": set_, "add": add}, settings.rounds)
    for name, bar in (("get", 100.0), ("set", 150.0), ("add", None)):
        yield Row(
            SUBJECT,
            f"{name} of an int, the loop included",
            "",
            times[name].minimum * 1e9,
            "ns",
            bar,
            "lower",
            ours=times[name],
        )


_MANY = range(10_000)


def _arrays(settings: Settings, stores: dict[str, Store]) -> Iterator[Row]:
    array = np.random.default_rng(0).random(1_000_000)
    names = ["ours", "Manager().dict", *(["diskcache"] if "diskcache" in stores else [])]
    for name in names:
        stores[name][1]("array", array)
    times = take_turns(
        {
            name: _per_call(lambda get=stores[name][0]: get("array"), 1 if i else LOOP)
            for i, name in enumerate(names)
        },
        settings.rounds,
    )
    yield Row(
        SUBJECT,
        "get of an array of 8 MB",
        "",
        times["ours"].median * 1e6,
        "us",
        5.0,
        "lower",
        ours=times["ours"],
    )
    for name in names[1:]:
        yield ratio_row(
            SUBJECT, "get of an array of 8 MB", name, times["ours"], times[name], None
        )
    stored = take_turns(
        {
            name: _per_call(lambda set_=stores[name][1]: set_("array", array), 1)
            for name in names
        },
        settings.rounds,
    )
    for name in names[1:]:
        yield ratio_row(
            SUBJECT, "set of an array of 8 MB", name, stored["ours"], stored[name], None
        )


def _write_at_once(shared: Any, key: str, gate: Any, seconds: Any) -> None:
    gate.wait()
    start = time.perf_counter()
    for _ in range(200_000):
        shared[key] = 1
    seconds[key] = time.perf_counter() - start


def _two_processes(settings: Settings) -> Row:
    """Sets a second of two processes on keys of their own, over those of one."""
    fork = multiprocessing.get_context("fork")
    shared, seconds = pydistrib.SharedDict(), pydistrib.SharedDict()

    def run(keys: tuple[str, ...]) -> float:
        gate = fork.Barrier(len(keys))
        processes = [
            fork.Process(target=_write_at_once, args=(shared, key, gate, seconds))
            for key in keys
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        return max(float(seconds[key]) for key in keys)

    best = {1: 1e9, 2: 1e9}
    for _ in range(settings.rounds):
        for keys in (("a",), ("a", "b")):
            best[len(keys)] = min(best[len(keys)], run(keys))
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
