"""
Operations: what becomes of symbols when a traced function computes with them.

Everything elementwise goes through `elementwise`: it finds the kind of the result by trying
(`kinds`), converts the operands as NumPy would, adds the node, and bounds its error
(`bounds`).  Integers are computed in doubles, which is exact as long as no value passes
2**53 nor what its type holds; intervals prove that, or the operation is refused.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np

from pydistrib.kernels.tracing import bounds, function_bounds
from pydistrib.kernels.tracing.function_bounds import FUNCTION_UNITS, POWER_UNITS
from pydistrib.kernels.tracing.kinds import (
    BOOL_KINDS,
    FLOAT_KINDS,
    INTEGER_KINDS,
    PYTHON_KINDS,
    TYPES_FOLLOW_VALUES,
    Kind,
    added,
    integer_range,
    kind_of_operands,
    result_kind,
    sample,
    unit,
)
from pydistrib.kernels.tracing.refusal import refuse
from pydistrib.kernels.tracing.signs import is_minus_zero, zeros_differ
from pydistrib.kernels.tracing.symbols import Interval, Symbol, Trace

# Rounded to one of Python's integers, larger values are left to the function itself: what
# is computed from those below stays exact for a while.
MAX_ROUNDED: Final = 2**45


class Operation(NamedTuple):
    """
    An elementwise operation.

    Parameters
    ----------
    function : callable
        What the traced function calls: it decides the result's kind.
    op : str
        The core's operation; "" calls `ufunc` instead.
    ufunc : numpy.ufunc, optional
        The function to call.
    units : float, optional
        How far the result may be off, in units in the last place.
    compares : bool, optional
        Whether the result is a truth about operands of a common kind.
    raises : bool, optional
        Whether an exception is raised where the result is not finite.
    """

    function: Callable[..., Any]
    op: str = ""
    ufunc: np.ufunc | None = None
    units: float = 0.0
    compares: bool = False
    raises: bool = False


def elementwise(trace: Trace, operation: Operation, *operands: Any) -> Symbol:
    """Apply an operation to symbols and constants."""
    values = [trace.symbol(operand) for operand in operands]
    kinds = [value.kind for value in values]
    result = kind_of_call(operation.function, values)
    if result is None:
        names = ", ".join(kind.name for kind in kinds)
        refuse(f"{_name(operation)} of {names} does not give a real number")
    length = common_length(values)
    if operation.op == "WHERE":
        condition, *rest = values
        inside = result
        args = (truth(condition).node, *(convert(v, inside.name).node for v in rest))
        given = (truth(condition).bound, *(v.bound for v in rest))
        values = rest
    else:
        inside_or_none = kind_of_call(added, values) if operation.compares else result
        if inside_or_none is None:
            refuse(f"{_name(operation)} of its operands is not known")
        inside = inside_or_none
        converted = [convert(v, inside.name) for v in values]
        args = tuple(v.node for v in converted)
        given = tuple(v.bound for v in converted)
    interval = None
    if operation.compares:
        interval = (0, 1)
    elif inside.name not in FLOAT_KINDS:
        interval = _integers(operation, result, values)
    return finish(trace, operation, result, length, args, given, inside.name, interval)


def kind_of_call(function: Callable[..., Any], values: list[Symbol]) -> Kind | None:
    """Give the kind of ``function(*values)``; None if it has none that is known."""
    if TYPES_FOLLOW_VALUES and len(values) > 1:
        return _kind_by_values(function, values)
    return result_kind(function, *(value.kind for value in values))


def _kind_by_values(function: Callable[..., Any], values: list[Symbol]) -> Kind | None:
    """Find a kind as NumPy 1 does: by the values of numbers beside arrays."""
    kinds = [value.kind for value in values]
    arrays = {kind.name for kind in kinds if kind.ndim == 1}
    numbers = [v for v in values if v.kind.ndim < 1]
    if not arrays or all({v.kind.name} == arrays for v in numbers):
        return result_kind(function, *kinds)
    if all(v.constant is not None for v in numbers):
        operands = [sample(v.kind) if v.kind.ndim == 1 else v.constant for v in values]
        return kind_of_operands(function, operands)
    if arrays == {"float64"}:
        return result_kind(function, *kinds)
    refuse("NumPy 1 chooses the type by a number's value: convert it, or the points")


def finish(
    trace: Trace,
    operation: Operation,
    result: Kind,
    length: int,
    args: tuple[int, ...],
    given: tuple[bounds.Bound, ...],
    inside: str,
    interval: Interval | None = None,
) -> Symbol:
    """Make the result of an operation on nodes that are of the kind `inside` by now."""
    g = trace.graph
    u = unit(inside)
    single = inside == "float32"
    if operation.op:
        node = g.op(operation.op, *args)
        if single and operation.op in _ROUNDED:
            node = g.op("TO_F32", node)
        elif inside not in FLOAT_KINDS and operation.op in ("MUL", "NEG"):
            node = g.op("ADD", node, g.const(0.0))  # integers know no -0.0
        bound = bounds.operation(g, operation.op, node, args, given, u)
        if operation.op in ("MIN", "MAX", "FMIN", "FMAX"):
            trace.guard_any(zeros_differ(g, *args))
        if operation.units:
            own = bounds.rounding(g, node, u, operation.units)
            bound = bounds.plus(g, bound, own)
    else:
        assert operation.ufunc is not None
        node = g.op("call", *args, payload=(operation.ufunc, single))
        name = operation.ufunc.__name__
        bound = function_bounds.call(g, name, node, args, given, u, operation.units)
    symbol = Symbol(trace, node, result, length, bound, interval)
    if operation.raises or (result.name in PYTHON_KINDS and operation.op == "DIV"):
        guard_finite(symbol)
    return symbol


# Results of floats that need rounding to be floats again.
_ROUNDED: Final = frozenset(["SQRT", "SQUARE", "ADD", "SUB", "MUL", "DIV", "SQDIFF"])


def _name(operation: Operation) -> str:
    return getattr(operation.function, "__name__", "an operation")


def common_length(values: list[Symbol]) -> int:
    """Give the length of the vectors among some values; 0 if there are none."""
    lengths = {value.length for value in values if value.kind.ndim == 1}
    if len(lengths) > 1:
        refuse(f"it combines vectors of lengths {sorted(lengths)}")
    return lengths.pop() if lengths else 0


def convert(value: Symbol, name: str) -> Symbol:
    """Convert a symbol to the kind `name` as NumPy does before it computes."""
    if name != "float32" or value.kind.name == "float32":
        return value
    if value.interval is not None and max(map(abs, value.interval)) <= 2**24:
        return value
    g = value.trace.graph
    if value.constant is not None and value.kind.ndim < 1:
        node = g.const(float(np.float32(value.constant)))
    else:
        node = g.op("TO_F32", value.node)
    bound = value.bound
    if bound is not None:
        bound = bounds.plus(g, bound, bounds.rounding(g, node, unit("float32")))
    return Symbol(value.trace, node, Kind(name, value.kind.ndim), value.length, bound)


def _integers(operation: Operation, result: Kind, values: list[Symbol]) -> Interval:
    """Give the interval of an operation on integers; refuse what could overflow."""
    given = []
    for value in values:
        if value.interval is None:
            refuse(f"{_name(operation)} of integers is not known")
        given.append(value.interval)
    interval = integers_of(operation.op, given, _name(operation))
    low, high = integer_range(result.name)
    if result.name in BOOL_KINDS and operation.op not in (
        "MIN",
        "MAX",
        "WHERE",
        "COPY",
    ):
        refuse(f"{_name(operation)} of truth values is not known")
    if interval[0] < low or interval[1] > high:
        refuse(f"{_name(operation)} may overflow {result.name}")
    return interval


def integers_of(op: str, given: list[Interval], name: str) -> Interval:
    """Give the least and the largest value of an operation on intervals of integers."""
    (a, b), *rest = given
    c, d = rest[0] if rest else (0, 0)
    if op == "COPY":
        return a, b
    if op == "ADD":
        return a + c, b + d
    if op == "SUB":
        return a - d, b - c
    if op == "MUL":
        corners = (a * c, a * d, b * c, b * d)
        return min(corners), max(corners)
    if op == "NEG":
        return -b, -a
    if op == "SQUARE" or op == "ABS":
        sizes = (abs(a), abs(b))
        least = 0 if a <= 0 <= b else min(sizes)
        return (least, max(sizes)) if op == "ABS" else (least**2, max(sizes) ** 2)
    if op == "MIN":
        return min(a, c), min(b, d)
    if op == "MAX":
        return max(a, c), max(b, d)
    if op == "WHERE":
        return min(a, c), max(b, d)
    if op == "SIGN":
        return -1, 1
    refuse(f"{name} of integers is not known")


def truth(value: Symbol) -> Symbol:
    """Tell whether a symbol is not zero."""
    if value.kind.name in BOOL_KINDS:
        return value
    return elementwise(value.trace, NOT_EQUAL, value, 0)


def guard_finite(value: Symbol) -> None:
    """Have the function itself asked where a number is infinite or NaN."""
    g = value.trace.graph
    value.trace.guard(g.op("NOT", g.op("ISFINITE", value.node)))


ADD: Final = Operation(operator.add, "ADD")
SUBTRACT: Final = Operation(operator.sub, "SUB")
MULTIPLY: Final = Operation(operator.mul, "MUL")
DIVIDE: Final = Operation(operator.truediv, "DIV")
NEGATE: Final = Operation(operator.neg, "NEG")
POSITIVE: Final = Operation(operator.pos, "COPY")
ABSOLUTE: Final = Operation(operator.abs, "ABS")
LESS: Final = Operation(operator.lt, "LT", compares=True)
LESS_EQUAL: Final = Operation(operator.le, "LE", compares=True)
EQUAL: Final = Operation(operator.eq, "EQ", compares=True)
NOT_EQUAL: Final = Operation(operator.ne, "NE", compares=True)
FLOOR_DIVIDE: Final = Operation(operator.floordiv, ufunc=np.floor_divide)
REMAINDER: Final = Operation(operator.mod, ufunc=np.remainder)


def python_division(trace: Trace, operation: Operation, a: Any, b: Any) -> Symbol:
    """Apply // or %, which Python's own floats refuse by an exception where b is 0."""
    result = elementwise(trace, operation, a, b)
    if result.kind.name in PYTHON_KINDS:
        guard_finite(result)
    return result


