"""
How far a traced value may be from what the function itself would return.

Addition, subtraction, multiplication, division and square root are rounded correctly by
everybody, so a value that is computed by these alone in the function's own order is the
same to the bit and has no bound (None, which stands for 0).  Functions such as exp differ
by units in the last place between one library and another, and between one element and
many; sums by BLAS depend on the order.  From there on each node has a second node beside
it: an upper bound of the difference, computed by the same machine and carried through
whatever follows by the rules here.  Infinity means that nothing is known: the function
itself is called for that pair.

In a rule a, b are the operands' nodes, da, db their bounds (None for 0), r is the
result's node and u the unit in the last place of 1 of the type it is rounded to.
"""

from __future__ import annotations

import math

from pydistrib.kernels.tracing.graph import Graph
from pydistrib.kernels.tracing.signs import not_negative

Bound = int | None


def plus(g: Graph, *bounds: Bound) -> Bound:
    """Add bounds."""
    total: Bound = None
    for bound in bounds:
        if bound is not None:
            total = bound if total is None else g.op("ADD", total, bound)
    return total


def times(g: Graph, factor: float, node: int) -> int:
    """Multiply a node by a number."""
    return g.op("MUL", g.const(factor), node)


def rounding(g: Graph, r: int, u: float, units: float = 1.0) -> int:
    """
    Bound an error of some units in the last place of r.

    Below the smallest normal number the unit is no smaller than it is there, and some
    functions give 0.
    """
    least = 2.0**-126 if u > 2.0**-30 else 2.0**-1022
    return g.op("ADD", times(g, u * units, g.op("ABS", r)), g.const(least))


def infinite_if(g: Graph, condition: int) -> int:
    """Give infinity where a condition holds, else 0."""
    return g.op("WHERE", condition, g.const(math.inf), g.const(0.0))


def either(g: Graph, condition: int, bound: int) -> int:
    """Give a bound where a condition holds, else infinity."""
    return g.op("WHERE", condition, bound, g.const(math.inf))


def _product(g: Graph, a: int, da: Bound, b: int, db: Bound) -> Bound:
    """Bound |a b - a' b'|."""
    parts: list[Bound] = []
    if db is not None:
        parts.append(g.op("MUL", g.op("ABS", a), db))
    if da is not None:
        parts.append(g.op("MUL", g.op("ABS", b), da))
    if da is not None and db is not None:
        parts.append(g.op("MUL", da, db))
    return plus(g, *parts)


def _quotient(g: Graph, r: int, b: int, da: Bound, db: Bound) -> Bound:
    """Bound |a / b - a' / b'|, which is at most (da + |r| db) / (|b| - db)."""
    if db is None:
        return g.op("DIV", da, g.op("ABS", b)) if da is not None else None
    top = plus(g, da, g.op("MUL", g.op("ABS", r), db))
    bottom = g.op("SUB", g.op("ABS", b), db)
    assert top is not None
    return either(g, g.op("LT", g.const(0.0), bottom), g.op("DIV", top, bottom))


def _root(g: Graph, a: int, da: int) -> int:
    """Bound |sqrt(a) - sqrt(a')| by da / sqrt(a), or by sqrt(da) near 0."""
    near = g.op("LE", a, times(g, 2.0, da))
    bound = g.op("WHERE", near, g.op("SQRT", da), g.op("DIV", da, g.op("SQRT", a)))
    if not_negative(g, a):  # then a' is not either
        return bound
    return g.op("ADD", bound, infinite_if(g, g.op("LT", a, da)))


def _near(g: Graph, a: int, b: int, distance: int) -> int:
    """Give infinity where a and b may be in another order than they seem."""
    # Not LE, which is false where nothing is known.
    close = g.op("NOT", g.op("LT", distance, g.op("ABSDIFF", a, b)))
    return infinite_if(g, g.op("AND", close, g.op("NE", distance, g.const(0.0))))


