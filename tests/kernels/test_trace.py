"""Functions that are traced: what real scripts contain, bit for bit as the loop has it."""

from __future__ import annotations

import functools
import math
import operator
import warnings
from math import exp, sqrt

import numpy as np
import pytest

import pydistrib

GAMMA = 0.5
WEIGHTS = np.array([0.5, 1.25, 2.0, 0.1])
WEIGHT_LIST = [0.5, 1.25, 2.0, 0.1]
PARAMETERS = {"sigma": 0.75, "power": 3}
MATRIX = np.array([[2.0, 0.3, 0, 0], [0.3, 1, 0.1, 0], [0, 0.1, 1, 0], [0, 0, 0, 0.7]])
absolute = np.abs
root = np.sqrt


@pytest.fixture(autouse=True)
def _warnings_are_no_errors():
    # As users have it; test_explain.py covers warnings that are errors.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _numbers(dtype, count, shape, seed):
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return rng.random((count, *shape)) < 0.5
    if dtype.kind in "iu":
        low = 0 if dtype.kind == "u" else -9
        return rng.integers(low, 10, (count, *shape)).astype(dtype)
    # Of few digits, so that many results lie on the rounding's boundaries.
    return (rng.normal(size=(count, *shape)).round(2) * 2).astype(dtype)


def _special(dtype, count, shape, seed):
    """Give floats with zeros of both signs, NaN, infinities, tiny, huge and equal ones."""
    values = _numbers(dtype, count, shape, seed)
    limits = np.finfo(dtype)
    odd = np.array(
        [0.0, -0.0, np.nan, np.inf, -np.inf, limits.tiny, -limits.smallest_subnormal,
         limits.max, -limits.max, 1.0, -1.0, limits.eps, 0.0005, 0.5],
        dtype,
    )  # fmt: skip
    rng = np.random.default_rng(seed + 1)
    mask = rng.random(values.shape) < 0.4
    values[mask] = rng.choice(odd, mask.sum())
    return values


def _bits(array):
    clean = np.where(np.isnan(array), np.array(np.nan, array.dtype), array)
    return np.ascontiguousarray(clean).tobytes()


def check(function, x, y, post_matrix, *, exact=False):
    """Compare with the loop, rounded, and as it is where that is to agree too."""
    expected = post_matrix(function, x, y)
    for dtype, decimals in ((np.float32, 3), (np.float64, 2), (np.float32, None)):
        actual = pydistrib.kernel(function, x, y, dtype=dtype, decimals=decimals)
        wanted = expected.astype(dtype)
        wanted = wanted if decimals is None else wanted.round(decimals)
        if _bits(actual) != _bits(wanted):
            np.testing.assert_array_equal(actual, wanted)
            raise AssertionError("signs of zeros differ")
    if exact:
        actual = pydistrib.kernel(function, x, y, dtype=None, decimals=None)
        if _bits(actual) != _bits(expected):
            np.testing.assert_array_equal(actual, expected)
            raise AssertionError("signs of zeros differ")


def way(function, x, y):
    explanation = pydistrib.explain(function, x, y)
    assert str(explanation)
    return explanation.way, str(explanation)


# ------------------------------------------------------------------------------------
# Functions of two numbers
# ------------------------------------------------------------------------------------


def _three_ways(a, b):
    if a > b:
        return a - b
    elif a == b:
        return 0
    else:
        return (b - a) * 2


def _early(a, b):
    if a != a or b != b:
        return -1.0
    if not a:
        return b
    return a * b


def _helper(d, scale=2.0):
    return d * d / scale


def _with_helper(a, b):
    return _helper(a - b) + _helper(b - a, scale=GAMMA)


def _closure(gamma, offsets):
    def inner(a, b):
        return gamma * (a - b) + offsets[1]

    return inner


def _nested(a, b):
    d = a - b

    def square():
        return d * d

    return square() + 1


def _epanechnikov(a, b):
    u = (a - b) / PARAMETERS["sigma"]
    return 0.75 * (1 - u**2) if abs(u) <= 1 else 0.0


def _caught(a, b):
    try:
        return math.log(abs(a - b))
    except ValueError:
        return -99.0


def _loop(a, b):
    total = 0.0
    for k in range(1, 5):
        total += (a - b) / k
    return total


def _walrus(a, b):
    return d if (d := a - b) > 0 else -d


