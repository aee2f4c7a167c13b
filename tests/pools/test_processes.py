"""What process pools have beyond the protocol: pickling, output, arrays, life, contexts."""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool
import os
import subprocess
import sys
import textwrap
import time
import warnings
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import pytest

import pydistrib
from pydistrib import TimeoutError, WorkerDied

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pools need memfd")

METHODS = ["fork", "forkserver", "spawn"]
HERE = str(Path(__file__).parent)


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


@pytest.fixture
def forked():
    with pydistrib.Pool(2, context="fork") as pool:
        yield pool
    pool.join()


def square(x):
    return x * x


def set_first(array, value):
    before = array.flat[0]
    array.flat[0] = value
    return float(before)


def echo(x):
    return x


class Tagged(np.ndarray):
    """A subclass whose pickle is ndarray's."""


RECORD = np.dtype([("a", "f8"), ("b", "i4", (2,)), ("c", "U3")])


def read_only(array):
    array.flags.writeable = False
    return array


# Arrays of about so many elements.
KINDS = {
    "read-only": lambda n: read_only(np.arange(float(n))),
    "every second": lambda n: np.arange(2.0 * n)[::2],
    "backwards": lambda n: np.arange(float(n))[::-1],
    "a view": lambda n: np.arange(n + 10.0)[5:-5],
    "broadcast": lambda n: np.broadcast_to(np.float32(3), (n,)),
    "Fortran": lambda n: np.asfortranarray(np.arange(3.0 * n).reshape(3, n)),
    "transposed": lambda n: np.arange(6.0 * n).reshape(1, 2, 3, n).transpose(2, 0, 3, 1),
    "0-d": lambda n: np.array(float(n)),
    "empty": lambda n: np.zeros((0, n)),
    "structured": lambda n: np.ones(n, RECORD),
    "objects": lambda n: np.array([1, "x", None] * n, dtype=object),
    "strings": lambda n: np.array(["a", "bcd"] * n),
    "times": lambda n: np.arange(n).astype("M8[us]"),
    "durations": lambda n: np.arange(n).astype("m8[D]"),
    "complex": lambda n: np.arange(n) * 1j,
    "half": lambda n: np.ones(n, np.float16),
    "long double": lambda n: np.ones(n, np.longdouble),
    "booleans": lambda n: np.ones(n, bool),
    "big-endian": lambda n: np.arange(n, dtype=">i4"),
    "a subclass": lambda n: np.arange(float(n)).view(Tagged),
    "a matrix": lambda n: np.arange(float(n)).view(np.matrix),
    "a recarray": lambda n: np.ones(n, RECORD).view(np.recarray),
    "masked": lambda n: np.ma.masked_less(np.arange(float(n)), 2),
}


def overwrite(array):
    array[...] = array.copy()
    return bool(array.flags.writeable)


kept = []


def keep(array):
    kept.append(array)
    return len(kept)


def change_kept():
    return bool(kept[0].flags.writeable)


def kept_sums(_):
    return [float(array.sum()) for array in kept]


def nested(count):
    with pydistrib.Pool(2, context="fork") as pool:
        return pool.map(square, range(count))


SCRIPT = """
import os, sys
import pydistrib as multiprocessing

CONSTANT = 3
STATE = None

def init(value):
    global STATE
    STATE = value

def work(x):
    print("work", x)
    return x * CONSTANT, STATE

class Point:
    def __init__(self, x):
        self.x = x
    def double(self):
        return Point(2 * self.x)

def double(point):
    return point.double()

pool = multiprocessing.Pool(1, init, (7,), context={method!r})
print("before")
print(pool.map(work, range(3)))
print(pool.apply(lambda x: x + CONSTANT, (4,)))
CONSTANT = 4
print(pool.apply(work, (1,)))
result = pool.apply(double, (Point(4),))
print(type(result) is Point, result.x)
print(pool.apply(Point(5).double).x)
def later(x):
    return work(x)
print(pool.map(later, [5]))
pool.close()
pool.join()
"""


