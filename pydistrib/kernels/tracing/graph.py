"""
The graph: operations on doubles, each node once.

A node is an operation of the core (``"ADD"``), a call of a NumPy ufunc, a fold over the
features, or a leaf: features of the row's point (``"x"``) or of the column's (``"y"``), a
constant, or a constant vector.  A node has a length: 0 for a number, L for a vector of L
features, for which it is computed one after the other.

Short cuts are taken here, since nothing else has to know of them: operations on constants
are carried out at once, the difference that is squared, or whose absolute value is taken,
is one operation, and what cannot be negative is its own absolute value.

Nodes are made once: asking for the same operation on the same nodes gives the same node.
So common subexpressions cost nothing, and two traces of a function agree if they end at
the same node.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pydistrib.kernels.tracing.refusal import refuse

# Enough for a function of 256 unrolled features; more is a loop that should not unroll.
MAX_NODES: Final = 20_000

# What a node depends on.
CONSTANT, ROW, COLUMN, PAIR = 0, 1, 2, 3

_FOLDABLE: Final[dict[str, Callable[..., Any]]] = {
    "ABS": np.abs,
    "ADD": np.add,
    "AND": np.logical_and,
    "DIV": np.divide,
    "EQ": np.equal,
    "ISFINITE": np.isfinite,
    "ISNAN": np.isnan,
    "LE": np.less_equal,
    "LT": np.less,
    "MUL": np.multiply,
    "NE": np.not_equal,
    "NEG": np.negative,
    "NOT": np.logical_not,
    "OR": np.logical_or,
    "SQRT": np.sqrt,
    "SQUARE": np.square,
    "SUB": np.subtract,
    "TO_F32": np.float32,
}

# Results that taking the absolute value of does not change.
_NEVER_NEGATIVE: Final = frozenset(["ABS", "ABSDIFF", "SQUARE", "SQDIFF"])

Key = tuple[str, tuple[int, ...], Any]


class Node(NamedTuple):
    """
    One operation.

    Parameters
    ----------
    op : str
        ``"x"``, ``"y"``, ``"const"``, ``"vector"``, ``"call"``, ``"fold"`` or an operation
        of the core.
    args : tuple of int
        The nodes it works on.
    payload : object
        A leaf's (start, step), a constant's bits, a vector's values, the (ufunc, single) of
        a call, the operation of a fold.
    rate : int
        What it depends on: a combination of `ROW` and `COLUMN`.
    length : int
        0 for a number.
    level : int
        How many folds have to be complete before it can be computed.
    """

    op: str
    args: tuple[int, ...]
    payload: Any
    rate: int
    length: int
    level: int


class Leaf:
    """
    What the tracer may ask of the points of one side.

    Parameters
    ----------
    points : ndarray
        The points.
    """

    def __init__(self, points: NDArray[Any]) -> None:
        self.single = points.dtype == np.float32
        self.ndim = points.ndim
        self._points = points
        self._never_minus_zero: bool | None = None

    def never_minus_zero(self) -> bool:
        """Tell whether no feature is -0.0."""
        if self._never_minus_zero is None:
            zeros = self._points == 0
            self._never_minus_zero = not (
                self._points.dtype.kind == "f" and np.signbit(self._points[zeros]).any()
            )
        return self._never_minus_zero


class Graph:
    """
    A growing list of nodes, in an order in which they can be computed.

    Parameters
    ----------
    x : ndarray
        The points of the rows.
    y : ndarray
        The points of the columns.
    """

    def __init__(self, x: NDArray[Any], y: NDArray[Any]) -> None:
        self.leaves = {"x": Leaf(x), "y": Leaf(y)}
        self.nodes: list[Node] = []
        self._known: dict[Key, int] = {}
        # What was found out about signs, see `signs`.
        self.signs: dict[tuple[str, int], bool] = {}

    def _add(self, key: Key, rate: int, length: int, level: int) -> int:
        index = len(self.nodes)
        if index == MAX_NODES:
            refuse(f"it has more than {MAX_NODES} operations")
        self.nodes.append(Node(*key, rate, length, level))
        self._known[key] = index
        return index

    def op(self, op: str, *args: int, payload: Any = None) -> int:
        """Give the node of an elementwise operation; vectors must be of one length."""
        key = (op, args, payload)
        known = self._known.get(key)
        if known is not None:
            return known
        short = self._short_cut(op, args)
        if short is not None:
            return short
        rate = length = level = 0
        for arg in args:
            node = self.nodes[arg]
            rate |= node.rate
            length = node.length or length
            level = max(level, node.level)
        return self._add(key, rate, length, level)

    def _short_cut(self, op: str, args: tuple[int, ...]) -> int | None:
        if op in _FOLDABLE and all(self.nodes[arg].op == "const" for arg in args):
            with np.errstate(all="ignore"):
                return self.const(float(_FOLDABLE[op](*map(self.value_of, args))))
        if op == "ABS" and self.nodes[args[0]].op in _NEVER_NEGATIVE:
            return args[0]
        if op == "WHERE" and self.nodes[args[0]].op == "const":
            chosen = args[1] if self.value_of(args[0]) != 0 else args[2]
            lengths = {self.nodes[arg].length for arg in args}
            if len(lengths) == 1:
                return chosen
        if op == "MUL" and args[0] == args[1]:
            return self.op("SQUARE", args[0])
        if op in ("ABS", "SQUARE") and self.nodes[args[0]].op == "SUB":
            fused = "ABSDIFF" if op == "ABS" else "SQDIFF"
            return self.op(fused, *self.nodes[args[0]].args)
        return None

    def value_of(self, index: int) -> np.float64:
        """Give the value of a constant."""
        (value,) = struct.unpack("<d", struct.pack("<q", self.nodes[index].payload))
        return np.float64(value)

    def fold(self, op: str, arg: int) -> int:
        """Give the node that reduces a vector by ADD, MUL, MIN or MAX."""
        key = ("fold", (arg,), op)
        known = self._known.get(key)
        if known is not None:
            return known
        node = self.nodes[arg]
        return self._add(key, node.rate, 0, node.level + 1)

    def const(self, value: float) -> int:
        """Give the node of a number; -0.0 and NaNs are kept apart by their bits."""
        (bits,) = struct.unpack("<q", struct.pack("<d", value))
        key = ("const", (), bits)
        known = self._known.get(key)
        return self._add(key, CONSTANT, 0, 0) if known is None else known

    def vector(self, values: Sequence[float]) -> int:
        """Give the node of a constant vector."""
        bits = struct.unpack(f"<{len(values)}q", struct.pack(f"<{len(values)}d", *values))
        key = ("vector", (), bits)
        known = self._known.get(key)
        return self._add(key, CONSTANT, len(values), 0) if known is None else known

    def feature(self, side: str, start: int, step: int, length: int) -> int:
        """Give the node of one feature (`length` 0) or of a slice of them."""
        # A step that is never made is none: it could lead out of the point.
        key = (side, (), (start, step if length > 1 else 0, length))
        known = self._known.get(key)
        rate = ROW if side == "x" else COLUMN
        return self._add(key, rate, length, 0) if known is None else known
