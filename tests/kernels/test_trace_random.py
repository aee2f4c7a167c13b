"""
Random functions of random points: traced or not, the bits are those of the called function.

Functions are written as text, from a grammar of what the tracer knows, and compiled.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import pydistrib

WEIGHTS = np.array([0.5, -1.25, 2.0])
EXAMPLES = 150  # of each test; 20,000 of each were run when this was written

CONSTANTS = [
    "0", "1", "-1", "2", "3", "0.5", "0.1", "1e-3", "1e10", "-0.0", "np.pi", "True",
    "np.float32(0.1)", "np.float64(2.5)", "np.inf", "1e-300", "7.25", "GAMMA",
]  # fmt: skip
BINARY = ["+", "-", "*", "/", "-", "*"]
SPECIAL_BINARY = ["//", "%"]
NUMPY_1 = [
    "abs", "sqrt", "exp", "log", "sin", "cos", "tan", "tanh", "arctan", "floor", "ceil",
    "rint", "sign", "square", "log1p", "expm1", "arcsin", "arccos", "cbrt", "isnan",
    "isfinite", "trunc", "exp2", "arcsinh", "arccosh", "arctanh", "radians", "negative",
]  # fmt: skip
NUMPY_2 = ["minimum", "maximum", "hypot", "arctan2", "fmin", "copysign", "fmod", "power"]
MATH_1 = ["sqrt", "exp", "log", "sin", "fabs", "atan", "floor", "cos", "acos", "isnan"]


def _join(template, *parts):
    return st.tuples(*parts).map(lambda given: template.format(*given))


def _comparison(number):
    return st.one_of(
        _join("({} {} {})", number, st.sampled_from(["<", "<=", ">", "==", "!="]), number),
        _join("({} < {} <= {})", number, number, number),
        _join("(not {})", number),
    )


def _number_step(number):
    condition = _comparison(number)
    return st.one_of(
        _join("({} {} {})", number, st.sampled_from(BINARY), number),
        _join("({} {} {})", number, st.sampled_from(SPECIAL_BINARY), number),
        _join("np.{}({})", st.sampled_from(NUMPY_1), number),
        _join("np.{}({}, {})", st.sampled_from(NUMPY_2), number, number),
        _join("math.{}({})", st.sampled_from(MATH_1), number),
        _join("(-{})", number),
        _join("abs({})", number),
        _join("({} ** {})", number, st.sampled_from(["2", "3", "0.5", "-1", "1.5", "b"])),
        _join("{}({}, {})", st.sampled_from(["min", "max"]), number, number),
        _join("({} if {} else {})", number, condition, number),
        _join("np.where({}, {}, {})", condition, number, number),
        _join("np.clip({}, -1, {})", number, number),
        _join("round({}, 2)", number),
        _join("float({})", number),
        _join("int(np.clip({}, -9, 9))", number),
        _join("sum([{}, {}, {}])", number, number, number),
        _join("sum([float({}), float({}), 0.1])", number, number),
        _join("({} and {})", condition, condition),
        _join("({} or {})", condition, number),
        condition,
    )


def _vector_step(pair):
    number, vector = pair
    either = st.one_of(vector, number)
    reduced = st.one_of(
        _join("np.{}({})", st.sampled_from(
            ["sum", "mean", "max", "min", "prod", "any", "all", "std", "var"]), vector),
        _join("{}.{}()", vector, st.sampled_from(["sum", "mean", "max", "min"])),
        _join("({} @ {})", vector, vector),
        _join("np.dot({}, {})", vector, vector),
        _join("np.linalg.norm({})", vector),
        _join("np.linalg.norm({}, {})", vector, st.sampled_from(["1", "np.inf", "3"])),
        _join("{}[{}]", vector, st.sampled_from(["0", "1", "2", "-1"])),
        _join("sum(p * q for p, q in zip({}, {}))", vector, vector),
        _join("max(p - q for p, q in zip({}, {}))", vector, vector),
        _join("math.sqrt(sum(abs(p) for p in {}))", vector),
    )  # fmt: skip
    vectors = st.one_of(
        _join("({} {} {})", vector, st.sampled_from(BINARY), either),
        _join("({} {} {})", number, st.sampled_from(BINARY), vector),
        _join("np.{}({})", st.sampled_from(NUMPY_1), vector),
        _join("np.{}({}, {})", st.sampled_from(NUMPY_2), vector, either),
        _join("abs({})", vector),
        _join("({} ** {})", vector, st.sampled_from(["2", "0.5", "3"])),
        _join("np.where({} < {}, {}, {})", vector, either, either, vector),
        _join("{}[::-1]", vector),
        _join("({} > {})", vector, either),
        _join("np.clip({}, -1, 1)", vector),
    )
    return reduced, vectors


def _grow(number, steps):
    for _ in range(steps):
        number = st.one_of(number, _number_step(number))
    return number


LEAF = st.one_of(st.sampled_from(["a", "b"]), st.sampled_from(["a", "b", *CONSTANTS]))
NUMBERS = _number_step(_grow(LEAF, 2))


def _vector_functions():
    constant = st.sampled_from(CONSTANTS)
    vector = st.sampled_from(["a", "b", "(a - b)", "WEIGHTS", "(a * b)"])
    reduced, vectors = _vector_step((constant, vector))
    vector = st.one_of(vector, vectors)
    number = st.one_of(constant, reduced)
    reduced, vectors = _vector_step((number, vector))
    deep, _ = _vector_step((st.one_of(number, reduced), st.one_of(vector, vectors)))
    return st.one_of(deep, reduced, _number_step(reduced))


VECTORS = _vector_functions()


def points(dtype, shape, seed, wild):
    """Give points of a type: tame ones, zeros and ones, or all that floats can be."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        low, high = (max(limits.min, -(2**60)), limits.max) if wild == "wild" else (0, 12)
        return rng.integers(low, high, shape, dtype=dtype, endpoint=True)
    if wild == "zeros":
        return rng.choice(np.array([0.0, -0.0, 1.0, -1.0, 0.5], dtype), shape)
    values = (rng.normal(size=shape) * 2).round(int(rng.integers(0, 5))).astype(dtype)
    if wild == "wild":
        limits = np.finfo(dtype)
        odd = [
            0.0, -0.0, np.nan, np.inf, -np.inf, limits.tiny, -limits.smallest_subnormal,
            limits.max, -limits.max, 1.0, -1.0, limits.eps, 0.0005, 1e-20, 1e20,
        ]  # fmt: skip
        mask = rng.random(shape) < 0.5
        values[mask] = rng.choice(np.array(odd, dtype), mask.sum())
    return values


