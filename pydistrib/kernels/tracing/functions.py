"""
What NumPy's, math's and the built-in functions do to symbols.

Each table gives a stand-in for each function that is known: with no symbol among its
arguments it is the function itself, else it makes a symbol or refuses.  A function that is
in no table cannot be reached from a traced function.
"""

from __future__ import annotations

import builtins
import functools
import math
import operator
import sys
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from pydistrib.kernels.tracing import bounds
from pydistrib.kernels.tracing.kinds import (
    BOOL_KINDS,
    FLOAT_KINDS,
    MAX_EXACT,
    Kind,
    result_kind,
    sample,
    unit,
)
from pydistrib.kernels.tracing.refusal import refuse
from pydistrib.kernels.tracing.symbols import (
    DIVIDE,
    MULTIPLY,
    SUBTRACT,
    Operation,
    Symbol,
    Trace,
    combine_truths,
    convert,
    elementwise,
    finish,
    power,
    round_numpy,
    to_python_int,
    truth,
)

Handler = Callable[..., Any]

# Whether this NumPy's sums start from +0.0, which turns -0.0 into 0.0.
_SUMS_START_FROM_ZERO: Final = not np.signbit(np.add.reduce(np.array([-0.0])))


def has_symbol(args: Any) -> bool:
    """Tell whether a symbol is among some arguments or in their tuples and lists."""
    return any(
        isinstance(arg, Symbol) or (isinstance(arg, (tuple, list)) and has_symbol(arg))
        for arg in args
    )


def stand_in(function: Callable[..., Any], handler: Handler) -> Handler:
    """Make the function that a traced function sees in place of `function`."""

    @functools.wraps(function, updated=())
    def stand(*args: Any, **kwargs: Any) -> Any:
        if has_symbol(args) or has_symbol(kwargs.values()):
            return handler(*args, **kwargs)
        return function(*args, **kwargs)

    return stand


def _trace_of(*args: Any) -> Trace:
    for arg in args:
        if isinstance(arg, Symbol):
            return arg.trace
    refuse("a list of symbols is not known to the tracer")


def elementwise_handler(operation: Operation, inputs: int) -> Handler:
    """Make the handler of a function of `inputs` arguments and no options."""
    name = operation.function.__name__

    def handler(*args: Any, **kwargs: Any) -> Symbol:
        if kwargs or len(args) != inputs:
            refuse(f"options of {name} are not known to the tracer")
        return elementwise(_trace_of(*args), operation, *args)

    return handler


# ------------------------------------------------------------------------------------
# Elementwise functions
# ------------------------------------------------------------------------------------


