"""The pool protocol: what every pool does, whatever runs its tasks."""

from __future__ import annotations

import ast
import asyncio
import concurrent.futures
import copyreg
import gc
import itertools
import multiprocessing.pool
import os
import pickle
import sys
import threading
import time
import weakref

import numpy as np
import pytest

import pydistrib
from pydistrib import TimeoutError

# Those that read a stream's input to its end when they are closed.
LOCAL = (pydistrib.ThreadPool, pydistrib.Pool)


class Unwell(Exception):
    pass


class Broken(Exception):
    """An exception that can't be made from its args, printed or compared."""

    def __init__(self, a, b):
        super().__init__()

    def __str__(self):
        raise Unwell("no text")

    __repr__ = __str__

    def __eq__(self, other):
        raise Unwell("no equality")

    __hash__ = None


class Gate:
    """An event that is a file: whichever process a task runs in, it can wait for it."""

    def __init__(self, path):
        self.path = str(path)

    def set(self):
        os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY))

    def wait(self, timeout=60):
        deadline = time.monotonic() + timeout
        while not os.path.exists(self.path):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        return True


class Record:
    """A list that is a file: whichever process a task runs in, it can add to it."""

    def __init__(self, path):
        self.path = str(path)
        self.clear()

    def append(self, item):
        fd = os.open(self.path, os.O_APPEND | os.O_WRONLY)
        try:
            os.write(fd, f"{item!r}\n".encode())
        finally:
            os.close(fd)

    def read(self):
        with open(self.path) as lines:
            return [ast.literal_eval(line) for line in lines]

    def clear(self):
        open(self.path, "w").close()


@pytest.fixture
def gate(tmp_path):
    """What a task waits for; it opens in the end, whatever the test does."""
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.set()


@pytest.fixture
def begun(tmp_path):
    """What a task sets when it begins."""
    return Gate(tmp_path / "begun")


@pytest.fixture
def record(tmp_path):
    """What tasks note."""
    return Record(tmp_path / "record")


def begin_and_wait(begun, gate):
    begun.set()
    return gate.wait()


def square(x):
    return x * x


def fail(*args):
    raise Unwell(*args)


def fail_odd(x):
    if x % 2:
        raise Unwell(x)
    return x


def failing_input(good):
    yield from range(good)
    raise Unwell("input")


