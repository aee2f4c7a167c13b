"""Reductions over the features, in NumPy's order, and products of vectors."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from pydistrib.kernels.tracing import bounds
from pydistrib.kernels.tracing.function_bounds import FUNCTION_UNITS
from pydistrib.kernels.tracing.kinds import (
    BOOL_KINDS,
    FLOAT_KINDS,
    MAX_EXACT,
    Kind,
    integer_range,
    result_kind,
    unit,
)
from pydistrib.kernels.tracing.matrices import is_matrix, matrix_product
from pydistrib.kernels.tracing.operations import (
    MULTIPLY,
    SUBTRACT,
    Operation,
    convert,
    elementwise,
    truth,
)
from pydistrib.kernels.tracing.refusal import refuse
from pydistrib.kernels.tracing.signs import zeros_within
from pydistrib.kernels.tracing.stand_ins import (
    Handler,
    trace_of,
)
from pydistrib.kernels.tracing.symbols import Symbol

# Whether this NumPy's sums start from +0.0, which turns -0.0 into 0.0.
_SUMS_START_FROM_ZERO: Final = not np.signbit(np.add.reduce(np.array([-0.0])))


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
    bound = bounds.largest(g, a.bound)
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
        return _integer_dot(elementwise(trace, MULTIPLY, x, y), result)
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


def _integer_dot(products: Symbol, result: Kind) -> Symbol:
    """Add up products of integers in their own type, as sum() would not."""
    added = total(products)
    low, high = integer_range(result.name)
    if added.interval is None or added.interval[0] < low or added.interval[1] > high:
        refuse(f"a product of vectors may overflow {result.name}")
    return Symbol(added.trace, added.node, result, 0, None, added.interval)


def matmul(a: Any, b: Any) -> Symbol:
    """Multiply two vectors as the operator @ does, which takes no numbers."""
    if is_matrix(a) or is_matrix(b):
        return dot(a, b)
    trace = trace_of(a, b)
    if trace.symbol(a).kind.ndim != 1 or trace.symbol(b).kind.ndim != 1:
        refuse("@ of what is no vector is not known to the tracer")
    return dot(a, b)


def norm(a: Any, ord: Any = None) -> Symbol:
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
    # The root's exponent is of the norm's own type.
    exponent = np.reciprocal(ord, dtype=sizes.kind.name)
    return elementwise(vector.trace, slow, total(powers), exponent)


REDUCTIONS: Final[dict[str, Handler]] = {
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

UFUNC_REDUCTIONS: Final[dict[np.ufunc, Handler]] = {
    np.add: _sum,
    np.multiply: _prod,
    np.maximum: REDUCTIONS["max"],
    np.minimum: REDUCTIONS["min"],
    np.logical_or: REDUCTIONS["any"],
    np.logical_and: REDUCTIONS["all"],
}
