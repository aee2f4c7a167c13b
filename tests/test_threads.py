"""Thread with results, Local and Counter, and the locks that are the standard library's."""

from __future__ import annotations

import gc
import multiprocessing
import subprocess
import sys
import textwrap
import threading
import time

import pytest

import pydistrib
from pydistrib import Counter, Local, Thread, ThreadPool, TimeoutError


class Unwell(Exception):
    pass


def fail(*args):
    raise Unwell(*args)


@pytest.fixture
def reported(monkeypatch):
    """What was given to threading.excepthook."""
    seen = []
    monkeypatch.setattr(threading, "excepthook", lambda args: seen.append(args[:2]))
    return seen


class TestThread:
    def test_result(self):
        thread = Thread(target=pow, args=(2, 10))
        assert isinstance(thread, threading.Thread)
        thread.start()
        assert thread.result() == thread.result(timeout=1) == 1024
        assert not thread.is_alive()

    def test_arguments_are_those_of_the_standard_library(self):
        thread = Thread(None, dict, "name", (), {"x": 1}, daemon=True)
        assert (thread.name, thread.daemon) == ("name", True)
        thread.start()
        assert thread.result() == {"x": 1}
        with pytest.raises(AssertionError):
            Thread("group")

    def test_no_target(self):
        thread = Thread()
        thread.start()
        assert thread.result() is None

    def test_a_failure_is_raised_and_so_not_reported(self, reported):
        thread = Thread(target=fail, args=(1,))
        thread.start()
        for _ in range(2):
            with pytest.raises(Unwell, match="1"):
                thread.result()
        del thread
        gc.collect()
        assert reported == []

    def test_an_unread_failure_is_reported_once(self, reported):
        thread = Thread(target=fail, args=(1,))
        thread.start()
        thread.join()
        assert reported == []
        del thread
        gc.collect()
        assert [kind for kind, _ in reported] == [Unwell]

    def test_an_unread_failure_at_exit(self):
        script = """
            import pydistrib
            def fail():
                raise KeyError("lost?")
            kept = pydistrib.Thread(target=fail)
            kept.start()
            pydistrib.Thread(target=fail, name="dropped").start()
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0
        assert done.stderr.count("KeyError: 'lost?'") == 2
        assert done.stderr.count("Exception in thread") == 2
        assert "dropped" in done.stderr

    def test_time_out_and_not_started(self):
        gate = threading.Event()
        thread = Thread(target=gate.wait, args=(10,))
        with pytest.raises(RuntimeError):
            thread.result()
        thread.start()
        with pytest.raises(TimeoutError, match="has not ended"):
            thread.result(timeout=0.01)
        gate.set()
        assert thread.result(10) is True

    def test_system_exit_is_a_result_like_others(self, reported):
        thread = Thread(target=sys.exit, args=(3,))
        thread.start()
        with pytest.raises(SystemExit):
            thread.result()

    def test_subclasses_with_a_run_of_their_own(self, reported):
        class Own(Thread):
            def run(self):
                fail(7)

        thread = Own()
        thread.start()
        thread.join()
        assert [kind for kind, _ in reported] == [Unwell]

    def test_the_target_and_its_arguments_are_released(self):
        class Thing:
            pass

        thing = Thing()
        before = sys.getrefcount(thing)
        thread = Thread(target=lambda x: None, args=(thing,))
        thread.start()
        thread.result()
        assert sys.getrefcount(thing) == before


def test_the_locks_are_the_standard_library_s():
    for name in ("Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore", "Event"):
        assert getattr(pydistrib, name) is getattr(threading, name)
    assert pydistrib.Barrier is threading.Barrier
    assert pydistrib.TimeoutError is multiprocessing.TimeoutError


class TestLocal:
    def test_every_thread_counts_for_itself(self):
        seen = Local()

        def count(_):
            before = seen.value
            seen.value += 1
            assert seen.value == before + 1

        with ThreadPool(4) as pool:
            pool.map(count, range(1000))
        pool.join()
        assert seen.total() == 1000
        assert sum(seen.values()) == 1000
        assert seen.total(max) <= 1000

    def test_other_values(self):
        lists = Local(list)
        lists.value.append(1)
        thread = Thread(target=lambda: lists.value.append(2))
        thread.start()
        thread.result()
        assert lists.values() == [[1], [2]]
        assert lists.total(len) == 2
        with pytest.raises(TypeError, match="make must be callable, not int"):
            Local(5)


class TestCounter:
    def test_steps(self):
        counter = Counter(5)
        assert counter.add() == 6
        assert counter.add(-10) == -4
        assert counter.exchange(7) == -4
        assert not counter.compare_and_set(5, 1)
        assert counter.compare_and_set(7, 1)
        counter += 2
        counter -= 1
        assert counter.value == int(counter) == 2
        assert repr(counter) == "Counter(2)"
        assert range(3)[counter] == 2

    @pytest.mark.parametrize("bad", ["1", 1.5, None, [1]])
    def test_only_whole_numbers(self, bad):
        counter = Counter()
        for call in (
            lambda: Counter(bad),
            lambda: counter.add(bad),
            lambda: counter.exchange(bad),
            lambda: counter.compare_and_set(bad, 1),
            lambda: counter.__iadd__(bad) + 1,
        ):
            with pytest.raises(TypeError):
                call()
        assert counter.value == 0
        with pytest.raises(TypeError):
            counter.add(1, 2)
        with pytest.raises(TypeError):
            counter.compare_and_set(1)

    def test_sixty_four_bits(self):
        counter = Counter(2**63 - 1)
        for call in (
            counter.add,
            lambda: counter.add(2**63),
            lambda: Counter(2**63),
            lambda: Counter(-(2**63)).add(-1),
            lambda: counter.__isub__(-(2**63)),
            lambda: counter.exchange(10**30),
        ):
            with pytest.raises(OverflowError, match="64 bits"):
                call()
        assert counter.value == 2**63 - 1

    def test_nothing_is_lost(self):
        counter = Counter()
        old = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:

            def count():
                for _ in range(20000):
                    counter.add()

            threads = [Thread(target=count) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.result()
        finally:
            sys.setswitchinterval(old)
        assert counter.value == 80000


def test_a_thread_s_start_costs_little():
    start = time.monotonic()
    for _ in range(100):
        thread = Thread(target=int)
        thread.start()
        thread.result()
    assert time.monotonic() - start < 5