def elements(value: Symbol, start: int, step: int, length: int) -> tuple[int, bounds.Bound]:
    """Give nodes for some elements of a vector and for their bounds."""
    g = value.trace.graph

    taken: dict[int, int] = {}

    def take(index: int) -> int:
        if index not in taken:
            taken[index] = take_anew(index)
        return taken[index]

    def take_anew(index: int) -> int:
        node = g.nodes[index]
        if node.length == 0:
            return index
        if node.op in ("x", "y"):
            first, stride, _ = node.payload
            return g.feature(node.op, first + start * stride, stride * step, length)
        if node.op == "vector":
            values = np.array(node.payload, np.int64).view(np.float64)
            if length == 0:
                return g.const(float(values[start]))
            return g.vector(values[start + step * np.arange(length)].tolist())
        return g.op(node.op, *map(take, node.args), payload=node.payload)

    return take(value.node), None if value.bound is None else take(value.bound)


def logical(trace: Trace, function: Callable[..., Any], op: str, *operands: Any) -> Symbol:
    """Combine truth values."""
    values = [trace.symbol(operand) for operand in operands]
    if any(value.kind.name not in BOOL_KINDS for value in values):
        refuse(f"{getattr(function, '__name__', op)} of numbers is not known")
    return combine_truths(trace, function, op, values)


