"""CPython's own tests of its pools, executors and locks, run against pydistrib's.

They come from the interpreter's `test` package, which some distributions leave out.
"""

from __future__ import annotations

import importlib
import threading
import unittest
from unittest import mock

import pytest

import pydistrib

# What they leave behind, and how they call deprecated names, is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")


def _import(name: str):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"this interpreter has no {name}: {error}")


def _run(case: type[unittest.TestCase]) -> None:
    """Run all tests of the class."""
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    problems = [text for _, text in result.failures + result.errors]
    assert not problems, "\n".join(problems)
    assert result.testsRun > len(result.skipped)


def _case(name: str, *bases: type, **namespace: object) -> type:
    """Make a class that pickles: the tests send their bound methods to pools."""
    case = type(name, bases, {"__module__": __name__, **namespace})
    globals()[name] = case
    return case


def _multiprocessing_tests():
    return _import("test._test_multiprocessing")


def _threads_mixin(module) -> type:
    return _case(
        "ThreadsMixin",
        module.ThreadsMixin,
        Pool=staticmethod(pydistrib.ThreadPool),
        Lock=staticmethod(pydistrib.Lock),
        RLock=staticmethod(pydistrib.RLock),
        Semaphore=staticmethod(pydistrib.Semaphore),
        BoundedSemaphore=staticmethod(pydistrib.BoundedSemaphore),
        Condition=staticmethod(pydistrib.Condition),
        Event=staticmethod(pydistrib.Event),
        Barrier=staticmethod(pydistrib.Barrier),
    )


def test_pool():
    """`_TestPool` passes as it does for multiprocessing.pool.ThreadPool."""
    module = _multiprocessing_tests()
    mixin = _threads_mixin(module)
    case = _case("WithThreadsTestPool", module._TestPool, mixin, unittest.TestCase)
    # terminate() can't end a thread that sleeps: newer versions of the test let it
    # sleep for a second, older ones for minutes.
    with mock.patch.object(module.support, "LONG_TIMEOUT", 1.0):
        _run(case)


@pytest.mark.parametrize(
    "name", ["_TestLock", "_TestSemaphore", "_TestCondition", "_TestEvent", "_TestBarrier"]
)
def test_multiprocessing_locks(name):
    """The locks are those of the tests' thread flavour."""
    module = _multiprocessing_tests()
    mixin = _threads_mixin(module)
    _run(_case("WithThreads" + name, getattr(module, name), mixin, unittest.TestCase))


@pytest.mark.parametrize(
    ("tests", "attributes"),
    [
        ("LockTests", {"locktype": pydistrib.Lock}),
        ("RLockTests", {"locktype": pydistrib.RLock}),
        ("EventTests", {"eventtype": pydistrib.Event}),
        ("ConditionTests", {"condtype": pydistrib.Condition}),
        ("SemaphoreTests", {"semtype": pydistrib.Semaphore}),
        ("BoundedSemaphoreTests", {"semtype": pydistrib.BoundedSemaphore}),
        ("BarrierTests", {"barriertype": pydistrib.Barrier}),
    ],
)
def test_locks(tests, attributes):
    """`test.lock_tests` passes for the re-exported locks."""
    module = _import("test.lock_tests")
    if tests == "ConditionTests":
        attributes |= {"locktype": staticmethod(lambda: threading.Lock())}
    attributes = {
        name: value if isinstance(value, staticmethod) else staticmethod(value)
        for name, value in attributes.items()
    }
    _run(_case("Run" + tests, getattr(module, tests), **attributes))


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("executor", "ExecutorTest"),
        ("test_thread_pool", "ThreadPoolExecutorTest"),
        ("test_shutdown", "ThreadPoolShutdownTest"),
        ("test_wait", "ThreadPoolWaitTests"),
        ("test_as_completed", "ThreadPoolAsCompletedTest"),
        ("test_init", "ThreadPoolInitializerTest"),
        ("test_init", "ThreadPoolFailingInitializerTest"),
    ],
)
def test_executor(where, name):
    """`test_concurrent_futures` passes for ThreadPoolExecutor."""
    module = _import(f"test.test_concurrent_futures.{where}")
    bases: tuple[type, ...] = (getattr(module, name),)
    if name == "ExecutorTest":
        util = _import("test.test_concurrent_futures.util")
        bases = (util.ThreadPoolMixin, *bases, unittest.TestCase)
    _run(_case("Run" + name, *bases, executor_type=pydistrib.ThreadPoolExecutor))
