"""What must not be traced is not, or comes out right all the same; and why, in words."""

# ruff: noqa: SIM107, NPY002, UP031

from __future__ import annotations

import builtins
import functools
import itertools
import math
import operator
import random
import threading
import time
import types
import warnings

import numpy as np
import pytest

import pydistrib
from pydistrib import NotTraceable, explain, kernel

X = np.array([0.5, -1.25, 2.0, 3.5])
Y = np.array([1.0, 0.1234567, -0.5, 7.5, 2.0])
POINTS = np.array([[0.5, -1.25, 2.0], [3.0, 0.25, 1.0]])

calls = []
counter = 0
thread = threading.Lock()


@pytest.fixture(autouse=True)
def _warnings_are_no_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def reason(function, x=X, y=X):
    explanation = explain(function, x, y)
    assert explanation.way == "called", explanation
    assert explanation.expression == ""
    with pytest.raises(NotTraceable) as caught:
        kernel(function, x, y, trace="require")
    assert str(caught.value) == explanation.reason
    return explanation.reason


# ------------------------------------------------------------------------------------
# State: the function is called once for each pair
# ------------------------------------------------------------------------------------


def _global_list(a, b):
    calls.append(1)
    return len(calls)


def _global_number(a, b):
    global counter
    counter += 1
    return counter


def _default_list(a, b, seen=[]):  # noqa: B006
    seen.append(a)
    return len(seen)


def _function_attribute(a, b):
    _function_attribute.count += 1
    return _function_attribute.count


_function_attribute.count = 0


def _closure_list():
    seen = []

    def function(a, b):
        seen.append(1)
        return float(len(seen))

    return function


def _nonlocal_number():
    count = 0

    def function(a, b):
        nonlocal count
        count += 1
        return count

    return function


def _closure_array():
    total = np.zeros(1)

    def function(a, b):
        total[0] += 1
        return total[0]

    return function


def _closure_array_out():
    total = np.zeros(1)

    def function(a, b):
        np.add(total, 1, out=total)
        return total[0]

    return function


def _closure_array_made_writeable():
    total = np.zeros(1)

    def function(a, b):
        total.setflags(write=True)
        total.sort()
        total.put(0, total[0] + 1)
        return total[0]

    return function


def _closure_dict():
    seen = {}

    def function(a, b):
        seen[len(seen)] = 1
        return len(seen)

    return function


def _swallowed_append():
    seen = []

    def function(a, b):
        try:
            seen.append(1)
        except Exception:
            pass
        try:
            seen.append(1)
        except:  # noqa: E722
            pass
        return len(seen)

    return function


def _unbound_append():
    seen = []

    def function(a, b):
        list.append(seen, 1)
        return len(seen)

    return function


def _generator():
    numbers = itertools.count()
    return lambda a, b: next(numbers)


def _python_generator():
    numbers = (k for k in range(10**6))
    return lambda a, b: next(numbers)


def _map_object():
    numbers = map(float, range(10**6))

    def function(a, b):
        for number in numbers:
            return number
        return None

    return function


class Counting:
    def __init__(self):
        self.count = 0

    def __call__(self, a, b):
        self.count += 1
        return self.count

    def method(self, a, b):
        self.count += 1
        return self.count


class Hidden:
    """State behind an attribute."""

    def __init__(self):
        self.seen = []

    @property
    def value(self):
        self.seen.append(1)
        return len(self.seen)

    def __call__(self, a, b):
        return self.value


class Getattr:
    def __init__(self):
        self.seen = []

    def __getattr__(self, name):
        self.seen.append(name)
        return len(self.seen)


class Getattribute:
    count = 0

    def __getattribute__(self, name):
        type(self).count += 1
        return type(self).count


class Descriptor:
    def __init__(self):
        self.count = 0

    def __get__(self, instance, owner):
        self.count += 1
        return self.count


class WithDescriptor:
    value = Descriptor()