def combine_truths(
    trace: Trace, function: Callable[..., Any], op: str, values: list[Symbol]
) -> Symbol:
    """Combine values as truth values, by the kind that `function` gives."""
    result = result_kind(function, *(value.kind for value in values))
    if result is None or result.name not in BOOL_KINDS:
        refuse(f"{getattr(function, '__name__', op)} of these values is not known")
    truths = [truth(value) for value in values]
    node = trace.graph.op(op, *(value.node for value in truths))
    bound = bounds.plus(trace.graph, *(value.bound for value in truths))
    return Symbol(trace, node, result, common_length(values), bound, (0, 1))


def round_symbol(value: Symbol, ndigits: int | None) -> Symbol:
    """Round as the built-in function and NumPy do, half to even."""
    if ndigits is None:
        if value.kind.ndim >= 0 or value.kind.name not in FLOAT_KINDS:
            refuse("round() of this value is not known")
        return to_python_int(value, "RINT")
    if isinstance(ndigits, bool) or not isinstance(ndigits, int):
        refuse("it rounds to a number of digits that is not known")
    if value.kind.name not in ("float32", "float64"):
        refuse("round() of Python's numbers to digits is not known")
    return round_numpy(value, ndigits)


def round_numpy(value: Symbol, decimals: int) -> Symbol:
    """Round to decimals by scaling, as NumPy does."""
    rint = Operation(np.rint, "RINT")
    if decimals == 0:
        return elementwise(value.trace, rint, value)
    if abs(decimals) > 22:
        refuse("it rounds to more than 22 digits")
    scale = sample(value.kind).dtype.type(10.0 ** abs(decimals))
    there, back = (MULTIPLY, DIVIDE) if decimals > 0 else (DIVIDE, MULTIPLY)
    scaled = elementwise(value.trace, there, value, scale)
    return elementwise(value.trace, back, elementwise(value.trace, rint, scaled), scale)


