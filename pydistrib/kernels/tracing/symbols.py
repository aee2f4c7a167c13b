"""
Symbols: what stands for numbers and arrays while a function is traced.

A `Symbol` remembers the node that computes it, the kind it would have, how far off it may
be, and, for integers, between which values it lies.  Using it as a number makes more
symbols; using it in any way that is not known here is refused.

`Trace` holds what one tracing of a function has found: the graph, the conditions under
which the function itself has to be asked (`guards`), and the decisions of the present
way through the function's branches.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from pydistrib.kernels.tracing import bounds
from pydistrib.kernels.tracing.graph import Graph
from pydistrib.kernels.tracing.kinds import (
    FLOAT_KINDS,
    MAX_EXACT,
    Kind,
    kind_of,
    sample,
)
from pydistrib.kernels.tracing.refusal import refuse

# Vectors longer than this are not unrolled by iteration.
MAX_UNROLLED: Final = 256

# A function with more branches on its arguments than this on one way is refused.
MAX_DECISIONS: Final = 20

Decision = tuple[int, "bounds.Bound", bool]
Interval = tuple[int, int]


class Trace:
    """
    One tracing of a function.

    Parameters
    ----------
    x : ndarray of shape (n,) or (n, d)
        The points of the rows.
    y : ndarray of shape (m,) or (m, d)
        The points of the columns.
    """

    def __init__(self, x: NDArray[Any], y: NDArray[Any]) -> None:
        self.graph = Graph(x, y)
        self.features = 0 if x.ndim == 1 else x.shape[1]
        # All that the function computed, used in the end or not.
        self.computed: set[int] = set()
        self.start_way([])

    def start_way(self, choices: list[bool]) -> None:
        """Begin a way through the function; its first decisions are `choices`."""
        self.choices = choices
        self.guards: list[int] = []
        self.decisions: list[Decision] = []
        self._decided: dict[int, bool] = {}

    def decide(self, condition: int, bound: bounds.Bound) -> bool:
        """Choose how a branch goes on this way."""
        if bound is None and self.graph.nodes[condition].op == "const":
            return bool(self.graph.value_of(condition))
        known = self._decided.get(condition)
        if known is not None:
            return known
        depth = len(self.decisions)
        if depth == MAX_DECISIONS:
            refuse(f"it has more than {MAX_DECISIONS} branches on its arguments in a row")
        choice = self.choices[depth] if depth < len(self.choices) else True
        self.decisions.append((condition, bound, choice))
        self._decided[condition] = choice
        return choice

    def guard(self, condition: int) -> None:
        """Ask the function itself where `condition` holds, a number's node."""
        self.guards.append(bounds.infinite_if(self.graph, condition))

    def guard_any(self, condition: int | None) -> None:
        """Ask the function itself where `condition` holds for some element, if for any."""
        if condition is not None:
            g = self.graph
            self.guard(g.fold("MAX", condition) if g.nodes[condition].length else condition)

    def symbol(self, value: Any) -> Symbol:
        """Give `value`, a symbol or a constant, as a symbol."""
        if isinstance(value, Symbol):
            if value.trace is not self:
                refuse("it keeps values from one call to the next")
            return value
        kind = kind_of(value)
        if kind is None:
            refuse(f"it computes with {_a(value)}")
        if kind.ndim == 1:
            node = self.graph.vector(np.asarray(value, np.float64).tolist())
        else:
            node = self.graph.const(_exact(value))
        interval = None
        if kind.name not in FLOAT_KINDS and np.size(value) > 0:
            interval = int(np.min(value)), int(np.max(value))
            if interval[0] < -MAX_EXACT or interval[1] > MAX_EXACT:
                refuse(f"it computes with the integer {value}, beyond 2**53")
        length = len(value) if kind.ndim == 1 else 0
        return Symbol(self, node, kind, length, None, interval, value)


