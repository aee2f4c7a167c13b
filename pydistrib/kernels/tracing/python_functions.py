"""
What the modules math and operator and the built-in functions do to symbols.

Unlike NumPy's, they work on Python's floats, and raise where NumPy gives NaN or infinity:
there the function itself is asked.
"""

from __future__ import annotations

import builtins
import functools
import math
import operator
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from pydistrib.kernels.tracing import bounds
from pydistrib.kernels.tracing.corrected_sum import SUM_IS_CORRECTED, corrected_sum
from pydistrib.kernels.tracing.function_bounds import FUNCTION_UNITS
from pydistrib.kernels.tracing.kinds import BOOL_KINDS, Kind, sample, unit
from pydistrib.kernels.tracing.numpy_functions import UFUNCS
from pydistrib.kernels.tracing.operations import (
    DIVIDE,
    POSITIVE,
    Operation,
    elementwise,
    to_python_int,
)
from pydistrib.kernels.tracing.refusal import refuse
from pydistrib.kernels.tracing.stand_ins import (
    Handler,
    StandIn,
    TypeStandIn,
    as_python_float,
    has_symbol,
    real_class,
    trace_of,
)
from pydistrib.kernels.tracing.symbols import Symbol, Trace


def _math(function: Callable[..., Any], op: str, ufunc: np.ufunc, units: float) -> Handler:
    @functools.wraps(function, updated=())
    def kind(*values: Any) -> float:
        return 1.0  # whatever the values; the function may not be defined on samples

    operation = Operation(kind, op, ufunc, units, raises=True)

    def handler(*args: Any) -> Symbol:
        if len(args) != ufunc.nin:
            refuse(f"math.{function.__name__} of {len(args)} arguments is not known")
        return elementwise(trace_of(*args), operation, *map(as_python_float, args))

    return handler


def _math_int(op: str) -> Handler:
    def handler(a: Any) -> Symbol:
        return a if a.kind.name == "int" else to_python_int(as_python_float(a), op)

    return handler


def _math_truth(handler: Handler) -> Handler:
    def python_truth(a: Any) -> Symbol:
        result: Symbol = handler(as_python_float(a))
        result.kind = Kind("bool")
        return result

    return python_truth


_math_log_e = _math(math.log, "", np.log, FUNCTION_UNITS)


def _math_log(a: Any, *base: Any) -> Symbol:
    if not base:
        result: Symbol = _math_log_e(a)
        return result
    logs = [_math_log_e(v) if isinstance(v, Symbol) else math.log(v) for v in (a, *base)]
    return elementwise(trace_of(*logs), DIVIDE, *logs)


def _math_pow(a: Any, b: Any) -> Symbol:
    operation = Operation(math.pow, "", np.power, FUNCTION_UNITS, raises=True)
    return elementwise(trace_of(a, b), operation, as_python_float(a), as_python_float(b))


def _math_hypot(*args: Any) -> Symbol:
    if len(args) == 2:
        result: Symbol = _math_hypot_2(*args)
        return result
    trace = trace_of(*args)
    return _length(trace, [elementwise(trace, POSITIVE, as_python_float(v)) for v in args])


def _math_dist(a: Any, b: Any) -> Symbol:
    trace = trace_of(a, b)
    p, q = trace.symbol(a), trace.symbol(b)
    if p.kind.ndim != 1 or q.kind.ndim != 1:
        refuse("math.dist of what is no vector is not known to the tracer")
    g = trace.graph
    apart = g.op("SUB", p.node, q.node)
    if p.bound is not None or q.bound is not None or p.length != q.length:
        refuse("math.dist of these values is not known to the tracer")
    return _root_of_squares(trace, g.fold("ADD", g.op("SQUARE", apart)), p.length)


def _length(trace: Trace, values: list[Symbol]) -> Symbol:
    g = trace.graph
    if any(value.bound is not None for value in values):
        refuse("math.hypot of more than two values is not known to the tracer")
    total = g.const(0.0)
    for value in values:
        total = g.op("ADD", total, g.op("SQUARE", value.node))
    return _root_of_squares(trace, total, len(values))


def _root_of_squares(trace: Trace, total: int, count: int) -> Symbol:
    """Give a root as math does, which neither overflows nor underflows before it is out."""
    g = trace.graph
    node = g.op("SQRT", total)
    own = bounds.rounding(g, node, unit("float64"), count + FUNCTION_UNITS)
    small = g.op("LT", total, g.const(1e-290))
    nonzero = g.op("AND", small, g.op("NE", total, g.const(0.0)))
    lost = bounds.infinite_if(g, nonzero)
    # Squares of less than 1e-150 may be 0 where the root is not.
    bound = g.op("ADD", g.op("ADD", own, lost), g.const(1e-150))
    return Symbol(trace, node, Kind("float"), 0, bound)


_math_hypot_2 = _math(math.hypot, "", np.hypot, FUNCTION_UNITS)


