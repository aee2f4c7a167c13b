"""`kernel`: bit for bit the post's double loop, whichever way a function goes."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import pydistrib

DTYPES = ["?", "u1", "i1", "i2", "u4", "i8", "u8", "f2", "f4", "f8", ">f4", ">f8", ">i2"]
METRICS = ["cityblock", "sqeuclidean", "euclidean", "chebyshev", "rbf"]
LAYOUTS = ["C", "F", "reversed", "sliced", "broadcast", "read-only"]

FUNCTIONS = [
    lambda a, b: abs(a - b),
    lambda a, b: (a - b) * (a - b),
    lambda a, b: np.exp(-0.5 * (a - b) ** 2),
    lambda a, b: np.where(a > b, a, b),
    lambda a, b: a * 3 if a > 0 else b,
    lambda a, b: a == b,
]

FEATURE_FUNCTIONS = [
    lambda a, b: np.abs(a - b).sum(),
    lambda a, b: np.sqrt(np.sum((a - b) ** 2)),
    lambda a, b: np.max(np.abs(a - b)),
    lambda a, b: a @ b,
    lambda a, b: np.linalg.norm(a - b),
]


def laid_out(points, layout):
    """The same values at other strides."""
    if layout == "F":
        return np.asfortranarray(points)
    if layout == "reversed":
        return points[::-1].copy()[::-1]
    if layout == "sliced":
        wide = np.zeros((points.shape[0] * 2, *points.shape[1:]), points.dtype)
        wide[::2] = points
        return wide[::2]
    if layout == "broadcast":
        return np.broadcast_to(points[:1], points.shape)
    if layout == "read-only":
        points = points.copy()
        points.flags.writeable = False
    return points


def values_of(dtype):
    """Strategy for elements: all kinds of numbers that the type has."""
    if dtype.kind == "f":
        return st.one_of(
            st.floats(width=dtype.itemsize * 8),
            st.sampled_from([0.0, -0.0, 0.0005, 0.0015, 1.0, 2.5]).map(dtype.type),
        )
    return hnp.from_dtype(dtype)


@st.composite
def point_pairs(draw, ndim, max_points=6):
    arrays = []
    shape_tail = (draw(st.integers(0, 40)),) if ndim == 2 else ()
    for _ in range(2):
        dtype = np.dtype(draw(st.sampled_from(DTYPES)))
        shape = (draw(st.integers(1, max_points)), *shape_tail)
        points = draw(hnp.arrays(dtype, shape, elements=values_of(dtype)))
        arrays.append(laid_out(points, draw(st.sampled_from(LAYOUTS))))
    return arrays


def outcome(function, *args, **kwargs):
    """What a call returns or raises."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        return error