def _exact(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        refuse("it computes with an integer too large for a float")


def _a(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} of shape {value.shape}"
    return f"a value of type {type(value).__name__}"


class Symbol:
    """
    A number or an array of features that is not known yet.

    Parameters
    ----------
    trace : Trace
        Where it belongs.
    node : int
        What computes it.
    kind : Kind
        The type it would have.
    length : int
        Number of features; 0 for a number.
    bound : int or None
        The node that bounds its error; None if it is exact.
    interval : tuple of int, optional
        The least and the largest value of an integer or a truth value.
    constant : object, optional
        The constant it stands for.
    """

    __slots__ = ("bound", "constant", "interval", "kind", "length", "node", "trace")

    def __init__(
        self,
        trace: Trace,
        node: int,
        kind: Kind,
        length: int = 0,
        bound: bounds.Bound = None,
        interval: Interval | None = None,
        constant: Any = None,
    ) -> None:
        trace.computed.add(node)
        self.trace = trace
        self.node = node
        self.kind = kind
        self.length = length
        self.bound = bound
        self.interval = interval
        self.constant = constant

    # Arithmetic and comparisons --------------------------------------------------

    def __add__(self, other: Any) -> Symbol:
        return operations.elementwise(self.trace, operations.ADD, self, other)

    def __radd__(self, other: Any) -> Symbol:
        return operations.elementwise(self.trace, operations.ADD, other, self)

    def __sub__(self, other: Any) -> Symbol:
        return operations.elementwise(self.trace, operations.SUBTRACT, self, other)

    def __rsub__(self, other: Any) -> Symbol:
        return operations.elementwise(self.trace, operations.SUBTRACT, other, self)

    def __mul__(self, other: Any) -> Symbol:
        return operations.elementwise(self.trace, operations.MULTIPLY, self, other)

    def __rmul__(self, other: Any) -> Symbol:
        return operations.elementwise(self.trace, operations.MULTIPLY, other, self)

    def __truediv__(self, other: Any) -> Symbol:
        return operations.elementwise(self.trace, operations.DIVIDE, self, other)

    def __rtruediv__(self, other: Any) -> Symbol:
        return operations.elementwise(self.trace, operations.DIVIDE, other, self)

    def __floordiv__(self, other: Any) -> Symbol:
        return operations.python_division(self.trace, operations.FLOOR_DIVIDE, self, other)

    def __rfloordiv__(self, other: Any) -> Symbol:
        return operations.python_division(self.trace, operations.FLOOR_DIVIDE, other, self)

    def __mod__(self, other: Any) -> Symbol:
        return operations.python_division(self.trace, operations.REMAINDER, self, other)

    def __rmod__(self, other: Any) -> Symbol:
        return operations.python_division(self.trace, operations.REMAINDER, other, self)

    def __pow__(self, other: Any) -> Symbol:
        return operations.power(self.trace, operator.pow, self, other)

    def __rpow__(self, other: Any) -> Symbol:
        return operations.power(self.trace, operator.pow, other, self)

    def __neg__(self) -> Symbol:
        return operations.elementwise(self.trace, operations.NEGATE, self)

    def __pos__(self) -> Symbol:
        return operations.elementwise(self.trace, operations.POSITIVE, self)

    def __abs__(self) -> Symbol:
        return operations.elementwise(self.trace, operations.ABSOLUTE, self)

    def __lt__(self, other: Any) -> Symbol:
        return operations.elementwise(self.trace, operations.LESS, self, other)

    def __le__(self, other: Any) -> Symbol:
        return operations.elementwise(self.trace, operations.LESS_EQUAL, self, other)

    def __gt__(self, other: Any) -> Symbol:
        return operations.elementwise(self.trace, operations.LESS, other, self)

    def __ge__(self, other: Any) -> Symbol:
        return operations.elementwise(self.trace, operations.LESS_EQUAL, other, self)

    def __eq__(self, other: object) -> Symbol:  # type: ignore[override]
        return operations.elementwise(self.trace, operations.EQUAL, self, other)

    def __ne__(self, other: object) -> Symbol:  # type: ignore[override]
        return operations.elementwise(self.trace, operations.NOT_EQUAL, self, other)

    def __and__(self, other: Any) -> Symbol:
        return operations.logical(self.trace, operator.and_, "AND", self, other)

    def __or__(self, other: Any) -> Symbol:
        return operations.logical(self.trace, operator.or_, "OR", self, other)

    def __xor__(self, other: Any) -> Symbol:
        return operations.logical(self.trace, operator.xor, "NE", self, other)

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__

    def __invert__(self) -> Symbol:
        if self.kind.name != "bool_":
            refuse("~ of numbers is not known")
        return operations.logical(self.trace, operator.invert, "NOT", self)

    def __round__(self, ndigits: int | None = None) -> Symbol:
        return operations.round_symbol(self, ndigits)

    def __matmul__(self, other: Any) -> Symbol:
        from pydistrib.kernels.tracing.reductions import matmul

        return matmul(self, other)

    def __rmatmul__(self, other: Any) -> Symbol:
        from pydistrib.kernels.tracing.reductions import matmul

        return matmul(other, self)

    # Branches and elements -------------------------------------------------------

    def __bool__(self) -> bool:
        if self.kind.ndim == 1:
            refuse("it branches on an array")
        condition = operations.truth(self)
        return self.trace.decide(condition.node, condition.bound)

    def __len__(self) -> int:
        if self.kind.ndim != 1:
            raise TypeError(f"object of type {self.kind.name} has no len()")
        return self.length

    def __iter__(self) -> Iterator[Symbol]:
        if self.length > MAX_UNROLLED:
            refuse(f"it iterates over {self.length} features, more than {MAX_UNROLLED}")
        return iter([self[k] for k in range(len(self))])

    def __getitem__(self, key: Any) -> Symbol:
        if self.kind.ndim != 1:
            refuse("it takes an element of a number")
        if isinstance(key, slice):
            return self._slice(key)
        if isinstance(key, bool) or not isinstance(key, (int, np.integer)):
            refuse(f"it indexes a vector by {_a(key)}")
        if not -self.length <= key < self.length:
            raise IndexError(f"index {key} is out of bounds for size {self.length}")
        element = operations.elements(self, int(key) % self.length, 1, 0)
        return Symbol(
            self.trace,
            element[0],
            Kind(self.kind.name),
            0,
            element[1],
            self.interval,
        )

    def _slice(self, key: slice) -> Symbol:
        try:
            start, stop, step = key.indices(self.length)
        except TypeError:
            refuse("it slices by values that are not known")
        length = len(range(start, stop, step))
        if length == 0:
            refuse("it takes an empty slice")
        node, bound = operations.elements(self, start, step, length)
        return Symbol(self.trace, node, self.kind, length, bound, self.interval)

    # What arrays have ------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        from pydistrib.kernels.tracing.numpy_functions import METHODS

        # Double underscores are somebody's protocol: the sandbox lets no function say them.
        if name.startswith("__") or not hasattr(sample(self.kind), name):
            raise AttributeError(f"{self.kind.name} has no attribute {name!r}")
        method = METHODS.get(name)
        if method is None:
            refuse(f"the attribute {name!r} of a value is not known to the tracer")
        return method(self)

    # NumPy -----------------------------------------------------------------------

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any
    ) -> Symbol:
        from pydistrib.kernels.tracing.numpy_functions import UFUNCS

        handler = UFUNCS.get(ufunc)
        if method != "__call__" or handler is None or len(inputs) != ufunc.nin:
            refuse(f"numpy.{ufunc.__name__}.{method} is not known to the tracer")
        if kwargs:
            refuse(f"options of numpy.{ufunc.__name__} are not known to the tracer")
        result: Symbol = handler(*inputs)
        return result

    def __array_function__(
        self, function: Any, types: Any, args: Any, kwargs: Any
    ) -> NoReturn:
        refuse(
            f"numpy.{getattr(function, '__name__', function)} was reached by a way around"
        )