def _ufuncs() -> dict[np.ufunc, Handler]:
    exact: dict[np.ufunc, tuple[str, int, bool]] = {
        np.absolute: ("ABS", 1, False),
        np.fabs: ("ABS", 1, False),
        np.negative: ("NEG", 1, False),
        np.positive: ("COPY", 1, False),
        np.sqrt: ("SQRT", 1, False),
        np.square: ("SQUARE", 1, False),
        np.floor: ("FLOOR", 1, False),
        np.ceil: ("CEIL", 1, False),
        np.trunc: ("TRUNC", 1, False),
        np.rint: ("RINT", 1, False),
        np.sign: ("SIGN", 1, False),
        np.isnan: ("ISNAN", 1, True),
        np.isfinite: ("ISFINITE", 1, True),
        np.add: ("ADD", 2, False),
        np.subtract: ("SUB", 2, False),
        np.multiply: ("MUL", 2, False),
        np.true_divide: ("DIV", 2, False),
        np.minimum: ("MIN", 2, False),
        np.maximum: ("MAX", 2, False),
        np.fmin: ("FMIN", 2, False),
        np.fmax: ("FMAX", 2, False),
        np.less: ("LT", 2, True),
        np.less_equal: ("LE", 2, True),
        np.equal: ("EQ", 2, True),
        np.not_equal: ("NE", 2, True),
    }
    table: dict[np.ufunc, Handler] = {}
    for ufunc, (op, inputs, compares) in exact.items():
        operation = Operation(ufunc, op, compares=compares)
        table[ufunc] = elementwise_handler(operation, inputs)
    inexact = [
        np.exp, np.exp2, np.expm1, np.log, np.log2, np.log10, np.log1p,
        np.sin, np.cos, np.tan, np.arcsin, np.arccos, np.arctan,
        np.sinh, np.cosh, np.tanh, np.arcsinh, np.arccosh, np.arctanh,
        np.cbrt, np.deg2rad, np.rad2deg, np.radians, np.degrees,
        np.arctan2, np.hypot, np.logaddexp, np.logaddexp2,
    ]  # fmt: skip
    for ufunc in inexact:
        operation = Operation(ufunc, "", ufunc, bounds.FUNCTION_UNITS)
        table[ufunc] = elementwise_handler(operation, ufunc.nin)
    # One algorithm everywhere, on floats without rounding choices.
    for ufunc in (np.copysign, np.fmod, np.remainder, np.floor_divide, np.heaviside):
        table[ufunc] = elementwise_handler(Operation(ufunc, "", ufunc), ufunc.nin)
    table[np.greater] = lambda a, b: table[np.less](b, a)
    table[np.greater_equal] = lambda a, b: table[np.less_equal](b, a)
    table[np.power] = lambda a, b: power(_trace_of(a, b), np.power, a, b)
    table[np.reciprocal] = _reciprocal
    table[np.isinf] = _isinf
    table[np.matmul] = matmul
    for ufunc, op in (
        (np.logical_and, "AND"),
        (np.logical_or, "OR"),
        (np.logical_xor, "NE"),
    ):
        table[ufunc] = _logical(ufunc, op)
    table[np.logical_not] = _logical(np.logical_not, "NOT")
    table[np.bitwise_and] = lambda a, b: _trace_of(a, b).symbol(a) & b
    table[np.bitwise_or] = lambda a, b: _trace_of(a, b).symbol(a) | b
    table[np.bitwise_xor] = lambda a, b: _trace_of(a, b).symbol(a) ^ b
    table[np.invert] = lambda a: ~a
    return table


def _logical(ufunc: np.ufunc, op: str) -> Handler:
    def handler(*args: Any) -> Symbol:
        trace = _trace_of(*args)
        return combine_truths(trace, ufunc, op, [trace.symbol(arg) for arg in args])

    return handler


def _reciprocal(a: Symbol) -> Symbol:
    result = result_kind(np.reciprocal, a.kind)
    if result is None or result.name not in FLOAT_KINDS:
        refuse("reciprocal of integers is not known")
    one = a.trace.graph.const(1.0)
    operation = Operation(np.reciprocal, "DIV")
    args, given = (one, a.node), (None, a.bound)
    return finish(a.trace, operation, result, a.length, args, given, result.name)


def _isinf(a: Symbol) -> Symbol:
    result = result_kind(np.isinf, a.kind)
    if result is None:
        refuse(f"isinf of {a.kind.name} is not known")
    g = a.trace.graph
    ordinary = g.op("OR", g.op("ISFINITE", a.node), g.op("ISNAN", a.node))
    return Symbol(a.trace, g.op("NOT", ordinary), result, a.length, a.bound, (0, 1))


def _where(condition: Any, *values: Any) -> Symbol:
    if len(values) != 2:
        refuse("numpy.where with one argument is not known to the tracer")
    trace = _trace_of(condition, *values)
    return elementwise(trace, Operation(np.where, "WHERE"), condition, *values)


def _clip(a: Any, *limits: Any, **kwargs: Any) -> Symbol:
    names = ("a_min", "a_max") if {"a_min", "a_max"} & set(kwargs) else ("min", "max")
    given = list(limits) + [kwargs.pop(name, None) for name in names[len(limits) :]]
    if kwargs or len(given) != 2:
        refuse("options of clip are not known to the tracer")
    trace = _trace_of(a, *given)
    result = trace.symbol(a)
    for limit, op in zip(given, ("MAX", "MIN"), strict=True):
        if limit is not None:
            kind = result_kind(np.clip, result.kind, trace.symbol(limit).kind)
            if kind is None:
                refuse("clip of these values is not known to the tracer")
            function = np.maximum if op == "MAX" else np.minimum
            result = elementwise(trace, Operation(function, op), result, limit)
    return result


def _round(a: Symbol, decimals: Any = 0) -> Symbol:
    if isinstance(decimals, bool) or not isinstance(decimals, int):
        refuse("it rounds to a number of digits that is not known")
    if a.kind.name not in ("float32", "float64"):
        refuse(f"numpy.round of {a.kind.name} is not known to the tracer")
    return round_numpy(a, decimals)