def _walrus_global():
    scope = {}
    exec("def f(a, b):\n    global g\n    return (g := g + 1)\ng = 0", scope)
    return scope["f"]


STATEFUL = {
    "a global list": lambda: _global_list,
    "a global number": lambda: _global_number,
    "a default list": lambda: _default_list,
    "a function's attribute": lambda: _function_attribute,
    "a list around it": _closure_list,
    "a number around it": _nonlocal_number,
    "an array around it": _closure_array,
    "an array by out=": _closure_array_out,
    "an array made writeable": _closure_array_made_writeable,
    "a dict around it": _closure_dict,
    "a swallowed refusal": _swallowed_append,
    "an unbound method": _unbound_append,
    "itertools.count": _generator,
    "a generator": _python_generator,
    "a map object": _map_object,
    "a callable object": Counting,
    "a bound method": lambda: Counting().method,
    "a property": Hidden,
    "__getattr__": lambda: functools.partial(lambda o, a, b: o.x, Getattr()),
    "__getattribute__": lambda: functools.partial(lambda o, a, b: o.x, Getattribute()),
    "a descriptor": lambda: functools.partial(lambda o, a, b: o.value, WithDescriptor()),
    "a walrus": _walrus_global,
    "numpy's generator": lambda: (lambda g: lambda a, b: g.random())(
        np.random.default_rng(1)
    ),
    "a bound random()": lambda: (lambda g: lambda a, b: g() + a)(
        np.random.default_rng(1).random
    ),
    "random.Random": lambda: (lambda g: lambda a, b: g.random())(random.Random(1)),
    "an lru_cache": lambda: functools.lru_cache(_closure_list()),
    "a callable with a memory": lambda: functools.partial(
        lambda memory, a, b: memory.setdefault(len(memory), len(memory)), {}
    ),
}


@pytest.mark.parametrize("name", STATEFUL)
def test_state(name, post_matrix):
    """A fresh function in the loop and a fresh one in kernel() see the same calls."""
    global counter
    results = []
    for run in (post_matrix, lambda f, x, y: kernel(f, x, y, dtype=None, decimals=None)):
        calls.clear()
        counter = 0
        _default_list.__defaults__[0].clear()
        _function_attribute.count = 0
        Getattribute.count = 0
        vars(WithDescriptor)["value"].count = 0
        results.append(run(STATEFUL[name](), X, Y))
    np.testing.assert_array_equal(results[1], results[0])


def _clock(a, b):
    return time.perf_counter()


def _np_random(a, b):
    return np.random.normal() + a


def _random(a, b):
    return random.random() + a


@pytest.mark.parametrize("function", [_clock, _np_random, _random])
def test_random_functions_are_called(function):
    assert "random" in reason(function) or "time" in reason(function)
    assert len(np.unique(kernel(function, X, Y, dtype=None, decimals=None))) == 20


def test_a_seeded_stream_is_the_loops(post_kernel, assert_same_bits):
    np.random.seed(3)
    expected = post_kernel(_np_random, X, Y)
    np.random.seed(3)
    assert_same_bits(kernel(_np_random, X, Y), expected)


# ------------------------------------------------------------------------------------
# Looking behind the values
# ------------------------------------------------------------------------------------


def _swallow_all(a, b):
    try:
        return float(str(a)) + 1
    except:  # noqa: E722
        return -1.0


def _swallow_base(a, b):
    try:
        return float(f"{a}") + b
    except BaseException:
        return -1.0


def _finally(a, b):
    try:
        return float(repr(float(a)))
    finally:
        return a - b  # noqa: B012


def _retry(a, b):
    while True:
        try:
            return math.lgamma(abs(a) + 1) + b
        except:  # noqa: E722
            pass


def _internals(a, b):
    try:
        return a.node
    except AttributeError:
        return a - b


def _kind(a, b):
    try:
        return len(a.kind)
    except AttributeError:
        return 5