def _match(a, b):
    match a > b:
        case 0:
            return a
        case _:
            return b


EXACT_1D = {
    "the post's": lambda a, b: abs(a - b),
    "difference": lambda a, b: a - b,
    "difference, negated": lambda a, b: -(a - b),
    "square": lambda a, b: (a - b) * (a - b),
    "polynomial": lambda a, b: (a * b + 1) * (a * b + 1) - a / 3,
    "quotient": lambda a, b: a / b,
    "canberra": lambda a, b: abs(a - b) / (abs(a) + abs(b)),
    "where": lambda a, b: np.where(a > b, a, b),
    "where of numbers": lambda a, b: np.where(a == b, 1.0, 0.0),
    "nested where": lambda a, b: np.where(a < 0, -1, np.where(b < 0, 1, a)),
    "comparison": lambda a, b: a < b,
    "equality": lambda a, b: a == b,
    "equality as a float": lambda a, b: float(a == b),
    "chained": lambda a, b: 1.0 if -0.5 < a <= b else 0.0,
    "and, or, not": lambda a, b: 1 if (a > 0 and b > 0) or not a < b else 2,
    "ternary": lambda a, b: a if a > b else b,
    "three ways": _three_ways,
    "early returns": _early,
    "min and max": lambda a, b: max(a, b) - min(a, b, 1.0),
    "ramp": lambda a, b: max(0, 1 - abs(a - b)),
    "clamp": lambda a, b: max(0.0, min(1.0, a - b)),
    "np.minimum": lambda a, b: np.minimum(a, b),
    "np.maximum": lambda a, b: np.maximum(a - b, 0.0),
    "np.fmin": lambda a, b: np.fmin(a, b) - np.fmax(a, 0.25),
    "np.clip": lambda a, b: np.clip(a - b, -0.5, 0.5),
    "np.clip by a point": lambda a, b: np.clip(a, b, 1.5) + np.clip(b, None, a),
    "np.clip by numbers of a type": lambda a, b: np.clip(a, np.float64(0.1), np.float32(1)),
    "np.clip by names": lambda a, b: np.clip(a - b, a_min=-0.5, a_max=None),
    "method clip": lambda a, b: (a * b).clip(0.1, 1),
    "helper": _with_helper,
    "closure": _closure(0.25, (1.0, 2.5)),
    "nested": _nested,
    "default": lambda a, b, c=0.75: c * a - b,
    "keyword-only default": lambda a, b, *, c=0.75: c * a - b,
    "partial": functools.partial(lambda c, a, b: c * a - b, 0.75),
    "partial of partial": functools.partial(
        functools.partial(lambda c, a, b, e: c * a - b * e, 0.75), e=2.0
    ),
    "alias": lambda a, b: absolute(a - b),
    "alias of sqrt": lambda a, b: root(abs(a - b)),
    "imported sqrt": lambda a, b: sqrt(abs(a - b)),
    "np.absolute": lambda a, b: np.absolute(a - b),
    "np.subtract": np.subtract,
    "operator.sub": operator.sub,
    "np.abs of np.subtract": lambda a, b: np.abs(np.subtract(a, b)),
    "np.square": lambda a, b: np.square(a - b),
    "np.sign": lambda a, b: np.sign(a - b),
    "floor and ceil": lambda a, b: np.floor(a) - np.ceil(b) + np.trunc(a * b),
    "np.rint": lambda a, b: np.rint(a / b),
    "np.round": lambda a, b: np.round(a * b, 1),
    "method round": lambda a, b: (a / 3).round(2) + b,
    "round to digits": lambda a, b: round(a / 3, 2),
    "floor division": lambda a, b: a // b,
    "remainder": lambda a, b: a % b,
    "remainder by a number": lambda a, b: (a - b) % 0.75,
    "np.fmod": lambda a, b: np.fmod(a, b),
    "np.copysign": lambda a, b: np.copysign(a, b),
    "np.heaviside": lambda a, b: np.heaviside(a - b, 0.5),
    "math.floor": lambda a, b: math.floor(a) - math.ceil(b),
    "int": lambda a, b: int(a) - int(b),
    "math.fabs": lambda a, b: math.fabs(a - b),
    "math.sqrt": lambda a, b: math.sqrt((a - b) * (a - b)),
    "float": lambda a, b: float(a) - float(b),
    "float division": lambda a, b: float(a) / float(b),
    "np.isnan": lambda a, b: np.isnan(a) | np.isinf(b),
    "math.isnan": lambda a, b: 0.0 if math.isnan(a) or math.isinf(b) else 1.0,
    "np.isfinite": lambda a, b: 1.0 if np.isfinite(a) and np.isfinite(b) else -1.0,
    "logical": lambda a, b: np.logical_and(a > 0, np.logical_not(b > 0)),
    "bits of truths": lambda a, b: (a > 0) & (b > 0) ^ (a > b),
    "constant": lambda a, b: 1.5,
    "np.float32 of it": lambda a, b: np.float32(a) * 3,
    "np.float64 of it": lambda a, b: np.float64(a) * 0.1 - b,
    "np.pi": lambda a, b: (a - b) / np.pi + math.e,
    "isinstance": lambda a, b: a - b if isinstance(a, (float, np.floating)) else a + b,
    "epanechnikov": _epanechnikov,
    "loop": _loop,
    "walrus": _walrus,
    "match": _match,
    "dict of parameters": lambda a, b: PARAMETERS["sigma"] * a - b,
    "infinite constant": lambda a, b: min(np.inf, a) - max(-np.inf, b),
    "finfo": lambda a, b: (a - b) / (abs(b) + np.finfo(float).eps),
    "multiquadric": lambda a, b: np.sqrt((a - b) * (a - b) + GAMMA * GAMMA),
    "sum of a list": lambda a, b: sum([a, b, 0.1]),
    "any and all": lambda a, b: any([a > 0, b > 0]) + all([a > 1, b > 1]),
    "sorted": lambda a, b: sorted([a, b])[0],
    "unpacking": lambda *points: points[0] - points[1],
}