def _fix(a: Symbol) -> Symbol:
    return elementwise(a.trace, Operation(np.trunc, "TRUNC"), a)


# ------------------------------------------------------------------------------------
# Reductions over the features
# ------------------------------------------------------------------------------------


def _vector(
    a: Any, name: str, kwargs: dict[str, Any], args: tuple[Any, ...] = ()
) -> Symbol:
    """Check the argument of a reduction; the only axis is the whole vector's."""
    options = dict(kwargs)
    axis = args[0] if args else options.pop("axis", None)
    if options or len(args) > 1 or axis not in (None, 0, -1, (0,)):
        refuse(f"options of {name} are not known to the tracer")
    if not isinstance(a, Symbol) or a.kind.ndim != 1:
        refuse(f"{name} of what is no vector is not known to the tracer")
    return a


def fold(a: Symbol, op: str, result: Kind) -> Symbol:
    """Reduce a vector of floats or truths by MIN or MAX."""
    g = a.trace.graph
    bound = None if a.bound is None else g.fold("MAX", a.bound)
    return Symbol(a.trace, g.fold(op, a.node), result, 0, bound, a.interval)


def total(a: Symbol, function: Handler = np.sum) -> Symbol:
    """Add up a vector in NumPy's order."""
    g = a.trace.graph
    result = result_kind(function, a.kind)
    if result is None:
        refuse(f"the sum of {a.kind.name} is not known to the tracer")
    if a.interval is not None:
        interval = a.interval[0] * a.length, a.interval[1] * a.length
        if max(map(abs, interval)) > MAX_EXACT:
            refuse("a sum of integers may pass 2**53")
        return Symbol(a.trace, g.fold("ADD", a.node), result, 0, None, interval)
    single = result.name == "float32"
    node = g.fold("ADD_SINGLE" if single else "ADD", a.node)
    if _SUMS_START_FROM_ZERO:
        node = g.op("ADD", node, g.const(0.0))
    bound = bounds.summed(g, a.node, a.bound, a.length, unit(result.name), False)
    return Symbol(a.trace, node, result, 0, bound)


def _sum(a: Any, *args: Any, **kwargs: Any) -> Symbol:
    return total(_vector(a, "sum", kwargs, args))


def _mean(a: Any, *args: Any, **kwargs: Any) -> Symbol:
    vector = _vector(a, "mean", kwargs, args)
    result = result_kind(np.mean, vector.kind)
    if result is None:
        refuse(f"the mean of {vector.kind.name} is not known to the tracer")
    added = total(vector, np.mean if vector.interval is None else np.sum)
    return _divide_by_count(added, vector.length, result)


def _divide_by_count(added: Symbol, count: int, result: Kind) -> Symbol:
    # Computed in double and then rounded, which for a float is one rounding.
    g = added.trace.graph
    node = g.op("DIV", added.node, g.const(float(count)))
    bound = added.bound
    if bound is not None:
        bound = bounds.plus(g, bound, bounds.rounding(g, node, unit("float64")))
    if result.name == "float32":
        node = g.op("TO_F32", node)
        if bound is not None:
            bound = bounds.plus(g, bound, bounds.rounding(g, node, unit("float32")))
    return Symbol(added.trace, node, result, 0, bound)