def _step(g: Graph, op: str, a: int, da: int) -> int:
    """Give infinity where a step function may be on another step, or on another zero."""
    low, high = g.op(op, g.op("SUB", a, da)), g.op(op, g.op("ADD", a, da))
    other = g.op("NE", low, high)
    if not not_negative(g, a):
        # Rounded to zero, a negative number gives -0.0.
        other = g.op("OR", other, g.op("LE", g.op("ABS", a), da))
    return infinite_if(g, other)


def operation(
    g: Graph,
    op: str,
    r: int,
    args: tuple[int, ...],
    bounds: tuple[Bound, ...],
    u: float,
) -> Bound:
    """Bound the result of one of the core's operations."""
    if all(bound is None for bound in bounds):
        return None
    if op in ("ADD", "SUB"):
        return plus(g, *bounds, rounding(g, r, u))
    if op in ("ABS", "NEG", "COPY"):
        return bounds[0]
    if op in ("MIN", "MAX", "FMIN", "FMAX"):
        return plus(g, *bounds)
    if op in ("LT", "LE", "EQ", "NE"):
        distance = plus(g, *bounds)
        assert distance is not None
        return _near(g, args[0], args[1], distance)
    if op == "MUL":
        return plus(
            g, _product(g, args[0], bounds[0], args[1], bounds[1]), rounding(g, r, u)
        )
    if op == "SQUARE":
        return plus(
            g, _product(g, args[0], bounds[0], args[0], bounds[0]), rounding(g, r, u)
        )
    if op == "DIV":
        return plus(g, _quotient(g, r, args[1], *bounds), rounding(g, r, u))
    if op == "WHERE":
        zero = g.const(0.0)
        chosen = g.op("WHERE", args[0], *(zero if b is None else b for b in bounds[1:]))
        return plus(g, chosen, bounds[0])
    assert bounds[0] is not None or len(bounds) > 1
    if op == "SQRT":
        assert bounds[0] is not None
        return plus(g, _root(g, args[0], bounds[0]), rounding(g, r, u))
    if op in ("FLOOR", "CEIL", "TRUNC", "RINT", "SIGN"):
        assert bounds[0] is not None
        return _step(g, op, args[0], bounds[0])
    if op in ("AND", "OR", "NOT"):
        return plus(g, *bounds)  # 0 or infinity
    if op in ("ISNAN", "ISFINITE"):
        assert bounds[0] is not None
        reach = g.op("ADD", g.op("ABS", args[0]), bounds[0])
        return infinite_if(g, g.op("NOT", g.op("ISFINITE", reach)))
    raise AssertionError(f"no bound for {op}")


def summed(
    g: Graph, r: int, terms: int, bound: Bound, length: int, u: float, any_order: bool
) -> Bound:
    """Bound a sum of `length` terms: of inexact ones, or in an unknown order."""
    if bound is None and not any_order:
        return None
    size = g.fold("ADD", g.op("ABS", terms))
    spread = None
    if bound is not None:
        # One bound may stand for all elements.
        one = g.nodes[bound].length == 0
        spread = times(g, float(length), bound) if one else g.fold("ADD", bound)
    return plus(g, spread, of_order(g, r, size, length, u))


def largest(g: Graph, bound: Bound) -> Bound:
    """Bound a minimum or a maximum of elements."""
    if bound is None or g.nodes[bound].length == 0:
        return bound
    return g.fold("MAX", bound)


def of_order(g: Graph, r: int, size: int, length: int, u: float) -> int:
    """Bound what the order may change in a sum of so many terms, of so large a size."""
    bound = g.op("ADD", rounding(g, r, u), times(g, u * (length + 2), size))
    if u < 2.0**-30:
        return bound
    # Added as floats, they may pass the largest one on the way.
    return g.op("ADD", bound, infinite_if(g, g.op("LT", g.const(1e38), size)))
