"""Faults: whatever dies, every other task has its result, and nothing is left behind."""

from __future__ import annotations

import contextlib
import ctypes
import operator
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
from concurrent.futures import CancelledError
from multiprocessing.pool import MaybeEncodingError
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


class StopsWhenUnpickled:
    def __init__(self, how):
        self.how = how

    def __reduce__(self):
        return _stop_or_hang, (self.how,)


def _stop_or_hang(how):
    if how == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(60)


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

    @pytest.mark.parametrize("how", ["stop", "hang"])
    def test_a_worker_that_does_not_come_to_the_task(self, pool, how, monkeypatch):
        """Stopped, or hung, after it has taken the task, before the task begins."""
        from pydistrib.pools import process_engine

        monkeypatch.setattr(process_engine, "LOAD_SECONDS", 0.5)
        monkeypatch.setattr(process_engine, "LOOK_SECONDS", 0.1)
        with pytest.raises(TimeoutError, match=r"did not begin within 0\.5 s"):
            pool.apply_async(square, (StopsWhenUnpickled(how),), timeout=0.2).get(60)
        assert pool.map(square, range(4)) == [0, 1, 4, 9]

    def test_many_limits_at_once(self, forked):
        results = [forked.apply_async(time.sleep, (60,), timeout=0.05) for _ in range(12)]
        for result in results:
            with pytest.raises(TimeoutError):
                result.get(60)
        assert forked.map(square, range(4)) == [0, 1, 4, 9]

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
        with pytest.raises(CancelledError):
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

    def test_many_that_run(self, forked, tmp_path):
        """Whoever is cancelled, nobody else is killed for it."""
        others = []
        for i in range(40):
            path = tmp_path / str(i)
            result = forked.apply_async(sleep_and_tell, (60, str(path)))
            others += [forked.apply_async(square, (k,)) for k in range(5)]
            wait_for(path.exists, 60)
            assert result.cancel()
        assert [r.get(60) for r in others] == [k * k for k in range(5)] * 40

    def test_a_map(self, forked):
        result = forked.map_async(time.sleep, [30] * 5000, 1)
        time.sleep(0.1)
        assert result.cancel()
        start = time.monotonic()
        assert forked.map(square, range(4)) == [0, 1, 4, 9]
        assert time.monotonic() - start < 10


class Killer:
    """
    A thread that kills workers at random; it knows whom.

    Five in a row at most without any task done: more would be a crash loop, where workers
    take long to start.
    """

    def __init__(self, pool, pause):
        self.pool = pool
        self.pause = pause
        self.progress = 0  # counted by who reads the results
        self.pids = set()
        self.rng = random.Random(5)
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()

    def run(self):
        seen, in_a_row = 0, 0
        while not self.stop.wait(self.pause * self.rng.random()):
            if self.progress != seen:
                seen, in_a_row = self.progress, 0
            if in_a_row == 5:
                continue
            workers = [w for w in self.pool._pool if w._pid and w.exitcode is None]
            pids = [w._pid for w in workers if w._pid not in self.pids]
            if pids:
                pid = self.rng.choice(pids)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.pids.add(pid)
                    in_a_row += 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "tasks", "kills", "pause"),
    [
        ("fork", 100_000, 1000, 0.01),
        ("forkserver", 10_000, 100, 0.1),
        ("spawn", 1000, 20, 0.3),
    ],
)
def test_kills_at_random(method, tasks, kills, pause):
    """Every task has its result or is exactly one WorkerDied, whenever a worker dies."""
    count = 0
    died = 0

    def items():
        nonlocal count
        while count < tasks or len(killer.pids) < kills:
            yield count
            count += 1

    with pydistrib.Pool(2, context=method) as pool:
        with Killer(pool, pause) as killer:
            results = pool.imap(operator.neg, items(), buffersize=1000)
            i = 0
            while True:
                try:
                    assert results.next(60) == -i
                    killer.progress += 1
                except StopIteration:
                    break
                except WorkerDied:
                    died += 1
                i += 1
        assert i == count >= tasks
        assert len(killer.pids) >= kills
        assert died <= len(killer.pids)
        assert pool.map(square, range(4)) == [0, 1, 4, 9]
        assert pool.stats().queued == 0
    pool.join()


