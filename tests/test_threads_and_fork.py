"""Native threads beside Python's: signals, fork, shutdown, many callers, few resources."""

from __future__ import annotations

import math
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

import pydistrib

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# Half a minute of native work with next to no memory, to be interrupted.
LONG_WORK = """
    import os, signal, threading, time
    import numpy as np
    import pydistrib

    row = np.linspace(0, 1, 50_000)
    long = np.broadcast_to(row, (8000, 50_000))

    def long_work(workers=None):
        pydistrib.pairwise(long, long, "cityblock", workers=workers)

    def still_works():
        x = np.random.default_rng(0).random((500, 40))
        expected = np.abs(x[:, None] - x).max(axis=2)
        assert np.array_equal(pydistrib.pairwise(x, x, "chebyshev", workers=3), expected)
"""

# The answer of the quickest of a few attempts: others may be busy on this machine.
INTERRUPT = """
    def seconds_until_interrupted(work):
        best = 60.0
        for attempt in range(4):
            sent = []

            def interrupt():
                time.sleep(0.2)
                sent.append(time.perf_counter())
                os.kill(os.getpid(), signal.SIGINT)

            thread = threading.Thread(target=interrupt)
            thread.start()
            try:
                work()
            except KeyboardInterrupt:
                best = min(best, time.perf_counter() - sent[0])
            else:
                raise AssertionError("the work ended by itself")
            thread.join()
            still_works()
        return best
"""


def dedented(*parts):
    return "\n".join(textwrap.dedent(part) for part in parts)


class TestSignals:
    @pytest.mark.parametrize("workers", [1, 2, 4])
    def test_ctrl_c_during_native_work(self, run_python, workers):
        code = f"print(seconds_until_interrupted(lambda: long_work({workers})))"
        seconds = float(run_python(dedented(LONG_WORK, INTERRUPT, code)))
        assert seconds < 0.2

    @pytest.mark.parametrize(
        "work",
        [
            # Python, C that sleeps, and C that never looks for signals.
            "call(lambda a, b: sum(range(1_000_000)), long)",
            "call(lambda a, b: time.sleep(0.01) or 0.0, long)",
            "call(np.dot, long)",
            "call(np.dot, wide)",
        ],
    )
    def test_ctrl_c_during_a_slow_function(self, run_python, work):
        code = f"""
            def call(function, points):
                pydistrib.kernel(function, points, points, trace="never")

            wide = np.broadcast_to(np.ones(10_000_000), (1000, 10_000_000))
            print(seconds_until_interrupted(lambda: {work}))
        """
        assert float(run_python(dedented(LONG_WORK, INTERRUPT, code))) < 0.2

    def test_a_handlers_exception_arrives_unchanged(self, run_python):
        code = """
            error = TimeoutError("too slow")
            calls = []

            def handler(number, frame):
                calls.append(1)
                if len(calls) == 1:
                    raise error

            signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, 0.1, 0.03)  # comes again while it waits
            try:
                long_work(3)
            except TimeoutError as caught:
                signal.setitimer(signal.ITIMER_REAL, 0)
                assert caught is error
            still_works()
            print("ok")
        """
        assert run_python(dedented(LONG_WORK, code)) == "ok"

    def test_a_handler_that_returns_disturbs_nothing(self, run_python):
        code = """
            calls, inside = [], []

            def handler(number, frame):
                if not inside:
                    inside.append(1)
                    calls.append(1)
                    still_works()  # a kernel in the middle of a kernel
                    inside.clear()

            signal.signal(signal.SIGALRM, handler)
            x = np.random.default_rng(0).random((1500, 400))
            expected = pydistrib.pairwise(x, workers=1)
            signal.setitimer(signal.ITIMER_REAL, 0.03, 0.03)
            until = time.perf_counter() + 60
            while len(calls) <= 5 and time.perf_counter() < until:
                assert np.array_equal(pydistrib.pairwise(x, workers=2), expected)
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert len(calls) > 5
            print("ok")
        """
        assert run_python(dedented(LONG_WORK, code)) == "ok"

    def test_ctrl_c_goes_to_the_main_thread_alone(self, run_python):
        code = """
            results = []
            x = np.random.default_rng(0).random((1200, 1000))
            thread = threading.Thread(target=lambda: results.append(pydistrib.pairwise(x)))
            thread.start()
            threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
            try:
                time.sleep(5)
            except KeyboardInterrupt:
                pass
            thread.join()
            assert np.array_equal(results[0], pydistrib.pairwise(x, workers=1))
            print("ok")
        """
        assert run_python(dedented(LONG_WORK, code)) == "ok"