def _unknown_attribute(a, b):
    try:
        return a.nothing
    except AttributeError:
        return a + b


def _module_attribute(a, b):
    try:
        return np.no_such_thing(a)
    except AttributeError:
        return a - b


def _reduce_attribute(a, b):
    try:
        return np.sqrt.nothing(a)
    except AttributeError:
        return a - b


def _generator_function(a, b):
    yield a


def _recursion(a, b, depth=3):
    return abs(a - b) if depth == 0 else _recursion(a, b, depth - 1) / 2


def _endless(a, b, depth=0):
    return _endless(a, b, depth + 1) if depth < 600 else a - b


def _bounded_while(a, b):
    k, total = 0, 0.0
    while k < 4:
        total += (a - b) * k
        k += 1
    return total


def _while(a, b):
    while a > 1:
        a = a / 2
    return a - b


def _in_place(a, b):
    a -= b
    return abs(a)


def _local_list(a, b):
    values = []
    values.append(a)
    values.append(b)
    values.sort()
    return values[1] - values[0]


def _local_dict(a, b):
    values = {"a": a, "b": b}
    return values["a"] - values.get("b")


def _inner_nonlocal(a, b):
    total = 0.0

    def add(value):
        nonlocal total
        total += value

    add(a)
    add(-b)
    return total


def _cells(a, b):
    scale = 2.0
    scale = scale * a
    return sum(scale * k for k in range(3)) - b


def _decorator(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs) * 2

    return wrapper


@_decorator
def _decorated(a, b):
    return abs(a - b)


def _identity(a, b):
    return 1.0 if a is b else a - b


def _none_default(a, b, c=None):
    return a - b if c is None else c


class Celsius(float):
    pass


LOOKING = {
    "str": lambda a, b: len(str(a)),
    "f-string": lambda a, b: float(f"{a:.1f}") - b,
    "percent": lambda a, b: float("%.1f" % a),
    "format": lambda a, b: float("{:.1f}".format(a)),  # noqa: UP032
    "repr": lambda a, b: len(repr(a)),
    "hash": lambda a, b: hash(a) % 7,
    "dict key": lambda a, b: {0.5: 1.0}.get(a, b),
    "set": lambda a, b: len({a, b}),
    "in": lambda a, b: 1.0 if a in (0.5, 2.0) else b,
    "index": lambda a, b: [0.0, 1.0, 2.0][int(abs(a)) % 3],
    "range": lambda a, b: sum(k * b for k in range(int(abs(a)))),
    "type": lambda a, b: 1.0 if type(a) is np.float64 else 2.0,
    "class": lambda a, b: 1.0 if a.__class__.__name__ == "float64" else 2.0,
    "isinstance": lambda a, b: a - b if isinstance(a, np.ndarray) else a + b,
    "isinstance of an own class": lambda a, b: a if isinstance(b, Celsius) else b,
    "id": lambda a, b: float(id(a) > 0),
    "getattr": lambda a, b: getattr(a, "real") - b,  # noqa: B009
    "hasattr": lambda a, b: float(hasattr(a, "dtype")),
    "dtype": lambda a, b: a.dtype.itemsize - b,
    "divmod": lambda a, b: divmod(a, 2)[0] - b,
    "math.fsum": lambda a, b: math.fsum([a, b, 0.1]),
    "math.gamma": lambda a, b: math.gamma(abs(a) + 1) - b,
    "math.dist": lambda a, b: math.dist([a], [b]),
    "np.array": lambda a, b: np.sum(np.array([a, b]) ** 2),
    "np.clip of a truth": lambda a, b: a + np.clip(True, -1, np.float32(b)),
    "np.interp": lambda a, b: np.interp(a, [0, 1], [0, 1]) - b,
    "np.vectorize": np.vectorize(lambda a, b: a - b),
    "eval": lambda a, b: eval("a - b"),
    "lambda in a list": lambda a, b: [lambda c: c - b][0](a),
    "sorted": lambda a, b: sorted([a, b, 0.75])[1],
    "complex": lambda a, b: abs(complex(a, b)),
    "modulo of ints": lambda a, b: (int(a) % 3) - b,
    "big integers": lambda a, b: int(a * 1e30) % 7,
    "identity": _identity,
    "none": _none_default,
    "swallowing": _swallow_all,
    "swallowing base": _swallow_base,
    "finally": _finally,
    "retry": _retry,
    "internals": _internals,
    "kind": _kind,
    "unknown attribute": _unknown_attribute,
    "unknown name of a module": _module_attribute,
    "unknown attribute of a ufunc": _reduce_attribute,
    "recursion": _recursion,
    "deep recursion": _endless,
    "bounded while": _bounded_while,
    "while": _while,
    "in place": _in_place,
    "local list": _local_list,
    "local dict": _local_dict,
    "inner nonlocal": _inner_nonlocal,
    "cells": _cells,
    "decorated": _decorated,
    "operator": operator.sub,
    "itemgetter": lambda a, b: operator.itemgetter(0)((a, b)),
    "math.dist of C": lambda a, b: math.hypot(a, b, a),
}