def _variance(a: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Symbol:
    ddof = kwargs.pop("ddof", 0)
    vector = _vector(a, name, kwargs, args)
    if isinstance(ddof, Symbol) or vector.kind.name not in ("float32", "float64"):
        refuse(f"{name} of these values is not known to the tracer")
    if vector.length <= ddof:
        refuse(f"{name} of too few features")
    mean = _divide_by_count(total(vector), vector.length, Kind(vector.kind.name))
    apart = elementwise(vector.trace, SUBTRACT, vector, mean)
    squares = elementwise(vector.trace, Operation(np.multiply, "MUL"), apart, apart)
    result = Kind(vector.kind.name)
    return _divide_by_count(total(squares), vector.length - ddof, result)


def _var(a: Any, *args: Any, **kwargs: Any) -> Symbol:
    return _variance(a, args, kwargs, "var")


def _std(a: Any, *args: Any, **kwargs: Any) -> Symbol:
    variance = _variance(a, args, kwargs, "std")
    return elementwise(variance.trace, Operation(np.sqrt, "SQRT"), variance)


def _prod(a: Any, *args: Any, **kwargs: Any) -> Symbol:
    vector = _vector(a, "prod", kwargs, args)
    if vector.kind.name not in ("float32", "float64") or vector.bound is not None:
        refuse("the product of these values is not known to the tracer")
    op = "MUL_SINGLE" if vector.kind.name == "float32" else "MUL"
    node = vector.trace.graph.fold(op, vector.node)
    return Symbol(vector.trace, node, Kind(vector.kind.name))


def _extreme(op: str, name: str) -> Handler:
    def handler(a: Any, *args: Any, **kwargs: Any) -> Symbol:
        vector = _vector(a, name, kwargs, args)
        return fold(vector, op, Kind(vector.kind.name))

    return handler


def _any_all(op: str, name: str) -> Handler:
    def handler(a: Any, *args: Any, **kwargs: Any) -> Symbol:
        vector = truth(_vector(a, name, kwargs, args))
        return fold(vector, op, Kind("bool_"))

    return handler


def dot(a: Any, b: Any) -> Symbol:
    """Multiply two vectors; BLAS adds the products in an order of its own."""
    trace = _trace_of(a, b)
    x, y = trace.symbol(a), trace.symbol(b)
    if x.kind.ndim != 1 or y.kind.ndim != 1:
        if x.kind.ndim == -1 or y.kind.ndim == -1:
            return elementwise(trace, Operation(np.multiply, "MUL"), a, b)
        refuse("the product of these arrays is not known to the tracer")
    result = result_kind(np.dot, x.kind, y.kind)
    if result is None or result.name in BOOL_KINDS:
        refuse("the product of these vectors is not known to the tracer")
    if result.name not in FLOAT_KINDS:
        return total(elementwise(trace, MULTIPLY, x, y))
    g = trace.graph
    x, y = convert(x, result.name), convert(y, result.name)
    if x.length != y.length:
        refuse(f"it multiplies vectors of {x.length} and {y.length} features")
    product = g.op("MUL", x.node, y.node)
    given = (x.bound, y.bound)
    terms = bounds.operation(g, "MUL", product, (x.node, y.node), given, unit(result.name))
    node = g.fold("ADD", product)
    if result.name == "float32":
        node = g.op("TO_F32", node)
    bound = bounds.summed(g, product, terms, x.length, unit(result.name), True)
    return Symbol(trace, node, result, 0, bound)


def matmul(a: Any, b: Any) -> Symbol:
    """Multiply two vectors as the operator @ does, which takes no numbers."""
    trace = _trace_of(a, b)
    if trace.symbol(a).kind.ndim != 1 or trace.symbol(b).kind.ndim != 1:
        refuse("@ of what is no vector is not known to the tracer")
    return dot(a, b)


def _norm(a: Any, ord: Any = None) -> Symbol:
    vector = _vector(a, "norm", {})
    if vector.kind.name not in ("float32", "float64"):
        vector = elementwise(vector.trace, Operation(np.multiply, "MUL"), vector, 1.0)
    if isinstance(ord, (Symbol, str)):
        refuse("this order of the norm is not known to the tracer")
    if ord is None or ord == 2:
        return elementwise(vector.trace, Operation(np.sqrt, "SQRT"), dot(vector, vector))
    sizes = abs(vector)
    if ord == math.inf or ord == -math.inf:
        return fold(sizes, "MAX" if ord > 0 else "MIN", Kind(sizes.kind.name))
    if ord == 1:
        return total(sizes)
    if ord == 0:
        refuse("the norm of order 0 is not known to the tracer")
    slow = Operation(np.power, "", np.power, bounds.FUNCTION_UNITS)
    powers = elementwise(vector.trace, slow, sizes, ord)
    return elementwise(vector.trace, slow, total(powers), 1.0 / ord)


# ------------------------------------------------------------------------------------
# The math module: on Python's floats, raising where NumPy gives NaN or infinity
# ------------------------------------------------------------------------------------


def as_python_float(a: Any) -> Any:
    """Convert to Python's float, as the built-in class does."""
    if not isinstance(a, Symbol):
        return a
    if a.kind.ndim == 1:
        refuse("it makes one float of an array")
    return Symbol(a.trace, a.node, Kind("float"), 0, a.bound)


def _math(function: Callable[..., Any], op: str, ufunc: np.ufunc, units: float) -> Handler:
    @functools.wraps(function, updated=())
    def kind(*values: Any) -> float:
        return 1.0  # whatever the values; the function may not be defined on samples

    operation = Operation(kind, op, ufunc, units, raises=True)

    def handler(*args: Any) -> Symbol:
        if len(args) != ufunc.nin:
            refuse(f"math.{function.__name__} of {len(args)} arguments is not known")
        return elementwise(_trace_of(*args), operation, *map(as_python_float, args))

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


_math_log_e = _math(math.log, "", np.log, bounds.FUNCTION_UNITS)


def _math_log(a: Any, *base: Any) -> Symbol:
    if not base:
        result: Symbol = _math_log_e(a)
        return result
    logs = [_math_log_e(v) if isinstance(v, Symbol) else math.log(v) for v in (a, *base)]
    return elementwise(_trace_of(*logs), DIVIDE, *logs)


def _math_pow(a: Any, b: Any) -> Symbol:
    operation = Operation(math.pow, "", np.power, bounds.FUNCTION_UNITS, raises=True)
    return elementwise(_trace_of(a, b), operation, as_python_float(a), as_python_float(b))


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
        "pow": _math_pow,
    }
    inexact = {
        "exp": np.exp, "expm1": np.expm1, "exp2": np.exp2, "log2": np.log2,
        "log10": np.log10, "log1p": np.log1p, "sin": np.sin, "cos": np.cos,
        "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan,
        "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "asinh": np.arcsinh,
        "acosh": np.arccosh, "atanh": np.arctanh, "cbrt": np.cbrt,
        "atan2": np.arctan2, "hypot": np.hypot,
        "degrees": np.degrees, "radians": np.radians,
    }  # fmt: skip
    for name, ufunc in inexact.items():
        function = getattr(math, name, None)  # exp2 and cbrt are of Python 3.11
        if function is not None:
            table[name] = _math(function, "", ufunc, bounds.FUNCTION_UNITS)
    return table


