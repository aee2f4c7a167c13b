"""Faults: whatever dies, every other task has its result, and nothing is left behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import pydistrib
from pydistrib import PoolBroken, TimeoutError, WorkerDied
from pydistrib.pools.broken import BrokenProcessPool

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pools need memfd")

METHODS = ["fork", "forkserver", "spawn"]


@pytest.fixture(params=METHODS)
def pool(request):
    with pydistrib.Pool(2, context=request.param) as pool:
        yield pool
    pool.join()


@pytest.fixture
def forked():
    with pydistrib.Pool(2, context="fork") as pool:
        yield pool
    pool.join()


def square(x):
    return x * x


def own_pid(_=None):
    return os.getpid()


def die(how):
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "term":
        os.kill(os.getpid(), signal.SIGTERM)
    elif how == "exit":
        os._exit(7)
    elif how == "exit 0":
        os._exit(0)
    elif how == "segfault":
        ctypes.string_at(0)
    elif how == "abort":
        os.abort()


def die_at(bad, x):
    if x == bad:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def die_at_five(x):
    return die_at(5, x)


def sleep_and_tell(seconds, path):
    Path(path).touch()
    time.sleep(seconds)
    return "slept"


def die_unless(path):
    """Die the first time, live the second."""
    if not os.path.exists(path):
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "lived"


class DiesWhenPickled:
    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGKILL)


def make_one_that_dies():
    return DiesWhenPickled()


class DiesWhenUnpickled:
    def __init__(self, parent):
        self.parent = parent

    def __reduce__(self):
        return _die_elsewhere, (os.getpid(),)


def _die_elsewhere(parent):
    if os.getpid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    return DiesWhenUnpickled(parent)


def wait_for(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class TestDeaths:
    @pytest.mark.parametrize(
        ("how", "exitcode"),
        [
            ("kill", -signal.SIGKILL),
            ("term", -signal.SIGTERM),
            ("exit", 7),
            ("exit 0", 0),
            ("segfault", -signal.SIGSEGV),
            ("abort", -signal.SIGABRT),
        ],
    )
    def test_the_error_tells(self, pool, how, exitcode):
        with pytest.raises(WorkerDied) as caught:
            pool.apply(die, (how,))
        error = caught.value
        assert isinstance(error, BrokenProcessPool)
        assert error.exitcode == exitcode
        assert "die" in error.task
        assert error.pid > 0
        assert error.out_of_memory is False
        if exitcode < 0:
            assert error.signal == -exitcode
            assert error.signal.name in str(error)
        else:
            assert error.signal is None
            assert f"status {exitcode}" in str(error)
        if how in ("segfault", "abort"):
            assert " in die" in error.stack
            assert error.stack.rstrip() in str(error)
        assert pool.apply(square, (3,)) == 9

    def test_the_error_pickles(self):
        error = WorkerDied("f", 12, -9, True, "stack")
        copy = pickle.loads(pickle.dumps(error))
        assert str(copy) == str(error)
        assert (copy.task, copy.pid, copy.exitcode) == ("f", 12, -9)
        assert copy.out_of_memory
        assert "out of memory" in str(copy)

    def test_all_other_results_come(self, pool):
        results = [pool.apply_async(die_at_five, (i,)) for i in range(20)]
        for i, result in enumerate(results):
            if i == 5:
                with pytest.raises(WorkerDied):
                    result.get(30)
            else:
                assert result.get(30) == i

    def test_in_an_imap_it_takes_its_place(self, pool):
        results = pool.imap(die_at_five, range(10))
        assert [results.next(30) for _ in range(5)] == list(range(5))
        with pytest.raises(WorkerDied):
            results.next(30)
        assert list(results) == list(range(6, 10))

    def test_in_a_map_it_is_raised(self, pool):
        with pytest.raises(WorkerDied):
            pool.map(die_at_five, range(10))
        assert pool.map(square, range(4)) == [0, 1, 4, 9]

    def test_while_a_result_is_pickled(self, pool):
        with pytest.raises(WorkerDied):
            pool.apply(make_one_that_dies)
        assert pool.apply(square, (2,)) == 4

    def test_while_arguments_are_unpickled(self, pool):
        with pytest.raises(WorkerDied):
            pool.apply(square, (DiesWhenUnpickled(0),))
        assert pool.apply(square, (2,)) == 4

    def test_retries_run_it_again(self, pool, tmp_path):
        path = str(tmp_path / "died")
        assert pool.apply(die_unless, (path,), retries=1) == "lived"
        with pytest.raises(WorkerDied):
            pool.apply(die, ("kill",), retries=2)

    def test_retries_of_a_map(self, pool, tmp_path):
        paths = [str(tmp_path / str(i)) for i in range(4)]
        assert pool.map(die_unless, paths, 1, retries=1) == ["lived"] * 4

    def test_idle_workers_are_replaced(self, pool):
        pids = {worker.pid for worker in pool._pool}
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert not pids & set(pool.map(own_pid, range(20), 1))

    def test_a_future(self, pool):
        future = pool.submit(die, "kill")
        assert isinstance(future.exception(30), WorkerDied)
        assert pool.submit(square, 4).result(30) == 16

    def test_a_retried_task_keeps_its_arrays(self, pool, tmp_path):
        array = np.arange(1 << 18)
        path = str(tmp_path / "died")
        assert pool.apply(sum_or_die, (array, path), retries=1) == array.sum()


def sum_or_die(array, path):
    die_unless(path)
    return array.sum()


class TestLimits:
    def test_a_task_that_takes_too_long_is_killed(self, pool, tmp_path):
        path = tmp_path / "began"
        start = time.monotonic()
        with pytest.raises(TimeoutError, match=r"0\.3 s"):
            pool.apply(sleep_and_tell, (60, str(path)), timeout=0.3)
        assert time.monotonic() - start < 20
        assert path.exists()
        assert pool.map(square, range(4)) == [0, 1, 4, 9]

    def test_only_that_task(self, forked, tmp_path):
        slow = forked.apply_async(sleep_and_tell, (60, str(tmp_path / "a")), timeout=0.5)
        quick = [forked.apply_async(square, (i,), timeout=60) for i in range(200)]
        assert [result.get(30) for result in quick] == [i * i for i in range(200)]
        with pytest.raises(TimeoutError):
            slow.get(30)

    def test_a_stopped_worker(self, forked, tmp_path):
        """A worker that was sent SIGSTOP."""
        result = forked.apply_async(sleep_and_tell, (0.1, str(tmp_path / "a")), timeout=1)
        wait_for((tmp_path / "a").exists)
        for worker in forked._pool:
            os.kill(worker.pid, signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            result.get(30)
        for worker in forked._pool:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGCONT)
        assert forked.apply(square, (3,)) == 9

    def test_the_limit_does_not_count_the_queue(self, forked, tmp_path):
        path = str(tmp_path / "a")
        results = [
            forked.apply_async(sleep_and_tell, (0.2, path), timeout=5) for _ in range(6)
        ]
        assert [r.get(30) for r in results] == ["slept"] * 6


class TestCancel:
    def test_what_runs_is_killed(self, pool, tmp_path):
        path = tmp_path / "began"
        result = pool.apply_async(sleep_and_tell, (60, str(path)))
        wait_for(path.exists, 30)
        assert result.cancel()
        with pytest.raises(pydistrib.pools.processes.CancelledError):
            result.get(10)
        assert not result.cancel()
        assert pool.apply(square, (3,)) == 9

    def test_what_waits_is_taken_back(self, forked, tmp_path):
        ran = tmp_path / "ran"
        slow = [
            forked.apply_async(sleep_and_tell, (1, str(tmp_path / f"{i}")))
            for i in range(2)
        ]
        wait_for(lambda: all((tmp_path / f"{i}").exists() for i in range(2)))
        waiting = forked.apply_async(sleep_and_tell, (0, str(ran)))
        assert waiting.cancel()
        assert [r.get(10) for r in slow] == ["slept"] * 2
        assert forked.apply(square, (3,)) == 9
        assert not ran.exists()

    def test_what_is_done_stays(self, forked):
        result = forked.apply_async(square, (3,))
        assert result.get() == 9
        assert not result.cancel()
        assert result.get() == 9

    def test_a_running_future(self, forked, tmp_path):
        path = tmp_path / "began"
        future = forked.submit(sleep_and_tell, 60, str(path))
        wait_for(path.exists)
        assert future.cancel()
        assert forked.submit(square, 3).result(10) == 9

    def test_a_map(self, forked):
        result = forked.map_async(time.sleep, [30] * 5000, 1)
        time.sleep(0.1)
        assert result.cancel()
        start = time.monotonic()
        assert forked.map(square, range(4)) == [0, 1, 4, 9]
        assert time.monotonic() - start < 10


def test_kills_at_random(forked):
    """Every task has its result or is exactly one WorkerDied, whenever a worker dies."""
    count = 100_000
    stop = threading.Event()
    rng = random.Random(5)
    kills = 0

    def kill():
        nonlocal kills
        while not stop.wait(0.002 + 0.01 * rng.random()):
            workers = [w for w in forked._pool if w._pid and w.exitcode is None]
            if workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(workers)._pid, signal.SIGKILL)
                    kills += 1

    killer = threading.Thread(target=kill)
    killer.start()
    died = 0
    try:
        results = forked.imap(square, range(count))
        for i in range(count):
            try:
                assert results.next(60) == i * i
            except WorkerDied:
                died += 1
        with pytest.raises(StopIteration):
            results.next(60)
    finally:
        stop.set()
        killer.join()
    assert kills > 10
    assert died <= kills
    assert forked.map(square, range(4)) == [0, 1, 4, 9]


class TestBroken:
    def test_an_initializer_that_raises(self):
        for method in METHODS:
            pool = pydistrib.Pool(2, fail_to_start, ("words",), context=method)
            with pytest.raises(PoolBroken, match="initializer") as caught:
                pool.apply_async(square, (2,)).get(30)
            assert "words" in str(caught.value)
            with pytest.raises(PoolBroken):
                pool.map(square, range(3))
            pool.terminate()
            pool.join()

    def test_workers_that_die_at_once(self):
        pool = pydistrib.Pool(2, os._exit, (3,), context="fork")
        with pytest.raises(PoolBroken, match="in a row"):
            pool.apply_async(square, (2,)).get(120)
        pool.terminate()
        pool.join()

    def test_tasks_that_always_kill_do_not_break_it(self, forked):
        for _ in range(60):
            with pytest.raises(WorkerDied):
                forked.apply(die, ("exit",))
        assert forked.apply(square, (2,)) == 4


def fail_to_start(what):
    raise ValueError(what)


def processes_of(*pids):
    left = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            left.append(pid)
    return left


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", ["kill", "exit", "raise"])
def test_nothing_outlives_the_parent(method, how, tmp_path):
    code = f"""
    import os, sys, time, signal
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    import pydistrib, test_processes_faults as me
    pool = pydistrib.Pool(2, context={method!r})
    pids = {{w.pid for w in pool._pool}} | {{pool._engine.nursery.pid or 0}}
    pool.map(me.square, range(4))
    pool.map_async(time.sleep, [60] * 4, 1)
    print(*pids, flush=True)
    if {how!r} == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif {how!r} == "raise":
        raise ValueError
    """
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=60,
        check=False,
    )
    pids = [int(pid) for pid in child.stdout.split() if pid != "0"]
    assert len(pids) >= 2
    wait_for(lambda: not processes_of(*pids), 5)


def test_a_nursery_that_is_killed_is_replaced(forked):
    assert forked.apply(square, (3,)) == 9
    os.kill(forked._engine.nursery.pid, signal.SIGKILL)
    wait_for(lambda: _works(forked), 20)


def _works(pool):
    try:
        return pool.apply_async(square, (3,)).get(10) == 9
    except WorkerDied:
        return False


def test_a_zygote_that_is_killed_is_replaced():
    from pydistrib.pools import nursery

    with pydistrib.Pool(1, context="forkserver") as pool:
        assert pool.apply(square, (3,)) == 9
        os.kill(nursery._zygote_pid, signal.SIGKILL)
        assert pool.apply(square, (4,)) == 16
    with pydistrib.Pool(1, context="forkserver") as pool:
        assert pool.apply(square, (3,)) == 9


def test_without_descriptors_a_worker_is_replaced_later(forked):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert forked.apply(square, (2,)) == 4
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used - 1, hard))
    try:
        with pytest.raises(WorkerDied):
            forked.apply_async(die, ("exit",)).get(30)
        time.sleep(0.1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert forked.map(square, range(50), 1) == [i * i for i in range(50)]


def test_no_descriptor_is_left():
    def count():
        return len(os.listdir("/proc/self/fd"))

    with pydistrib.Pool(2, context="forkserver") as pool:  # the zygote's link stays
        pool.map(square, range(10))
    pool.join()
    before = count()
    for method in METHODS:
        with pydistrib.Pool(2, context=method, maxtasksperchild=2) as pool:
            pool.map(square, range(20), 1)
            for _ in range(5):
                with pytest.raises(WorkerDied):
                    pool.apply(die, ("exit",))
        pool.join()
    assert count() == before


def test_a_fork_of_the_parent(forked):
    """A forked child can't use the pool; the parent's goes on."""
    slow = forked.apply_async(time.sleep, (0.3,))
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with contextlib.suppress(RuntimeError, ValueError):
                forked.apply(square, (2,))
                os._exit(2)
            try:
                slow.get(5)
            except RuntimeError:
                status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert slow.get(10) is None
    assert forked.map(square, range(4)) == [0, 1, 4, 9]


def test_no_memory_for_a_worker_is_an_error_of_the_task(forked):
    with pytest.raises(MemoryError):
        forked.apply(ask_for_too_much)
    assert forked.apply(square, (2,)) == 4


def ask_for_too_much():
    return bytearray(1 << 50)


def test_sigint_once(run_python):
    """Ctrl-C, which a terminal sends to the whole group, ends the wait; the pool stays."""
    out = run_python(
        """
        import os, signal, threading, time
        import pydistrib
        os.setpgrp()
        for method in ("fork", "forkserver", "spawn"):
            pool = pydistrib.Pool(2, context=method)
            pool.map(abs, range(4))
            threading.Timer(0.5, os.killpg, (0, signal.SIGINT)).start()
            start = time.monotonic()
            try:
                pool.map(time.sleep, [1.5] * 2, 1)
            except KeyboardInterrupt:
                print("interrupted", time.monotonic() - start < 1.4)
            print(pool.map(abs, [-1, -2]))
            pool.terminate()
            pool.join()
        """
    )
    assert out.splitlines() == ["interrupted True", "[1, 2]"] * 3
