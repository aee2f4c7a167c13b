"""
What NumPy's functions do to symbols.

Each table gives a stand-in for each function that is known: with no symbol among its
arguments it is the function itself, else it makes a symbol or refuses.  A function that is
in no table cannot be reached from a traced function.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from pydistrib.kernels.tracing import bounds
from pydistrib.kernels.tracing.function_bounds import FUNCTION_UNITS
from pydistrib.kernels.tracing.kinds import (
    BOOL_KINDS,
    FLOAT_KINDS,
    MAX_EXACT,
    Kind,
    added,
    result_kind,
    unit,
)
from pydistrib.kernels.tracing.matrices import is_matrix, matrix_product
from pydistrib.kernels.tracing.operations import (
    MULTIPLY,
    SUBTRACT,
    Operation,
    combine_truths,
    convert,
    elementwise,
    finish,
    kind_of_call,
    power,
    round_numpy,
    truth,
)
from pydistrib.kernels.tracing.refusal import refuse
from pydistrib.kernels.tracing.signs import zeros_within
from pydistrib.kernels.tracing.stand_ins import (
    Handler,
    StandIn,
    TypeStandIn,
    as_python_float,
    real_class,
    trace_of,
    unknown,
)
from pydistrib.kernels.tracing.symbols import Symbol

# Whether this NumPy's sums start from +0.0, which turns -0.0 into 0.0.
_SUMS_START_FROM_ZERO: Final = not np.signbit(np.add.reduce(np.array([-0.0])))


def elementwise_handler(operation: Operation, inputs: int) -> Handler:
    """Make the handler of a function of `inputs` arguments and no options."""
    name = operation.function.__name__

    def handler(*args: Any, **kwargs: Any) -> Symbol:
        if kwargs or len(args) != inputs:
            refuse(f"options of {name} are not known to the tracer")
        return elementwise(trace_of(*args), operation, *args)

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
        operation = Operation(ufunc, "", ufunc, FUNCTION_UNITS)
        table[ufunc] = elementwise_handler(operation, ufunc.nin)
    # One algorithm everywhere, on floats without rounding choices.
    for ufunc in (np.copysign, np.fmod, np.remainder, np.floor_divide, np.heaviside):
        table[ufunc] = elementwise_handler(Operation(ufunc, "", ufunc), ufunc.nin)
    table[np.greater] = lambda a, b: table[np.less](b, a)
    table[np.greater_equal] = lambda a, b: table[np.less_equal](b, a)
    table[np.power] = lambda a, b: power(trace_of(a, b), np.power, a, b)
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
    table[np.bitwise_and] = lambda a, b: trace_of(a, b).symbol(a) & b
    table[np.bitwise_or] = lambda a, b: trace_of(a, b).symbol(a) | b
    table[np.bitwise_xor] = lambda a, b: trace_of(a, b).symbol(a) ^ b
    table[np.invert] = lambda a: ~a
    return table


def _logical(ufunc: np.ufunc, op: str) -> Handler:
    def handler(*args: Any) -> Symbol:
        trace = trace_of(*args)
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
    trace = trace_of(condition, *values)
    return elementwise(trace, Operation(np.where, "WHERE"), condition, *values)


def _clip(a: Any, *bounds_given: Any, **kwargs: Any) -> Symbol:
    names = ("a_min", "a_max") if {"a_min", "a_max"} & set(kwargs) else ("min", "max")
    given = list(bounds_given)
    given += [kwargs.pop(name, None) for name in names[len(given) :]]
    if kwargs or len(given) != 2:
        refuse("options of clip are not known to the tracer")
    if given == [None, None]:
        refuse("clip without limits is not known to the tracer")
    trace = trace_of(a, *given)
    result = trace.symbol(a)
    limits = [trace.symbol(limit) for limit in given if limit is not None]
    kind = kind_of_call(added, [result, *limits])
    if kind is None or kind.name not in FLOAT_KINDS:
        refuse("clip of these values is not known to the tracer")
    for limit, ufunc, op in zip(
        given, (np.maximum, np.minimum), ("MAX", "MIN"), strict=True
    ):
        if limit is not None:
            result = elementwise(trace, Operation(ufunc, op), result, limit)
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
    node = g.fold(op, a.node)
    bound = None if a.bound is None else g.fold("MAX", a.bound)
    a.trace.guard_any(zeros_within(g, a.node, node))
    return Symbol(a.trace, node, result, 0, bound, a.interval)


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
    bound = bounds.summed(g, node, a.node, a.bound, a.length, unit(result.name), False)
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
    if is_matrix(a) or is_matrix(b):
        result_of_matrix: Symbol = matrix_product(a, b, dot)
        return result_of_matrix
    trace = trace_of(a, b)
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
    node = g.op("ADD", g.fold("ADD", product), g.const(0.0))  # BLAS starts from 0.0
    if result.name == "float32":
        node = g.op("TO_F32", node)
    bound = bounds.summed(g, node, product, terms, x.length, unit(result.name), True)
    return Symbol(trace, node, result, 0, bound)


def matmul(a: Any, b: Any) -> Symbol:
    """Multiply two vectors as the operator @ does, which takes no numbers."""
    if is_matrix(a) or is_matrix(b):
        return dot(a, b)
    trace = trace_of(a, b)
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
    slow = Operation(np.power, "", np.power, FUNCTION_UNITS)
    powers = elementwise(vector.trace, slow, sizes, ord)
    return elementwise(vector.trace, slow, total(powers), 1.0 / ord)


# ------------------------------------------------------------------------------------
# NumPy's number classes
# ------------------------------------------------------------------------------------


def _numpy_float(name: str) -> Handler:
    def convert_to(value: Any) -> Any:
        if value.kind.ndim != -1:
            refuse(f"numpy.{name} of an array is not known to the tracer")
        converted = convert(value, name)
        return Symbol(value.trace, converted.node, Kind(name), 0, converted.bound)

    return convert_to


FLOAT64: Final = TypeStandIn(np.float64, _numpy_float("float64"))
FLOAT32: Final = TypeStandIn(np.float32, _numpy_float("float32"))


# ------------------------------------------------------------------------------------
# The tables
# ------------------------------------------------------------------------------------


def _as_array(a: Any, *args: Any, **kwargs: Any) -> Any:
    dtype = real_class(kwargs.pop("dtype", args[0] if args else None))
    if kwargs or len(args) > 1 or not isinstance(a, Symbol) or a.kind.ndim != 1:
        refuse("it makes an array of its arguments")
    if dtype is not None and dtype is not float and dtype != a.kind.name:
        refuse(f"it converts an array to {dtype}")
    if dtype is float and a.kind.name != "float64":
        refuse("it converts an array to float64")
    return a


def _errstate(**kwargs: Any) -> Any:
    if set(kwargs.values()) - {"ignore", "warn"}:
        refuse("it has NumPy raise floating-point errors")
    return np.errstate(**kwargs)


UFUNCS: Final = _ufuncs()


def _ufunc_methods(ufunc: np.ufunc) -> dict[str, Handler]:
    handler = _UFUNC_REDUCTIONS.get(ufunc)
    return {} if handler is None else {"reduce": StandIn(ufunc.reduce, handler)}


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

_UFUNC_REDUCTIONS: Final[dict[np.ufunc, Handler]] = {
    np.add: _sum,
    np.multiply: _prod,
    np.maximum: _REDUCTIONS["max"],
    np.minimum: _REDUCTIONS["min"],
    np.logical_or: _REDUCTIONS["any"],
    np.logical_and: _REDUCTIONS["all"],
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
    "abs": UFUNCS[np.absolute],
    "ravel": _as_array,
}

# Of NumPy's functions, those that make arrays of numbers alone.
_CONSTRUCTORS: Final = (
    "arange", "array", "diag", "eye", "finfo", "full", "identity", "iinfo", "linspace", "ones",
    "zeros",
)  # fmt: skip


def numpy_names() -> dict[str, Any]:
    """Give what a traced function finds in the module numpy."""
    table: dict[str, Any] = {
        name: getattr(np, name)
        for name in ("e", "inf", "nan", "newaxis", "pi", "euler_gamma")
    }
    # Not dir(): some of what it lists is imported only when asked for.
    for name, value in vars(np).items():
        if isinstance(value, np.ufunc) and value in UFUNCS:
            table[name] = StandIn(value, UFUNCS[value], _ufunc_methods(value))
    for name, handler in _FUNCTIONS.items():
        table[name] = StandIn(getattr(np, name), handler)
    for name in _CONSTRUCTORS:
        table[name] = StandIn(getattr(np, name), unknown(f"numpy.{name}"))
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


def norm_handler() -> Handler:
    """Give the stand-in of numpy.linalg.norm."""
    return StandIn(np.linalg.norm, _norm)


def _method(handler: Handler) -> Callable[[Symbol], Handler]:
    return lambda a: functools.partial(handler, a)


def _item(a: Symbol) -> Any:
    if a.kind.ndim == 1:
        refuse("item() of an array is not known to the tracer")
    if a.kind.name in FLOAT_KINDS:
        return as_python_float(a)
    refuse("item() of integers is not known to the tracer")


# Attributes and methods of arrays and NumPy's numbers.
METHODS: Final[dict[str, Callable[[Symbol], Any]]] = {
    "shape": lambda a: (a.length,) if a.kind.ndim == 1 else (),
    "size": lambda a: a.length if a.kind.ndim == 1 else 1,
    "ndim": lambda a: max(a.kind.ndim, 0),
    "T": lambda a: +a,
    "real": lambda a: +a,
    "copy": lambda a: lambda: +a,
    "item": lambda a: lambda: _item(a),
    "dot": lambda a: lambda b: dot(a, b),
    "clip": lambda a: functools.partial(_clip, a),
    "round": lambda a: functools.partial(_round, a),
    "conjugate": lambda a: lambda: +a,
    "ravel": lambda a: lambda: _as_array(a),
    "flatten": lambda a: lambda: _as_array(a),
    **{name: _method(handler) for name, handler in _REDUCTIONS.items()},
}