# ------------------------------------------------------------------------------------
# Built-in functions
# ------------------------------------------------------------------------------------


class TypeStandIn:
    """A class that converts symbols and can stand in isinstance()."""

    def __init__(self, real: type, convert: Handler) -> None:
        self.real = real
        self.convert = convert

    def __call__(self, *args: Any) -> Any:
        return self.convert(*args) if has_symbol(args) else self.real(*args)


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
    compensated = sys.version_info >= (3, 12)
    if compensated and any(
        isinstance(value, Symbol) and value.kind.name == "float" for value in values
    ):
        refuse("sum() of Python's floats corrects its rounding errors")
    return functools.reduce(operator.add, values, start)


def _isinstance(value: Any, classes: Any) -> bool:
    if isinstance(classes, tuple):
        return any(_isinstance(value, entry) for entry in classes)
    real = classes.real if isinstance(classes, TypeStandIn) else classes
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
    if value.kind.name in ("int", *BOOL_KINDS):
        return value + 0
    return to_python_int(as_python_float(value), "TRUNC")


def _numpy_float(name: str) -> Handler:
    def convert_to(value: Any) -> Any:
        if value.kind.ndim != -1:
            refuse(f"numpy.{name} of an array is not known to the tracer")
        converted = convert(value, name)
        return Symbol(value.trace, converted.node, Kind(name), 0, converted.bound)

    return convert_to


FLOAT: Final = TypeStandIn(float, as_python_float)
INT: Final = TypeStandIn(int, _int)
FLOAT64: Final = TypeStandIn(np.float64, _numpy_float("float64"))
FLOAT32: Final = TypeStandIn(np.float32, _numpy_float("float32"))