class TestApply:
    def test_returns_the_result(self, pool):
        assert pool.apply(square, (7,)) == 49
        assert pool.apply(dict, (), {"x": 3}) == {"x": 3}
        assert pool.apply(square, [7]) == 49  # any sequence, as in f(*args)
        assert pool.apply(dict) == {}

    def test_result_can_be_read_twice(self, pool):
        result = pool.apply_async(square, (7,))
        assert result.get() == result.get(timeout=5) == 49
        assert result.ready()
        assert result.successful()

    def test_failure_can_be_read_twice(self, pool):
        result = pool.apply_async(fail, (1,))
        with pytest.raises(Unwell) as first:
            result.get()
        with pytest.raises(Unwell) as second:
            result.get()
        assert second.value is first.value
        assert first.value.args == (1,)
        assert not result.successful()

    def test_a_failure_has_its_traceback(self, pool, shares_memory):
        with pytest.raises(Unwell) as caught:
            pool.apply(fail)
        if not shares_memory:
            text = str(caught.value.__cause__)
            assert "Traceback" in text
            assert "in fail" in text
            assert "raise Unwell(*args)" in text
            return
        frames = []
        trace = caught.value.__traceback__
        while trace is not None:
            frames.append(trace.tb_frame.f_code.co_name)
            trace = trace.tb_next
        assert frames[-1] == "fail"

    def test_get_times_out(self, pool, gate):
        result = pool.apply_async(gate.wait)
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            result.get(timeout=0.1)
        assert 0.09 < time.monotonic() - start < 5
        with pytest.raises(TimeoutError):
            result.get(0)
        with pytest.raises(TimeoutError):
            result.get(-1)
        assert result.wait(0.01) is None
        assert not result.ready()
        with pytest.raises(ValueError, match="not ready"):
            result.successful()
        gate.set()
        assert result.get(10**20) is True
        assert result.get(float("inf")) is True

    @pytest.mark.parametrize("timeout", ["1", [1], 1j])
    def test_a_timeout_must_be_a_number(self, pool, timeout):
        result = pool.apply_async(square, (1,))
        with pytest.raises(TypeError, match="timeout must be a number"):
            result.get(timeout)
        with pytest.raises(TypeError):
            result.get(1, 2)
        with pytest.raises(TypeError):
            result.get(seconds=1)

    def test_a_timeout_must_not_be_nan(self, pool):
        result = pool.apply_async(square, (1,))
        with pytest.raises(ValueError, match="NaN"):
            result.get(float("nan"))
        assert result.get() == 1

    @pytest.mark.parametrize("func", [None, 5, "len", ()])
    def test_func_must_be_callable(self, pool, func):
        for method in (pool.apply, pool.apply_async, pool.submit):
            with pytest.raises(TypeError, match=r"callable"):
                method(func)
        for method in (pool.map, pool.map_async, pool.starmap, pool.starmap_async):
            with pytest.raises(TypeError, match=r"callable"):
                method(func, [1])
        for method in (pool.imap, pool.imap_unordered):
            with pytest.raises(TypeError, match=r"callable"):
                method(func, [1])
        with pytest.raises(TypeError, match=r"callable"):
            pool.apply(func, retries=1)

    def test_bad_arguments_are_named(self, pool):
        with pytest.raises(TypeError, match="args must be a sequence, not int"):
            pool.apply(square, 7)
        with pytest.raises(TypeError, match="kwds must be a mapping, not int"):
            pool.apply(square, (), 7)
        with pytest.raises(TypeError):
            pool.apply(square, (1, 2))

    @pytest.mark.parametrize(
        "make",
        [
            lambda: SystemExit(3),
            lambda: KeyboardInterrupt(),
            lambda: GeneratorExit(),
            lambda: Broken(1, 2),
            lambda: StopIteration(4),
        ],
    )
    def test_whatever_is_raised_is_the_result(self, pool, make, shares_memory):
        error = make() if shares_memory else None

        def task():
            raise make() if error is None else error

        with pytest.raises(BaseException) as caught:  # noqa: PT011
            pool.apply(task)
        if shares_memory:
            assert caught.value is error
        elif type(caught.value) is Broken and Broken in copyreg.dispatch_table:
            pass  # Dask, once it is imported, can pickle any exception
        elif type(make()) is Broken:  # which can't be pickled, and the result says so
            assert type(caught.value) is multiprocessing.pool.MaybeEncodingError
            assert "<Broken whose repr() fails>" in str(caught.value)
        else:
            assert type(caught.value) is type(make())
            assert caught.value.args == make().args
        assert pool.apply(square, (3,)) == 9  # the pool goes on

    def test_exceptions_are_values_too(self, pool):
        error = pool.apply(Unwell, (1,))
        assert isinstance(error, Unwell)

    def test_arguments_and_results_are_released(self, pool):
        class Thing:
            pass

        things = [Thing() for _ in range(10)]
        refs = [weakref.ref(thing) for thing in things]
        results = [pool.apply_async(lambda x: x, (thing,)) for thing in things]
        for result in results:
            result.get()
        pool.map(lambda x: x, things)
        for _ in pool.imap(lambda x: x, things):
            pass
        del things, results, result, _
        deadline = time.monotonic() + 5
        while any(ref() is not None for ref in refs):
            gc.collect()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def test_results_can_be_weakly_referenced_and_subscripted(self, pool):
        result = pool.apply_async(square, (1,))
        assert weakref.ref(result)() is result
        assert pydistrib.AsyncResult[int]
        assert "AsyncResult" in repr(result)