class TestTheLoop:
    @given(points=point_pairs(ndim=1), data=st.data())
    @pytest.mark.parametrize("trace", ["auto", "never"])
    def test_functions_of_numbers(self, trace, points, data, post_kernel, assert_same_bits):
        function = data.draw(st.sampled_from(FUNCTIONS))
        alpha, beta = points
        with np.errstate(all="ignore"):
            expected = outcome(post_kernel, function, alpha, beta)
            result = outcome(pydistrib.kernel, function, alpha, beta, trace=trace)
        if isinstance(expected, Exception):  # a bool minus a bool, the largest of nothing
            assert repr(result) == repr(expected)
        else:
            assert_same_bits(result, expected)

    @given(points=point_pairs(ndim=2), data=st.data())
    @pytest.mark.parametrize("trace", ["auto", "never"])
    def test_functions_of_rows(self, trace, points, data, post_kernel, assert_same_bits):
        function = data.draw(st.sampled_from(FEATURE_FUNCTIONS))
        alpha, beta = points
        with np.errstate(all="ignore"):
            expected = outcome(post_kernel, function, alpha, beta)
            result = outcome(pydistrib.kernel, function, alpha, beta, trace=trace)
        if isinstance(expected, Exception):  # a bool minus a bool, the largest of nothing
            assert repr(result) == repr(expected)
        else:
            assert_same_bits(result, expected)

    @given(points=st.one_of(point_pairs(ndim=1), point_pairs(ndim=2)), data=st.data())
    def test_metrics(self, points, data, post_kernel, assert_same_bits):
        metric = getattr(
            pydistrib,
            data.draw(
                st.sampled_from(
                    ["absolute_distance", "sqeuclidean", "euclidean", "chebyshev", "rbf"]
                )
            ),
        )
        alpha, beta = points
        with np.errstate(all="ignore"):
            expected = post_kernel(metric, alpha, beta)
        for workers in (1, 3):
            assert_same_bits(
                pydistrib.kernel(metric, alpha, beta, workers=workers), expected
            )
        assert_same_bits(pydistrib.kernel(metric.name, alpha, beta), expected)

    @pytest.mark.parametrize("trace", ["auto", "never"])
    def test_the_post(self, trace, post_kernel, assert_same_bits):
        def absolute_distance(a, b):
            return abs(a - b)

        rng = np.random.default_rng(0)
        for n, m in [(5, 5), (1, 1), (3, 300), (40, 1)]:
            alpha, beta = rng.random(n), rng.random(m)
            expected = post_kernel(absolute_distance, alpha, beta)
            result = pydistrib.kernel(absolute_distance, alpha, beta, trace=trace)
            assert_same_bits(result, expected)
            native = pydistrib.kernel(pydistrib.absolute_distance, alpha, beta)
            assert_same_bits(native, expected)

    def test_integers_wrap_in_a_function_and_not_in_a_metric(self, post_kernel):
        alpha, beta = np.array([1], "u1"), np.array([3], "u1")
        function = lambda a, b: abs(a - b)  # noqa: E731
        with np.errstate(over="ignore"):
            assert post_kernel(function, alpha, beta) == 254
            assert pydistrib.kernel(function, alpha, beta) == 254
        assert pydistrib.kernel(pydistrib.absolute_distance, alpha, beta) == 2

    def test_integers_beyond_doubles(self, post_kernel, assert_same_bits):
        alpha = np.array([2**53, 2**53 + 1, 2**63 - 1, -(2**63)])
        function = lambda a, b: int(a) - int(b)  # noqa: E731
        expected = post_kernel(function, alpha, alpha)
        assert_same_bits(pydistrib.kernel(function, alpha, alpha, trace="never"), expected)
        assert expected[1, 0] == 1

    def test_lists_and_other_sequences(self, assert_same_bits):
        expected = pydistrib.kernel("cityblock", np.array([1.0, 2.5]), np.array([0.0]))
        assert_same_bits(pydistrib.kernel("cityblock", [1, 2.5], (0,)), expected)
        assert_same_bits(pydistrib.kernel("cityblock", [1, 2.5], range(1)), expected)
        series = pytest.importorskip("pandas").Series([1, 2.5], index=[7, 8])
        assert_same_bits(pydistrib.kernel("cityblock", series, [0.0]), expected)


