"""Functions that are called, not traced: once a pair, in order, exceptions and all."""

from __future__ import annotations

import functools
import gc
import math
import operator
import traceback
import weakref
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pydistrib
from pydistrib import _core

X = np.array([0.5, -1.25, 2.0])
Y = np.array([1.0, 0.1234567, -0.0, 7.5])


def called(function, alpha=X, beta=Y, **options):
    return pydistrib.kernel(function, alpha, beta, trace="never", **options)


class TestCalls:
    @given(n=st.integers(0, 6), m=st.integers(0, 20), ndim=st.sampled_from([1, 2]))
    def test_each_pair_once_in_the_order_of_the_loop(self, n, m, ndim):
        shape = (3,) if ndim == 2 else ()
        alpha = np.arange(n * 3 ** len(shape), dtype=float).reshape(n, *shape)
        beta = np.arange(m * 3 ** len(shape), dtype=float).reshape(m, *shape) + 1000
        calls = []

        def function(a, b):
            calls.append((float(np.sum(a)), float(np.sum(b))))
            return len(calls)

        result = called(function, alpha, beta, decimals=None, dtype=np.float64, workers=3)
        expected = [(float(np.sum(a)), float(np.sum(b))) for a in alpha for b in beta]
        assert calls == expected
        np.testing.assert_array_equal(result, np.arange(1, n * m + 1).reshape(n, m))

    def test_order_holds_for_wide_matrices(self):
        counter = iter(range(10**9))
        beta = np.zeros(150_000)
        result = called(
            lambda a, b: next(counter), X[:2], beta, dtype=np.float64, decimals=None
        )
        assert np.array_equal(result.ravel(), np.arange(300_000))

    def test_a_random_function_sees_the_same_stream(self, post_kernel, assert_same_bits):
        rng = np.random.default_rng(1)
        expected = post_kernel(lambda a, b: rng.random(), X, Y)
        rng = np.random.default_rng(1)
        assert_same_bits(called(lambda a, b: rng.random()), expected)

    @pytest.mark.parametrize("dtype", [*"?bBhHiIlLqQefdg", ">i2", ">f4", ">f8", "<f8"])
    def test_points_are_what_indexing_gives(self, dtype):
        alpha = np.array([0, 1, 1, 0]).astype(dtype)
        for points in (alpha, alpha[::-1], alpha[::2], np.broadcast_to(alpha[:1], 3)):
            seen = []
            called(lambda a, b: seen.append((a, b)) or 0.0, points, points)
            for (a, b), (i, j) in zip(
                seen, np.ndindex(len(points), len(points)), strict=True
            ):
                assert type(a) is type(points[i])
                assert a == points[i]
                assert type(b) is type(points[j])
                assert b == points[j]

    @pytest.mark.parametrize("dtype", ["?", "u1", "i8", "f2", "f4", "f8", ">f8", "g"])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_points_of_two_dimensions_are_read_only_rows(self, dtype, order):
        alpha = np.asarray(np.arange(6).reshape(3, 2) % 2, dtype=dtype, order=order)
        for points in (alpha, alpha[::-1], alpha[:, ::-1], alpha[:, :0]):
            seen = []
            called(lambda a, b: seen.append((a, b)) or 0.0, points, points)
            for pair, indices in zip(seen, np.ndindex(3, 3), strict=True):
                for point, i in zip(pair, indices, strict=True):
                    assert type(point) is np.ndarray
                    assert point.dtype == points.dtype
                    assert np.array_equal(point, points[i])
                    assert not point.flags.writeable
                    assert point.flags.c_contiguous == points[i].flags.c_contiguous
                    assert point.flags.aligned == points[i].flags.aligned

    def test_unaligned_points(self, post_kernel, assert_same_bits):
        record = np.zeros(5, dtype=[("pad", "u1"), ("x", "f8")])
        record["x"] = np.linspace(0, 1, 5)
        for points in (record["x"], record["x"].reshape(5, 1)):
            assert not points.flags.aligned
            expected = post_kernel(lambda a, b: float(np.sum(a - b)), points, points)
            assert_same_bits(
                called(lambda a, b: float(np.sum(a - b)), points, points), expected
            )

    def test_any_callable_will_do(self, post_kernel, assert_same_bits):
        class Distance:
            def __call__(self, a, b):
                return abs(a - b)

            def method(self, a, b):
                return abs(a - b)

            @staticmethod
            def static(a, b):
                return abs(a - b)

        def with_default(a, b, power=1):
            return abs(a - b) ** power

        expected = post_kernel(lambda a, b: abs(a - b), X, Y)
        functions = [
            Distance(),
            Distance().method,
            Distance.static,
            with_default,
            functools.partial(with_default, power=1),
            functools.lru_cache(with_default),
            np.vectorize(with_default, otypes=[float]),
            lambda *args: abs(operator.sub(*args)),
        ]
        for function in functions:
            assert_same_bits(called(function), expected)
        assert_same_bits(called(math.hypot), post_kernel(math.hypot, X, Y))
        assert_same_bits(called(max), post_kernel(max, X, Y))

    def test_points_may_be_kept(self):
        kept = []
        alpha = np.arange(6.0).reshape(3, 2)
        called(lambda a, b: kept.append(a) or 0.0, alpha, alpha)
        copies = [point.copy() for point in kept]
        del alpha
        gc.collect()
        for point, copy in zip(kept, copies, strict=True):
            assert np.array_equal(point, copy)

    def test_nothing_is_kept_alive_afterwards(self):
        class Function:
            def __call__(self, a, b):
                return 1.0

        class Array(np.ndarray):
            pass

        def use():
            function = Function()
            alpha = np.arange(4.0).view(Array)
            called(function, alpha, Y)
            with pytest.raises(TypeError):
                called(lambda a, b: function, alpha, Y)
            return weakref.ref(function), weakref.ref(alpha)

        references = use()
        gc.collect()
        assert [reference() for reference in references] == [None, None]

    def test_kernels_nest(self, post_kernel, assert_same_bits):
        inner = np.linspace(0, 1, 7)

        def function(a, b):
            table = called(lambda p, q: abs(p - q) * a, inner, inner)
            native = pydistrib.pairwise(inner, inner, "cityblock", workers=2)
            return float(table.sum() + native.sum() + b)

        assert_same_bits(called(function), post_kernel(function, X, Y))


