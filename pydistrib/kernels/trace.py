"""
Tracing: from a Python function of two points to a producer, or a reason why not.

A function is traced anew in every call, never remembered: what it finds in its globals and
closures is read at the call, as the loop would.  It is believed only if

1. its code and what it can reach are known to be free of side effects (`sandbox`);
2. every way through its branches could be followed, and none did anything unknown;
3. two tracings of it agree;
4. on a sample of pairs the machine gives what the function itself gives: the same bits
   where the value is exact, else within the bound of its error.

Where a pair's value is not known well enough, because of its error bound or because the
function might raise there, the pair is *in doubt* and the function itself is asked.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pydistrib import _core
from pydistrib.kernels.arrays import as_native
from pydistrib.kernels.tracing import bounds
from pydistrib.kernels.tracing.describe import describe
from pydistrib.kernels.tracing.graph import Graph
from pydistrib.kernels.tracing.kinds import (
    FLOAT_KINDS,
    KINDS,
    MAX_EXACT,
    Kind,
    dtype_kind,
)
from pydistrib.kernels.tracing.program import Program, compile_program, reachable
from pydistrib.kernels.tracing.refusal import (
    NotTraceable,
    Refusal,
    check_refused,
    refuse,
    start_watching,
)
from pydistrib.kernels.tracing.sandbox import Sandbox
from pydistrib.kernels.tracing.symbols import Decision, Symbol, Trace

__all__ = ["NotTraceable", "Traced", "trace_pairs"]

# Ways through a function's branches that are followed.
MAX_WAYS: Final = 64

# The core's limit, see PD_MACHINE_MAX_FEATURES in src/expr/machine.h.
MAX_FEATURES: Final = 16384

# Rows and columns whose pairs are compared with the function itself.
_SAMPLE_ROWS: Final = 8

# Extreme values are looked for among this many points.
_SEARCHED: Final = 4096


@dataclass(frozen=True)
class Traced:
    """
    A traced function, ready to run.

    Parameters
    ----------
    producer : Producer
        What the native core walks over.
    program : Program
        What it runs.
    graph : Graph
        The operations it was traced to.
    value : int
        The node of the result.
    """

    producer: _core.Producer
    program: Program
    graph: Graph
    value: int

    def expression(self) -> str:
        """Give the function as a formula of a and b."""
        return describe(self.graph, self.value)


def trace_pairs(
    function: Callable[[Any, Any], Any], x: NDArray[Any], y: NDArray[Any]
) -> Traced:
    """
    Trace a function of two points.

    Parameters
    ----------
    function : callable
        The function.
    x : ndarray of shape (n,) or (n, d)
        The points that it gets first.
    y : ndarray of shape (m,) or (m, d)
        The points that it gets second.

    Returns
    -------
    Traced
        The producer of its values for all pairs.

    Raises
    ------
    NotTraceable
        If it cannot be traced.
    """
    start_watching()
    try:
        strict = _check_points(x, y)
        copy = Sandbox().admit(function)
        trace, value, doubt = _trace_twice(copy, x, y)
        graph = trace.graph
        if strict:
            doubt = bounds.plus(graph, doubt, _not_finite_within(graph, trace.computed))
        return _compile(function, x, y, graph, value, doubt)
    except Refusal as refusal:
        raise NotTraceable(str(refusal)) from None


def _compile(
    function: Callable[[Any, Any], Any],
    x: NDArray[Any],
    y: NDArray[Any],
    graph: Graph,
    value: int,
    doubt: bounds.Bound,
) -> Traced:
    program = compile_program(graph, value, doubt)
    native = as_native(x, y)
    if (
        x.ndim == 1
        and doubt is None
        and value == _absolute_difference(graph, native[0].dtype)
    ):
        # The same bits from the metric's loop, which for float32 works on floats.
        producer = _core.metric_producer("cityblock", *native, 0.0)
    else:
        producer = _producer(program, *native)
    traced = Traced(producer, program, graph, value)
    with np.errstate(all="ignore"):
        _verify(traced, function, (x, y), native)
    return traced


def _producer(program: Program, x: NDArray[Any], y: NDArray[Any]) -> _core.Producer:
    try:
        return _core.expr_producer(program.words, program.functions, x, y)
    except ValueError as error:
        # This NumPy has no loop for a function, or the tracer is wrong: no harm is done.
        refuse(f"its program does not run: {error}")


def _absolute_difference(graph: Graph, dtype: np.dtype[Any]) -> int:
    """Give the node of abs(a - b) for numbers of a floating type."""
    a, b = graph.feature("x", 0, 0, 0), graph.feature("y", 0, 0, 0)
    difference = graph.op("SUB", a, b)
    if dtype == np.float32:
        difference = graph.op("TO_F32", difference)
    return graph.op("ABS", difference)


def _check_points(x: NDArray[Any], y: NDArray[Any]) -> bool:
    """Refuse points that are not known; tell whether warnings are to be errors."""
    for points in (x, y):
        if points.size == 0:
            refuse("there are no pairs or no features")
        if dtype_kind(points.dtype) not in KINDS or not points.dtype.isnative:
            refuse(f"points of {points.dtype} are not known to the tracer")
        if not points.flags.aligned:
            refuse("the points are not aligned in memory")
    if x.ndim == 2 and x.shape[1] > MAX_FEATURES:
        refuse(f"{x.shape[1]} features are more than {MAX_FEATURES}")
    modes = np.geterr()
    if not {"ignore", "warn"}.issuperset(modes.values()):
        refuse("numpy.seterr() has floating-point errors raised or handled")
    if not _warnings_are_errors():
        return False
    if modes["under"] == "warn":
        refuse("warnings are errors, and numpy.seterr() has underflows warned about")
    return True


def _warnings_are_errors() -> bool:
    """Tell whether a RuntimeWarning, of a division by zero say, may be an exception."""
    for action, message, category, module, line in warnings.filters:
        if issubclass(RuntimeWarning, category):
            if action == "error":
                return True
            if message is None and module is None and line == 0:
                return False
    return False


# Operations that warn of nothing.
_SILENT: Final = frozenset(
    [
        "x", "y", "const", "vector", "COPY", "NEG", "ABS", "WHERE", "FMIN", "FMAX", "ISNAN",
        "ISFINITE", "NOT", "AND", "OR", "LT", "LE", "EQ", "NE",
    ]
)  # fmt: skip


def _not_finite_within(graph: Graph, computed: set[int]) -> bounds.Bound:
    """Give the node that is infinite where an operation, used or not, is not finite."""
    trouble = None
    for index in reachable(graph.nodes, list(computed)):
        if graph.nodes[index].op in _SILENT:
            continue
        bad = graph.op("NOT", graph.op("ISFINITE", index))
        if graph.nodes[index].length:
            bad = graph.fold("MAX", bad)
        trouble = bad if trouble is None else graph.op("OR", trouble, bad)
    return None if trouble is None else bounds.infinite_if(graph, trouble)


# ------------------------------------------------------------------------------------
# Following a function
# ------------------------------------------------------------------------------------


def _trace_twice(
    copy: Callable[..., Any], x: NDArray[Any], y: NDArray[Any]
) -> tuple[Trace, int, int | None]:
    trace = Trace(x, y)
    sides = [_points_symbol(trace, "x", x), _points_symbol(trace, "y", y)]
    first = _follow(trace, copy, *sides)
    if _follow(trace, copy, *sides) != first:
        refuse("it is another function each time it is called")
    value, doubt = first
    return trace, value, doubt


def _points_symbol(trace: Trace, side: str, points: NDArray[Any]) -> Symbol:
    name = dtype_kind(points.dtype)
    interval = None
    if name not in FLOAT_KINDS:
        interval = int(points.min()), int(points.max())
        if max(map(abs, interval)) > MAX_EXACT:
            refuse(f"it works on integers of {name} beyond 2**53")
    length = trace.features
    kind = Kind(name, 1 if length else -1)
    node = trace.graph.feature(side, 0, 1 if length else 0, length)
    return Symbol(trace, node, kind, length, None, interval)


@dataclass(frozen=True)
class _Way:
    """A way through the function: its decisions, and what came out."""

    decisions: list[Decision]
    value: int
    doubt: bounds.Bound
    raised: bool


def _follow(
    trace: Trace, copy: Callable[..., Any], a: Symbol, b: Symbol
) -> tuple[int, bounds.Bound]:
    """Follow every way through the function, and join what comes out."""
    ways: list[_Way] = []
    choices: list[bool] = []
    while True:
        trace.start_way(choices)
        ways.append(_one_way(trace, copy, a, b))
        if len(ways) > MAX_WAYS:
            refuse(f"there are more than {MAX_WAYS} ways through its branches")
        choices = [choice for _, _, choice in trace.decisions]
        while choices and not choices[-1]:
            choices.pop()
        if not choices:
            break
        choices[-1] = False
    if all(way.raised for way in ways):
        refuse("it raises an exception when it is traced")
    return _join(trace.graph, ways, 0)


def _one_way(trace: Trace, copy: Callable[..., Any], a: Symbol, b: Symbol) -> _Way:
    g = trace.graph
    try:
        result = copy(a, b)
    except Exception:
        # Whatever it is, the function itself shall say it: where this way is taken.
        check_refused()
        return _Way(trace.decisions, g.const(math.nan), g.const(math.inf), True)
    check_refused()
    symbol = _result_symbol(trace, result)
    doubt = bounds.plus(g, symbol.bound, *dict.fromkeys(trace.guards))
    return _Way(trace.decisions, symbol.node, doubt, False)


def _result_symbol(trace: Trace, result: Any) -> Symbol:
    if not isinstance(result, (Symbol, bool, int, float, np.generic)):
        refuse(f"it returns a value of type {type(result).__name__}")
    symbol = trace.symbol(result)
    if symbol.kind.ndim == 1:
        refuse("it returns an array")
    return symbol


def _join(g: Graph, ways: list[_Way], depth: int) -> tuple[int, bounds.Bound]:
    """Join, and take from the list, the ways that agree in their first decisions."""
    way = ways[0]
    if len(way.decisions) == depth:
        ways.pop(0)
        return way.value, way.doubt
    condition, bound, _ = way.decisions[depth]
    value_if, doubt_if = _join(g, ways, depth + 1)
    value_else, doubt_else = _join(g, ways, depth + 1)
    value = g.op("WHERE", condition, value_if, value_else)
    doubt: bounds.Bound = None
    if doubt_if is not None or doubt_else is not None:
        zero = g.const(0.0)
        doubt = g.op(
            "WHERE",
            condition,
            zero if doubt_if is None else doubt_if,
            zero if doubt_else is None else doubt_else,
        )
    return value, bounds.plus(g, doubt, bound)


# ------------------------------------------------------------------------------------
# Comparing with the function itself
# ------------------------------------------------------------------------------------


def _verify(
    traced: Traced,
    function: Callable[[Any, Any], Any],
    points: tuple[NDArray[Any], NDArray[Any]],
    native: tuple[NDArray[Any], NDArray[Any]],
) -> None:
    """Compare with the function on a sample of the points, native and as they are given."""
    rows, cols = _sample(points[0]), _sample(points[1])
    i, j = _all_pairs(len(rows), len(cols))
    try:
        expected = _core.call_pairs(function, points[0][rows], points[1][cols], i, j)
    except Exception as error:
        refuse(f"it raises {type(error).__name__} for a pair of the sample")
    sample = native[0][rows], native[1][cols]
    values = _run(traced.program, *sample)
    right = (values == expected) & (np.signbit(values) == np.signbit(expected))
    if right.all():
        return
    right |= np.isnan(values) & np.isnan(expected)
    if traced.program.has_doubt():
        allowed = _run(traced.program.of_doubt(), *sample)
        right |= (np.abs(values - expected) <= allowed) | ~np.isfinite(allowed)
    if not right.all():
        worst = int(np.argmin(right))
        refuse(
            f"traced, it gives {float(values[worst])!r} for the pair "
            f"({rows[i[worst]]}, {cols[j[worst]]}), and called {float(expected[worst])!r}"
        )


@cache
def _all_pairs(rows: int, cols: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Give the indices of all pairs of a sample, in the order of the loop."""
    return np.repeat(np.arange(rows), cols), np.tile(np.arange(cols), rows)


def _run(program: Program, x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
    """Give what a program computes for all pairs, in one row, as it is."""
    values = np.empty((len(x), len(y)))
    producer = _producer(program, x, y)
    _core.store(producer, values, None, 1)
    return values.ravel()


def _sample(points: NDArray[Any]) -> list[int]:
    """Choose some points: the ends, the extremes, a NaN if there is one, some between."""
    n = len(points)
    if n <= _SAMPLE_ROWS:
        return list(range(n))
    searched = points[:_SEARCHED] if points.ndim == 1 else points[:_SEARCHED, 0]
    # A NaN counts as the least and as the largest.
    chosen = {0, n - 1, int(searched.argmin()), int(searched.argmax())}
    for k in range(_SAMPLE_ROWS):
        if len(chosen) == _SAMPLE_ROWS:
            break
        chosen.add((2 * k + 1) * n // (2 * _SAMPLE_ROWS))
    return sorted(chosen)
