"""SharedArray, shared_empty, share and SharedLock."""

from __future__ import annotations

import contextlib
import copy
import gc
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from pydistrib import SharedArray, SharedLock, share, shared_empty

sys.path.insert(0, str(Path(__file__).parent))
import work


@pytest.fixture(params=["fork", "spawn", "forkserver"])
def context(request):
    return multiprocessing.get_context(request.param)


class TestMaking:
    @pytest.mark.parametrize("terabytes", [1, 64])
    def test_more_than_there_is(self, terabytes):
        """Refused at once: the kernel would end processes before it said no."""
        with pytest.raises(MemoryError):
            shared_empty(terabytes << 40, "u1")

    @pytest.mark.parametrize(
        "shape", [(), 0, 5, (5,), [2, 3], (2, 0), np.int64(4)], ids=str
    )
    @pytest.mark.parametrize("dtype", ["f4", "?", "M8[s]", [("a", "i4"), ("b", "S3")]])
    def test_empty(self, shape, dtype):
        array = shared_empty(shape, dtype)
        expected = np.zeros(tuple(shape) if isinstance(shape, list) else shape, dtype)
        assert type(array) is SharedArray
        assert (array.shape, array.dtype) == (expected.shape, expected.dtype)
        assert array.tobytes() == expected.tobytes()
        assert array.flags.writeable
        assert array.flags.c_contiguous

    def test_share(self):
        for source in (np.arange(12.0).reshape(3, 4), np.ones((3, 4)).T, [1, 2], 5.0):
            array = share(source)
            assert type(array) is SharedArray
            np.testing.assert_array_equal(array, source)
            assert array.flags.f_contiguous == np.asarray(source).flags.f_contiguous
        assert share(array) is array
        assert shared_empty((2, 3), order="F").flags.f_contiguous

    def test_what_cannot_be_shared(self):
        with pytest.raises(TypeError, match="dtype must have no Python objects"):
            shared_empty(3, object)
        with pytest.raises(TypeError, match="dtype must have no Python objects"):
            share(np.array([None]))
        with pytest.raises(ValueError, match="shape must not be negative"):
            shared_empty(-1)
        with pytest.raises(
            TypeError, match=r"made by shared_empty\(shape, dtype\) or share"
        ):
            SharedArray((3,))
        with pytest.raises(ValueError, match="order must be 'C' or 'F'"):
            shared_empty(1, order="K")
        with pytest.raises(MemoryError):
            shared_empty((2**40, 2**40))

    def test_more_than_two_gigabytes(self):
        array = shared_empty((3, 2**30), np.uint8)
        array[2, -1] = 7
        assert array.nbytes == 3 * 2**30
        process = multiprocessing.get_context("fork").Process(
            target=work.fill, args=(array[2, -5:], 9)
        )
        process.start()
        process.join()
        assert list(array[2, -6:]) == [0, 9, 9, 9, 9, 9]