class TestFork:
    @pytest.mark.parametrize("method", ["os.fork", "multiprocessing"])
    def test_fork_while_another_thread_computes(self, run_python, method):
        code = """
            import multiprocessing

            x = np.random.default_rng(0).random((900, 300))
            stop = threading.Event()
            failures = []

            def compute():
                expected = pydistrib.pairwise(x, workers=3)
                while not stop.is_set():
                    if not np.array_equal(pydistrib.pairwise(x, workers=3), expected):
                        failures.append("wrong")

            def child():
                signal.alarm(60)  # a hang fails
                before = pydistrib._core.team_threads()
                still_works()
                x = np.linspace(0, 1, 1000)
                matrix = pydistrib.kernel(lambda a, b: abs(a - b), x[:50], x, trace="never")
                assert np.array_equal(matrix, pydistrib.kernel("cityblock", x[:50], x))
                pydistrib.pairwise(x, x)  # recycled memory
                return before

            threads = [threading.Thread(target=compute) for _ in range(2)]
            for thread in threads:
                thread.start()
            try:
                for _ in range(8):
                    if METHOD == "os.fork":
                        pid = os.fork()
                        if pid == 0:
                            code = 1
                            try:
                                code = child()
                            finally:
                                os._exit(code)
                        assert os.waitpid(pid, 0)[1] == 0
                    else:
                        with multiprocessing.get_context("fork").Pool(1) as pool:
                            assert pool.apply(child) == 0
            finally:
                stop.set()
                for thread in threads:
                    thread.join()
            assert not failures
            still_works()
            print("ok")
        """.replace("METHOD", repr(method))
        # Python 3.12 warns of any fork beside threads.
        text = run_python(
            dedented(LONG_WORK, code), PYTHONWARNINGS="ignore::DeprecationWarning"
        )
        assert text == "ok"

    def test_fork_in_a_signal_handler_in_the_middle_of_a_kernel(self, run_python):
        code = """
            pids = []

            def handler(number, frame):
                pids.append(os.fork())

            signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            x = np.random.default_rng(0).random((1500, 1500))
            expected = x[0, 0]
            try:
                for _ in range(100):
                    pydistrib.pairwise(x, workers=3)
                    if pids:
                        break
            except RuntimeError as error:
                # The child lost the threads that worked for this call, and says so.
                assert pids == [0] and "forked" in str(error), error
                signal.alarm(60)
                still_works()
                os._exit(7)
            assert len(pids) == 1
            if pids[0] == 0:  # the handler ran between two calls, or in a wait
                os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 7
            still_works()
            print("ok")
        """
        text = run_python(
            dedented(LONG_WORK, code), PYTHONWARNINGS="ignore::DeprecationWarning"
        )
        assert text == "ok"

    def test_spawn_and_forkserver(self, run_python, tmp_path):
        script = tmp_path / "script.py"
        script.write_text(
            "import multiprocessing\nimport sys\nimport pydistrib\n"
            "def work(i):\n"
            "    return float(pydistrib.rbf(i, 3.0))\n"
            "if __name__ == '__main__':\n"
            "    pydistrib.pairwise([1.0], [2.0])\n"
            "    for method in ('spawn', 'forkserver'):\n"
            "        with multiprocessing.get_context(method).Pool(1) as pool:\n"
            "            print(*pool.map(work, [3, 3]))\n"
        )
        code = f"""
            import subprocess, sys
            print(subprocess.run([sys.executable, "-W", "ignore", {str(script)!r}],
                                 check=True, capture_output=True, text=True).stdout)
        """
        assert run_python(code).split() == ["1.0"] * 4