ROUNDED_1D = {
    "gaussian": lambda a, b: np.exp(-((a - b) ** 2) / (2 * GAMMA**2)),
    "math gaussian": lambda a, b: math.exp(-((a - b) ** 2)),
    "imported exp": lambda a, b: exp(-abs(a - b)),
    "laplacian": lambda a, b: np.exp(-GAMMA * np.abs(a - b)),
    "power of 2": lambda a, b: (a - b) ** 2,
    "power of 3": lambda a, b: (a - b) ** 3,
    "power of 0.5": lambda a, b: abs(a - b) ** 0.5,
    "power of -1": lambda a, b: (1 + abs(a - b)) ** -1,
    "powers of a 0-d array": lambda a, b: (
        np.where(a > b, a, b) ** 0.5
        + np.where(a > b, a, b) ** 2
        + np.where(b > 1, a, b) ** 3
    ),
    "root": lambda a, b: a**0.5,
    "rounded root": lambda a, b: np.rint(a**0.5),
    "rounded root of a difference": lambda a, b: np.trunc((a * b) ** 0.5 / 9),
    "rounded to either zero": lambda a, b: np.rint(np.sin(a) * 0.1) + np.ceil(-abs(b) / 99),
    "root of a 0-d array": lambda a, b: np.where(a > b, abs(a), abs(b)) ** 0.5,
    "math.pow": lambda a, b: math.pow(abs(a), 1.5) - b,
    "pow": lambda a, b: pow(a - b, 2) + np.power(abs(a), 0.3),
    "inverse multiquadric": lambda a, b: 1 / np.sqrt(1 + (GAMMA * (a - b)) ** 2),
    "rational quadratic": lambda a, b: (1 + (a - b) ** 2 / 3) ** -1.5,
    "periodic": lambda a, b: np.exp(-2 * np.sin(np.pi * abs(a - b) / 3) ** 2),
    "matern": lambda a, b: (1 + 1.7 * abs(a - b)) * np.exp(-1.7 * abs(a - b)),
    "tanh": lambda a, b: np.tanh(GAMMA * a * b + 1),
    "logistic": lambda a, b: 1 / (1 + np.exp(-(a - b))),
    "log": lambda a, b: np.log(abs(a) + 1) - np.log1p(abs(b)),
    "log of a ratio": lambda a, b: abs(np.log(abs(a) / abs(b))),
    "math.log": lambda a, b: math.log(abs(a) + 1, 3) + math.log10(abs(b) + 1),
    "caught": _caught,
    "trigonometric": lambda a, b: np.sin(a) * np.cos(b) + np.tan(a * 0.1),
    "inverse": lambda a, b: np.arctan2(a, b) + np.arcsin(np.clip(a, -1, 1)),
    "math inverse": lambda a, b: math.atan2(a, b) - math.acos(max(-1.0, min(1.0, b))),
    "arcs of inexact": lambda a, b: np.arccos(np.cos(a)) + np.arcsin(np.sin(b) * 0.5),
    "arctan2 of inexact": lambda a, b: np.arctan2(np.sin(a), np.cos(a)) - b,
    "area functions": lambda a, b: (
        np.arccosh(np.cosh(a * 0.1) + 1)
        + np.arctanh(np.tanh(b) * 0.5)
        + np.arcsinh(np.sinh(a * 0.1))
    ),
    "angle": lambda a, b: abs((math.degrees(a) - math.degrees(b) + 180) % 360 - 180),
    "hypot": lambda a, b: np.hypot(a, b) - math.hypot(a, b, 1),
    "logaddexp": lambda a, b: np.logaddexp(a, b),
    "exp2 and log2": lambda a, b: np.exp2(a * 0.1) + np.log2(1 + abs(b)),
    "expm1": lambda a, b: math.expm1(-abs(a)) + np.cbrt(b),
    "threshold": lambda a, b: 1.0 if np.exp(-abs(a - b)) > 0.5 else 0.0,
    "steps of inexact": lambda a, b: np.floor(np.exp(a * 0.1)) + np.sign(np.sin(b)),
    "sum of floats": lambda a, b: sum([math.exp(-a * a), math.exp(-b * b), 0.1]),
    "sum of equal floats": lambda a, b: sum([float(a)] * 10) - sum([float(b), 1e16, 1.0]),
    "radians": lambda a, b: np.radians(a) - np.deg2rad(b) + np.degrees(a - b),
}