@pytest.mark.parametrize("name", LOOKING)
def test_looking_behind_the_values(name, post_kernel, assert_same_bits):
    function = LOOKING[name]
    assert_same_bits(kernel(function, X, Y), post_kernel(function, X, Y))


@pytest.mark.parametrize("name", [
    "recursion", "bounded while", "local list", "local dict", "cells", "decorated",
    "in place", "sorted", "lambda in a list", "none",
])  # fmt: skip
def test_what_looks_harmful_but_is_not_is_traced(name):
    assert explain(LOOKING[name], X, Y).way == "traced"


# ------------------------------------------------------------------------------------
# Other names for other things
# ------------------------------------------------------------------------------------


def _from(source, **names):
    scope = dict(names)
    exec(source, scope)
    return scope["f"]


class MyNumPy:
    @staticmethod
    def sqrt(a):
        return a + 1000


SHADOWED = {
    "abs": lambda: _from("def abs(v): return v * 3\ndef f(a, b): return abs(a - b)"),
    "max": lambda: _from("max = min\ndef f(a, b): return max(a, b)"),
    "np": lambda: _from("def f(a, b): return np.sqrt(a - b)", np=MyNumPy),
    "np object": lambda: _from("def f(a, b): return np.sqrt(a - b)", np=MyNumPy()),
    "math is numpy": lambda: _from("def f(a, b): return math.sqrt(abs(a))", math=np),
    "np is math": lambda: _from("def f(a, b): return np.sqrt(abs(a))", np=math),
    "module": lambda: _from(
        "def f(a, b): return m.distance(a, b) * m.scale", m=_module_of_the_user()
    ),
    "builtins": lambda: _from(
        "def f(a, b): return abs(a - b)", __builtins__={"abs": lambda v: v * 5}
    ),
    "no builtins": lambda: _from("def f(a, b): return a - b", __builtins__={}),
    "star": lambda: _from("from numpy import *\ndef f(a, b): return sqrt(abs(a - b))"),
    "star of math": lambda: _from("from math import *\ndef f(a, b): return exp(-abs(a-b))"),
}


def _module_of_the_user():
    module = types.ModuleType("mine")
    exec("def distance(a, b):\n    return abs(a - b)\nscale = 2.5", module.__dict__)
    return module


