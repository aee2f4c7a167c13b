"""What all tests share: the post's loop, comparison of bits, Python in a fresh process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

# The same examples on every machine; no time limit on one, since machines are shared.
settings.register_profile("pydistrib", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("pydistrib")

# A job in the background of a shell starts with SIGINT ignored, and so do its children:
# the tests of Ctrl-C are to run there as well.
signal.signal(signal.SIGINT, signal.default_int_handler)


def _post_matrix(function: Callable[[Any, Any], Any], alpha: Any, beta: Any) -> Any:
    covariance = np.full((alpha.shape[0], beta.shape[0]), 0.0)
    for i in range(alpha.shape[0]):
        for j in range(beta.shape[0]):
            covariance[i, j] = function(alpha[i], beta[j])
    return covariance


@pytest.fixture(scope="session")
def post_matrix():
    """The double loop that `kernel` replaces, before its cast and rounding."""
    return _post_matrix


@pytest.fixture(scope="session")
def post_kernel():
    """The double loop that `kernel` replaces, as it stands."""

    def kernel(function, alpha, beta):
        return _post_matrix(function, alpha, beta).astype(np.float32).round(3)

    return kernel


def _bits(array: np.ndarray) -> np.ndarray:
    # One NaN is as good as another.
    clean = np.where(np.isnan(array), np.array(np.nan, array.dtype), array)
    return np.ascontiguousarray(clean).view(np.uint8)


@pytest.fixture(scope="session")
def assert_same_bits():
    """Assert that two arrays agree in type, shape and every bit, signs of 0 included."""

    def check(actual, expected):
        assert type(actual) is np.ndarray
        assert actual.dtype == expected.dtype
        assert actual.shape == expected.shape
        if not np.array_equal(_bits(actual), _bits(expected)):
            np.testing.assert_array_equal(actual, expected)
            raise AssertionError("signs of zeros differ")

    return check


@pytest.fixture(scope="session")
def run_python():
    """
    Run code in a fresh interpreter and give what it printed.

    The code must end with status 0, or `status`, and say nothing on stderr, where a
    sanitizer, a crash or an exception that nobody took would show.
    """

    def run(code, *, status=0, timeout=120, quiet=True, **environment):
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(code)],
            env={**os.environ, **{k: str(v) for k, v in environment.items()}},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert not quiet or not done.stderr, done.stderr
        return done.stdout.strip()

    return run