# Not traced on these dtypes, or on any, each for a reason that is told; right all the same.
UNTRACED_1D = {
    "angle": "remainder of an inexact value",
}


@pytest.mark.parametrize("name", EXACT_1D)
@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_functions_of_numbers_that_are_exact(name, dtype, post_matrix):
    function = EXACT_1D[name]
    x, y = _numbers(dtype, 23, (), 1), _numbers(dtype, 31, (), 2)
    assert way(function, x, y)[0] == "traced", way(function, x, y)
    check(function, x, y, post_matrix, exact=True)


@pytest.mark.parametrize("name", ROUNDED_1D)
@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_functions_of_numbers_that_are_rounded(name, dtype, post_matrix):
    function = ROUNDED_1D[name]
    x, y = _numbers(dtype, 23, (), 3), _numbers(dtype, 31, (), 4)
    if name not in UNTRACED_1D:
        assert way(function, x, y)[0] == "traced", way(function, x, y)
    check(function, x, y, post_matrix)


def _agrees_or_raises(function, x, y, post_matrix, **options):
    """Where the loop raises, the same exception must arrive."""
    # Verification is the last line, not the first: what it finds was traced wrongly.
    assert "traced, it gives" not in pydistrib.explain(function, x, y).reason
    try:
        post_matrix(function, x, y)
    except Exception as error:
        with pytest.raises(type(error)) as caught:
            pydistrib.kernel(function, x, y)
        assert str(caught.value) == str(error)
        return
    check(function, x, y, post_matrix, **options)


@pytest.mark.parametrize("name", [*EXACT_1D, *ROUNDED_1D])
@pytest.mark.parametrize("dtype", ["f8", "f4", "f2"])
def test_special_numbers(name, dtype, post_matrix):
    function = EXACT_1D.get(name) or ROUNDED_1D[name]
    x, y = _special(dtype, 19, (), 5), _special(dtype, 29, (), 6)
    _agrees_or_raises(function, x, y, post_matrix, exact=name in EXACT_1D)
    finite = [v[np.isfinite(v)] for v in (x, y)]
    _agrees_or_raises(function, *finite, post_matrix, exact=name in EXACT_1D)


@pytest.mark.parametrize("name", [*EXACT_1D, *ROUNDED_1D])
@pytest.mark.parametrize("dtype", ["i8", "i4", "i2", "i1", "u1", "u2", "u8", "?"])
def test_integers_and_truths(name, dtype, post_matrix):
    function = EXACT_1D.get(name) or ROUNDED_1D[name]
    x, y = _numbers(dtype, 11, (), 7), _numbers(dtype, 13, (), 8)
    _agrees_or_raises(function, x, y, post_matrix, exact=name in EXACT_1D)