def _math_functions() -> dict[str, Handler]:
    table: dict[str, Handler] = {
        "sqrt": _math(math.sqrt, "SQRT", np.sqrt, 0.0),
        "fabs": _math(math.fabs, "ABS", np.fabs, 0.0),
        "fmod": _math(math.fmod, "", np.fmod, 0.0),
        "copysign": _math(math.copysign, "", np.copysign, 0.0),
        "floor": _math_int("FLOOR"),
        "ceil": _math_int("CEIL"),
        "trunc": _math_int("TRUNC"),
        "isnan": _math_truth(UFUNCS[np.isnan]),
        "isinf": _math_truth(UFUNCS[np.isinf]),
        "isfinite": _math_truth(UFUNCS[np.isfinite]),
        "log": _math_log,
        "dist": _math_dist,
        "hypot": _math_hypot,
        "pow": _math_pow,
    }
    inexact = {
        "exp": np.exp, "expm1": np.expm1, "exp2": np.exp2, "log2": np.log2,
        "log10": np.log10, "log1p": np.log1p, "sin": np.sin, "cos": np.cos,
        "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan,
        "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "asinh": np.arcsinh,
        "acosh": np.arccosh, "atanh": np.arctanh, "cbrt": np.cbrt,
        "atan2": np.arctan2,
        "degrees": np.degrees, "radians": np.radians,
    }  # fmt: skip
    for name, ufunc in inexact.items():
        function = getattr(math, name, None)  # exp2 and cbrt are of Python 3.11
        if function is not None:
            table[name] = _math(function, "", ufunc, FUNCTION_UNITS)
    return table


# ------------------------------------------------------------------------------------
# Built-in functions
# ------------------------------------------------------------------------------------


def _best(name: str) -> Handler:
    """Make min() or max(): the first of the best, as the built-in functions choose."""
    real = getattr(builtins, name)

    def best(*args: Any, **kwargs: Any) -> Any:
        items = args if len(args) > 1 else tuple(args[0])
        if not has_symbol(items):
            return real(items, **kwargs)
        if kwargs:
            refuse(f"options of {name}() are not known to the tracer")
        found = items[0]
        for item in items[1:]:
            found = _better(name, item, found)
        return found

    return best


def _better(name: str, item: Any, found: Any) -> Any:
    better = item < found if name == "min" else item > found
    if not isinstance(better, Symbol):
        return item if better else found
    trace = better.trace
    a, b = trace.symbol(item), trace.symbol(found)
    if a.kind != b.kind or a.kind.ndim != -1:
        return item if better else found  # a branch: the kinds differ
    g = trace.graph
    args, given = (better.node, a.node, b.node), (better.bound, a.bound, b.bound)
    node = g.op("WHERE", *args)
    bound = bounds.operation(g, "WHERE", node, args, given, unit(a.kind.name))
    interval = None
    if a.interval is not None and b.interval is not None:
        interval = min(a.interval[0], b.interval[0]), max(a.interval[1], b.interval[1])
    return Symbol(trace, node, a.kind, 0, bound, interval)


def _python_sum(items: Any, start: Any = 0) -> Any:
    values = list(items)
    if not has_symbol(values) and not isinstance(start, Symbol):
        return sum(values, start)
    if not SUM_IS_CORRECTED:
        return functools.reduce(operator.add, values, start)
    return corrected_sum(values, start)


def _isinstance(value: Any, classes: Any) -> bool:
    if isinstance(classes, tuple):
        return any(_isinstance(value, entry) for entry in classes)
    real = real_class(classes)
    if not isinstance(real, type):
        refuse("isinstance() with what is no known class")
    return isinstance(sample(value.kind) if isinstance(value, Symbol) else value, real)


def _python_abs(value: Any) -> Any:
    return abs(value)


def _python_round(value: Any, ndigits: Any = None) -> Any:
    if isinstance(ndigits, Symbol):
        refuse("it rounds to a number of digits that is not known")
    return round(value) if ndigits is None else round(value, ndigits)


def _python_pow(base: Any, exponent: Any, mod: Any = None) -> Any:
    if mod is not None and has_symbol((base, exponent, mod)):
        refuse("pow() with three arguments is not known to the tracer")
    return base**exponent if mod is None else pow(base, exponent, mod)


def _int(value: Any, *base: Any) -> Any:
    if base:
        refuse("int() with a base is not known to the tracer")
    if value.kind.ndim == 1:
        refuse("it makes one integer of an array")
    if value.kind.name in ("int", *BOOL_KINDS):
        return value + 0
    return to_python_int(as_python_float(value), "TRUNC")


FLOAT: Final = TypeStandIn(float, as_python_float)
INT: Final = TypeStandIn(int, _int)

# Safe as they are: they call only what symbols and stand-ins answer.
_PLAIN: Final = (
    "all", "any", "bool", "enumerate", "filter", "len", "map", "range",
    "reversed", "slice", "sorted", "tuple", "zip", "set", "frozenset", "str", "complex",
    "bytes", "True", "False", "None", "NotImplemented", "Ellipsis",
)  # fmt: skip


def builtin_functions() -> dict[str, Any]:
    """Give the built-in functions that a traced function may use."""
    table: dict[str, Any] = {name: getattr(builtins, name) for name in _PLAIN}
    table |= {
        name: value
        for name, value in vars(builtins).items()
        if isinstance(value, type) and issubclass(value, BaseException)
    }
    table.update(
        abs=_python_abs,
        dict=TypeStandIn(dict, dict),
        list=TypeStandIn(list, list),
        float=FLOAT,
        int=INT,
        isinstance=_isinstance,
        max=_best("max"),
        min=_best("min"),
        pow=_python_pow,
        round=_python_round,
        sum=_python_sum,
    )
    return table


def math_names() -> dict[str, Any]:
    """Give what a traced function finds in the module math."""
    table: dict[str, Any] = {
        name: getattr(math, name) for name in ("e", "inf", "nan", "pi", "tau")
    }
    for name, handler in _math_functions().items():
        table[name] = StandIn(getattr(math, name), handler)
    return table


def operator_names() -> dict[str, Any]:
    """Give what a traced function finds in the module operator."""
    names = (
        "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "neg", "pos", "abs",
        "lt", "le", "eq", "ne", "gt", "ge", "and_", "or_", "xor", "invert", "matmul",
    )  # fmt: skip
    return {name: getattr(operator, name) for name in names}