def test_a_script_without_a_guard(tmp_path, run_python, method):
    """Functions and classes of ``__main__``; its globals; prints in their order."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(method=method))
    out = run_python(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')")
    # A fork has functions and their globals as they were, what is new as they are.
    constant = 3 if method == "fork" else 4
    assert out.splitlines() == [
        "before",
        "work 0",
        "work 1",
        "work 2",
        "[(0, 7), (3, 7), (6, 7)]",
        "7",
        "work 1",
        f"({constant}, 7)",
        "True 8",
        "10",
        "work 5",
        "[(20, 7)]",
    ]


def test_closures_and_what_cannot_be_pickled(method):
    import threading

    offset = 10
    with pydistrib.Pool(2, context=method) as pool:
        assert pool.map(lambda x: x + offset, range(3)) == [10, 11, 12]
        with pytest.raises(TypeError, match="pickle"):
            pool.apply(square, (threading.Lock(),))
        with pytest.raises(multiprocessing.pool.MaybeEncodingError):
            pool.apply(threading.Lock)
        assert pool.apply(square, (3,)) == 9
    pool.join()


def test_a_traceback_is_shown_whole(forked):
    with pytest.raises(ZeroDivisionError) as caught:
        forked.apply(divide, (1, 0))
    assert "return x / y" in str(caught.value.__cause__)


def divide(x, y):
    return x / y


class TestArrays:
    @pytest.mark.parametrize("size", [10, 5_000, 1 << 18])
    def test_a_task_may_change_its_own(self, forked, size):
        array = np.zeros(size)
        for value in range(1, 6):
            assert forked.apply(set_first, (array, value)) == 0
        assert array[0] == 0
        assert forked.starmap(set_first, [(array, 9)] * 20, 1) == [0] * 20

    @pytest.mark.parametrize("size", [10, 5_000, 1 << 18])
    def test_results_are_the_parents_own(self, forked, size):
        array = np.arange(size, dtype=np.float64)
        results = [forked.apply(echo, (array,)) for _ in range(5)]
        results[0][:] = -1
        assert all((result == array).all() for result in results[1:])

    def test_changes_between_tasks_are_seen(self, forked):
        array = np.zeros(1 << 18)
        results = []
        for value in range(20):
            array[-1] = value
            results.append(forked.apply_async(last, (array,)))
        assert [r.get() for r in results] == list(range(20))

    def test_what_a_worker_keeps_stays(self, forked):
        with pydistrib.Pool(1, context="fork") as pool:
            for value in range(1, 4):
                pool.apply(keep, (np.full(5_000, float(value)),))
                pool.apply(keep, (np.full(1 << 18, float(value)),))
            for _ in range(20):
                pool.apply(echo, (np.full(5_000, -1.0),))
                pool.apply(echo, (np.full(1 << 18, -1.0),))
            sums = pool.apply(kept_sums, (0,))
        pool.join()
        assert sums == [v * n for v in (1, 2, 3) for n in (5_000, 1 << 18)]

    def test_memory_is_given_back(self, forked):
        board = forked._engine.board
        for _ in range(3):
            forked.map(echo, [np.zeros(1 << 18) for _ in range(8)], 1)
        deadline = time.monotonic() + 5
        while board.used > 100_000:
            forked.apply(square, (2,))
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def test_one_array_in_many_tasks_is_there_once(self, forked):
        array = np.ones(4 << 17)
        results = [forked.apply_async(at, (array, i)) for i in range(500)]
        most = forked._engine.board.used
        assert [r.get() for r in results] == [1.0] * 500
        assert most < 1.5 * array.nbytes

    @pytest.mark.parametrize("count", [3, 30_000, 300_000])  # inside; one task's; shared
    @pytest.mark.parametrize("kind", KINDS)
    def test_all_kinds(self, forked, kind, count):
        array = KINDS[kind](count)
        before = array.copy()
        back = forked.apply(echo, (array,))
        assert type(back) is type(array)
        assert back.dtype == array.dtype
        assert back.shape == array.shape
        assert back.flags.writeable
        if array.flags.forc:
            assert back.flags.f_contiguous == array.flags.f_contiguous
        np.testing.assert_array_equal(back, before)
        np.testing.assert_array_equal(np.asarray(array), np.asarray(before))

    @pytest.mark.parametrize("count", [3, 30_000, 300_000])
    @pytest.mark.parametrize("kind", KINDS)
    def test_all_kinds_can_be_changed_in_the_worker(self, forked, kind, count):
        array = KINDS[kind](count)
        before = array.copy()
        assert forked.apply(overwrite, (array,)) is True
        np.testing.assert_array_equal(np.asarray(array), np.asarray(before))

    def test_read_only_arrays_in_a_lambda(self, method):
        array = read_only(np.arange(30_000.0))
        table = read_only(np.arange(3.0))
        with pydistrib.Pool(1, context=method) as pool:
            sums = pool.apply(lambda: (overwrite(array), overwrite(table), array.sum()))
        pool.join()
        assert sums == (True, True, array.sum())

    def test_read_only_arrays_for_an_initializer(self, method):
        table = read_only(np.arange(3.0))
        with pydistrib.Pool(1, keep, (table,), context=method) as pool:
            assert pool.apply(kept_sums, (0,)) == [3.0]
            assert pool.apply(change_kept) is (method != "fork")  # which copies nothing
        pool.join()

    def test_a_masked_array_keeps_its_mask(self, forked):
        array = np.ma.masked_less(np.arange(30_000.0), 5)
        back = forked.apply(echo, (array,))
        assert (back.mask == array.mask).all()
        assert back.sum() == array.sum()

    def test_many_in_one_task(self, method):
        arrays = [np.full(5000, float(i)) for i in range(200)]
        with pydistrib.Pool(1, context=method) as pool:
            back = pool.apply(echo, ({"arrays": arrays, "same": [arrays[0]] * 3},))
        pool.join()
        assert all((b == a).all() for a, b in zip(arrays, back["arrays"], strict=True))
        assert back["same"][0] is back["same"][1] is back["arrays"][0]

    def test_large_bytes(self, forked):
        data = os.urandom(3 << 20)
        assert forked.apply(echo, (data,)) == data


def last(array):
    return array[-1]


def at(array, i):
    return float(array[i])


class TestOutput:
    def test_prints_come_before_the_result(self, capsys, method):
        with pydistrib.Pool(1, context=method) as pool:
            for i in range(3):
                pool.apply(shout, (i,))
                assert capsys.readouterr().out == f"out {i}\nno newline"
        pool.join()

    def test_a_killed_worker_has_printed(self, capsys, forked):
        with pytest.raises(WorkerDied):
            forked.apply(shout_and_die)
        assert capsys.readouterr().out == "last words\n"


def shout(i):
    print("out", i)
    print("no newline", end="")


def shout_and_die():
    print("last words")
    os._exit(1)


class TestLife:
    def test_maxtasksperchild(self, method):
        with pydistrib.Pool(1, maxtasksperchild=3, context=method) as pool:
            pids = pool.map(own_pid, range(9), 1)
        pool.join()
        assert len(set(pids)) == 3
        assert all(pids.count(pid) == 3 for pid in pids)

    def test_the_initializer_and_its_arguments(self, method):
        lock = multiprocessing.get_context(method).Lock()
        with pydistrib.Pool(2, use_lock, (lock,), context=method) as pool:
            assert pool.map(with_lock, range(4)) == [0, 1, 4, 9]
        pool.join()

    def test_nested_pools(self, method):
        with pydistrib.Pool(2, context=method) as pool:
            assert pool.map(nested, [2, 3]) == [[0, 1], [0, 1, 4]]
        pool.join()

    def test_two_pools(self):
        with (
            pydistrib.Pool(1, context="fork") as one,
            pydistrib.Pool(2, context="forkserver") as two,
        ):
            assert one.map(square, range(5)) == two.map(square, range(5))
        one.join()
        two.join()

    def test_terminate_kills_what_runs(self, forked):
        result = forked.apply_async(time.sleep, (60,))
        many = forked.map_async(time.sleep, [60] * 5000, 1)
        time.sleep(0.1)
        start = time.monotonic()
        forked.terminate()
        forked.join()
        assert time.monotonic() - start < 10
        for lost in (result, many):
            with pytest.raises(CancelledError):
                lost.get(10)

    def test_close_lets_all_end(self, method):
        pool = pydistrib.Pool(2, context=method)
        results = [pool.apply_async(square, (i,)) for i in range(5000)]
        pool.close()
        pool.join()
        assert [r.get(0) for r in results] == [i * i for i in range(5000)]
        with pytest.raises(ValueError, match="not running"):
            pool.apply(square, (2,))

    def test_names_and_identities(self, method):
        with pydistrib.Pool(2, context=method) as pool:
            names = set(pool.map(own_name, range(20), 1))
        pool.join()
        assert names <= {(f"{pool._engine.name}-{i}", (i,)) for i in (1, 2)}

    def test_arguments_are_checked(self):
        for bad in (0, -1):
            with pytest.raises(ValueError, match="at least 1"):
                pydistrib.Pool(bad)
        with pytest.raises(TypeError, match="processes must be"):
            pydistrib.Pool("2")
        with pytest.raises(TypeError, match="callable"):
            pydistrib.Pool(1, 5)
        with pytest.raises(ValueError, match="maxtasksperchild"):
            pydistrib.Pool(1, maxtasksperchild=0)
        with pytest.raises(ValueError, match="context must be"):
            pydistrib.Pool(1, context="thread")
        with pytest.raises(TypeError, match="context must be"):
            pydistrib.Pool(1, context=5)

    def test_stats(self, forked):
        forked.map(square, range(10), 1)
        stats = forked.stats()
        assert stats.tasks == 10
        assert stats.queued == 0
        assert all(0 <= w.queue_wait < 60 and w.gil_wait == 0 for w in stats.workers)

    def test_the_wait_in_the_queue_is_measured(self):
        with pydistrib.Pool(1, context="fork") as pool:
            pool.map(time.sleep, [0.1] * 4, 1)
            (worker,) = pool.stats().workers
            assert worker.tasks == 4
            assert 0.14 < worker.queue_wait < 60  # 0, 0.1, 0.2 and 0.3 at least
            assert 0.39 < worker.run_time < 60
        pool.join()


def own_pid(_):
    return os.getpid()


def own_name(_):
    me = multiprocessing.current_process()
    return me.name, me._identity


the_lock = None


def use_lock(lock):
    global the_lock
    the_lock = lock


def with_lock(x):
    with the_lock:
        return square(x)


class TestExecutor:
    def test_it_is_one(self, method):
        with pydistrib.ProcessPoolExecutor(2, method) as executor:
            assert executor.submit(pow, 2, 5).result() == 32
            assert list(executor.map(pow, [2, 3], [3, 2])) == [8, 9]
            assert list(executor.map(pow, [2, 3, 4], [3, 2, 1], chunksize=2)) == [8, 9, 4]
        with pytest.raises(RuntimeError, match="shutdown"):
            executor.submit(pow, 2, 5)

    def test_cancel_futures(self):
        executor = pydistrib.ProcessPoolExecutor(1, "fork")
        first = executor.submit(time.sleep, 0.3)
        time.sleep(0.1)
        rest = [executor.submit(time.sleep, 30) for _ in range(5)]
        executor.shutdown(cancel_futures=True)
        assert first.result() is None
        assert all(future.cancelled() for future in rest)


class TestProcess:
    def test_results(self, method):
        context = pydistrib.get_context(method)
        process = context.Process(target=square, args=(7,))
        process.start()
        assert process.result(60) == process.result() == 49
        assert process.exitcode == 0
        large = context.Process(target=bytes, args=(10_000_000,))
        large.start()
        large.join(60)
        assert len(large.result()) == 10_000_000

    def test_failures(self, method, capfd):
        context = pydistrib.get_context(method)
        process = context.Process(target=divide, args=(1, 0))
        process.start()
        with pytest.raises(ZeroDivisionError):
            process.result(60)
        process = context.Process(target=os._exit, args=(3,))
        process.start()
        with pytest.raises(WorkerDied, match="status 3"):
            process.result(60)
        process = context.Process(target=lambda: 5)
        process.start()
        assert process.result(60) == 5
        if method == "fork":  # the others' stderr is the one of their server
            assert "ZeroDivisionError" in capfd.readouterr().err

    def test_timeout(self):
        process = pydistrib.Process(target=time.sleep, args=(60,))
        with pytest.raises(RuntimeError, match="before it is started"):
            process.result()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        with pytest.raises(TimeoutError):
            process.result(0.1)
        process.terminate()
        with pytest.raises(WorkerDied, match="SIGTERM"):
            process.result(30)

    def test_contexts(self, method):
        context = pydistrib.get_context(method)
        assert context.get_start_method() == method
        assert isinstance(
            context.Process(), multiprocessing.Process().__class__.__bases__[-1]
        )
        with context.Pool(1) as pool:
            assert pool.map(square, [2]) == [4]
        pool.join()
        with pytest.raises(ValueError, match="cannot find context"):
            pydistrib.get_context("thread")


def test_what_is_defined_after_the_pool(method, tmp_path):
    """New functions, and new ones of an old name, are those that run."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import pydistrib

            def old(x):
                return helper(x)

            def helper(x):
                return -x

            inherited = [1]
            pool = pydistrib.Pool(1, context={method!r})
            print(pool.map(old, [1, 2]))

            def new(x):
                return helper(x) * 2

            print(pool.map(new, [1, 2]))

            def old(x, y):
                return x + y

            print(pool.starmap(old, [(1, 2)]))

            def helper(x):
                return 10 * x

            def new(x):
                return helper(x) + len(inherited)

            print(pool.map(new, [1, 2]))
            pool.close()
            pool.join()
            """
        )
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split("\n")[:4] == ["[-1, -2]", "[-2, -4]", "[3]", "[11, 21]"]


def test_functions_among_arguments_are_sent_anew_when_they_change(method, tmp_path):
    """A function of ``__main__`` is pickled once, but for what it depends on."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import pydistrib

            FACTOR = 2

            def scale(x):
                return FACTOR * x

            def call(f, x):
                return f(x)

            del __file__  # as in a notebook
            pool = pydistrib.Pool(1, context={method!r})
            print(pool.apply(call, (scale, 5)), pool.apply(call, (scale, 6)))
            FACTOR = 3
            print(pool.apply(call, (scale, 5)))
            FACTOR = 2
            print(pool.apply(call, (scale, 5)))
            scale.__code__ = (lambda x: -x).__code__
            print(pool.apply(call, (scale, 5)))
            print(pool.apply(call, (lambda x, n=[]: n.append(x) or n, 5)))
            print(pool.apply(call, (lambda x, n=[]: n.append(x) or n, 5)))
            pool.close()
            pool.join()
            """
        )
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split("\n")[:6] == ["10 12", "15", "10", "-5", "[5]", "[5]"]
