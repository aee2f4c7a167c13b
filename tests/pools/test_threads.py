"""ThreadPool and ThreadPoolExecutor: what threads alone do, and what can befall them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import hashlib
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures.thread import BrokenThreadPool

import numpy as np
import pytest

import pydistrib
from pydistrib import ThreadPool, ThreadPoolExecutor, TimeoutError
from pydistrib.pools.threads import MAX_WORKERS


def square(x):
    return x * x


def run_script(script, *, timeout=60, **environment):
    """Run Python in a fresh process: (exit code, stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **environment},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def pool():
    pool = ThreadPool(2)
    yield pool
    pool.terminate()
    pool.join()


class TestConstruction:
    @pytest.mark.parametrize("bad", [0, -1, -(10**30)])
    def test_at_least_one(self, bad):
        with pytest.raises(ValueError, match="at least 1"):
            ThreadPool(bad)
        with pytest.raises(ValueError, match="greater than 0"):
            ThreadPoolExecutor(bad)

    @pytest.mark.parametrize("bad", [MAX_WORKERS + 1, 10**30])
    def test_not_too_many(self, bad):
        for make in (ThreadPool, ThreadPoolExecutor):
            with pytest.raises(ValueError, match=f"at most {MAX_WORKERS}"):
                make(bad)

    @pytest.mark.parametrize("bad", [1.5, "2", [2]])
    def test_a_number(self, bad):
        for make in (ThreadPool, ThreadPoolExecutor):
            with pytest.raises(TypeError, match=r"must be a whole number or None, not"):
                make(bad)

    def test_initializer_must_be_callable(self):
        for make in (ThreadPool, ThreadPoolExecutor):
            with pytest.raises(TypeError, match="initializer must be a callable"):
                make(2, initializer=5)

    def test_a_huge_pool_costs_nothing_before_it_is_used(self):
        with ThreadPool(MAX_WORKERS) as pool:
            assert pool.map(square, range(3)) == [0, 1, 4]
            assert len(pool._engine.crew.threads) < 10
        pool.join()

    def test_the_default_is_the_budget(self):
        with pydistrib.num_threads(3), ThreadPool() as pool:
            assert pool._processes == 3

    def test_workers_are_threads(self, pool):
        thread = pool.apply(threading.current_thread)
        assert isinstance(thread, threading.Thread)
        assert thread is not threading.current_thread()
        assert thread.daemon
        assert thread.name.startswith("ThreadPool-")
        assert thread in pool._pool
        assert len(pool._pool) == 2


class TestInitializer:
    def test_it_runs_in_every_thread_at_once(self):
        seen = []
        local = threading.local()

        def prepare(value):
            local.value = value
            seen.append(threading.current_thread())

        with ThreadPool(3, prepare, (5,)) as pool:
            deadline = time.monotonic() + 10
            while len(seen) < 3:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            assert pool.map(lambda _: local.value, range(20)) == [5] * 20
        pool.join()

    @pytest.mark.parametrize("error", [ZeroDivisionError(), SystemExit(2)])
    def test_one_that_raises_breaks_the_pool(self, error, caplog):
        def prepare():
            raise error

        pool = ThreadPool(2, prepare)
        with pytest.raises(BrokenThreadPool) as caught:
            pool.map(lambda _: pool.apply(square, (2,)), range(1000))
        assert caught.value.__cause__ is error
        for call in (pool.map, pool.imap):
            with pytest.raises(BrokenThreadPool):
                call(square, [1])
        pool.close()
        pool.join()
        assert "Exception in initializer" in caplog.text

    def test_waiters_get_the_error(self, caplog):
        gate = threading.Event()

        def prepare():
            gate.wait(10)
            raise ZeroDivisionError

        with ThreadPool(1, prepare) as pool:
            result, many = pool.apply_async(square, (1,)), pool.map_async(square, [1, 2])
            results, future = pool.imap(square, [1]), pool.submit(square, 1)
            gate.set()
            with pytest.raises(BrokenThreadPool):
                result.get(10)
            with pytest.raises(BrokenThreadPool):
                many.get(10)
            with pytest.raises(BrokenThreadPool):
                results.next(10)
            with pytest.raises((BrokenThreadPool, concurrent.futures.CancelledError)):
                future.result(10)
        pool.join()