@pytest.mark.parametrize("types", [("f4", "f8"), ("f8", "f4"), ("i4", "f4"), ("f4", "u1")])
@pytest.mark.parametrize("name", [*EXACT_1D, *ROUNDED_1D])
def test_points_of_two_types(name, types, post_matrix):
    function = EXACT_1D.get(name) or ROUNDED_1D[name]
    x, y = _numbers(types[0], 11, (), 7), _numbers(types[1], 13, (), 8)
    _agrees_or_raises(function, x, y, post_matrix, exact=name in EXACT_1D)


# ------------------------------------------------------------------------------------
# Functions of two vectors
# ------------------------------------------------------------------------------------


def _zip_loop(a, b):
    total = 0
    for p, q in zip(a, b):
        total += abs(p - q)
    return total


def _range_loop(a, b):
    total = 0.0
    for k in range(len(a)):
        d = a[k] - b[k]
        total += d * d
    return math.sqrt(total)


def _enumerate_loop(a, b):
    best = -1.0
    for k, p in enumerate(a):
        if abs(p - b[k]) > best:
            best = abs(p - b[k])
    return best


def _haversine(a, b):
    lat1, lon1, lat2, lon2 = map(np.radians, [a[0], a[1], b[0], b[1]])
    h = np.sin((lat2 - lat1) / 2) ** 2
    h = h + np.cos(lat1) * np.cos(lat2) * np.sin((lon2 - lon1) / 2) ** 2
    return 2 * np.arcsin(np.sqrt(h)) * 6371.0


def _math_haversine(a, b):
    lat1, lon1 = math.radians(a[0]), math.radians(a[1])
    lat2, lon2 = math.radians(b[0]), math.radians(b[1])
    h = math.sin((lat2 - lat1) / 2) ** 2
    h += math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 6371 * 2 * math.atan2(math.sqrt(h), math.sqrt(1 - h))


def _great_circle(a, b):
    inner = math.sin(a[0]) * math.sin(b[0])
    inner += math.cos(a[0]) * math.cos(b[0]) * math.cos(a[1] - b[1])
    return math.acos(max(-1.0, min(1.0, inner)))


def _cosine_guarded(a, b):
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    if norms == 0:
        return 0.0
    return np.dot(a, b) / norms