# Safe as they are: they call only what symbols and stand-ins answer.
_PLAIN: Final = (
    "all", "any", "bool", "dict", "enumerate", "filter", "len", "list", "map", "range",
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


# ------------------------------------------------------------------------------------
# The tables
# ------------------------------------------------------------------------------------


def _as_array(a: Any, *args: Any, **kwargs: Any) -> Any:
    if args or kwargs or not isinstance(a, Symbol) or a.kind.ndim != 1:
        refuse("it makes an array of its arguments")
    return a


def _errstate(**kwargs: Any) -> Any:
    if set(kwargs.values()) - {"ignore", "warn"}:
        refuse("it has NumPy raise floating-point errors")
    return np.errstate(**kwargs)


UFUNCS: Final = _ufuncs()

_REDUCTIONS: Final[dict[str, Handler]] = {
    "sum": _sum,
    "mean": _mean,
    "var": _var,
    "std": _std,
    "prod": _prod,
    "max": _extreme("MAX", "max"),
    "min": _extreme("MIN", "min"),
    "any": _any_all("MAX", "any"),
    "all": _any_all("MIN", "all"),
}

_FUNCTIONS: Final[dict[str, Handler]] = {
    **_REDUCTIONS,
    "amax": _REDUCTIONS["max"],
    "amin": _REDUCTIONS["min"],
    "dot": dot,
    "vdot": dot,
    "inner": dot,
    "where": _where,
    "clip": _clip,
    "round": _round,
    "around": _round,
    "fix": _fix,
    "asarray": _as_array,
    "ravel": _as_array,
}

# Of NumPy's functions, those that make arrays of numbers alone.
_CONSTRUCTORS: Final = ("arange", "array", "full", "linspace", "ones", "zeros")


def _refuse_symbols(name: str) -> Handler:
    def handler(*args: Any, **kwargs: Any) -> Any:
        refuse(f"numpy.{name} of its arguments is not known to the tracer")

    return handler


def numpy_names() -> dict[str, Any]:
    """Give what a traced function finds in the module numpy."""
    table: dict[str, Any] = {
        name: getattr(np, name)
        for name in ("e", "inf", "nan", "newaxis", "pi", "euler_gamma")
    }
    for name in dir(np):
        value = getattr(np, name) if not name.startswith("_") else None
        if isinstance(value, np.ufunc) and value in UFUNCS:
            table[name] = stand_in(value, UFUNCS[value])
    for name, handler in _FUNCTIONS.items():
        table[name] = stand_in(getattr(np, name), handler)
    for name in _CONSTRUCTORS:
        table[name] = stand_in(getattr(np, name), _refuse_symbols(name))
    table.update(
        float64=FLOAT64,
        float32=FLOAT32,
        double=FLOAT64,
        single=FLOAT32,
        errstate=_errstate,
        ndarray=TypeStandIn(np.ndarray, _as_array),
        floating=TypeStandIn(np.floating, _as_array),
        number=TypeStandIn(np.number, _as_array),
    )
    return table


def math_names() -> dict[str, Any]:
    """Give what a traced function finds in the module math."""
    table: dict[str, Any] = {
        name: getattr(math, name) for name in ("e", "inf", "nan", "pi", "tau")
    }
    for name, handler in _math_functions().items():
        table[name] = stand_in(getattr(math, name), handler)
    return table


def norm_handler() -> Handler:
    """Give the stand-in of numpy.linalg.norm."""
    return stand_in(np.linalg.norm, _norm)


def operator_names() -> dict[str, Any]:
    """Give what a traced function finds in the module operator."""
    names = (
        "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "neg", "pos", "abs",
        "lt", "le", "eq", "ne", "gt", "ge", "and_", "or_", "xor", "invert", "matmul",
    )  # fmt: skip
    return {name: getattr(operator, name) for name in names}


def _method(handler: Handler) -> Callable[[Symbol], Handler]:
    return lambda a: functools.partial(handler, a)


def _item(a: Symbol) -> Any:
    if a.kind.name in FLOAT_KINDS:
        return as_python_float(a)
    refuse("item() of integers is not known to the tracer")


# Attributes and methods of arrays and NumPy's numbers.
METHODS: Final[dict[str, Callable[[Symbol], Any]]] = {
    "shape": lambda a: (a.length,) if a.kind.ndim == 1 else (),
    "size": lambda a: a.length if a.kind.ndim == 1 else 1,
    "ndim": lambda a: max(a.kind.ndim, 0),
    "T": lambda a: a,
    "real": lambda a: a,
    "copy": lambda a: lambda: a,
    "item": lambda a: lambda: _item(a),
    "dot": lambda a: lambda b: dot(a, b),
    "clip": lambda a: functools.partial(_clip, a),
    "round": lambda a: functools.partial(_round, a),
    "conjugate": lambda a: lambda: a,
    "ravel": lambda a: lambda: _as_array(a),
    "flatten": lambda a: lambda: _as_array(a),
    **{name: _method(handler) for name, handler in _REDUCTIONS.items()},
}
