"""Every pool there is, by one fixture; and nothing may be left after a test.

`make_pool` is parametrised over the pools.  A new engine adds one line to `POOLS` and
inherits the suite of `test_protocol.py`.
"""

from __future__ import annotations

import concurrent.futures
import functools
import gc
import threading
import time

import pytest

import pydistrib
from pydistrib.pools.engine import Engine, PoolStats
from pydistrib.pools.protocol import PoolBase


class ForeignEngine(Engine):
    """An engine that knows the protocol's minimum only: to start a call, and to end.

    What a process pool or a cluster is for the protocol: loops, streams and time limits
    are the protocol's own.
    """

    def __init__(self, workers):
        self.workers = workers
        self.executor = concurrent.futures.ThreadPoolExecutor(workers)
        self.calls = set()
        self.lock = threading.Lock()
        self.closed = False
        self.done = 0

    def start(self, call):
        if self.closed:
            raise ValueError("Pool not running")
        with self.lock:
            self.calls.add(call)
        self.executor.submit(self.run, call)

    def run(self, call):
        begun = call._begin()
        if begun is not None:
            function, args, kwargs = begun
            self.limit(call)
            try:
                value = function(*args, **kwargs)
            except BaseException as error:
                call._settle(False, error)
            else:
                call._settle(True, value)
        with self.lock:
            self.done += 1
            self.calls.discard(call)

    @staticmethod
    def limit(call):
        if call._timeout is not None:
            error = pydistrib.TimeoutError("too long")
            timer = threading.Timer(call._timeout, call._settle, (False, error))
            timer.daemon = True
            timer.start()
            call._then(timer.cancel)

    def close(self):
        self.closed = True
        self.executor.shutdown(wait=False)

    def terminate(self):
        self.close()
        with self.lock:
            calls = list(self.calls)
        for call in calls:
            call.cancel()

    def join(self):
        self.executor.shutdown()

    def stats(self):
        return PoolStats(self.done, len(self.calls), ())


class ForeignPool(PoolBase):
    def __init__(self, processes=2):
        super().__init__(ForeignEngine(processes))


@functools.cache
def dask_client(processes, workers):
    """One client, and cluster of so many processes or threads, for all tests."""
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(
        n_workers=workers if processes else 1,
        threads_per_worker=1 if processes else workers,
        processes=processes,
        dashboard_address="localhost:0",
    )
    return distributed.Client(cluster, set_as_default=False)


def dask_pool(processes):
    most = 2 if processes else 8
    return lambda workers: pydistrib.DaskPool(dask_client(processes, min(workers, most)))


POOLS = {
    "threads": pydistrib.ThreadPool,
    "foreign": ForeignPool,
    "fork": functools.partial(pydistrib.Pool, context="fork"),
    "forkserver": functools.partial(pydistrib.Pool, context="forkserver"),
    "spawn": functools.partial(pydistrib.Pool, context="spawn"),
    "dask threads": dask_pool(processes=False),
    "dask processes": dask_pool(processes=True),
}
PROCESSES = ("fork", "forkserver", "spawn", "dask processes")

# Their tasks can be stopped while they run: by killing the process.
STOPPING = ("fork", "forkserver", "spawn")

# Their results are copies.
SHARE_MEMORY = {
    "test_rows_are_views": "a copy of a row is none",
    "test_results_are_the_very_objects": "a result is a copy",
}
DASK_DIFFERS = {
    "test_terminate_fails_what_has_not_begun": "terminate() stops what runs as well",
    "test_a_pool_that_is_not_closed_warns_and_finishes": "is made from a client",
}


def pytest_collection_modifyitems(items):
    for item in items:
        name = getattr(item, "originalname", "")
        pool = getattr(item, "callspec", None) and item.callspec.params.get("make_pool")
        why = None
        if str(pool).startswith("dask"):
            why = DASK_DIFFERS.get(name)
        if pool in PROCESSES and name in SHARE_MEMORY:
            why = f"shares no memory with its tasks: {SHARE_MEMORY[name]}"
        if why:
            item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(params=POOLS)
def make_pool(request):
    """Make a pool of the type under test; it is terminated and joined after the test."""
    made = []

    def make(workers=2):
        pool = POOLS[request.param](workers)
        made.append(pool)
        return pool

    yield make
    for pool in made:
        pool.terminate()
        pool.join()


@pytest.fixture
def pool(make_pool):
    return make_pool(2)


@pytest.fixture
def shares_memory(request):
    """Whether the tasks of the pool under test run in this process."""
    return request.node.callspec.params["make_pool"] not in PROCESSES


@pytest.fixture
def stops_tasks(request):
    """Whether the pool under test can stop a task that runs."""
    return request.node.callspec.params["make_pool"] in STOPPING


# Threads that serve the whole process, or Dask's clusters, and end with them.
SHARED = (
    "pydistrib-time-limits",
    "Dask",
    "IO loop",
    "Profile",
    "QueueFeederThread",
    "TCP-Executor",
)


@pytest.fixture(autouse=True)
def nothing_left():
    """No thread outlives a test that has joined its pools."""
    before = set(threading.enumerate())
    yield
    gc.collect()
    deadline = time.monotonic() + 10
    while True:
        left = [
            t
            for t in threading.enumerate()
            if t not in before and not any(name in t.name for name in SHARED)
        ]
        if not left:
            return
        assert time.monotonic() < deadline, left
        time.sleep(0.01)