class TestNesting:
    """Every one of these hangs for ever in the standard library's pools."""

    @pytest.mark.parametrize("workers", [1, 2])
    def test_maps_in_maps(self, workers):
        with ThreadPool(workers) as pool:

            def outer(x):
                return sum(pool.map(lambda y: x * y, range(5)))

            assert pool.map(outer, range(20)) == [10 * x for x in range(20)]
        pool.join()

    @pytest.mark.parametrize("workers", [1, 2])
    def test_deep(self, workers):
        with ThreadPool(workers) as pool:

            def count(depth):
                if depth == 0:
                    return 1
                left, right = pool.map(count, [depth - 1] * 2)
                return left + right

            assert pool.apply(count, (6,)) == 64
        pool.join()

    def test_everything_in_one_worker(self):
        with ThreadPool(1) as pool:

            def outer(_):
                assert pool.apply(square, (2,)) == 4
                assert pool.apply_async(square, (3,)).get() == 9
                assert list(pool.imap(square, range(5))) == [0, 1, 4, 9, 16]
                assert sorted(pool.imap_unordered(square, range(3), 2)) == [0, 1, 4]
                assert list(pool.imap(square, range(9), buffersize=2)) == [
                    square(i) for i in range(9)
                ]
                assert pool.submit(square, 4).result() == 16
                assert pool.submit(square, 4).exception() is None
                futures = [pool.submit(square, i) for i in range(4)]
                assert {f.result() for f in pool.as_completed(futures)} == {0, 1, 4, 9}
                called = []
                pool.apply_async(square, (5,), callback=called.append).wait()
                return called

            assert pool.map(outer, range(3)) == [[25]] * 3
        pool.join()

    def test_from_a_callback(self):
        with ThreadPool(1) as pool:
            seen = []

            def callback(x):
                seen.append(pool.apply_async(square, (x,), callback=seen.append).get())

            pool.apply_async(square, (3,), callback=callback).get()
            assert seen == [81, 81]
        pool.join()

    def test_a_time_limited_wait_does_not_run_the_task_itself(self):
        with ThreadPool(1) as pool:

            def outer():
                with pytest.raises(TimeoutError):
                    pool.apply_async(square, (2,)).get(0.05)
                return True

            assert pool.apply(outer)
        pool.join()


class TestTimeLimits:
    def test_python_code_is_stopped(self, pool):
        stopped = threading.Event()

        def spin():
            try:
                while True:
                    pass
            finally:
                stopped.set()

        with pytest.raises(TimeoutError, match=r"0\.1 s"):
            pool.apply(spin, timeout=0.1)
        assert stopped.wait(10)

    def test_stuck_tasks_do_not_use_up_the_pool(self, pool):
        gate = threading.Event()
        for _ in range(5):
            with pytest.raises(TimeoutError):
                pool.map(gate.wait, [10, 10], timeout=0.05)
        assert pool.map(square, range(5)) == [square(i) for i in range(5)]
        pool.close()
        start = time.monotonic()
        pool.join()
        assert time.monotonic() - start < 5
        gate.set()

    def test_the_limit_of_one_task_does_not_hit_the_next(self):
        with ThreadPool(1) as pool:
            for _ in range(300):
                result = pool.apply_async(time.sleep, (0.0005,), timeout=0.0005)
                after = pool.apply_async(lambda: sum(range(50)))
                assert after.get(10) == 1225
                result.wait(10)
        pool.join()

    def test_many_limits_at_once(self, pool):
        results = [pool.apply_async(square, (i,), timeout=100) for i in range(3000)]
        assert [r.get(10) for r in results] == [square(i) for i in range(3000)]

    def test_error_callback(self, pool):
        seen = []
        gate = threading.Event()
        pool.apply_async(gate.wait, (10,), {}, None, seen.append, timeout=0.05).wait(10)
        gate.set()
        assert isinstance(seen[0], TimeoutError)


