"""
How far a call of an elementary function may be off.

Part of it is the function's own: libraries differ by units in the last place.  The rest
comes from an inexact argument: |f(a) - f(a')| for |a - a'| <= da, by the steepest slope
between them, with a factor to spare for the rounding of the bound itself.  The names are
those of `bounds`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np

from pydistrib.kernels.tracing.bounds import (
    Bound,
    either,
    infinite_if,
    plus,
    rounding,
    times,
)
from pydistrib.kernels.tracing.graph import Graph
from pydistrib.kernels.tracing.refusal import refuse

# Twice what the libraries' authors state: both sides may be off, in opposite directions.
FUNCTION_UNITS: Final = 16.0

# A power of 2 or of 1/2 of one number, which C libraries round correctly all but always.
POWER_UNITS: Final = 2.0

# Near their zeros, those of large arguments too, some libraries lose relative accuracy.
_WAVES: Final = ("sin", "cos", "tan")
_WAVE_ERROR: Final = 2.0**-16


def call(
    g: Graph,
    name: str,
    r: int,
    args: tuple[int, ...],
    bounds: tuple[Bound, ...],
    u: float,
    units: float,
) -> Bound:
    """Bound the result of a function that is itself good to `units`."""
    own = None
    if units:
        own = rounding(g, r, u, units)
        if name in _WAVES:
            own = plus(g, own, g.const(u * units * _WAVE_ERROR))
        if name.startswith("logaddexp"):
            own = plus(g, own, *(rounding(g, a, u, units) for a in args))
    if all(bound is None for bound in bounds):
        return own
    if name == "power":
        return plus(g, own, _power(g, r, args, bounds))
    if name == "arctan2":
        return plus(g, own, _angle(g, args, bounds))
    if name in ("hypot", "logaddexp", "logaddexp2"):
        return plus(g, own, *bounds)
    if len(args) == 1 and name in _SPREAD:
        assert bounds[0] is not None
        return plus(g, own, _SPREAD[name](g, r, args[0], bounds[0]))
    refuse(f"how {name} spreads the error of its argument is not known")


Spread = Callable[[Graph, int, int, int], int]


def _at_most(slope: float) -> Spread:
    def bound(g: Graph, r: int, a: int, da: int) -> int:
        return da if slope == 1.0 else times(g, slope, da)

    return bound


def _exponential(g: Graph, r: int, a: int, da: int) -> int:
    # |e^(a + d) - e^a| < 2 d e^a for d < 1/2; expm1's result is e^a - 1.
    small = g.op("LT", da, g.const(0.5))
    scale = g.op("ADD", g.op("ABS", r), g.const(1.0))
    return either(g, small, times(g, 2.0, g.op("MUL", da, scale)))


def _exponential_alone(g: Graph, r: int, a: int, da: int) -> int:
    small = g.op("LT", da, g.const(0.5))
    return either(g, small, times(g, 2.0, g.op("MUL", da, r)))


def _logarithm(shift: float) -> Spread:
    def bound(g: Graph, r: int, a: int, da: int) -> int:
        # The derivative of log2, the steepest, is 1.45 / a; within a factor 2 of a.
        argument = g.op("ADD", a, g.const(shift)) if shift else a
        safe = g.op("LT", times(g, 2.0, da), argument)
        return either(g, safe, times(g, 3.0, g.op("DIV", da, argument)))

    return bound


def _tangent(g: Graph, r: int, a: int, da: int) -> int:
    # tan(a + d) - r = tan d (1 + r^2) / (1 - r tan d), with r tan d < 0.3 where it is safe.
    size = g.op("ADD", g.op("ABS", r), g.const(1.0))
    safe = g.op("LT", g.op("MUL", da, size), g.const(0.25))
    return either(g, safe, times(g, 2.0, g.op("MUL", da, g.op("SQUARE", size))))


def _within_unit(g: Graph, a: int) -> bool:
    """Tell whether a node was clipped to -1 .. 1."""
    bounded = set()
    for _ in range(2):
        node = g.nodes[a]
        limits = [arg for arg in node.args if g.nodes[arg].op == "const"]
        if node.op not in ("MIN", "MAX") or len(limits) != 1:
            return False
        limit = float(g.value_of(limits[0]))
        if not -1 <= limit <= 1:
            return False
        bounded.add(node.op)
        a = node.args[0] if node.args[1] == limits[0] else node.args[1]
    return len(bounded) == 2


def _arcsine(g: Graph, r: int, a: int, da: int) -> int:
    # The slope is 1 / sqrt(1 - a^2); near the ends arcsin is like a root.
    one = g.const(1.0)
    reach = g.op("ADD", g.op("ABS", a), da)
    slope = g.op("MUL", g.op("SUB", one, reach), g.op("ADD", one, reach))
    inside = g.op("LT", reach, one)
    straight = times(g, 2.0, g.op("DIV", da, g.op("SQRT", slope)))
    root = times(g, 2.3, g.op("SQRT", da))
    near = root if _within_unit(g, a) else g.const(math.inf)
    return g.op("WHERE", inside, g.op("FMIN", straight, root), near)


def _area_cosine(g: Graph, r: int, a: int, da: int) -> int:
    one = g.const(1.0)
    low = g.op("SUB", a, da)
    slope = g.op("MUL", g.op("SUB", low, one), g.op("ADD", low, one))
    straight = times(g, 2.0, g.op("DIV", da, g.op("SQRT", slope)))
    root = times(g, 2.0, g.op("SQRT", da))
    return either(g, g.op("LT", one, low), g.op("FMIN", straight, root))


def _area_tangent(g: Graph, r: int, a: int, da: int) -> int:
    one = g.const(1.0)
    reach = g.op("ADD", g.op("ABS", a), da)
    slope = g.op("MUL", g.op("SUB", one, reach), g.op("ADD", one, reach))
    return either(g, g.op("LT", reach, one), times(g, 2.0, g.op("DIV", da, slope)))


def _cube_root(g: Graph, r: int, a: int, da: int) -> int:
    safe = g.op("LT", times(g, 2.0, da), g.op("ABS", a))
    relative = g.op("DIV", da, g.op("ABS", a))
    return either(g, safe, g.op("MUL", relative, g.op("ABS", r)))


# By the ufunc's name; what is missing is refused when its argument is inexact.
_SPREAD: Final[dict[str, Spread]] = {
    "exp": _exponential_alone,
    "exp2": _exponential_alone,
    "expm1": _exponential,
    "sinh": _exponential,
    "cosh": _exponential,
    "log": _logarithm(0.0),
    "log2": _logarithm(0.0),
    "log10": _logarithm(0.0),
    "log1p": _logarithm(1.0),
    "sin": _at_most(1.0),
    "cos": _at_most(1.0),
    "tan": _tangent,
    "tanh": _at_most(1.0),
    "arcsin": _arcsine,
    "arccos": _arcsine,
    "arctan": _at_most(1.0),
    "arcsinh": _at_most(1.0),
    "arccosh": _area_cosine,
    "arctanh": _area_tangent,
    "cbrt": _cube_root,
    "deg2rad": _at_most(1.0),
    "radians": _at_most(1.0),
    "rad2deg": _at_most(58.0),
    "degrees": _at_most(58.0),
}


def _angle(g: Graph, args: tuple[int, ...], bounds: tuple[Bound, ...]) -> Bound:
    """Bound the angle of (x, y), whose slope is 1 / |(x, y)|, but for the cut at -x."""
    y, x = args
    dy, dx = bounds
    change = times(g, 2.0, plus(g, dy, dx) or g.const(0.0))
    size = g.op("MAX", g.op("ABS", x), g.op("ABS", y))
    bound = either(g, g.op("LT", change, size), g.op("DIV", change, size))
    if dy is None:
        return bound
    on_cut = g.op("AND", g.op("LE", g.op("ABS", y), dy), g.op("LT", x, g.const(0.0)))
    return g.op("ADD", bound, infinite_if(g, on_cut))


def _power(g: Graph, r: int, args: tuple[int, ...], bounds: tuple[Bound, ...]) -> Bound:
    """Bound |a^p - a'^p'|, relative to |r|, where both errors are small."""
    a, p = args
    da, dp = bounds
    size = g.op("ABS", a)
    parts: list[Bound] = []
    if da is not None:  # 2 |p| da / |a|
        steepness = g.op("MAX", g.op("ABS", p), g.const(1.0))
        if dp is not None:
            steepness = g.op("ADD", steepness, dp)
        change = g.op("MUL", steepness, da)
        safe = g.op("LT", times(g, 8.0, change), size)
        parts.append(either(g, safe, times(g, 2.0, g.op("DIV", change, size))))
    if dp is not None:  # 2 |log a| dp, for a that stays positive
        log = g.op("ABS", g.op("call", a, payload=(np.log, False)))
        change = g.op("MUL", g.op("ADD", log, g.const(1.0)), dp)
        safe = g.op("AND", g.op("LT", change, g.const(0.25)), g.op("LT", g.const(0.0), a))
        parts.append(either(g, safe, times(g, 2.0, change)))
    relative = plus(g, *parts)
    assert relative is not None
    return g.op("MUL", times(g, 2.0, relative), g.op("ABS", r))