@pytest.mark.parametrize("name", SHADOWED)
def test_shadowed_names(name, post_kernel, assert_same_bits):
    function = SHADOWED[name]()
    assert_same_bits(kernel(function, X, Y), post_kernel(function, X, Y))
    if name not in ("np",):
        assert explain(function, X, Y).way == "traced", explain(function, X, Y)


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        (np, "sqrt", lambda v: v * 7),
        (math, "exp", lambda v: v * 7),
        (np, "pi", 3.0),
        (builtins, "abs", lambda v: v * 7),
        (np.linalg, "norm", lambda v: v * 7),
    ],
)
def test_patched_modules(module, name, value, monkeypatch, post_kernel, assert_same_bits):
    def function(a, b):
        d = a - b
        return abs(d) + np.sqrt(d * d) + math.exp(-d * d) * np.pi + np.linalg.norm(d) * 0

    before = kernel(function, X, Y)
    monkeypatch.setattr(module, name, value)
    expected = post_kernel(function, X, Y)
    assert_same_bits(kernel(function, X, Y), expected)
    assert not np.array_equal(before, expected) or name == "norm"


def test_modules_that_were_patched_before(run_python):
    assert (
        run_python("""
        import builtins, math
        import numpy as np
        builtins.abs = lambda v: v * 3
        math.exp = lambda v: v * 5
        np.sum = lambda v: 7.0
        from pydistrib import kernel
        x = np.array([1.0, 2.0])
        print(kernel(lambda a, b: abs(a - b) + math.exp(b) + np.sum(a), x, x).tolist())
    """)
        == "[[12.0, 14.0], [15.0, 17.0]]"
    )


# ------------------------------------------------------------------------------------
# Exceptions
# ------------------------------------------------------------------------------------


class Strange(Exception):
    pass


def _raises_for_some(a, b):
    if a > b:
        raise Strange(f"{a} > {b}")
    return a - b


RAISING = {
    "math.sqrt": lambda a, b: math.sqrt(a - b),
    "math.log": lambda a, b: math.log(abs(a - b)),
    "float division": lambda a, b: float(a) / (float(b) - 2.0),
    "float remainder": lambda a, b: float(a) % (float(b) - 2.0),
    "overflow": lambda a, b: math.exp(a * b * 100),
    "float power": lambda a, b: float(a - b) ** -1,
    "int of nan": lambda a, b: int(a / (b - b)),
    "math.acos": lambda a, b: math.acos(a * b),
    "own": _raises_for_some,
    "assert": lambda a, b: (_ for _ in ()).throw(AssertionError("no")),
    "index": lambda a, b: [a][2] if a > b else b,
    "key": lambda a, b: {}["x"] if a > b else b,
    "string": lambda a, b: "far" if a > b else 0.0,
    "none": lambda a, b: None if a > b else 0.0,
    "array": lambda a, b: np.array([a, b]) if a > b else 0.0,
    "complex": lambda a, b: 1j * a if a > b else 0.0,
    "complex root": lambda a, b: float(a - b) ** 0.5,
    "name": lambda a, b: undefined if a > b else 0.0,  # noqa: F821
    "wrong call": lambda a, b: math.sqrt(a, b),
    "arguments": lambda a: a,
    "attribute": lambda a, b: a.nothing,
}


@pytest.mark.parametrize("name", RAISING)
def test_exceptions_arrive_as_the_loop_raises_them(name):
    function = RAISING[name]
    x, y = X, Y
    outcomes = []
    for trace in ("never", "auto"):
        with pytest.raises(Exception) as caught:  # noqa: PT011
            kernel(function, x, y, trace=trace)
        outcomes.append((caught.type, str(caught.value)))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0] is not NotTraceable


@pytest.mark.parametrize("size", [5, 300])
def test_the_first_exception_in_the_order_of_the_loop(size):
    x, y = np.linspace(5, 1, size), np.linspace(6, 2, size)

    def function(a, b):
        if a > b:
            raise Strange(a, b)
        return math.sqrt(b - a)

    expected = next((a, b) for a in x for b in y if a > b)
    with pytest.raises(Strange) as caught:
        kernel(function, x, y)
    assert caught.value.args == expected


def test_an_exception_in_one_pair_of_many():
    x, y = np.linspace(1, 2, 500), np.linspace(3, 4, 500)
    x[123] = y[77]  # not within the sample
    function = RAISING["math.log"]
    assert explain(function, x[:100], y).way == "traced"
    with pytest.raises(ValueError, match=r"math domain error|expected a positive input"):
        kernel(function, x, y)