EXACT_2D = {
    "cityblock": lambda a, b: np.sum(np.abs(a - b)),
    "cityblock, method": lambda a, b: abs(a - b).sum(),
    "cityblock, zip": lambda a, b: sum(abs(p - q) for p, q in zip(a, b)),
    "zip loop": _zip_loop,
    "range loop": _range_loop,
    "enumerate loop": _enumerate_loop,
    "sqeuclidean": lambda a, b: ((a - b) ** 2).sum(),
    "sqeuclidean, multiplied": lambda a, b: np.sum((a - b) * (a - b)),
    "euclidean": lambda a, b: np.sqrt(np.sum((a - b) ** 2)),
    "math euclidean": lambda a, b: math.sqrt(((a - b) ** 2).sum()),
    "chebyshev": lambda a, b: np.max(np.abs(a - b)),
    "chebyshev, max": lambda a, b: max(abs(p - q) for p, q in zip(a, b)),
    "minimum": lambda a, b: (a - b).min(),
    "maximum": lambda a, b: np.amax(a * b),
    "hamming": lambda a, b: np.mean(a != b),
    "hamming, sum": lambda a, b: np.sum(a != b) / len(a),
    "hamming, zip": lambda a, b: sum(p != q for p, q in zip(a, b)) / a.size,
    "canberra": lambda a, b: np.sum(np.abs(a - b) / (np.abs(a) + np.abs(b) + 0.5)),
    "braycurtis": lambda a, b: np.abs(a - b).sum() / (np.abs(a + b).sum() + 1),
    "jaccard": lambda a, b: np.minimum(abs(a), abs(b)).sum() / np.maximum(abs(a), 1).sum(),
    "mean": lambda a, b: np.mean(a - b) + (a * b).mean(),
    "std and var": lambda a, b: np.std(a - b) + np.var(a) - b.var(ddof=1),
    "prod": lambda a, b: np.prod(a - b),
    "norm of order 1": lambda a, b: np.linalg.norm(a - b, 1),
    "norm of order inf": lambda a, b: np.linalg.norm(a - b, ord=np.inf),
    "any and all": lambda a, b: np.any(a > b) + 2.0 * np.all(a > b - 2),
    "weights": lambda a, b: np.sum(WEIGHTS * np.abs(a - b)),
    "list of weights": lambda a, b: sum(
        w * abs(p - q) for w, p, q in zip(WEIGHT_LIST, a, b)
    ),
    "element": lambda a, b: a[0] - b[-1],
    "slices": lambda a, b: np.sum(a[1:] - b[:-1]) + np.max(a[::2] * b[::-2]),
    "reversed": lambda a, b: np.sum(a[::-1] - b) + a[::-1].sum() - (a - b)[::-1].sum(),
    "differences": lambda a, b: np.sum(np.abs((a[1:] - a[:-1]) - (b[1:] - b[:-1]))),
    "broadcast": lambda a, b: np.sum(a - b[0]) - (a - a.mean()).max(),
    "where": lambda a, b: np.where(a > b, a - b, 0).sum(),
    "clip": lambda a, b: np.clip(a - b, -0.5, 0.5).sum(),
    "first of features": lambda a, b: abs(a[0] - b[0]) if a[1] > b[1] else a[2],
    "shape": lambda a, b: np.sum(a - b) / a.shape[0] * a.ndim,
    "asarray": lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).sum(),
    "unpacked": lambda a, b: (lambda p, q, *rest: p * q)(*a) - b[3],
    "add.reduce": lambda a, b: np.add.reduce(abs(a - b)) + np.maximum.reduce(a),
    "huber": lambda a, b: np.where(abs(a - b) < 1, 0.5 * (a - b) ** 2, abs(a - b)).sum(),
    "count": lambda a, b: sum(1 for p, q in zip(a, b) if p > q),
    "comprehension": lambda a, b: max([abs(p - q) for p, q in zip(a, b)]),
    "constants": lambda a, b: (WEIGHTS * 2).sum() * np.sum(a - b),
}

ROUNDED_2D = {
    "rbf": lambda a, b: np.exp(-GAMMA * np.sum((a - b) ** 2)),
    "rbf of the norm": lambda a, b: np.exp(-GAMMA * np.linalg.norm(a - b) ** 2),
    "norm": lambda a, b: np.linalg.norm(a - b),
    "dot": lambda a, b: np.dot(a, b),
    "matmul": lambda a, b: a @ b - a.dot(b) * 0.5,
    "polynomial": lambda a, b: (np.dot(a, b) + 1) ** 3,
    "sigmoid": lambda a, b: np.tanh(0.1 * np.dot(a, b) + 1),
    "cosine": lambda a, b: 1 - np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)),
    "cosine of roots": lambda a, b: a @ b / np.sqrt((a @ a) * (b @ b)),
    "cosine, guarded": _cosine_guarded,
    "angle": lambda a, b: np.arccos(
        np.clip(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)), -1, 1)
    ),
    "minkowski": lambda a, b: np.sum(np.abs(a - b) ** 3) ** (1 / 3),
    "minkowski of the norm": lambda a, b: np.linalg.norm(a - b, 3),
    "chi square": lambda a, b: np.exp(-np.sum((a - b) ** 2 / (abs(a) + abs(b) + 1))),
    "haversine": _haversine,
    "haversine by math": _math_haversine,
    "great circle": _great_circle,
    "math.dist": lambda a, b: math.dist(a, b),
    "math.hypot": lambda a, b: math.hypot(a[0] - b[0], a[1] - b[1]),
    "hellinger": lambda a, b: np.sqrt(np.sum((np.sqrt(abs(a)) - np.sqrt(abs(b))) ** 2)),
    "correlation": lambda a, b: (
        np.dot(a - a.mean(), b - b.mean())
        / (np.linalg.norm(a - a.mean()) * np.linalg.norm(b - b.mean()))
    ),
    "kl": lambda a, b: np.sum((abs(a) + 1) * np.log((abs(a) + 1) / (abs(b) + 1))),
    "log-sum-exp": lambda a, b: np.log(np.sum(np.exp(a - b))),
    "softmax by max": lambda a, b: np.sum(np.exp(a - np.max(a)) * b),
    "mahalanobis": lambda a, b: (a - b) @ MATRIX @ (a - b),
    "mahalanobis by dot": lambda a, b: math.sqrt((a - b).dot(MATRIX).dot(a - b)),
    "mahalanobis, nested": lambda a, b: np.sqrt(np.dot(np.dot(a - b, MATRIX), a - b)),
    "mahalanobis from the right": lambda a, b: (a - b).T @ (MATRIX @ (a - b)),
    "roots of elements": lambda a, b: (abs(a) ** 0.5)[0] - (b**-1.0)[1] + (a**2.0)[2],
    "element of a product": lambda a, b: (MATRIX @ (a - b))[1],
}