class TestCtrlC:
    SCRIPT = """
        import os, signal, sys, threading, time
        import pydistrib
        def spin(until):
            while time.monotonic() < until:
                pass
        pool = pydistrib.ThreadPool(2)
        pool.map(abs, range(10))
        waits = {{
            "get": lambda: pool.apply_async(time.sleep, (1.5,)).get(),
            "apply": lambda: pool.apply(time.sleep, (1.5,)),
            "map": lambda: pool.map(time.sleep, [1.5, 1.5, 1.5]),
            "imap": lambda: list(pool.imap(time.sleep, [1.5, 1.5, 1.5])),
            "future": lambda: pool.submit(time.sleep, 1.5).result(),
            "timeout": lambda: pool.apply_async(time.sleep, (1.5,)).get(100),
            "spin": lambda: pool.map(spin, [time.monotonic() + 1.5] * 2),
        }}
        wait = waits[{name!r}]
        def press():
            time.sleep(0.3)
            global pressed
            pressed = time.monotonic()
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=press).start()
        try:
            wait()
        except KeyboardInterrupt:
            print("after", time.monotonic() - pressed)
        print(pool.map(abs, range(-3, 0)))
        pool.close()
        pool.join()
    """

    @pytest.mark.parametrize(
        "name", ["get", "apply", "map", "imap", "future", "timeout", "spin"]
    )
    def test_one_press_ends_a_wait(self, name):
        code, out, err = run_script(self.SCRIPT.format(name=name))
        assert code == 0, err
        first, second = out.splitlines()
        assert first.startswith("after ")
        assert float(first.split()[1]) < 0.2
        assert second == "[3, 2, 1]"

    def test_a_press_while_a_thread_starts(self, monkeypatch):
        """It is raised, and the pool knows that it has the thread."""
        start = threading.Thread.start

        def interrupted(thread):
            monkeypatch.setattr(threading.Thread, "start", start)
            start(thread)
            raise KeyboardInterrupt

        with ThreadPool(1) as pool:
            monkeypatch.setattr(threading.Thread, "start", interrupted)
            with pytest.raises(KeyboardInterrupt):
                pool.apply_async(square, (2,))
            assert pool.map(square, range(5)) == [0, 1, 4, 9, 16]
            assert len(pool._engine.crew.threads) == 1
            assert pool._engine.queue.info()[0] == 1
        pool.join()

    def test_no_thread_can_be_started(self, monkeypatch):
        def refuse(thread):
            raise RuntimeError("can't start new thread")

        with ThreadPool(2) as pool:
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", refuse)
                for call in (pool.apply, pool.submit):
                    with pytest.raises(RuntimeError, match="can't start a new thread"):
                        call(square)
            assert pool.map(square, range(3)) == [0, 1, 4]
        pool.join()

    def test_join(self):
        script = """
            import os, signal, threading, time
            import pydistrib
            pool = pydistrib.ThreadPool(2)
            gate = threading.Event()
            pool.apply_async(gate.wait, (20,))
            pool.close()
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
            start = time.monotonic()
            try:
                pool.join()
            except KeyboardInterrupt:
                print(time.monotonic() - start < 0.6)
            gate.set()
            pool.join()
        """
        code, out, err = run_script(script)
        assert (code, out) == (0, "True\n"), err