def test_kills_and_retries(forked):
    """Tasks go out again while others are posted: each has its result, and once."""
    counts = {}

    def note(value):
        counts[value] = counts.get(value, 0) + 1
        killer.progress += 1

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    with Killer(forked, 0.005) as killer:
        calls = []
        i = 0
        while i < 6000 or len(killer.pids) < 100:
            calls.append(forked.apply_async(square, (i,), retries=1000, callback=note))
            i += 1
            if i > 5000:  # more wait than there is room for
                calls[i - 5000].get(60)
        assert [call.get(60) for call in calls] == [k * k for k in range(i)]
        assert forked.map(square, range(20_000), 1, retries=1000) == [
            k * k for k in range(20_000)
        ]
    sys.setswitchinterval(interval)
    assert counts == {k * k: 1 for k in range(i)}


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


def descriptors():
    """Give how many descriptors there are before and after pools have lived and died."""

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
    return before, count()


def test_no_descriptor_is_left(run_python):
    # In a process of its own: other tests leave threads that open some.
    here = os.path.dirname(__file__)
    code = f"import sys; sys.path.insert(0, {here!r}); import test_processes_faults as me"
    before, after = run_python(code + "; print(*me.descriptors())", quiet=False).split()
    assert before == after


def in_a_fork(function):
    """Call a function in a fork of this process; give its exit status, 99 if it raises."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            status = function()
        finally:
            os._exit(status)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError("the fork hangs")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_of_the_parent(pool):
    """A forked child can't use the pool; the parent's goes on."""
    slow = pool.apply_async(time.sleep, (0.3,))
    stream = pool.imap(time.sleep, [0.3] * 4, buffersize=2)

    def child():
        for call in (lambda: pool.apply(square, (2,)), lambda: pool.map(square, [2])):
            with contextlib.suppress(RuntimeError, ValueError):
                call()
                return 1
        with contextlib.suppress(RuntimeError):
            slow.get(30)
            return 2
        for _ in range(4):  # two are out, and the others will never be
            try:
                stream.next(30)
            except (RuntimeError, StopIteration):
                continue
            return 3
        pool.terminate()
        pool.join()
        return 0

    assert in_a_fork(child) == 0
    assert slow.get(60) is None
    assert list(stream) == [None] * 4
    assert pool.map(square, range(4)) == [0, 1, 4, 9]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forks_in_the_middle_of_a_dispatch(forked):
    """Threads post and read all the time; each fork has its own pool, which works."""
    stop = threading.Event()
    wrong = []

    def post():
        while not stop.is_set():
            results = [forked.submit(square, i) for i in range(20)]
            stream = forked.imap(square, range(50), buffersize=5)
            if forked.map(square, range(100), 1) != [i * i for i in range(100)]:
                wrong.append("map")
            if list(stream) != [i * i for i in range(50)]:
                wrong.append("imap")
            if [r.result(60) for r in results] != [i * i for i in range(20)]:
                wrong.append("submit")

    def child():
        with contextlib.suppress(RuntimeError, ValueError):
            forked.apply(square, (2,))
            return 1
        with pydistrib.Pool(1, context="fork") as own:
            if own.map(square, range(4)) != [0, 1, 4, 9]:
                return 2
        own.join()
        return 0

    threads = [threading.Thread(target=post) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        assert [in_a_fork(child) for _ in range(25)] == [0] * 25
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_callbacks_do_not_run_in_a_fork(forked, tmp_path):
    """The lost tasks of a forked child are nothing to act on: the parent has them."""
    path = tmp_path / "called"

    def called(_):
        path.touch()

    forked.apply_async(time.sleep, (2,), callback=called, error_callback=called)
    future = forked.submit(time.sleep, 2)
    future.add_done_callback(called)

    def child():
        with contextlib.suppress(RuntimeError):
            future.result(30)
            return 1
        return 0

    assert in_a_fork(child) == 0
    assert not path.exists()
    with pydistrib.Pool(1, context="fork") as other:
        assert other.apply(square, (2,)) == 4
        assert not path.exists()
    other.join()
    assert future.result(60) is None
    wait_for(path.exists)


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


# --------------------------------------------------------------------------------------
# Things that don't travel
# --------------------------------------------------------------------------------------


class NoReduce:
    def __reduce__(self):
        raise LookupError("no reduce")


class NoReduceError(Exception):
    def __reduce__(self):
        raise LookupError("no reduce")


class BadReduceError(Exception):
    def __reduce__(self):
        return "not a global"


class ManyArguments(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


class NoRepr:
    def __reduce__(self):
        raise LookupError("no reduce")

    def __repr__(self):
        raise LookupError("no repr")


class RaisesElsewhere:
    """Raises when it is unpickled in another process than the one that is named."""

    def __init__(self, at_home, error):
        self.state = at_home, error

    def __reduce__(self):
        return _raise_elsewhere, self.state


def _raise_elsewhere(at_home, error):
    if os.getpid() != at_home:
        raise error
    return RaisesElsewhere(at_home, error)


def make_for(kind, *args):
    return {
        "no reduce": NoReduce,
        "no repr": NoRepr,
        "lock": threading.Lock,
        "generator": lambda: (i for i in ()),
        "raises": lambda error: RaisesElsewhere(os.getpid(), error),
    }[kind](*args)


def raise_for(kind):
    raise {
        "no reduce": NoReduceError("words"),
        "bad reduce": BadReduceError("words"),
        "arguments": ManyArguments(1, 2),
        "local": type("Local", (Exception,), {})("words"),
        "holds a lock": ValueError("words", threading.Lock()),
        "group": ExceptionGroup("words", [ValueError(1), NoReduceError()]),
    }[kind]


class TestWhatDoesNotTravel:
    @pytest.mark.parametrize("kind", ["no reduce", "no repr", "lock", "generator"])
    def test_an_argument(self, pool, kind):
        with pytest.raises((LookupError, TypeError)):
            pool.apply(square, (make_for(kind),))
        with pytest.raises((LookupError, TypeError)):
            pool.map(square, [1, make_for(kind), 2], 1)
        results = pool.imap(square, [1, make_for(kind), 2])
        assert results.next(60) == 1
        with pytest.raises((LookupError, TypeError)):
            results.next(60)
        assert results.next(60) == 4
        assert pool.apply(square, (3,)) == 9

    @pytest.mark.parametrize("kind", ["no reduce", "no repr", "lock", "generator"])
    def test_a_result(self, pool, kind):
        with pytest.raises(MaybeEncodingError, match="Error sending result"):
            pool.apply(make_for, (kind,))
        with pytest.raises(MaybeEncodingError):
            pool.map(make_for, [kind] * 3, 1)
        assert pool.apply(square, (3,)) == 9

    @pytest.mark.parametrize(
        "kind", ["no reduce", "bad reduce", "arguments", "local", "holds a lock", "group"]
    )
    def test_an_exception(self, pool, kind):
        with pytest.raises(Exception, match=r"words|1 and 2|and 'b'") as caught:
            pool.apply(raise_for, (kind,))
        assert not isinstance(caught.value, WorkerDied)
        assert "in raise_for" in str(caught.value.__cause__)
        assert pool.apply(square, (3,)) == 9

    @pytest.mark.parametrize("error", [ValueError("x"), SystemExit(3), KeyboardInterrupt()])
    def test_what_raises_on_arrival(self, pool, error):
        with pytest.raises(type(error)):
            pool.apply(square, (RaisesElsewhere(os.getpid(), error),))
        with pytest.raises(type(error)):
            pool.apply(make_for, ("raises", error))
        assert pool.apply(square, (3,)) == 9


# --------------------------------------------------------------------------------------
# Ends
# --------------------------------------------------------------------------------------


def leave(how):
    if how == "sys.exit":
        sys.exit(5)
    raise {"interrupt": KeyboardInterrupt("words"), "exit": SystemExit("words")}[how]


@pytest.mark.parametrize(
    ("how", "error"),
    [("sys.exit", SystemExit), ("interrupt", KeyboardInterrupt), ("exit", SystemExit)],
)
def test_an_exit_in_a_task_is_its_result(pool, how, error):
    pids = {worker.pid for worker in pool._pool}
    for _ in range(3):
        with pytest.raises(error) as caught:
            pool.apply(leave, (how,))
        assert caught.value.args == ((5,) if how == "sys.exit" else ("words",))
    assert {worker.pid for worker in pool._pool} == pids  # nobody has ended


@pytest.mark.parametrize("method", METHODS)
def test_the_program_ends_with_an_open_pool(run_python, method):
    out = run_python(
        f"""
        import concurrent.futures, sys, threading, time, warnings
        import numpy as np, pydistrib
        warnings.simplefilter("ignore", ResourceWarning)
        pool = pydistrib.Pool(2, context={method!r})
        kept = pool.map(np.negative, [np.ones(1 << 18)] * 3, 1)
        results = pool.imap(time.sleep, iter(lambda: 60, 0), buffersize=4)
        many = pool.map_async(time.sleep, [60] * 5000, 1)
        def read():
            try:
                list(results)
            except concurrent.futures.CancelledError:
                pass
        threading.Thread(target=read, daemon=True).start()
        idle = pydistrib.Pool(2, context={method!r})
        print(pool is not idle, flush=True)
        """,
        timeout=60,
    )
    assert out == "True"


@pytest.mark.parametrize("inner", METHODS)
def test_a_pool_inside_a_worker(pool, inner):
    assert pool.map(nested_deaths, [inner] * 2, 1) == [(["died"], [0, 1, 4])] * 2


def nested_deaths(method):
    with pydistrib.Pool(2, context=method) as pool:
        try:
            pool.apply(die, ("kill",))
        except WorkerDied:
            died = ["died"]
        result = died, pool.map(square, range(3))
    pool.join()
    return result


def test_two_pools_do_not_mind_each_other():
    with (
        pydistrib.Pool(2, context="fork") as one,
        pydistrib.Pool(2, context="forkserver") as two,
        pydistrib.Pool(2, context="spawn") as three,
    ):
        results = [pool.map_async(square, range(3000), 1) for pool in (one, three)]
        for _ in range(5):
            with pytest.raises(WorkerDied):
                two.apply(die, ("kill",))
        one_more = one.apply(np.negative, (np.ones(1 << 18),))
        two.terminate()
        two.join()
        assert [r.get(60) for r in results] == [[i * i for i in range(3000)]] * 2
        assert (one_more == -1).all()
    one.join()
    three.join()


@pytest.mark.parametrize("method", METHODS)
def test_hashes_differ_between_processes(run_python, method):
    """Of strings, unless PYTHONHASHSEED is set: nothing may depend on them."""
    out = run_python(
        f"""
        import pydistrib
        def look_up(table, names):
            return hash("a word"), [table[name] for name in sorted(names)]
        def function(x, *, seen=frozenset(["a", "b"])):
            return x in seen
        names = [f"name {{i}}" for i in range(100)]
        table = {{name: i for i, name in enumerate(names)}}
        keys = {{("a", name): frozenset([name]) for name in names}}
        with pydistrib.Pool(2, context={method!r}) as pool:
            hashed, found = pool.apply(look_up, (table, set(names)))
            print(found == [table[name] for name in sorted(names)])
            print((hashed == hash("a word")) == ({method!r} == "fork"))
            print(pool.map(function, ["a", "b", "c"]))
            print(pool.apply(dict, (keys,)) == keys)
        pool.join()
        """,
        PYTHONHASHSEED="random",
    )
    assert out.splitlines() == ["True", "True", "[True, True, False]", "True"]


def test_a_callback_that_posts_to_a_pool_that_ends(forked):
    refused = []

    def again(_):
        try:
            forked.apply_async(square, (1,), callback=again)
        except ValueError as error:
            refused.append(error)

    results = [forked.apply_async(square, (i,), callback=again) for i in range(20)]
    for result in results:
        result.get(60)
    forked.terminate()
    forked.join()
    wait_for(lambda: len(refused) <= 20)
