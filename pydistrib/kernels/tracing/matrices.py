"""
Products with a constant matrix: (a - b) @ VI @ (a - b) and the like.

The product of a vector of symbols and a matrix is no vector of the graph's, whose elements
are all computed alike, but a list of numbers, each a fold of its own.  Such a list can be
multiplied again, and its elements taken; it is good for little else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pydistrib.kernels.tracing import bounds
from pydistrib.kernels.tracing.kinds import Kind, kind_of, result_kind, unit
from pydistrib.kernels.tracing.poison import Poison
from pydistrib.kernels.tracing.refusal import refuse
from pydistrib.kernels.tracing.symbols import Symbol, Trace

# A larger matrix would make a program of too many folds.
MAX_SIDE: Final = 128

Dot = Callable[[Any, Any], Symbol]


class Numbers(Poison):
    """The product of a vector and a matrix."""

    __slots__ = ("_elements", "_product")

    def __init__(self, elements: list[Symbol], product: Callable[[Any, Any], Any]) -> None:
        super().__init__("it uses a product with a matrix otherwise than in a product")
        object.__setattr__(self, "_elements", elements)
        object.__setattr__(self, "_product", product)

    def __getattribute__(self, name: str) -> Any:
        if name == "dot":
            return lambda other: product_of(self)(self, other)
        if name == "T":
            return self
        if name == "__class__":
            return Numbers
        if name == "size":
            return len(elements_of(self))
        return Poison.__getattribute__(self, name)

    def __matmul__(self, other: Any) -> Any:
        return product_of(self)(self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return product_of(self)(other, self)

    def __getitem__(self, key: Any) -> Symbol:
        if type(key) is not int:
            refuse("it takes a part of a product with a matrix")
        return elements_of(self)[key]

    def __iter__(self) -> Iterator[Symbol]:
        return iter(elements_of(self))

    def __len__(self) -> int:
        return len(elements_of(self))


def elements_of(numbers: Numbers) -> list[Symbol]:
    """Give the numbers."""
    elements: list[Symbol] = object.__getattribute__(numbers, "_elements")
    return elements


def product_of(numbers: Numbers) -> Callable[[Any, Any], Any]:
    """Give the function that multiplies them."""
    product: Callable[[Any, Any], Any] = object.__getattribute__(numbers, "_product")
    return product


def is_matrix(value: Any) -> bool:
    """Tell whether a value is a constant matrix, or made by one."""
    return type(value) is Numbers or (isinstance(value, np.ndarray) and value.ndim == 2)


def matrix_product(a: Any, b: Any, dot: Dot) -> Any:
    """Multiply, where at least one operand is a matrix or a product with one."""

    def again(x: Any, y: Any) -> Any:
        return matrix_product(x, y, dot)

    if isinstance(a, np.ndarray) and a.ndim == 2:
        return _all_rows(a, b, dot, again)
    if isinstance(b, np.ndarray) and b.ndim == 2:
        return _all_rows(b.T, a, dot, again)
    left, right = _elements(a), _elements(b)
    if left is None or right is None or len(left) != len(right):
        refuse("this product with a matrix is not known to the tracer")
    return _sum_of_products(left, right)


def _all_rows(matrix: NDArray[Any], v: Any, dot: Dot, again: Callable[..., Any]) -> Numbers:
    if not isinstance(v, (Symbol, Numbers)) or max(matrix.shape) > MAX_SIDE:
        refuse(f"products with matrices of more than {MAX_SIDE} rows are not known")
    if matrix.shape[1] != len(v) or kind_of(matrix[0]) is None:
        refuse(f"it multiplies a matrix of shape {matrix.shape} and {len(v)} features")
    rows = [np.ascontiguousarray(row) for row in matrix]
    if isinstance(v, Symbol):
        return Numbers([dot(row, v) for row in rows], again)
    elements = elements_of(v)
    trace = elements[0].trace
    return Numbers(
        [_sum_of_products([trace.symbol(w) for w in row], elements) for row in rows], again
    )


def _elements(value: Any) -> list[Symbol] | None:
    if type(value) is Numbers:
        return elements_of(value)
    if isinstance(value, Symbol) and 0 < value.length <= MAX_SIDE:
        return list(value)
    return None


def _sum_of_products(left: list[Symbol], right: list[Symbol]) -> Symbol:
    """Add up products, which BLAS does in an order of its own."""
    kind = result_kind(np.multiply, left[0].kind, right[0].kind)
    if kind is None or kind.name not in ("float32", "float64"):
        refuse("this product with a matrix is not known to the tracer")
    trace: Trace = left[0].trace
    g = trace.graph
    u = unit(kind.name)
    total = size = g.const(0.0)
    spread: bounds.Bound = None
    for p, q in zip(left, right, strict=True):
        node = g.op("MUL", p.node, q.node)
        given = (p.bound, q.bound)
        own = bounds.operation(g, "MUL", node, (p.node, q.node), given, u)
        spread = bounds.plus(g, spread, own)
        total = g.op("ADD", total, node)
        size = g.op("ADD", size, g.op("ABS", node))
    if kind.name == "float32":
        total = g.op("TO_F32", total)
    bound = bounds.plus(g, spread, bounds.of_order(g, total, size, len(left), u))
    return Symbol(trace, total, Kind(kind.name), 0, bound)