class TestFork:
    def run_in_child(self, function):
        """Fork; the child exits with 0 if function() returned true, within 20 s."""
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            try:
                signal.alarm(20)
                os._exit(0 if function() else 1)
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(2)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0

    def test_the_child_can_use_its_copy(self, pool):
        pool.map(square, range(10))

        def child():
            assert pool.map(square, range(10)) == [square(i) for i in range(10)]
            assert list(pool.imap(square, range(10), buffersize=2)) == [
                square(i) for i in range(10)
            ]
            pool.close()
            pool.join()
            return True

        self.run_in_child(child)
        assert pool.map(square, range(10)) == [square(i) for i in range(10)]

    def test_the_child_can_drop_its_copy(self, pool):
        pool.map(square, range(10))
        executor = ThreadPoolExecutor(2)
        executor.submit(square, 2).result()

        def child():
            pool.terminate()
            pool.join()
            executor.shutdown()
            return True

        self.run_in_child(child)
        executor.shutdown()

    def test_in_the_middle_of_everything(self, pool):
        gate = threading.Event()
        begun = threading.Barrier(3)

        def block():
            begun.wait(10)
            gate.wait(10)

        running = [pool.apply_async(block) for _ in range(2)]
        begun.wait(10)
        future = pool.submit(square, 2)
        queued = [pool.apply_async(square, (2,)), pool.map_async(square, range(4)), future]
        results = pool.imap(square, range(4))

        def child():
            for result in running + queued:
                get = result.result if result is future else result.get
                with pytest.raises((RuntimeError, concurrent.futures.CancelledError)):
                    get(10)
            with pytest.raises(RuntimeError, match="forked"):
                results.next(10)
            return pool.map(square, range(4)) == [0, 1, 4, 9]

        self.run_in_child(child)
        gate.set()
        for result in running + queued[:2]:
            result.get(10)
        assert list(results) == [0, 1, 4, 9]

    def test_while_a_callback_runs(self, pool):
        gate = threading.Event()
        begun = threading.Event()

        def callback(_):
            begun.set()
            gate.wait(10)

        result = pool.apply_async(square, (2,), callback=callback)
        assert begun.wait(10)

        def child():
            seen = []
            pool.apply_async(square, (3,), callback=seen.append).get(10)
            return seen == [9]

        self.run_in_child(child)
        gate.set()
        assert result.get(10) == 4

    def test_from_inside_a_task(self, pool):
        def task(_):
            self.run_in_child(lambda: ThreadPool(1).map(square, [2]) == [4])
            return True

        with pytest.warns() if sys.version_info >= (3, 12) else _no_context():
            assert pool.map(task, range(2)) == [True, True]

    def test_while_others_submit(self, pool):
        stop = threading.Event()

        def submit():
            while not stop.is_set():
                pool.map(square, range(50))

        threads = [threading.Thread(target=submit) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(20):
                self.run_in_child(lambda: pool.map(square, range(20))[-1] == 361)
        finally:
            stop.set()
            for thread in threads:
                thread.join()


class _no_context:
    def __enter__(self):
        return None

    def __exit__(self, *_):
        return None


if sys.version_info >= (3, 12):
    TestFork = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")(TestFork)


class TestExit:
    def test_a_pool_that_is_left_open(self):
        script = """
            import time, pydistrib
            pool = pydistrib.ThreadPool(2)
            def task(x):
                time.sleep(0.05)
                return x
            pool.map(task, range(4))
            pool.map_async(task, range(10000))
            pool.imap(task, iter(int, 1))
            print("end")
        """
        start = time.monotonic()
        code, out, err = run_script(script, PYTHONWARNINGS="ignore")
        assert (code, out) == (0, "end\n"), err
        assert err == ""
        assert time.monotonic() - start < 10

    def test_an_executor_finishes_what_was_submitted(self):
        script = """
            import time, pydistrib
            executor = pydistrib.ThreadPoolExecutor(2)
            for i in range(10):
                executor.submit(lambda: (time.sleep(0.02), print("done", flush=True)))
            print("end", flush=True)
        """
        code, out, err = run_script(script)
        assert (code, err) == (0, "")
        assert out.count("done") == 10

    def test_submitting_at_exit(self):
        script = """
            import atexit
            @atexit.register
            def late():
                try:
                    executor.submit(print, 1)
                except RuntimeError as error:
                    print(error)
                print(pool.map(abs, [-1]))
            import pydistrib
            executor = pydistrib.ThreadPoolExecutor(2)
            pool = pydistrib.ThreadPool(2)
            atexit.unregister(late)
            atexit.register(late)
        """
        code, out, err = run_script(script, PYTHONWARNINGS="ignore")
        assert (code, err) == (0, "")
        assert "interpreter shutdown" in out
        assert "[1]" in out

    def test_tasks_that_never_end(self):
        script = """
            import threading, time, pydistrib
            pool = pydistrib.ThreadPool(4)
            pool.map_async(time.sleep, [100] * 2)
            pool.map_async(lambda _: [None for _ in iter(int, 1)], [1])
            time.sleep(0.2)
        """
        start = time.monotonic()
        code, _, err = run_script(script, PYTHONWARNINGS="ignore")
        assert (code, err) == (0, "")
        assert time.monotonic() - start < 10


class TestBudget:
    def test_workers_share_the_threads_of_a_call(self):
        with pydistrib.num_threads(1):
            pass
        pydistrib.set_num_threads(8)
        try:
            with ThreadPool(4) as pool:
                assert set(pool.map(lambda _: pydistrib.num_threads(), range(8))) == {2}

                def own(_):
                    with pydistrib.num_threads(5):
                        return pydistrib.num_threads()

                assert set(pool.map(own, range(4))) == {5}
            pool.join()
            with ThreadPool(100) as pool:
                assert pool.apply(pydistrib.num_threads) == 1
            pool.join()
        finally:
            pydistrib.set_num_threads(None)

    def test_kernels_in_workers(self):
        x = np.random.default_rng(0).random((300, 8))
        expected = pydistrib.pairwise(x)
        with ThreadPool(4) as pool:
            for result in pool.map(pydistrib.pairwise, [x] * 8):
                assert np.array_equal(result, expected)
        pool.join()
        assert pydistrib._core.team_threads() <= pydistrib.num_threads()

    def test_threadpoolctl_limits_pydistrib(self):
        threadpoolctl = pytest.importorskip("threadpoolctl", minversion="3.2")
        pydistrib.set_num_threads(4)
        try:
            with threadpoolctl.threadpool_limits(2):
                assert pydistrib.num_threads() == 2
            assert pydistrib.num_threads() == 4
            with threadpoolctl.threadpool_limits(1, user_api="pydistrib"):
                assert pydistrib.num_threads() == 1
                with ThreadPool() as pool:
                    assert pool._processes == 1
        finally:
            pydistrib.set_num_threads(None)
        infos = threadpoolctl.threadpool_info()
        assert [i["version"] for i in infos if i["user_api"] == "pydistrib"] == [
            pydistrib.__version__
        ]


class TestExecutor:
    def test_it_is_the_standard_one_to_others(self):
        async def main(executor):
            loop = asyncio.get_running_loop()
            loop.set_default_executor(executor)
            return await loop.run_in_executor(None, square, 3)

        executor = ThreadPoolExecutor(2, "mine")
        assert isinstance(executor, concurrent.futures.ThreadPoolExecutor)
        assert asyncio.run(main(executor)) == 9
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(square, 1)

    def test_scipy_workers(self, pool):
        optimize = pytest.importorskip("scipy.optimize")
        result = optimize.brute(lambda x: (x[0] - 1) ** 2, ((-2, 2),), workers=pool.map)
        assert abs(result[0] - 1) < 0.01

    def test_dask(self, pool):
        dask = pytest.importorskip("dask")
        with dask.config.set(pool=pool.executor):
            assert dask.delayed(square)(3).compute() == 9

    def test_threads_are_named_and_not_lost(self):
        with ThreadPoolExecutor(3, "mine") as executor:
            names = set(executor.map(lambda _: threading.current_thread().name, range(9)))
            assert all(name.startswith("mine_") for name in names)
            assert len(executor._threads) <= 3
        assert not any(thread.is_alive() for thread in executor._threads)

    def test_cancel_futures(self):
        gate = threading.Event()
        begun = threading.Event()

        def block():
            begun.set()
            return gate.wait(10)

        executor = ThreadPoolExecutor(1)
        running = executor.submit(block)
        assert begun.wait(10)
        futures = [executor.submit(square, i) for i in range(10)]
        executor.shutdown(wait=False, cancel_futures=True)
        assert all(future.cancelled() for future in futures)
        gate.set()
        assert running.result(10) is True
        executor.shutdown()

    def test_dropped_without_shutdown(self):
        executor = ThreadPoolExecutor(2)
        future = executor.submit(square, 3)
        del executor
        gc.collect()
        assert future.result(10) == 9


class TestCost:
    def test_queued_tasks_are_small(self):
        import tracemalloc

        gate = threading.Event()
        with ThreadPool(1) as pool:
            blocker = pool.apply_async(gate.wait, (30,))
            args = (1,)
            results = [None] * 100_000
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            for i in range(len(results)):
                results[i] = pool.apply_async(square, args)
            used = (tracemalloc.get_traced_memory()[0] - before) / len(results)
            tracemalloc.stop()
            gate.set()
            assert blocker.get(30)
            assert results[-1].get(30) == 1
        pool.join()
        assert used < 200

    def test_an_idle_pool_uses_no_cpu(self, run_python):
        """In a process of its own: other tests' clusters have threads that live on."""
        code = """
            import time
            from pydistrib import ThreadPool
            with ThreadPool(2) as pool:
                pool.map(abs, range(1000))
                time.sleep(0.1)
                before = time.process_time()
                time.sleep(0.5)
                print(time.process_time() - before)
        """
        assert float(run_python(code)) < 0.1  # a thread that spins takes 0.5

    def test_tasks_that_let_go_of_the_lock_run_at_a_time(self):
        with ThreadPool(8) as pool:
            pool.map(time.sleep, [0.01] * 8)
            start = time.monotonic()
            pool.map(time.sleep, [0.2] * 8)
            assert time.monotonic() - start < 0.35
        pool.join()


@pytest.fixture
def switching():
    """Threads take turns some thousand times more often than usual."""
    old = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(old)


@pytest.mark.usefixtures("switching")
class TestStress:
    def test_everything_at_once(self):
        errors = []
        with ThreadPool(4) as pool:

            def use(seed):
                try:
                    for i in range(40):
                        n = (seed * 7 + i) % 23
                        expected = [square(k) for k in range(n)]
                        assert pool.map(square, range(n), 1 + i % 3) == expected
                        assert (
                            list(pool.imap(square, range(n), buffersize=1 + i % 5))
                            == expected
                        )
                        assert sorted(pool.imap_unordered(square, range(n), 2)) == expected
                        rs = [pool.apply_async(square, (k,)) for k in range(n)]
                        assert [r.get() for r in rs] == expected
                        fs = [pool.submit(square, k) for k in range(n)]
                        assert sum(f.result() for f in pool.as_completed(fs)) == sum(
                            expected
                        )
                        assert pool.apply(
                            lambda n=n: sum(pool.map(square, range(n)))
                        ) == sum(expected)
                except BaseException as error:
                    errors.append(error)

            threads = [threading.Thread(target=use, args=(s,)) for s in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        pool.join()
        assert not errors

    def test_pools_come_and_go(self):
        for i in range(60):
            pool = ThreadPool(1 + i % 4)
            result = pool.map_async(square, range(50), 1)
            if i % 3 == 0:
                pool.close()
                pool.join()
                assert result.get(0) == [square(k) for k in range(50)]
            else:
                pool.terminate()
                pool.join()
                with contextlib.suppress(concurrent.futures.CancelledError):
                    assert result.get(10) == [square(k) for k in range(50)]

    def test_iterators_are_closed_at_any_time(self):
        with ThreadPool(3) as pool:
            for i in range(150):
                results = pool.imap(square, itertools.count(), buffersize=1 + i % 7)
                for _ in range(i % 11):
                    next(results)
                results.close()
            assert pool.map(square, range(9)) == [square(i) for i in range(9)]
        pool.join()

    def test_waits_that_time_out(self):
        with ThreadPool(2) as pool:
            for i in range(200):
                result = pool.apply_async(time.sleep, (0.0002,))
                with contextlib.suppress(TimeoutError):
                    result.get(0.0001 * (i % 4))
                assert result.get() is None
        pool.join()


def test_references_are_kept_in_order():
    """No reference is lost or kept: functions, arguments, results, errors, callbacks."""

    def error(_):
        raise ValueError(token)

    token = object()
    items = [token] * 50
    with ThreadPool(2) as pool:

        def round_trip():
            pool.map(lambda x: x, items)
            pool.starmap(lambda x, y: (x, y), [(token, token)] * 20)
            list(pool.imap(lambda x: x, items, buffersize=3))
            list(pool.imap_unordered(lambda x: x, items, 4))
            it = pool.imap(lambda x: x, itertools.repeat(token), buffersize=2)
            next(it)
            it.close()
            pool.apply_async(lambda x: x, (token,), {}, lambda x: None).get()
            pool.submit(lambda x: x, token).result()
            for call in (pool.apply, pool.map):
                with pytest.raises(ValueError, match="object"):
                    call(error, [token])
            gate = threading.Event()
            blockers = [pool.apply_async(gate.wait, (10,)) for _ in range(2)]
            assert pool.apply_async(lambda x: x, (token,)).cancel()
            gate.set()
            [b.get() for b in blockers]
            gc.collect()

        round_trip()
        time.sleep(0.05)
        before = sys.getrefcount(token)
        for _ in range(5):
            round_trip()
        deadline = time.monotonic() + 5
        while sys.getrefcount(token) != before:
            assert time.monotonic() < deadline, (sys.getrefcount(token), before)
            gc.collect()
            time.sleep(0.01)
    pool.join()


def test_hashing_lets_others_run(pool):
    data = bytes(1_000_000)
    digests = pool.map(lambda _: hashlib.sha256(data).hexdigest(), range(20))
    assert len(set(digests)) == 1