class TestLife:
    @linux
    def test_no_thread_before_the_first_large_call_and_none_after_idling(self, run_python):
        code = """
            def native_threads():
                return len(os.listdir("/proc/self/task")) - before

            before = len(os.listdir("/proc/self/task"))
            import pydistrib.kernels.pairwise
            assert native_threads() == 0
            pydistrib.show_config()
            small = np.linspace(0, 1, 50)
            pydistrib.pairwise(small, workers=4)
            pydistrib.kernel(lambda a, b: abs(a - b), small, small, workers=4)
            assert native_threads() == 0, "small work started threads"
            still_works()
            assert native_threads() == pydistrib._core.team_threads() == 2
            until = time.monotonic() + 30
            while native_threads() and time.monotonic() < until:
                time.sleep(0.1)
            assert native_threads() == pydistrib._core.team_threads() == 0
            still_works()
            assert native_threads() == 2
            print("ok")
        """
        # NumPy's own BLAS starts threads when it is imported.
        text = run_python(dedented(LONG_WORK, code), OPENBLAS_NUM_THREADS=1)
        assert text.endswith("ok")

    @pytest.mark.parametrize("daemon_work", ["long_work(3)", "still_works()"])
    def test_the_interpreter_ends_while_a_daemon_thread_computes(
        self, run_python, daemon_work
    ):
        code = f"""
            def work():
                while True:
                    {daemon_work}

            threading.Thread(target=work, daemon=True).start()
            time.sleep(0.2)
            print("ok")
        """
        for _ in range(4):
            assert run_python(dedented(LONG_WORK, code)) == "ok"

    def test_a_call_at_exit(self, run_python):
        code = """
            import atexit

            class AtTheEnd:
                def __del__(self):
                    still_works()
                    print("deleted")

            atexit.register(still_works)
            still_works()
            keep = AtTheEnd()
        """
        assert run_python(dedented(LONG_WORK, code)) == "deleted"

    def test_no_thread_can_be_started(self, run_python):
        code = """
            import resource

            np.random.default_rng(0)  # imports
            if os.getuid() == 0:
                os.setuid(65534)  # no limit binds root
            resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
            try:
                threading.Thread(target=int).start()
            except RuntimeError:
                still_works()
                assert pydistrib._core.team_threads() == 0
            print("ok")
        """
        assert run_python(dedented(LONG_WORK, code)) == "ok"

    def test_subinterpreters_are_refused(self, run_python):
        code = """
            import sys
            if sys.version_info < (3, 12):
                print("refused")
                raise SystemExit
            if sys.version_info >= (3, 13):
                import _interpreters as interpreters
            else:
                import _xxsubinterpreters as interpreters
            interpreter = interpreters.create()
            code = "import pydistrib._core"
            try:
                told = interpreters.run_string(interpreter, code)
            except Exception as error:
                told = error
            print("refused" if "does not support loading in subinterpreters" in str(told)
                  or "cannot load module" in str(told) else told)
        """
        assert run_python(code, quiet=False) == "refused"


class TestManyCallers:
    def test_threads_that_call_at_once(self, assert_same_bits):
        rng = np.random.default_rng(0)
        inputs = [rng.random((200 + 30 * i, 1 + 5 * i)) for i in range(8)]
        expected = [pydistrib.pairwise(x, workers=1) for x in inputs]
        barrier = threading.Barrier(8)
        results = [[] for _ in inputs]
        errors = []

        def call(i):
            try:
                barrier.wait()
                for round_ in range(25):
                    results[i].append(pydistrib.pairwise(inputs[i], workers=1 + round_ % 4))
                    pydistrib.kernel(lambda a, b: 0.5, [1.0, 2.0], [3.0], trace="never")
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=call, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        for i in range(8):
            assert len(results[i]) == 25
            for result in results[i]:
                assert_same_bits(result, expected[i])

    def test_the_gil_is_free_meanwhile(self):
        # Had the call kept the GIL, this thread could not count before it ended.
        x = np.broadcast_to(np.linspace(0, 1, 20_000), (1200, 20_000))
        done = threading.Event()

        def call():
            pydistrib.pairwise(x, workers=1)
            done.set()

        thread = threading.Thread(target=call)
        thread.start()
        count = 0
        while not done.is_set():
            count += 1
        thread.join()
        assert count > 1000

    def test_a_function_in_c_lets_other_threads_run(self):
        x = np.linspace(0, 1, 4000)
        done = threading.Event()
        seconds = []

        def call():
            start = time.perf_counter()
            pydistrib.kernel(math.hypot, x[:1500], x, trace="never")
            seconds.append(time.perf_counter() - start)
            done.set()

        thread = threading.Thread(target=call)
        thread.start()
        longest, last = 0.0, time.perf_counter()
        while not done.is_set():
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
        thread.join()
        assert longest < seconds[0] / 2

    def test_free_results_while_others_are_made(self):
        stop = threading.Event()
        handed = []

        def make():
            while not stop.is_set():
                handed.append(pydistrib.pairwise(np.linspace(0, 1, 500)))

        threads = [threading.Thread(target=make) for _ in range(3)]
        for thread in threads:
            thread.start()
        freed = 0
        while freed < 300:
            if handed:
                result = handed.pop()
                assert result[0, -1] == 1.0
                freed += 1
        stop.set()
        for thread in threads:
            thread.join()