def test_exceptions_keep_their_traceback():
    with pytest.raises(Strange) as caught:
        kernel(_raises_for_some, X, Y)
    assert caught.traceback[-1].name == "_raises_for_some"
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


# ------------------------------------------------------------------------------------
# NumPy's error state
# ------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [
    lambda a, b: a / b, lambda a, b: np.log(a - b), lambda a, b: 1 / (1 + 1 / (a - b)),
    lambda a, b: np.exp(a * 1e4), lambda a, b: np.where(a > b, a / b, 0),
    lambda a, b: (a / b, a - b)[1], lambda a, b: 0.0 if np.log(a) < 9 else 1.0,
])  # fmt: skip
@pytest.mark.parametrize("how", ["seterr", "filter"])
def test_floating_point_errors_are_raised_where_the_user_wants_them(
    function, how, post_matrix
):
    x, y = np.array([1.0, 2.0, 0.0]), np.array([3.0, 2.0, 0.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error" if how == "filter" else "ignore")
        with np.errstate(all="raise" if how == "seterr" else "warn", under="ignore"):
            with pytest.raises((RuntimeWarning, FloatingPointError)) as expected:
                post_matrix(function, x, y)
            with pytest.raises(type(expected.value)) as caught:
                kernel(function, x, y)
            assert str(caught.value) == str(expected.value)


def test_warnings_as_errors_still_trace(post_kernel, assert_same_bits):
    def function(a, b):
        return np.exp(-((a - b) ** 2)) / (1 + abs(a))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert explain(function, X, Y).way == "traced"
        assert_same_bits(kernel(function, X, Y), post_kernel(function, X, Y))


# ------------------------------------------------------------------------------------
# Arguments that are changed
# ------------------------------------------------------------------------------------


def _add_in_place(a, b):
    a += 1
    return a[0] - b[0]


def _set_element(a, b):
    a[0] = 0
    return b[0]


def _out(a, b):
    np.add(a, b, out=a)
    return a[0]


def _fill(a, b):
    a.fill(0)
    return b[0]


def _sort(a, b):
    a.sort()
    return a[0] - b[0]


def _copied(a, b):
    c = a.copy()
    c += b
    return c.sum()


@pytest.mark.parametrize("function", [_add_in_place, _set_element, _out, _fill, _sort])
def test_arguments_are_not_changed(function):
    before = POINTS.copy()
    with pytest.raises(ValueError, match="read-only"):
        kernel(function, POINTS, POINTS)
    np.testing.assert_array_equal(POINTS, before)


def test_copies_may_be_changed(post_kernel, assert_same_bits):
    assert_same_bits(kernel(_copied, POINTS, POINTS), post_kernel(_copied, POINTS, POINTS))


# ------------------------------------------------------------------------------------
# Constants
# ------------------------------------------------------------------------------------


@pytest.mark.parametrize("constant", [
    10**400, 2**53 + 1, -(2**70), True, np.float32(0.1), np.float64(0.1), np.int8(100),
    np.uint8(200), np.bool_(True), np.float16(0.1), np.longdouble(0.1), np.array(0.1),
    np.array(3), np.array([0.1]), np.timedelta64(1, "s"), 1j, "x", None, b"y", (1, 2),
    [1.0],
    np.array([1, 2], dtype=object), float("nan"), -0.0, np.ma.array([1.0, 2.0]),
    int, Celsius(1.5), math, ...,
], ids=repr)  # fmt: skip
def test_constants(constant):
    for dtype in (np.float64, np.float32, np.uint8, np.int64, bool):
        x, y = np.arange(4).astype(dtype), np.arange(2, 5).astype(dtype)
        outcomes = []
        for trace in ("never", "auto"):
            try:
                result = kernel(lambda a, b: constant * a + b * 2, x, y, trace=trace)
                outcomes.append(np.where(np.isnan(result), np.inf, result).tolist())
            except Exception as error:
                outcomes.append((type(error), str(error)))
        assert outcomes[0] == outcomes[1]


# ------------------------------------------------------------------------------------
# Reasons
# ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (_global_number, "it changes a global"),
        (_global_list, "it changes a list that outlives the call"),
        (_function_attribute, "it changes an attribute"),
        (_nonlocal_number(), "it changes a variable of the function around it"),
        (_clock, "it uses time.perf_counter, of type builtin_function_or_method"),
        (lambda a, b: time.sleep(a), "it uses time.sleep"),
        (LOOKING["str"], "it makes text of a number"),
        (LOOKING["type"], "it compares identities"),
        (LOOKING["math.gamma"], "math.gamma is not known to the tracer"),
        (LOOKING["np.array"], "numpy.array of its arguments is not known to the tracer"),
        (
            LOOKING["np.vectorize"],
            "a vectorize is no Python function: its code is not known",
        ),
        (LOOKING["eval"], "the built-in eval() is not known to the tracer"),
        (lambda a, b: Celsius(a), "it uses the class Celsius"),
        (lambda a, b: print(a) or 0.0, "the built-in print() is not known to the tracer"),
        (lambda a, b: "x", "it returns a value of type str"),
        (lambda a, b: None, "it returns a value of type NoneType"),
        (_generator_function, "is a generator or a coroutine"),
        (_while, "more than 20 branches"),
        (RAISING["attribute"], "raises an exception"),
        (lambda a, b: a if thread else b, "it uses the global 'thread', of type lock"),
        (math.gcd, "a builtin_function_or_method is no Python function"),
    ],
)
def test_reasons(function, text):
    assert text in reason(function), reason(function)