class TestCallbacks:
    def test_the_right_one_is_called_before_the_result_is_ready(self, pool):
        seen = []
        pool.apply_async(square, (3,), {}, seen.append, fail).wait()
        assert seen == [9]
        pool.apply_async(fail, (3,), {}, fail, seen.append).wait()
        assert isinstance(seen[1], Unwell)
        pool.map_async(square, range(4), None, seen.append).wait()
        assert seen[2] == [0, 1, 4, 9]
        pool.starmap_async(fail, [(1,)], error_callback=seen.append).wait()
        assert isinstance(seen[3], Unwell)

    def test_they_run_one_at_a_time(self, make_pool):
        pool = make_pool(8)
        inside = []
        most = []

        def callback(_):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.002)
            inside.pop()

        results = [pool.apply_async(square, (i,), callback=callback) for i in range(40)]
        for result in results:
            result.get()
        assert len(most) == 40
        assert max(most) == 1

    def test_one_that_raises_is_reported_and_the_result_comes(self, pool, monkeypatch):
        reported = []
        monkeypatch.setattr(threading, "excepthook", lambda args: reported.append(args[1]))
        assert pool.apply_async(square, (3,), callback=fail).get() == 9
        with pytest.raises(KeyError):
            pool.apply_async({}.__getitem__, (3,), error_callback=fail).get()
        assert [type(error) for error in reported] == [Unwell, Unwell]
        assert pool.apply(square, (2,)) == 4

    def test_they_can_start_tasks(self, pool):
        later = []
        first = pool.apply_async(
            square, (3,), callback=lambda x: later.append(pool.apply_async(square, (x,)))
        )
        assert first.get() == 9
        assert later[0].get() == 81

    def test_they_must_be_callable_to_matter(self, pool):
        assert pool.apply_async(square, (2,), {}, None, None).get() == 4


class TestMap:
    @pytest.mark.parametrize("chunksize", [None, 1, 2, 7, 100, 10**30])
    @pytest.mark.parametrize("count", [0, 1, 2, 37])
    def test_order_is_kept(self, pool, count, chunksize):
        expected = [square(i) for i in range(count)]
        assert pool.map(square, range(count), chunksize) == expected
        assert pool.map(square, iter(range(count)), chunksize) == expected
        assert pool.map_async(square, range(count), chunksize).get() == expected
        pairs = [(i, 2) for i in range(count)]
        assert pool.starmap(pow, pairs, chunksize) == expected
        assert pool.starmap_async(pow, pairs, chunksize).get() == expected

    @pytest.mark.parametrize(
        "make", [lambda: {1: 2, 3: 4}, lambda: {5}, lambda: "abc", lambda: iter("ab"), list]
    )
    def test_any_iterable_will_do(self, pool, make):
        assert pool.map(str, make()) == [str(item) for item in make()]

    @pytest.mark.parametrize("bad", [0, -1, 1.5, "2"])
    def test_chunksize_must_be_a_positive_number(self, pool, bad):
        for method in (pool.map, pool.map_async, pool.imap, pool.imap_unordered):
            with pytest.raises((ValueError, TypeError), match="chunksize must be"):
                method(square, [1], bad)

    def test_not_iterable(self, pool):
        for method in (pool.map, pool.starmap, pool.imap, pool.imap_unordered):
            with pytest.raises(TypeError, match="not iterable"):
                method(square, 5)

    def test_the_first_failure_is_raised_after_all_have_run(self, pool, record):
        def task(x):
            record.append(x)
            return fail_odd(x)

        with pytest.raises(Unwell):
            pool.map(task, range(10), chunksize=1)
        assert sorted(record.read()) == list(range(10))

    def test_starmap_of_things_that_are_no_tuples(self, pool):
        assert pool.starmap(pow, [[2, 3], iter((3, 2))]) == [8, 9]
        with pytest.raises(TypeError):
            pool.starmap(pow, [5])

    @pytest.mark.parametrize("good", [0, 3])
    def test_an_input_that_raises(self, pool, good):
        with pytest.raises(Unwell, match="input"):
            pool.map(square, failing_input(good))
        assert pool.map(square, [2]) == [4]

    def test_an_input_that_raises_although_it_has_a_length(self, pool):
        class Lying:
            def __len__(self):
                return 5

            def __iter__(self):
                raise Unwell("input")

        with pytest.raises(Unwell, match="input"):
            pool.map(square, Lying())

    def test_progress_counts(self, pool):
        result = pool.map_async(square, range(100))
        result.wait()
        assert result.completed == result.total == 100