def outcome(function, x, y, trace):
    try:
        result = pydistrib.kernel(function, x, y, trace=trace)
    except Exception as error:
        return type(error), str(error)
    clean = np.where(np.isnan(result), np.float32(np.nan), result)
    return clean.astype(np.float32).tobytes()


def compare(text, x, y):
    names = {"np": np, "math": math, "WEIGHTS": WEIGHTS.astype(x.dtype), "GAMMA": 0.3}
    if x.dtype.kind in "biu":
        names["WEIGHTS"] = WEIGHTS
    function = eval(f"lambda a, b: {text}", names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        way = pydistrib.explain(function, x, y)
        traced = outcome(function, x, y, "auto")
        called = outcome(function, x, y, "never")
    if traced != called:
        if isinstance(traced, bytes) and isinstance(called, bytes):
            shape = len(x), len(y)
            np.testing.assert_array_equal(
                np.frombuffer(traced, np.float32).reshape(shape),
                np.frombuffer(called, np.float32).reshape(shape),
                err_msg=f"{text}\n{way}",
            )
        raise AssertionError(f"{text}\n{way}\n{traced!r}\n{called!r}")
    # Neither may happen, though the result is right then too.
    assert not way.reason.startswith(("traced,", "its program")), (text, way)
    return way.way


FLOATS = st.sampled_from(["f8", "f8", "f4"])
SEEDS = st.integers(0, 10**6)
WILD = st.sampled_from(["tame", "wild", "zeros"])


@given(text=NUMBERS, dtype=FLOATS, other=FLOATS, seed=SEEDS, wild=WILD)
@settings(max_examples=EXAMPLES)
def test_numbers(text, dtype, other, seed, wild):
    compare(text, points(dtype, 13, seed, wild), points(other, 17, seed + 1, wild))


@given(text=VECTORS, dtype=FLOATS, seed=SEEDS, wild=WILD)
@settings(max_examples=EXAMPLES)
def test_vectors(text, dtype, seed, wild):
    compare(
        text, points(dtype, (11, 3), seed, wild), points(dtype, (12, 3), seed + 1, wild)
    )


@given(
    text=st.one_of(NUMBERS, VECTORS),
    dtype=st.sampled_from(["i8", "i4", "i2", "i1", "u1", "u2", "u4", "u8", "?"]),
    seed=SEEDS,
    wild=WILD,
)
@settings(max_examples=EXAMPLES)
def test_integers(text, dtype, seed, wild):
    shape = (3,) if "[" in text or "@" in text or "WEIGHTS" in text else ()
    compare(
        text, points(dtype, (8, *shape), seed, wild), points(dtype, (9, *shape), seed, wild)
    )


def test_most_random_functions_are_traced():
    ways = {"traced": 0, "called": 0}
    x, y = points("f8", 13, 1, "tame"), points("f8", 17, 2, "tame")

    @given(text=NUMBERS)
    @settings(max_examples=EXAMPLES)
    def count(text):
        ways[compare(text, x, y)] += 1

    count()
    assert ways["traced"] > 2 * ways["called"], ways