def test_reasons_of_points():
    f = lambda a, b: a - b  # noqa: E731
    assert "float16" in reason(f, X.astype("f2"), X)
    assert "no pairs" in reason(f, X[:0], X)
    assert "beyond 2**53" in reason(f, np.array([2**60]), np.array([1]))
    assert "may overflow uint8" in reason(f, np.array([1], "u1"), np.array([2], "u1"))


def test_explain():
    explanation = explain(lambda a, b: abs(a - b), X, Y)
    assert explanation.way == "traced"
    assert explanation.expression == "abs(a - b)"
    assert str(explanation) == "traced: verified against the function\nabs(a - b)"
    explanation = explain(lambda a, b: np.sum(a[0] * b), POINTS, POINTS)
    assert explanation.expression == "sum((a[0] * b)) + 0" or "a[0] * b" in str(explanation)


def test_not_traceable_is_public():
    assert "NotTraceable" in pydistrib.__all__
    with pytest.raises(pydistrib.NotTraceable, match=r"list"):
        kernel(_global_list, X, Y, trace="require")


def test_two_threads_trace_at_once(post_kernel, assert_same_bits):
    def good(a, b):
        return np.exp(-abs(a - b)) if a > b else a * b

    def bad(a, b):
        try:
            return float(str(a))
        except Exception:
            return 0.0

    expected = {f: post_kernel(f, X, Y) for f in (good, bad)}
    failures = []

    def work(function, way):
        try:
            for _ in range(100):
                assert explain(function, X, Y).way == way
                assert_same_bits(kernel(function, X, Y), expected[function])
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=work, args=args)
        for args in ((good, "traced"), (bad, "called"), (good, "traced"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_traced_function_may_be_called_by_a_called_one(post_kernel, assert_same_bits):
    def inner(a, b):
        return abs(a - b)

    def outer(a, b):
        return kernel(inner, X[:2], Y[:2], trace="require")[0, 1] + a - b

    assert explain(outer, X, Y).way == "called"
    assert_same_bits(kernel(outer, X, Y), post_kernel(outer, X, Y))
