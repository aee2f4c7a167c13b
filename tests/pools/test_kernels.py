"""Kernels on the workers of every pool: the bits are those of the call without one."""

from __future__ import annotations

import numpy as np
import pytest

import pydistrib
from pydistrib.kernels import distributed as tiles


def slow_distance(a, b):
    return float(str(abs(a - b)))


def gaussian(a, b):
    return np.exp(-0.5 * ((a - b) ** 2).sum())


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(tiles, "TILE_SECONDS", 0.002)
    monkeypatch.setattr(tiles, "_SURELY_SHORT", 0)


CASES = (
    ("euclidean", (700, 5), (900, 5), np.float64),
    ("euclidean", (700, 5), (900, 5), np.float32),
    ("rbf", (3000, 3), None, np.float64),
    (slow_distance, (90,), (130,), np.float64),
    (gaussian, (800, 4), (700, 4), np.float64),
    (lambda a, b: abs(a - b), (2000,), (1500,), np.float64),
    (lambda a, b: abs(a - b) % 7, (1500,), (1400,), np.int32),
)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_same_bits(pool, case, tmp_path, assert_same_bits):
    function, a, b, dtype = CASES[case]
    rng = np.random.default_rng(case)
    x = (rng.standard_normal(a) * 100).astype(dtype)
    y = x if b is None else (rng.standard_normal(b) * 100).astype(dtype)
    expected = pydistrib.kernel(function, x, y)
    assert_same_bits(pydistrib.kernel(function, x, y, pool=pool), expected)
    out = np.empty_like(expected)
    assert pydistrib.kernel(function, x, y, pool=pool, out=out) is out
    assert_same_bits(out, expected)
    path = tmp_path / "out.dat"
    mapped = np.memmap(path, np.float32, "w+", offset=20, shape=expected.shape)
    assert pydistrib.kernel(function, x, y, pool=pool, out=mapped) is mapped
    mapped.flush()
    again = np.memmap(path, np.float32, "r", offset=20, shape=expected.shape)
    assert_same_bits(np.array(again), expected)
    full = pydistrib.pairwise(x, y, function)
    assert_same_bits(pydistrib.pairwise(x, y, function, pool=pool), full)


def test_an_error_is_that_of_the_first_pair(pool):
    def function(a, b):
        if a > 0.5:
            raise KeyError(float(a))
        return slow_distance(a, b)

    x = np.linspace(0, 1, 200)
    with pytest.raises(KeyError) as caught:
        pydistrib.kernel(function, x, x, pool=pool)
    assert caught.value.args == (x[100],)
    assert pool.map(abs, [-1]) == [1]