def to_python_int(value: Symbol, op: str) -> Symbol:
    """Round a number to one of Python's integers, which raise where there is none."""
    trace = value.trace
    g = trace.graph
    node = g.op(op, value.node)
    bound = bounds.operation(g, op, node, (value.node,), (value.bound,), unit("float64"))
    exact = g.op("LE", g.op("ABS", node), g.const(float(MAX_ROUNDED)))
    trace.guard(g.op("NOT", exact))
    # Python's integers know no -0.0.
    node = g.op("ADD", node, g.const(0.0))
    return Symbol(trace, node, Kind("int"), 0, bound, (-MAX_ROUNDED, MAX_ROUNDED))


def power(trace: Trace, function: Callable[..., Any], a: Any, b: Any) -> Symbol:
    """Raise to a power: exactly where NumPy takes a short cut, else by its function."""
    base, exponent = trace.symbol(a), trace.symbol(b)
    constant = exponent.constant if exponent.kind.ndim < 0 else None
    if constant is None:
        result = kind_of_call(function, [base, exponent])
    else:
        result = _kind_of_power(function, base.kind, exponent.kind, constant)
    if result is None:
        refuse(f"** of {base.kind.name} and {exponent.kind.name} is not known")
    if result.name in INTEGER_KINDS:
        return _integer_power(trace, function, base, constant)
    if result.name not in FLOAT_KINDS:
        refuse(f"** of {base.kind.name} and {exponent.kind.name} is not known")
    raises = result.name in PYTHON_KINDS
    op = _SHORT_POWERS.get(float(constant)) if constant is not None else None
    if op is None:
        slow = Operation(function, "", np.power, FUNCTION_UNITS, raises=raises)
        return elementwise(trace, slow, base, exponent)
    # Arrays of floats take the short cut; one number, and in NumPy 1 integers, go through
    # the C library's pow().
    by_array = base.kind.ndim == 1 and function is operator.pow
    by_array = by_array and base.kind.name in FLOAT_KINDS
    units = 0.0 if by_array and type(constant) in (int, float) else POWER_UNITS
    arg = convert(base, result.name)
    args: tuple[int, ...] = (arg.node,)
    given: tuple[bounds.Bound, ...] = (arg.bound,)
    if op == "DIV":
        args, given = (trace.graph.const(1.0), arg.node), (None, arg.bound)
    if op == "SQRT" and not by_array:
        # The root of -0.0 is -0.0, the power 0.0.
        trace.guard_any(is_minus_zero(trace.graph, arg.node))
    fast = Operation(function, op, units=units, raises=raises)
    return finish(trace, fast, result, base.length, args, given, result.name)


@lru_cache(maxsize=1024)
def _kind_of_power(
    function: Callable[..., Any], base: Kind, kind: Kind, exponent: Any
) -> Kind | None:
    """Give a power's kind, which may depend on the exponent: some take a short cut."""
    # `kind`, the exponent's, keeps 2 and 2.0 apart, which are one key.
    return kind_of_operands(function, [sample(base), exponent])


_SHORT_POWERS: Final = {1.0: "COPY", 2.0: "SQUARE", 0.5: "SQRT", -1.0: "DIV"}


def _integer_power(
    trace: Trace, function: Callable[..., Any], base: Symbol, exponent: Any
) -> Symbol:
    if not isinstance(exponent, (int, np.integer)) or not 1 <= exponent <= 8:
        refuse("powers of integers are known for the exponents 1 to 8 only")
    result = elementwise(trace, POSITIVE, base)
    for _ in range(int(exponent) - 1):
        result = elementwise(trace, MULTIPLY, result, base)
    if int(exponent) == 2 and base.interval is not None:
        result.interval = integers_of("SQUARE", [base.interval], "**")
    return result