class TestSharing:
    def test_what_a_child_writes_is_seen(self, context):
        array = shared_empty((4, 5))
        for part, value in (
            (array, 1),
            (array[1], 2),
            (array[::-2, 1:3], 3),
            (array.T[4], 4),
        ):
            process = context.Process(target=work.fill, args=(part, value))
            process.start()
            process.join()
            assert (part == value).all()
        expected = np.ones((4, 5))
        expected[1] = 2
        expected[::-2, 1:3] = 3
        expected[:, 4] = 4
        np.testing.assert_array_equal(array, expected)

    def test_through_a_pool_and_back(self, context):
        array = share(np.arange(5.0) + 1)
        with context.Pool(2) as pool:
            for _ in range(3):
                pool.apply(work.double_first, (array,))
            back = pool.apply(work.give_back, (array[1:3],))
        assert array[0] == 8
        back[0] = -1
        assert array[1] == -1

    def test_read_only_views_stay_read_only(self):
        array = share([1.0, 2.0])
        view = array[:]
        view.flags.writeable = False
        ours, theirs = multiprocessing.Pipe()
        ours.send(view)
        assert not theirs.recv().flags.writeable

    def test_results_are_plain(self):
        array = share(np.arange(4.0))
        results = [
            array * 2,
            array + array,
            np.sqrt(array),
            array[[0, 1]],
            array[array > 1],
        ]
        results += [array.copy(), copy.copy(array), copy.deepcopy(array), np.array(array)]
        results += [-array, array.astype("f4")]
        for result in results:
            assert type(result) is np.ndarray
            assert not np.shares_memory(result, array)
        for view in (array[1:], array.T, array.reshape(2, 2), array.view("i8"), array[...]):
            assert type(view) is SharedArray
            assert view.is_shared
            assert np.shares_memory(view, array)
        assert not getattr(array.repeat(2), "is_shared", False)
        assert type(array.sum()) is np.float64
        assert type(array[0]) is np.float64
        array += 1
        assert type(array) is SharedArray
        assert np.add(array, 1, out=array) is array
        assert list(array) == [2, 3, 4, 5]

    def test_plain_pickle(self):
        array = share([1.0])
        with pytest.raises(TypeError, match="SharedArray cannot be pickled by itself"):
            pickle.dumps(array)

    def test_memory_lives_as_long_as_a_view(self):
        view = share(np.arange(100_000))[10:]
        gc.collect()
        assert view[0] == 10
        fd = view._block.fileno()
        memory = os.fstat(fd)
        del view
        gc.collect()
        # Another thread may have been given the number meanwhile.
        with contextlib.suppress(OSError):
            assert not os.path.samestat(os.fstat(fd), memory)


class TestLock:
    def test_as_a_lock(self):
        lock = SharedLock()
        assert not lock.locked()
        assert lock.acquire()
        assert lock.locked()
        assert repr(lock) == "<SharedLock: locked>"
        assert not lock.acquire(False)
        assert not lock.acquire(blocking=False)
        assert not lock.acquire(timeout=0.01)
        with pytest.raises(RuntimeError, match="holds the lock already"):
            lock.acquire()
        lock.release()
        with pytest.raises(RuntimeError, match="does not hold the lock"):
            lock.release()
        with lock as taken:
            assert taken is True
            assert not lock.owner_died
        assert not lock.locked()
        for arguments in ({"timeout": float("nan")}, {"blocking": False, "timeout": 1}):
            with pytest.raises(ValueError, match="timeout"):
                lock.acquire(**arguments)

    def test_it_excludes(self, context):
        lock, array = SharedLock(), shared_empty(1, int)
        processes = [
            context.Process(target=work.add_under, args=(lock, array, 500))
            for _ in range(3)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert array[0] == 1500

    def test_the_next_is_told_that_the_owner_died(self, context):
        lock = SharedLock()
        ours, theirs = context.Pipe()
        process = context.Process(target=work.hold_and_die, args=(lock, theirs))
        process.start()
        assert ours.recv() == process.pid
        assert lock.locked()
        assert not lock.acquire(timeout=0.05)
        threading.Timer(0.1, os.kill, (process.pid, signal.SIGKILL)).start()
        assert lock.acquire(timeout=30)
        assert lock.owner_died
        process.join()
        lock.release()
        assert not lock.owner_died
        with lock:
            assert not lock.owner_died

    def test_a_thread_that_ends_with_the_lock(self):
        lock = SharedLock()
        thread = threading.Thread(target=lock.acquire)
        thread.start()
        thread.join()
        time.sleep(0.05)
        with lock:
            assert lock.owner_died

    def test_held_while_nobody_refers_to_it(self):
        for _ in range(10):
            SharedLock().acquire()
        gc.collect()
        with SharedLock() as taken:
            assert taken

    def test_only_who_took_it_gives_it_back(self):
        lock, errors = SharedLock(), []
        lock.acquire()

        def give_back():
            try:
                lock.release()
            except RuntimeError as error:
                errors.append(str(error))

        thread = threading.Thread(target=give_back)
        thread.start()
        thread.join()
        assert errors == ["this thread does not hold the lock"]
        lock.release()