class TestOptions:
    def test_the_signature(self):
        parameters = inspect.signature(pydistrib.kernel).parameters
        assert list(parameters)[:3] == ["distance_function", "alpha", "beta"]
        assert parameters["dtype"].default is np.float32
        assert parameters["decimals"].default == 3
        assert all(p.kind is p.KEYWORD_ONLY for p in list(parameters.values())[3:])

    def test_keywords(self, assert_same_bits):
        points = np.linspace(0, 1, 4)
        expected = pydistrib.kernel("cityblock", points, points)
        result = pydistrib.kernel(beta=points, alpha=points, distance_function="cityblock")
        assert_same_bits(result, expected)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64, None])
    @pytest.mark.parametrize("decimals", [None, 0, 1, 3, 7, 15, -1, -2])
    @pytest.mark.parametrize("metric", METRICS)
    def test_cast_and_rounding(
        self, metric, dtype, decimals, post_matrix, assert_same_bits
    ):
        rng = np.random.default_rng(3)
        alpha, beta = rng.normal(0, 30, (9, 2)), rng.normal(0, 30, (11, 2))
        matrix = post_matrix(
            getattr(pydistrib, metric, pydistrib.absolute_distance), alpha, beta
        )
        expected = matrix.astype(dtype or np.float64)
        expected = expected if decimals is None else expected.round(decimals)
        for function in (metric, lambda a, b: next(flat)):
            flat = iter(matrix.ravel())
            result = pydistrib.kernel(
                function, alpha, beta, dtype=dtype, decimals=decimals, trace="never"
            )
            assert_same_bits(result, expected)

    @pytest.mark.parametrize("shape", [(1, 1), (7, 1), (50, 33), (3, 5000), (2500, 1500)])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_out_is_filled_and_returned(self, shape, dtype, assert_same_bits):
        rng = np.random.default_rng(4)
        alpha, beta = rng.random(shape[0]), rng.random(shape[1])
        guard = np.full((shape[0] + 2, shape[1]), np.nan, dtype)
        out = guard[1:-1]
        assert pydistrib.kernel("cityblock", alpha, beta, dtype=dtype, out=out) is out
        assert np.isnan(guard[[0, -1]]).all()
        expected = np.abs(alpha[:, None] - beta).astype(dtype).round(3)
        assert_same_bits(out.copy(), expected)
        fresh = pydistrib.kernel("cityblock", alpha, beta, dtype=dtype)
        assert_same_bits(fresh, expected)
        assert fresh.flags.owndata
        assert fresh.flags.writeable
        assert fresh.flags.c_contiguous

    def test_out_at_any_alignment(self, assert_same_bits):
        alpha = np.linspace(0, 1, 1500)
        expected = pydistrib.kernel("cityblock", alpha, alpha)
        memory = np.empty(1500 * 1500 + 16, np.float32)
        for shift in range(16):
            out = memory[shift : shift + 1500 * 1500].reshape(1500, 1500)
            out.fill(np.nan)
            pydistrib.kernel("cityblock", alpha, alpha, out=out)
            assert_same_bits(out.copy(), expected)

    def test_inputs_are_left_alone(self):
        alpha, beta = np.linspace(0, 1, 6).reshape(3, 2), np.ones((2, 2), np.float32)
        copies = alpha.copy(), beta.copy()
        for metric in METRICS:
            pydistrib.kernel(metric, alpha, beta)
        assert np.array_equal(alpha, copies[0])
        assert np.array_equal(beta, copies[1])

    def test_the_same_array_twice(self, assert_same_bits):
        points = np.linspace(0, 1, 50)
        expected = pydistrib.kernel("cityblock", points, points.copy())
        assert_same_bits(pydistrib.kernel("cityblock", points, points), expected)


class TestExplain:
    def test_metrics(self):
        points = np.linspace(0, 1, 3)
        for metric in (pydistrib.rbf, "rbf", "RBF", "gaussian"):
            told = pydistrib.explain(metric, points, points)
            assert told.way == "metric"
            assert told.reason == "exp(-gamma * sum((x - y)**2))"
            assert str(told) == "metric: exp(-gamma * sum((x - y)**2))"

    def test_functions_that_cannot_be_traced(self):
        points = np.linspace(0, 1, 3)
        told = pydistrib.explain(lambda a, b: float(str(a - b)), points, points)
        assert told.way == "called"
        assert told.reason
        assert not told.expression
        assert str(told) == f"called: {told.reason}"

    def test_nothing_is_computed(self):
        huge = np.broadcast_to(1.0, 2**40)
        assert pydistrib.explain("cityblock", huge, huge).way == "metric"

    def test_an_explanation_does_not_change(self):
        told = pydistrib.explain("rbf", [1.0], [1.0])
        with pytest.raises(AttributeError):
            told.way = "traced"
        assert told == pydistrib.explain("rbf", [1.0], [1.0])