@pytest.mark.parametrize("name", EXACT_2D)
@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_functions_of_vectors_that_are_exact(name, dtype, post_matrix):
    function = EXACT_2D[name]
    x, y = _numbers(dtype, 13, (4,), 1), _numbers(dtype, 17, (4,), 2)
    if not (dtype == "f4" and name in ONLY_DOUBLE and not _numpy_2()):
        assert way(function, x, y)[0] == "traced", way(function, x, y)
    check(function, x, y, post_matrix, exact=True)


# NumPy 1 chooses their type by a value.
ONLY_DOUBLE = ("broadcast", "huber", "clip", "where", "std and var")


def _numpy_2():
    return int(np.__version__.split(".")[0]) >= 2


@pytest.mark.parametrize("name", ROUNDED_2D)
@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_functions_of_vectors_that_are_rounded(name, dtype, post_matrix):
    function = ROUNDED_2D[name]
    x, y = _numbers(dtype, 13, (4,), 3), _numbers(dtype, 17, (4,), 4)
    assert way(function, x, y)[0] == "traced", way(function, x, y)
    check(function, x, y, post_matrix)


@pytest.mark.parametrize("name", [*EXACT_2D, *ROUNDED_2D])
@pytest.mark.parametrize("dtype", ["f8", "f4", "f2"])
def test_special_vectors(name, dtype, post_matrix):
    function = EXACT_2D.get(name) or ROUNDED_2D[name]
    x, y = _special(dtype, 13, (4,), 5), _special(dtype, 17, (4,), 6)
    _agrees_or_raises(function, x, y, post_matrix, exact=name in EXACT_2D)
    x, y = (np.where(np.isfinite(v), v, v.dtype.type(1)) for v in (x, y))
    _agrees_or_raises(function, x, y, post_matrix, exact=name in EXACT_2D)


@pytest.mark.parametrize("name", [*EXACT_2D, *ROUNDED_2D])
@pytest.mark.parametrize("dtype", ["i8", "i4", "i2", "i1", "u1", "u2", "u8", "?"])
def test_vectors_of_integers_and_truths(name, dtype, post_matrix):
    function = EXACT_2D.get(name) or ROUNDED_2D[name]
    x, y = _numbers(dtype, 7, (4,), 7), _numbers(dtype, 8, (4,), 8)
    _agrees_or_raises(function, x, y, post_matrix, exact=name in EXACT_2D)


@pytest.mark.parametrize("features", [1, 2, 7, 8, 9, 16, 127, 128, 129, 136, 257, 1000])
@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_sums_are_in_numpys_order(features, dtype, post_matrix):
    x, y = _numbers(dtype, 5, (features,), 9), _numbers(dtype, 6, (features,), 10)
    x /= 3
    for function in (
        lambda a, b: np.sum(a - b),
        lambda a, b: ((a - b) ** 2).mean(),
        lambda a, b: np.std(a * b) if len(a) else 0.0,
        lambda a, b: (a - b)[::-1].sum() + a[::-2].sum(),
        lambda a, b: np.prod(1 + (a - b) / 8),
    ):
        assert way(function, x, y)[0] == "traced"
        check(function, x, y, post_matrix, exact=True)


@pytest.mark.parametrize("take", [
    lambda v: v[:, ::-1], lambda v: v[::2, 1:], lambda v: np.asfortranarray(v),
    lambda v: v[::-1, ::2], lambda v: np.broadcast_to(v[:1], v.shape),
])  # fmt: skip
def test_strides_do_not_matter(take, post_matrix):
    x, y = take(_numbers("f8", 12, (40,), 1) / 3), take(_numbers("f8", 14, (40,), 2) / 7)
    for function in (
        lambda a, b: np.sum(a - b),
        lambda a, b: np.sum(a) * b.sum() - a[::-1].mean(),
        lambda a, b: np.exp(-np.linalg.norm(a - b)),
    ):
        assert way(function, x, y)[0] == "traced"
        check(function, x, y, post_matrix)


