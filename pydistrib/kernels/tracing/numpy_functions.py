"""
What NumPy's functions do to symbols.

Each table gives a stand-in for each function that is known: with no symbol among its
arguments it is the function itself, else it makes a symbol or refuses.  A function that is
in no table cannot be reached from a traced function.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from pydistrib.kernels.tracing.function_bounds import FUNCTION_UNITS
from pydistrib.kernels.tracing.kinds import (
    FLOAT_KINDS,
    Kind,
    result_kind,
)
from pydistrib.kernels.tracing.operations import (
    Operation,
    combine_truths,
    common_length,
    convert,
    elementwise,
    finish,
    kind_of_call,
    power,
    round_numpy,
)
from pydistrib.kernels.tracing.reductions import (
    REDUCTIONS,
    UFUNC_REDUCTIONS,
    dot,
    matmul,
    norm,
)
from pydistrib.kernels.tracing.refusal import refuse
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
    low, high = given
    trace = trace_of(a, low, high)
    result = trace.symbol(a)
    limits = [trace.symbol(limit) for limit in given if limit is not None]
    if low is not None and high is not None:
        kind = kind_of_call(np.clip, [result, *limits])
    elif low is not None or high is not None:
        kind = kind_of_call(_clip_above if low is None else _clip_below, [result, *limits])
    else:
        kind = None
    if kind is None or kind.name not in FLOAT_KINDS:
        refuse("clip of these values is not known to the tracer")
    length = common_length([result, *limits])
    result = convert(result, kind.name)
    for limit, op in ((low, "MAX"), (high, "MIN")):
        if limit is not None:
            bounded = convert(trace.symbol(limit), kind.name)
            args = (result.node, bounded.node)
            errors = (result.bound, bounded.bound)
            operation = Operation(np.clip, op)
            result = finish(trace, operation, kind, length, args, errors, kind.name)
    return result


def _clip_below(a: Any, low: Any) -> Any:
    return np.clip(a, low, None)


def _clip_above(a: Any, high: Any) -> Any:
    return np.clip(a, None, high)


def _round(a: Symbol, decimals: Any = 0) -> Symbol:
    if isinstance(decimals, bool) or not isinstance(decimals, int):
        refuse("it rounds to a number of digits that is not known")
    if a.kind.name not in ("float32", "float64"):
        refuse(f"numpy.round of {a.kind.name} is not known to the tracer")
    return round_numpy(a, decimals)


def _fix(a: Symbol) -> Symbol:
    return elementwise(a.trace, Operation(np.trunc, "TRUNC"), a)


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


_FUNCTIONS: Final[dict[str, Handler]] = {
    **REDUCTIONS,
    "amax": REDUCTIONS["max"],
    "amin": REDUCTIONS["min"],
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
    "arange", "array", "diag", "eye", "finfo", "full", "identity", "iinfo", "linspace",
    "ones", "zeros",
)  # fmt: skip


def _ufunc_methods(ufunc: np.ufunc) -> dict[str, Handler]:
    handler = UFUNC_REDUCTIONS.get(ufunc)
    return {} if handler is None else {"reduce": StandIn(ufunc.reduce, handler)}


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
    return StandIn(np.linalg.norm, norm)


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
    **{name: _method(handler) for name, handler in REDUCTIONS.items()},
}