def _forbid(name: str, what: str) -> None:
    def forbidden(self: Symbol, *args: Any, **kwargs: Any) -> NoReturn:
        refuse(what)

    forbidden.__name__ = name
    setattr(Symbol, name, forbidden)


for _name_, _what in {
    "__array__": "it makes an array of its arguments",
    "__contains__": "it searches an array",
    "__complex__": "it makes a complex number",
    "__delitem__": "it changes an array",
    "__divmod__": "divmod() is not known to the tracer",
    "__rdivmod__": "divmod() is not known to the tracer",
    "__float__": "a C function or class wants its argument as a float",
    "__format__": "it makes text of a number",
    "__hash__": "it uses a number as a key",
    "__index__": "it uses a number as an index or a count",
    "__int__": "a C function or class wants its argument as an integer",
    "__lshift__": "<< is not known to the tracer",
    "__reduce_ex__": "it pickles a value",
    "__repr__": "it makes text of a number",
    "__rlshift__": "<< is not known to the tracer",
    "__rrshift__": ">> is not known to the tracer",
    "__rshift__": ">> is not known to the tracer",
    "__setitem__": "it changes an array",
    "__str__": "it makes text of a number",
}.items():
    _forbid(_name_, _what)


def _augmented(name: str, plain: str) -> None:
    def augmented(self: Symbol, other: Any) -> Any:
        if self.kind.ndim >= 0:
            refuse("it changes an array in place")
        return getattr(self, plain)(other)

    augmented.__name__ = name
    setattr(Symbol, name, augmented)


for _plain in (
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "and",
    "or",
    "xor",
):
    _augmented(f"__i{_plain}__", f"__{_plain}__")


# The two modules need each other: operations make symbols, and symbols operate.
from pydistrib.kernels.tracing import operations  # noqa: E402