@pytest.mark.parametrize("name", ["gaussian", "the post's", "three ways", "log of a ratio"])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_many_pairs(name, workers, post_kernel):
    function = EXACT_1D.get(name) or ROUNDED_1D[name]
    x, y = _numbers("f8", 150, (), 1), _numbers("f8", 1500, (), 2)
    actual = pydistrib.kernel(function, x, y, workers=workers, trace="require")
    assert _bits(actual) == _bits(post_kernel(function, x, y))


class Gaussian:
    """What people write as a kernel object."""

    scale = 2.0

    def __init__(self, gamma):
        self.gamma = gamma

    def __call__(self, a, b):
        return self.scaled(np.exp(-self.gamma * (a - b) ** 2))

    def scaled(self, value):
        return value * self.scale * self.twice

    @property
    def twice(self):
        return 2 * self.gamma

    @staticmethod
    def distance(a, b):
        return abs(a - b)


class Slotted:
    __slots__ = ("gamma",)

    def __init__(self, gamma):
        self.gamma = gamma

    def __call__(self, a, b):
        return self.gamma * (a - b)


@pytest.mark.parametrize("function", [
    Gaussian(0.5), Gaussian(0.5).__call__, Gaussian(1.0).distance, Gaussian.distance,
    Slotted(0.25), functools.partial(Gaussian(0.5)),
    lambda a, b, g=Gaussian(0.5): g.gamma * g(a, b),
])  # fmt: skip
def test_objects(function, post_matrix):
    x, y = _numbers("f8", 9, (), 1), _numbers("f8", 10, (), 2)
    assert way(function, x, y)[0] == "traced", way(function, x, y)
    check(function, x, y, post_matrix)


@pytest.mark.parametrize("dtype", ["i8", "i2", "u1", "f8", "f4"])
@pytest.mark.parametrize("exponent", [0.5, 2.0, -1.0, 3, 1.5])
def test_powers_are_not_said_to_be_exact_where_they_are_not(dtype, exponent, post_matrix):
    # So many values that a power and its short cut differ in the last digit of some.
    x = np.arange(1, 129).astype(dtype).reshape(8, 16)
    y = np.ones((3, 16), dtype)
    for k in range(16):
        function = functools.partial(lambda k, a, b: (a**exponent)[k] * b[0], k)
        explanation = pydistrib.explain(function, x, y)
        assert "traced, it gives" not in explanation.reason, explanation
        check(function, x, y, post_matrix)


@pytest.mark.parametrize("dtype", ["f8", "f4"])
@pytest.mark.parametrize("order", [3, 4, 1.5, 0.5, -1])
def test_norms_of_any_order(dtype, order, post_matrix):
    x, y = _numbers(dtype, 8, (6,), 1) / 3, _numbers(dtype, 8, (6,), 2) / 7
    x, y = x.astype(dtype), y.astype(dtype)
    # Small beside a[0], so that the type shows which the sum is rounded to.
    function = functools.partial(
        lambda p, a, b: a[0] + np.linalg.norm((a - b) * 1e-6, p), order
    )
    assert way(function, x, y)[0] == "traced", way(function, x, y)
    check(function, x, y, post_matrix)


def test_traced_anew_each_time(post_kernel, assert_same_bits):
    x = y = np.arange(4.0)
    weights = np.array([1.0])
    parameters = {"w": 1.0}

    def function(a, b):
        return weights[0] * (a - b) * parameters["w"]

    for w in (1.0, 2.0, 3.0):
        weights[0] = parameters["w"] = w
        actual = pydistrib.kernel(function, x, y, trace="require")
        assert_same_bits(actual, post_kernel(function, x, y))


def test_wide_vectors_are_folded_not_unrolled(post_matrix):
    x, y = _numbers("f8", 3, (300,), 1), _numbers("f8", 3, (300,), 2)
    assert way(lambda a, b: abs(a - b).sum(), x, y)[0] == "traced"
    name, text = way(lambda a, b: sum(p * q for p, q in zip(a, b)), x, y)
    assert name == "called"
    assert "300 features" in text