class TestResults:
    @pytest.mark.parametrize(
        "value",
        [
            1.5,
            -0.0,
            math.nan,
            math.inf,
            2,
            2**53 + 1,
            -(2**70),
            True,
            np.True_,
            np.int8(-3),
            np.uint64(2**64 - 1),
            np.float16(0.1),
            np.float32(0.1),
            np.float64(0.1),
            np.longdouble("0.1"),
            Decimal("0.1"),
            Fraction(1, 3),
            np.array(2.25),
            np.array(True),
            np.array(3, dtype=">i4"),
            type("Float", (float,), {})(0.75),
            type("HasFloat", (), {"__float__": lambda self: 0.3})(),
            type("HasIndex", (), {"__index__": lambda self: 4})(),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_real_numbers_are_stored_as_numpy_would(self, value, post_matrix):
        result = called(lambda a, b: value, dtype=np.float64, decimals=None)
        expected = post_matrix(lambda a, b: value, X, Y)
        assert result.tobytes() == expected.tobytes()

    def test_a_masked_result_is_nan_and_warns_as_in_the_loop(self, post_kernel):
        with pytest.warns(UserWarning, match="masked element to nan"):
            expected = post_kernel(lambda a, b: np.ma.masked, X, Y)
        with pytest.warns(UserWarning, match="masked element to nan"):
            result = called(lambda a, b: np.ma.masked)
        assert np.isnan(expected).all()
        assert np.isnan(result).all()

    @pytest.mark.parametrize(
        ("value", "shown"),
        [
            ("far", "'far' of type str"),
            ("1.5", "'1.5' of type str"),
            (b"1.5", "b'1.5' of type bytes"),
            (bytearray(b"1"), "of type bytearray"),
            (memoryview(b"1"), "of type memoryview"),
            (np.str_("2"), "of type numpy.str_"),
            (None, "None of type NoneType"),
            (1j, "1j of type complex"),
            (np.complex64(1), "of type numpy.complex64"),
            ([1.0], r"\[1.0\] of type list"),
            ((), r"\(\) of type tuple"),
            ({}, "of type dict"),
            (object, "of type type"),
            (NotImplemented, "of type NotImplementedType"),
            (np.datetime64(5, "s"), "of type numpy.datetime64"),
            (np.timedelta64(5, "s"), "of type numpy.timedelta64"),
            (np.void(b"12345678"), "of type numpy.void"),
            (np.zeros(3), "an array of 1 dimensions, 3 elements and dtype float64"),
            (np.zeros((2, 0)), "an array of 2 dimensions, 0 elements"),
            (np.zeros((), complex), "0 dimensions, 1 elements and dtype complex128"),
            (np.array("1.5"), "dtype <U3"),
            (np.array(None), "dtype object"),
            (np.array(5, "m8[s]"), "dtype timedelta64"),
        ],
        ids=lambda value: str(type(value).__name__),
    )
    def test_anything_else_is_refused(self, value, shown):
        def function(a, b):
            return value if (a, b) == (X[1], Y[2]) else 0.0

        message = (
            rf"(?s)distance function returned .*{shown}.*pair \(1, 2\).*one real number"
        )
        with pytest.raises(TypeError, match=message):
            called(function)
        with pytest.raises(TypeError, match=message):
            pydistrib.pairwise(X, Y, function, trace="never")

    def test_long_results_are_shown_in_part(self):
        with pytest.raises(TypeError) as caught:
            called(lambda a, b: ["x"] * 100_000)
        assert len(str(caught.value)) < 400

    def test_an_array_of_one_number_counts_as_that_number(self):
        result = called(lambda a, b: np.array([[0.5]]))
        assert (result == 0.5).all()

    def test_a_number_too_large_for_a_float(self, post_kernel):
        with pytest.raises(OverflowError, match="int too large"):
            post_kernel(lambda a, b: 10**400, X, Y)
        with pytest.raises(OverflowError, match="int too large"):
            called(lambda a, b: 10**400)

    def test_rounding_is_numpys(self, post_matrix, assert_same_bits):
        values = iter(())
        numbers = [0.0005, 0.0015, 2.5, -0.0004, 1e38, -1e300, 5e-324, 12345.6785] * 2
        for dtype in (np.float32, np.float64):
            for decimals in (0, 1, 3, 8, 15, -1, -3, None):
                values = iter(numbers)
                matrix = post_matrix(lambda a, b: next(values), np.zeros(4), np.zeros(4))
                with np.errstate(all="ignore"):
                    expected = matrix.astype(dtype)
                    if decimals is not None:
                        expected = expected.round(decimals)
                values = iter(numbers)
                result = called(
                    lambda a, b: next(values),
                    np.zeros(4),
                    np.zeros(4),
                    dtype=dtype,
                    decimals=decimals,
                )
                assert_same_bits(result, expected)


class TestExceptions:
    def test_the_users_exception_arrives_itself_with_its_traceback(self):
        error = LookupError("no such pair")

        def deep(a, b):
            raise error

        def function(a, b):
            return deep(a, b) if (a, b) == (X[2], Y[3]) else 0.0

        with pytest.raises(LookupError) as caught:
            called(function)
        assert caught.value is error
        names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert names[-2:] == ["function", "deep"]
        assert error.__cause__ is None
        assert error.__context__ is None

    @pytest.mark.parametrize(
        "kind", [KeyboardInterrupt, SystemExit, GeneratorExit, StopIteration]
    )
    def test_any_exception_will_do(self, kind):
        error = kind("now")

        def function(a, b):
            raise error

        with pytest.raises(kind) as caught:
            called(function)
        assert caught.value is error

    @pytest.mark.parametrize("kind", [TypeError, ValueError, ZeroDivisionError])
    def test_an_exception_of_float_is_the_users_too(self, kind):
        error = kind("mine")

        class Number:
            def __float__(self):
                raise error

        with pytest.raises(kind) as caught:
            called(lambda a, b: Number())
        assert caught.value is error

    def test_a_float_that_is_none(self):
        class Number:
            def __float__(self):
                return "1"

        with pytest.raises(TypeError, match="__float__ returned non-float"):
            called(lambda a, b: Number())

    def test_a_function_of_the_wrong_arity(self):
        with pytest.raises(TypeError, match="takes 1 positional argument but 2 were given"):
            called(lambda a: 0.0)

    def test_no_call_follows_the_exception(self):
        calls = []

        def function(a, b):
            calls.append((a, b))
            if len(calls) == 6:
                raise RuntimeError
            return 0.0

        with pytest.raises(RuntimeError):
            called(function)
        assert len(calls) == 6

    def test_a_warning_that_is_an_error(self):
        with pytest.raises(RuntimeWarning, match="divide by zero"):
            called(lambda a, b: a / b)

    def test_a_function_cannot_change_its_arguments(self):
        points = np.arange(6.0).reshape(3, 2)

        def function(a, b):
            a[0] = 100.0
            return 0.0

        with pytest.raises(ValueError, match="read-only"):
            called(function, points, points)
        assert np.array_equal(points, np.arange(6.0).reshape(3, 2))

    @pytest.mark.filterwarnings("ignore:Setting the shape")
    def test_a_function_may_reshape_the_inputs(self):
        alpha, beta = np.arange(8.0), np.arange(8.0)

        def function(a, b):
            alpha.shape = (1, 8)
            beta.shape = (2, 2, 2)
            return a + b

        result = called(function, alpha, beta)
        assert np.array_equal(result, np.add.outer(np.arange(8.0), np.arange(8.0)))

    def test_a_function_may_drop_the_inputs(self):
        box = [np.arange(100.0)]

        def function(a, b):
            if box:
                box.clear()
                gc.collect()
            return a * 100 + b

        result = called(function, box[0], box[0])
        expected = np.add.outer(np.arange(100.0) * 100, np.arange(100.0))
        assert np.array_equal(result, expected.astype(np.float32))

    def test_recursion_without_end(self):
        def function(a, b):
            return called(function)[0, 0]

        with pytest.raises(RecursionError):
            called(function)

    def test_one_producer_is_walked_once_at_a_time(self):
        out = np.empty((3, 4))
        caught = []

        def function(a, b):
            try:
                _core.store(producer, np.empty((3, 4)), None, 1)
            except RuntimeError as error:
                caught.append(str(error))
            return 1.0

        producer = _core.callable_producer(function, X, Y)
        assert _core.store(producer, out, None, 1) is None
        assert (out == 1).all()
        assert set(caught) == {"the producer is in use already"}
        assert len(caught) == 12
        assert _core.store(producer, out, None, 1) is None


class TestPairs:
    """`_core.call_pairs`, which settles what a traced function leaves in doubt."""

    def test_calls_in_the_given_order(self):
        i, j = np.array([2, 0, 0]), np.array([3, 1, 1])
        seen = []
        values = _core.call_pairs(lambda a, b: seen.append((a, b)) or len(seen), X, Y, i, j)
        assert seen == [(X[2], Y[3]), (X[0], Y[1]), (X[0], Y[1])]
        assert values.dtype == np.float64
        assert values.tolist() == [1, 2, 3]

    @pytest.mark.parametrize(("i", "j"), [(3, 0), (-1, 0), (0, 4), (0, -1), (2**62, 0)])
    def test_pairs_outside_are_refused(self, i, j):
        with pytest.raises(IndexError, match=rf"no pair \({i}, {j}\)"):
            _core.call_pairs(max, X, Y, np.array([i]), np.array([j]))

    def test_errors_arrive(self):
        with pytest.raises(ZeroDivisionError):
            _core.call_pairs(lambda a, b: 1 / 0, X, Y, np.array([0]), np.array([0]))
        with pytest.raises(
            TypeError, match=r"returned 'x' of type str for the pair \(1, 2\)"
        ):
            _core.call_pairs(lambda a, b: "x", X, Y, np.array([1]), np.array([2]))
