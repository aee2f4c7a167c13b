"""CPython's tests of process pools, for pydistrib's: ``python -c "...main(method)"``.

A module of its own, whose classes the workers import: the tests send their bound methods.
"""

from __future__ import annotations

import multiprocessing
import sys
import unittest
import warnings
from unittest import mock

from test import _test_multiprocessing as tests

import pydistrib


class Mixin(tests.ProcessesMixin):
    Pool = staticmethod(pydistrib.Pool)


class TestPool(tests._TestPool, Mixin, unittest.TestCase):
    pass


class TestPoolWorkerErrors(tests._TestPoolWorkerErrors, Mixin, unittest.TestCase):
    pass


class TestPoolWorkerLifetime(tests._TestPoolWorkerLifetime, Mixin, unittest.TestCase):
    pass


CASES = (TestPool, TestPoolWorkerErrors, TestPoolWorkerLifetime)


def main(method: str) -> None:
    """Run them all with one start method; the exit status is 1 if any failed."""
    warnings.simplefilter("ignore")
    multiprocessing.set_start_method(method, force=True)
    load = unittest.defaultTestLoader.loadTestsFromTestCase
    suite = unittest.TestSuite(load(case) for case in CASES)
    with mock.patch.object(tests.multiprocessing, "Pool", pydistrib.Pool):
        result = unittest.TextTestRunner(stream=sys.stdout).run(suite)
    sys.exit(not result.wasSuccessful() or result.testsRun < 25)
