"""Every pool there is, by one fixture; and nothing may be left after a test.

`make_pool` is parametrised over the pools.  A new engine adds one line to `POOLS` and
inherits the suite of `test_protocol.py`.
"""

from __future__ import annotations

import concurrent.futures
import gc
import threading
import time

import pytest

import pydistrib
from pydistrib.pools.protocol import Engine, PoolBase, PoolStats


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


POOLS = {"threads": pydistrib.ThreadPool, "foreign": ForeignPool}


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


# Threads that serve the whole process, and end with it.
SHARED = ("pydistrib-time-limits",)


@pytest.fixture(autouse=True)
def nothing_left():
    """No thread outlives a test that has joined its pools."""
    before = set(threading.enumerate())
    yield
    gc.collect()
    deadline = time.monotonic() + 10
    while True:
        left = [
            t for t in threading.enumerate() if t not in before and t.name not in SHARED
        ]
        if not left:
            return
        assert time.monotonic() < deadline, left
        time.sleep(0.01)