class TestArrays:
    def test_rows_are_views(self, pool):
        table = np.arange(12.0).reshape(4, 3)

        def double(row):
            assert row.base is not None
            row *= 2
            return row.sum()

        assert pool.map(double, table) == [6.0, 24.0, 42.0, 60.0]
        assert table[3, 2] == 22

    def test_vectors_give_their_scalars(self, pool):
        values = pool.map(lambda x: x, np.arange(3, dtype=np.int16))
        assert values == [0, 1, 2]
        assert type(values[0]) is np.int16

    def test_rows_of_an_imap(self, pool):
        table = np.arange(6).reshape(3, 2)
        assert [int(x) for x in pool.imap(np.sum, table)] == [1, 5, 9]

    def test_an_array_without_rows(self, pool):
        with pytest.raises(TypeError, match="0-dimensional"):
            pool.map(square, np.array(3))

    @pytest.mark.parametrize("dtype", [np.float64, np.int8, object])
    def test_out_gets_the_results(self, pool, dtype):
        out = np.zeros(5, dtype)
        assert pool.map(square, range(5), out=out) is out
        assert out.tolist() == [0, 1, 4, 9, 16]

    def test_out_with_rows(self, pool):
        out = np.empty((3, 2))
        assert pool.map(lambda i: (i, -i), range(3), out=out) is out
        assert out.tolist() == [[0, 0], [1, -1], [2, -2]]
        assert pool.starmap(pow, [], out=np.empty(0)).shape == (0,)

    def test_out_must_fit(self, pool):
        with pytest.raises(ValueError, match="one row for each of the 3 items"):
            pool.map(square, range(3), out=np.empty(4))
        with pytest.raises(ValueError, match="shape is"):
            pool.map(square, range(3), out=np.array(1.0))
        with pytest.raises(TypeError, match="out must be an ndarray, not list"):
            pool.map(square, range(3), out=[1, 2, 3])
        frozen = np.empty(3)
        frozen.flags.writeable = False
        with pytest.raises(ValueError, match="writeable"):
            pool.map(square, range(3), out=frozen)

    def test_results_that_do_not_fit_out(self, pool):
        with pytest.raises((ValueError, TypeError)):
            pool.map(lambda i: [1, 2, 3], range(3), out=np.empty((3, 2)))


