"""
What is known of a node's sign, without knowing its value.

Two zeros of different sign are equal, so which of them a maximum or a minimum returns is
nobody's promise: NumPy's differs between one element and many and between processors.
Where both may meet, the function itself has to be asked.
"""

from __future__ import annotations

import struct
from typing import Final

from pydistrib.kernels.tracing.graph import Graph

_POSITIVE_OPS: Final = frozenset(
    [
        "ABS", "ABSDIFF", "SQUARE", "SQDIFF", "ISNAN", "ISFINITE", "NOT", "LT", "LE", "EQ",
        "NE", "AND", "OR",
    ]
)  # fmt: skip
_POSITIVE_CALLS: Final = frozenset(("exp", "exp2", "cosh", "hypot"))
_MINUS_ZERO: Final = struct.unpack("<q", struct.pack("<d", -0.0))[0]

# More is not looked through: the answer is then that nothing is known.
_DEPTH: Final = 40


def not_negative(g: Graph, index: int, depth: int = _DEPTH) -> bool:
    """Tell whether a node is +0.0, above it, or NaN, whatever the features are."""
    key = ("not negative", index)
    if key not in g.signs:
        g.signs[key] = _not_negative(g, index, depth)
    return g.signs[key]


def _not_negative(g: Graph, index: int, depth: int) -> bool:
    node = g.nodes[index]
    op = node.op
    if op in _POSITIVE_OPS:
        return True
    if op == "const":
        return bool(node.payload >= 0)
    if op == "vector":
        return all(bits >= 0 for bits in node.payload)
    if op == "call":
        return node.payload[0].__name__ in _POSITIVE_CALLS
    args = node.args[1:] if op == "WHERE" else node.args
    if op in _MONOTONE_OPS and depth:
        return all(not_negative(g, arg, depth - 1) for arg in args)
    return False


# Of operands that are not negative these are not negative either.
_MONOTONE_OPS: Final = frozenset(
    [
        "ADD", "MUL", "DIV", "SQRT", "COPY", "TO_F32", "FLOOR", "CEIL", "TRUNC", "RINT",
        "MIN", "MAX", "FMIN", "FMAX", "WHERE", "fold",
    ]
)  # fmt: skip


def never_minus_zero(g: Graph, index: int, depth: int = _DEPTH) -> bool:
    """Tell whether a node is never -0.0."""
    key = ("never -0.0", index)
    if key not in g.signs:
        g.signs[key] = _never_minus_zero(g, index, depth)
    return g.signs[key]


def _never_minus_zero(g: Graph, index: int, depth: int) -> bool:
    node = g.nodes[index]
    op = node.op
    if op in ("x", "y"):
        return g.leaves[op].never_minus_zero()
    if op == "const":
        return bool(node.payload != _MINUS_ZERO)
    if op == "vector":
        return _MINUS_ZERO not in node.payload
    if op == "SIGN" or not_negative(g, index, depth):
        return True
    if not depth:
        return False
    if op == "ADD":  # -0.0 of two -0.0 only
        return any(never_minus_zero(g, arg, depth - 1) for arg in node.args)
    if op == "SUB":  # -0.0 of -0.0 - 0.0 only
        return never_minus_zero(g, node.args[0], depth - 1)
    if op == "TO_F32":
        return _exact_in_float32(g, node.args[0]) and never_minus_zero(
            g, node.args[0], depth - 1
        )
    if op in ("COPY", "SQRT", "FLOOR", "MIN", "MAX", "FMIN", "FMAX", "WHERE") or (
        op == "fold" and node.payload not in ("MUL", "MUL_SINGLE")
    ):
        args = node.args[1:] if op == "WHERE" else node.args
        return all(never_minus_zero(g, arg, depth - 1) for arg in args)
    return False


def _exact_in_float32(g: Graph, index: int) -> bool:
    """Tell whether a node, if it is tiny, is a float: then it is not rounded to -0.0."""
    node = g.nodes[index]
    return node.op in ("ADD", "SUB") and all(_is_single(g, arg) for arg in node.args)


def _is_single(g: Graph, index: int) -> bool:
    node = g.nodes[index]
    if node.op in ("x", "y"):
        return g.leaves[node.op].single
    return node.op == "TO_F32"


def zeros_differ(g: Graph, a: int, b: int) -> int | None:
    """Give the node that tells where a and b are zeros of two signs, if they can be."""
    for index in (a, b):
        node = g.nodes[index]
        if node.op == "const" and g.value_of(index) != 0:
            return None
    if never_minus_zero(g, a) and never_minus_zero(g, b):
        return None
    one = g.const(1.0)
    signs = g.op("NE", g.op("DIV", one, a), g.op("DIV", one, b))
    return g.op("AND", g.op("EQ", a, b), signs)


def is_minus_zero(g: Graph, index: int) -> int | None:
    """Give the node that tells where a node is -0.0, if it can be."""
    if never_minus_zero(g, index):
        return None
    return g.op("EQ", g.op("DIV", g.const(1.0), index), g.const(float("-inf")))


def zeros_within(g: Graph, vector: int, extreme: int) -> int | None:
    """Give the node that tells where an extreme is a zero, and -0.0 among the elements."""
    minus_zero = is_minus_zero(g, vector)
    if minus_zero is None:
        return None
    some = g.fold("MAX", minus_zero)
    return g.op("AND", some, g.op("EQ", extreme, g.const(0.0)))
