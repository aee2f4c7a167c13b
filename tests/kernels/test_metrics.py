"""The built-in metrics as objects: functions of two points with the bits of the matrix."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import pydistrib
from pydistrib.kernels.metrics import METRICS, metric_named

metrics = pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)


@metrics
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_pair_has_the_bits_of_the_matrix(metric, dtype):
    rng = np.random.default_rng(0)
    for d in (1, 2, 31, 32, 33, 1025):
        x, y = rng.random((3, d)).astype(dtype), rng.random((4, d)).astype(dtype)
        matrix = pydistrib.pairwise(x, y, metric)
        for i, j in np.ndindex(3, 4):
            value = metric(x[i], y[j])
            assert type(value) is dtype
            assert value == matrix[i, j]


@metrics
def test_points_of_any_kind(metric):
    value = metric(2.0, 5.0)
    assert type(value) is np.float64
    for a, b in [
        (2, 5),
        (np.int8(2), np.float16(5)),
        ([2], [5.0]),
        (np.array(2), np.array([5], "u1")),
        (np.array([2.0]).astype(">f8"), (5,)),
    ]:
        assert metric(a, b) == value
    assert metric(False, True) == metric(0, 1)
    assert metric([], []) == (1 if metric.name == "rbf" else 0)


def test_values():
    assert pydistrib.absolute_distance([1, 2], [4, -2]) == 7
    assert pydistrib.sqeuclidean([1, 2], [4, -2]) == 25
    assert pydistrib.euclidean([1, 2], [4, -2]) == 5
    assert pydistrib.chebyshev([1, 2], [4, -2]) == 4
    assert pydistrib.rbf([1, 2], [4, -2], gamma=0) == 1
    np.testing.assert_allclose(pydistrib.rbf([1, 2], [4, -2]), np.exp(-12.5), rtol=1e-15)
    np.testing.assert_allclose(
        pydistrib.rbf([1, 2], [4, -2], gamma=0.1), np.exp(-2.5), rtol=1e-15
    )


@metrics
def test_points_that_do_not_fit(metric):
    with pytest.raises(ValueError, match="a and b must have the same number of features"):
        metric([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match=r"a must be one point, .* not of shape \(1, 1\)"):
        metric([[1.0]], [1.0])
    with pytest.raises(ValueError, match=r"b must be one point, .* not of shape \(2, 2\)"):
        metric([1.0], np.eye(2))
    with pytest.raises(TypeError, match="a must hold real numbers"):
        metric("x", 1.0)
    with pytest.raises(TypeError, match="b must hold real numbers"):
        metric(1.0, 1j)
    with pytest.raises(TypeError, match="a must hold real numbers"):
        metric(None, 1.0)
    with pytest.raises(TypeError, match="b is a masked array"):
        metric([1.0], np.ma.array([1.0], mask=True))
    with pytest.raises(TypeError, match="'power'"):
        metric(1.0, 2.0, power=2)


@metrics
def test_metrics_are_values(metric):
    assert pickle.loads(pickle.dumps(metric)) == metric
    assert copy.deepcopy(metric) == metric
    assert len({metric, copy.copy(metric)}) == 1
    assert metric_named(metric.name) is metric
    assert all(metric_named(alias.upper()) is metric for alias in metric.aliases)
    with pytest.raises(AttributeError):
        metric.name = "mine"
    assert metric.name in repr(metric)


def test_no_name_means_two_metrics():
    names = [name for metric in METRICS for name in (metric.name, *metric.aliases)]
    assert len(names) == len(set(names))
    assert all(name == name.lower() for name in names)


def test_parameters():
    assert pydistrib.rbf.parameters({}, 4) == {"gamma": 0.25}
    assert pydistrib.rbf.parameters({}, 0) == {"gamma": 1.0}
    assert pydistrib.rbf.parameters({"gamma": 3}, 4) == {"gamma": 3.0}
    assert pydistrib.euclidean.parameters({}, 4) == {}