class TestImap:
    @pytest.mark.parametrize("buffersize", [None, 1, 3, 1000])
    @pytest.mark.parametrize("chunksize", [1, 3])
    @pytest.mark.parametrize("count", [0, 1, 10])
    def test_all_results_come(self, pool, count, chunksize, buffersize):
        expected = [square(i) for i in range(count)]
        results = pool.imap(square, range(count), chunksize, buffersize=buffersize)
        assert list(results) == expected
        assert list(results) == []
        results = pool.imap_unordered(
            square, range(count), chunksize, buffersize=buffersize
        )
        assert sorted(results) == expected

    def test_order_of_arrival(self, pool, gate):
        def task(x):
            if x == 0:
                assert gate.wait()
            return x

        results = pool.imap_unordered(task, range(2))
        assert next(results) == 1
        gate.set()
        assert next(results) == 0

    def test_next_with_a_timeout(self, pool, gate):
        results = pool.imap(lambda x: gate.wait(), range(1))
        with pytest.raises(TimeoutError):
            results.next(timeout=0.05)
        with pytest.raises(TimeoutError):
            results.next(0)
        gate.set()
        assert results.next(timeout=60) is True
        with pytest.raises(StopIteration):
            results.next(timeout=1)
        with pytest.raises(StopIteration):
            results.next()

    def test_failures_come_in_their_places(self, pool):
        results = pool.imap(fail_odd, range(4))
        assert next(results) == 0
        with pytest.raises(Unwell, match="1"):
            next(results)
        assert next(results) == 2
        with pytest.raises(Unwell, match="3"):
            next(results)
        assert next(results, None) is None

    def test_a_failure_takes_its_chunk(self, pool):
        results = pool.imap(lambda x: x if x != 3 else fail(x), range(6), 2)
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(Unwell):
            next(results)
        assert list(results) == [4, 5]

    @pytest.mark.parametrize(
        ("good", "chunksize", "come"), [(0, 1, 0), (3, 1, 3), (7, 2, 6)]
    )
    def test_an_input_that_raises_comes_last(self, pool, good, chunksize, come):
        results = pool.imap(square, failing_input(good), chunksize)
        assert [next(results) for _ in range(come)] == [square(i) for i in range(come)]
        with pytest.raises(Unwell, match="input"):
            next(results)
        assert next(results, None) is None
        assert pool.apply(square, (2,)) == 4

    def test_an_endless_input_takes_constant_memory(self, pool):
        alive = weakref.WeakSet()

        class Item:
            pass

        def items():
            while True:
                item = Item()
                alive.add(item)
                yield item

        results = pool.imap(lambda item: item, items(), buffersize=8)
        most = 0
        for item in itertools.islice(results, 2000):
            most = max(most, len(alive))
            del item
        assert most <= 8 + 2 * 2 + 2
        results.close()

    @pytest.mark.parametrize("method", ["imap", "imap_unordered"])
    def test_buffersize_bounds_what_is_out(self, pool, method):
        taken = []

        def items():
            for i in itertools.count():
                taken.append(i)
                yield i

        results = getattr(pool, method)(square, items(), buffersize=5)
        time.sleep(0.1)
        assert len(taken) <= 6
        for _ in range(10):
            next(results)
        time.sleep(0.1)
        assert len(taken) <= 16
        results.close()

    @pytest.mark.parametrize("bad", [0, -1, 1.5, "2"])
    def test_buffersize_must_be_a_positive_number(self, pool, bad):
        with pytest.raises((ValueError, TypeError), match="buffersize must be"):
            pool.imap(square, [1], buffersize=bad)

    def test_close_cancels_what_is_queued(self, pool, gate, record):
        def task(x):
            record.append(x)
            gate.wait()

        results = pool.imap(task, range(1000))
        deadline = time.monotonic() + 60
        while len(record.read()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        results.close()
        results.close()
        gate.set()
        assert list(results) == []
        pool.close()
        pool.join()
        if isinstance(pool, LOCAL):
            assert len(record.read()) == 2

    def test_an_iterator_that_is_dropped_keeps_nothing(self, pool):
        results = pool.imap(square, itertools.count(), buffersize=3)
        next(results)
        ref = weakref.ref(results)
        del results
        deadline = time.monotonic() + 5
        while ref() is not None:
            gc.collect()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def test_close_and_join_after_partial_consumption(self, pool):
        """CPython's own `buffersize` hangs here."""
        results = pool.imap(square, range(100), buffersize=4)
        assert [next(results) for _ in range(3)] == [0, 1, 4]
        pool.close()
        if isinstance(pool, LOCAL):
            pool.join()
            assert list(results) == [square(i) for i in range(3, 100)]
        else:
            results.close()

    def test_consumption_after_close(self, pool):
        results = pool.imap(square, range(50))
        pool.close()
        if isinstance(pool, LOCAL):
            pool.join()
            assert list(results) == [square(i) for i in range(50)]

    def test_several_consumers(self, pool):
        results = pool.imap(square, range(500), buffersize=7)
        got = []

        def consume():
            got.extend(results)

        threads = [threading.Thread(target=consume) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(got) == [square(i) for i in range(500)]


class TestSubmit:
    def test_futures_are_real(self, pool):
        future = pool.submit(pow, 2, 5)
        assert isinstance(future, concurrent.futures.Future)
        assert future.result() == 32
        assert future.exception() is None
        with pytest.raises(Unwell):
            pool.submit(fail).result()
        assert isinstance(pool.submit(fail).exception(), Unwell)
        assert pool.submit(dict, func=1).result() == {"func": 1}

    def test_results_are_the_very_objects(self, pool):
        for value in ((), (1, 2), None, [], Unwell()):
            assert pool.submit(lambda v=value: v).result() is value
            assert pool.apply(lambda v=value: v) is value

    def test_wait_and_as_completed(self, pool):
        futures = [pool.submit(square, i) for i in range(20)]
        assert len(concurrent.futures.wait(futures).done) == 20
        futures = [pool.submit(square, i) for i in range(20)]
        done = concurrent.futures.as_completed(futures, timeout=30)
        assert {f.result() for f in done} == {square(i) for i in range(20)}

    def test_own_as_completed(self, pool, gate):
        slow = pool.submit(gate.wait)
        fast = [
            pool.apply_async(square, (2,)),
            pool.map_async(square, [3]),
            pool.submit(len, ""),
        ]
        results = pool.as_completed([slow, *fast, fast[0]])
        assert {next(results), next(results), next(results)} == set(fast)
        gate.set()
        assert next(results) is slow
        assert next(results, None) is None

    def test_own_as_completed_times_out(self, pool, gate):
        with pytest.raises(TimeoutError):
            list(pool.as_completed([pool.submit(gate.wait)], timeout=0.05))

    def test_cancel(self, make_pool, gate, begun, stops_tasks):
        pool = make_pool(1)
        running = pool.apply_async(begin_and_wait, (begun, gate))
        assert begun.wait()
        future, result = pool.submit(square, 2), pool.apply_async(square, (2,))
        assert future.cancel()
        assert result.cancel()
        assert not result.cancel()
        assert running.cancel() == stops_tasks
        gate.set()
        for cancelled in (future.result, result.get):
            with pytest.raises(concurrent.futures.CancelledError):
                cancelled()
        if stops_tasks:
            with pytest.raises(concurrent.futures.CancelledError):
                running.get()
        else:
            running.get()
        assert pool.apply(square, (3,)) == 9

    def test_executor(self, pool):
        executor = pool.executor
        assert executor is pool.executor
        assert isinstance(executor, concurrent.futures.Executor)
        assert executor.submit(pow, 2, 3).result() == 8
        assert list(executor.map(pow, [2, 3], [3, 2])) == [8, 9]
        assert executor._max_workers == 2
        executor.shutdown()
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(square, 1)
        with pytest.raises(ValueError, match="not running"):
            pool.apply(square, (1,))


class TestLimits:
    def test_timeout_gives_the_result_at_once(self, pool, gate):
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            pool.apply(gate.wait, timeout=0.1)
        assert time.monotonic() - start < 30  # the task would take a minute

    def test_timeout_of_one_among_many(self, make_pool, gate):
        pool = make_pool(3)

        def task(x):
            return gate.wait() if x == 1 else x

        with pytest.raises(TimeoutError):
            pool.map(task, range(3), timeout=0.5)
        results = pool.imap(task, range(3), timeout=0.5)
        assert next(results) == 0
        with pytest.raises(TimeoutError):
            next(results)
        assert next(results) == 2

    def test_quick_tasks_meet_their_limit(self, pool):
        assert pool.map(square, range(50), timeout=30) == [square(i) for i in range(50)]
        assert list(pool.imap(square, range(50), 7, timeout=30, buffersize=14)) == [
            square(i) for i in range(50)
        ]
        assert pool.apply(square, (3,), timeout=30) == 9

    @pytest.mark.parametrize("bad", [0, -1, float("nan"), "x", []])
    def test_timeout_must_be_positive(self, pool, bad):
        for call in (
            lambda: pool.apply(square, (1,), timeout=bad),
            lambda: pool.map(square, [1], timeout=bad),
            lambda: pool.imap(square, [1], timeout=bad),
        ):
            with pytest.raises((ValueError, TypeError), match="timeout must be"):
                call()

    def test_retries(self, pool, record):
        def flaky(x):
            record.append(x)
            if record.read().count(x) < 3:
                raise Unwell(x)
            return x

        assert pool.apply(flaky, (0,), retries=2) == 0
        assert pool.map(flaky, range(1, 4), retries=2) == [1, 2, 3]
        assert list(pool.imap(flaky, range(4, 6), retries=2)) == [4, 5]
        with pytest.raises(Unwell):
            pool.apply(flaky, (9,), retries=1)
        assert record.read().count(9) == 2

    @pytest.mark.parametrize("bad", [-1, 1.5, "2", None])
    def test_retries_must_be_a_number(self, pool, bad):
        with pytest.raises((ValueError, TypeError), match="retries must be"):
            pool.map(square, [1], retries=bad)


class TestAsyncio:
    def test_await(self, pool):
        async def main():
            assert await pool.apply_async(square, (3,)) == 9
            assert await pool.map_async(square, range(4)) == [0, 1, 4, 9]
            with pytest.raises(Unwell):
                await pool.apply_async(fail)
            many = [pool.apply_async(square, (i,)) for i in range(50)]
            assert await asyncio.gather(*map(wrap, many)) == [square(i) for i in range(50)]
            done = pool.apply_async(square, (3,))
            done.wait()
            assert await done == await done == 9

        async def wrap(result):
            return await result

        asyncio.run(main())

    def test_async_for(self, pool):
        async def main():
            results = pool.imap(square, itertools.count(), buffersize=4)
            got = []
            async for value in results:
                got.append(value)
                if len(got) == 20:
                    break
            results.close()
            assert got == [square(i) for i in range(20)]
            assert [x async for x in pool.imap_unordered(abs, range(5), 2)].sort() is None
            assert [x async for x in pool.imap(abs, [])] == []
            with pytest.raises(TimeoutError):
                async for _ in pool.imap(
                    lambda _: (_ for _ in ()).throw(TimeoutError), [1]
                ):
                    pass

        asyncio.run(main())

    def test_cancelling_the_await_cancels_the_task(self, make_pool, gate):
        pool = make_pool(1)
        blocker = pool.apply_async(gate.wait)
        result = pool.apply_async(square, (3,))

        async def main():
            async def wait():
                return await result

            with pytest.raises((asyncio.TimeoutError, asyncio.CancelledError)):
                await asyncio.wait_for(wait(), 0.05)

        asyncio.run(main())
        gate.set()
        with pytest.raises(concurrent.futures.CancelledError):
            result.get()
        assert blocker.get()

    def test_run_in_executor(self, pool):
        async def main():
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(pool.executor, square, 5)

        assert asyncio.run(main()) == 25


class TestProgress:
    def test_bars_move_to_their_ends(self, pool, monkeypatch):
        tqdm_auto = pytest.importorskip("tqdm.auto")
        bars = []

        class Bar(tqdm_auto.tqdm):
            monitor_interval = 0  # no thread of its own

            def __init__(self, **kwargs):
                bars.append(self)
                super().__init__(**kwargs)

        monkeypatch.setattr(tqdm_auto, "tqdm", Bar)
        assert pool.map(square, range(30), progress=True) == [square(i) for i in range(30)]
        assert (bars[-1].n, bars[-1].total) == (30, 30)
        result = pool.starmap_async(pow, [(1, 2)] * 5, progress=True)
        result.get()
        results = pool.imap(square, range(7), progress=True)
        assert results.next(timeout=10) == 0
        assert list(results) == [square(i) for i in range(1, 7)]
        assert (bars[-1].n, bars[-1].total) == (7, 7)
        with pytest.raises(Unwell):
            pool.map(fail, [1], progress=True)
        with pytest.raises(TypeError):
            pool.map(square, 5, progress=True)
        results = pool.imap(square, range(7), progress=True)
        results.close()

    def test_without_tqdm_the_error_says_what_to_install(self, pool, monkeypatch):
        monkeypatch.setitem(sys.modules, "tqdm.auto", None)
        with pytest.raises(ImportError, match=r"pip install tqdm"):
            pool.map(square, [1], progress=True)


class TestLife:
    def test_use_after_close(self, pool):
        pool.close()
        pool.close()
        for call in (
            lambda: pool.apply(square, (1,)),
            lambda: pool.apply_async(square, (1,)),
            lambda: pool.map(square, [1]),
            lambda: pool.map(square, []),
            lambda: pool.starmap(pow, [(1, 2)]),
            lambda: pool.imap(square, [1]),
            lambda: pool.imap_unordered(square, [1]),
            lambda: pool.submit(square, 1),
            pool.__enter__,
        ):
            with pytest.raises(ValueError, match="Pool not running"):
                call()
        pool.join()
        pool.join()

    def test_join_before_close(self, pool):
        with pytest.raises(ValueError, match="still running"):
            pool.join()

    def test_close_lets_everything_end(self, pool):
        results = [pool.apply_async(square, (i,)) for i in range(100)]
        many = pool.map_async(square, range(1000))
        pool.close()
        pool.join()
        assert [r.get(0) for r in results] == [square(i) for i in range(100)]
        assert many.get(0) == [square(i) for i in range(1000)]

    def test_terminate_fails_what_has_not_begun(self, make_pool, gate, begun, stops_tasks):
        pool = make_pool(1)
        running = pool.apply_async(begin_and_wait, (begun, gate))
        assert begun.wait()
        waiting = pool.apply_async(square, (1,))
        future = pool.submit(square, 1)
        pool.terminate()
        pool.terminate()
        with pytest.raises(concurrent.futures.CancelledError):
            waiting.get(60)
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(60)
        if stops_tasks:
            with pytest.raises(concurrent.futures.CancelledError):
                running.get(30)  # the gate stays shut
        else:
            gate.set()
            running.get(60)
        pool.join()

    def test_with_terminates(self, make_pool):
        with make_pool() as pool:
            assert pool.map(square, [2]) == [4]
        with pytest.raises(ValueError, match="not running"):
            pool.map(square, [1])

    def test_a_pool_that_is_not_closed_warns_and_finishes(self, make_pool, request):
        pool_type = type(make_pool())
        pool = pool_type(2)
        result = pool.apply_async(square, (3,))
        with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool"):
            pool = None
        assert result.get(10) == 9

    def test_pools_are_not_pickled(self, pool):
        with pytest.raises(NotImplementedError, match="cannot be passed"):
            pickle.dumps(pool)

    def test_repr_and_stats(self, pool):
        assert "state=RUN pool_size=2" in repr(pool)
        pool.map(square, range(10), 1)
        deadline = time.monotonic() + 5
        while (stats := pool.stats()).tasks < 10:
            assert time.monotonic() < deadline
        assert stats.queued == 0
        pool.close()
        assert "state=CLOSE" in repr(pool)
