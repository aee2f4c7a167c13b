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
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, NoReturn

import numpy as np

from pydistrib.kernels.tracing import bounds
from pydistrib.kernels.tracing.graph import Graph
from pydistrib.kernels.tracing.kinds import (
    BOOL_KINDS,
    FLOAT_KINDS,
    INTEGER_KINDS,
    MAX_EXACT,
    PYTHON_KINDS,
    Kind,
    common_kind,
    integer_range,
    kind_of,
    result_kind,
    sample,
    unit,
)
from pydistrib.kernels.tracing.refusal import refuse

# Vectors longer than this are not unrolled by iteration.
MAX_UNROLLED: Final = 256

# A function with more branches on its arguments than this on one way is refused.
MAX_DECISIONS: Final = 20

# Rounded to one of Python's integers, larger values are left to the function itself: what
# is computed from those below stays exact for a while.
MAX_ROUNDED: Final = 2**45

Decision = tuple[int, "bounds.Bound", bool]
Interval = tuple[int, int]


class Trace:
    """One tracing of a function of points of `features` numbers (0: of numbers)."""

    def __init__(self, features: int) -> None:
        self.graph = Graph()
        self.features = features
        self.start_way([])

    def start_way(self, choices: list[bool]) -> None:
        """Begin a way through the function; its first decisions are `choices`."""
        self.choices = choices
        self.guards: list[int] = []
        self.decisions: list[Decision] = []
        self._decided: dict[int, bool] = {}

    def decide(self, condition: int, bound: bounds.Bound) -> bool:
        """Choose how a branch goes on this way."""
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
    result = result_kind(operation.function, *kinds)
    if result is None:
        names = ", ".join(kind.name for kind in kinds)
        refuse(f"{_name(operation)} of {names} does not give a real number")
    length = _common_length(values)
    if operation.op == "WHERE":
        condition, *rest = values
        inside = result
        args = (truth(condition).node, *(convert(v, inside.name).node for v in rest))
        given = (truth(condition).bound, *(v.bound for v in rest))
        values = rest
    else:
        inside_or_none = common_kind(*kinds) if operation.compares else result
        if inside_or_none is None:
            refuse(f"{_name(operation)} of its operands is not known")
        inside = inside_or_none
        converted = [convert(v, inside.name) for v in values]
        args = tuple(v.node for v in converted)
        given = tuple(v.bound for v in converted)
    interval = None
    if inside.name not in FLOAT_KINDS:
        interval = (0, 1) if operation.compares else _integers(operation, result, values)
    return finish(trace, operation, result, length, args, given, inside.name, interval)


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
        if operation.units:
            own = bounds.rounding(g, node, u, operation.units)
            bound = bounds.plus(g, bound, own)
    else:
        assert operation.ufunc is not None
        node = g.op("call", *args, payload=(operation.ufunc, single))
        name = operation.ufunc.__name__
        bound = bounds.call(g, name, node, args, given, u, operation.units)
    symbol = Symbol(trace, node, result, length, bound, interval)
    if operation.raises or (result.name in PYTHON_KINDS and operation.op == "DIV"):
        guard_finite(symbol)
    return symbol


# Results of floats that need rounding to be floats again.
_ROUNDED: Final = frozenset(["SQRT", "SQUARE", "ADD", "SUB", "MUL", "DIV", "SQDIFF"])


def _name(operation: Operation) -> str:
    return getattr(operation.function, "__name__", "an operation")


def _common_length(values: list[Symbol]) -> int:
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
        self.trace = trace
        self.node = node
        self.kind = kind
        self.length = length
        self.bound = bound
        self.interval = interval
        self.constant = constant

    # Arithmetic and comparisons --------------------------------------------------

    def __add__(self, other: Any) -> Symbol:
        return elementwise(self.trace, ADD, self, other)

    def __radd__(self, other: Any) -> Symbol:
        return elementwise(self.trace, ADD, other, self)

    def __sub__(self, other: Any) -> Symbol:
        return elementwise(self.trace, SUBTRACT, self, other)

    def __rsub__(self, other: Any) -> Symbol:
        return elementwise(self.trace, SUBTRACT, other, self)

    def __mul__(self, other: Any) -> Symbol:
        return elementwise(self.trace, MULTIPLY, self, other)

    def __rmul__(self, other: Any) -> Symbol:
        return elementwise(self.trace, MULTIPLY, other, self)

    def __truediv__(self, other: Any) -> Symbol:
        return elementwise(self.trace, DIVIDE, self, other)

    def __rtruediv__(self, other: Any) -> Symbol:
        return elementwise(self.trace, DIVIDE, other, self)

    def __floordiv__(self, other: Any) -> Symbol:
        return python_division(self.trace, FLOOR_DIVIDE, self, other)

    def __rfloordiv__(self, other: Any) -> Symbol:
        return python_division(self.trace, FLOOR_DIVIDE, other, self)

    def __mod__(self, other: Any) -> Symbol:
        return python_division(self.trace, REMAINDER, self, other)

    def __rmod__(self, other: Any) -> Symbol:
        return python_division(self.trace, REMAINDER, other, self)

    def __pow__(self, other: Any) -> Symbol:
        return power(self.trace, operator.pow, self, other)

    def __rpow__(self, other: Any) -> Symbol:
        return power(self.trace, operator.pow, other, self)

    def __neg__(self) -> Symbol:
        return elementwise(self.trace, NEGATE, self)

    def __pos__(self) -> Symbol:
        return elementwise(self.trace, POSITIVE, self)

    def __abs__(self) -> Symbol:
        return elementwise(self.trace, ABSOLUTE, self)

    def __lt__(self, other: Any) -> Symbol:
        return elementwise(self.trace, LESS, self, other)

    def __le__(self, other: Any) -> Symbol:
        return elementwise(self.trace, LESS_EQUAL, self, other)

    def __gt__(self, other: Any) -> Symbol:
        return elementwise(self.trace, LESS, other, self)

    def __ge__(self, other: Any) -> Symbol:
        return elementwise(self.trace, LESS_EQUAL, other, self)

    def __eq__(self, other: object) -> Symbol:  # type: ignore[override]
        return elementwise(self.trace, EQUAL, self, other)

    def __ne__(self, other: object) -> Symbol:  # type: ignore[override]
        return elementwise(self.trace, NOT_EQUAL, self, other)

    def __and__(self, other: Any) -> Symbol:
        return logical(self.trace, operator.and_, "AND", self, other)

    def __or__(self, other: Any) -> Symbol:
        return logical(self.trace, operator.or_, "OR", self, other)

    def __xor__(self, other: Any) -> Symbol:
        return logical(self.trace, operator.xor, "NE", self, other)

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__

    def __invert__(self) -> Symbol:
        if self.kind.name != "bool_":
            refuse("~ of numbers is not known")
        return logical(self.trace, operator.invert, "NOT", self)

    def __round__(self, ndigits: int | None = None) -> Symbol:
        return round_symbol(self, ndigits)

    def __matmul__(self, other: Any) -> Symbol:
        from pydistrib.kernels.tracing.functions import matmul

        return matmul(self, other)

    def __rmatmul__(self, other: Any) -> Symbol:
        from pydistrib.kernels.tracing.functions import matmul

        return matmul(other, self)

    # Branches and elements -------------------------------------------------------

    def __bool__(self) -> bool:
        if self.kind.ndim == 1:
            refuse("it branches on an array")
        condition = truth(self)
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
        element = elements(self, int(key) % self.length, 1, 0)
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
        node, bound = elements(self, start, step, length)
        return Symbol(self.trace, node, self.kind, length, bound, self.interval)

    # What arrays have ------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        from pydistrib.kernels.tracing.functions import METHODS

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
        from pydistrib.kernels.tracing.functions import UFUNCS

        handler = UFUNCS.get(ufunc)
        if method != "__call__" or handler is None:
            refuse(f"numpy.{ufunc.__name__}.{method} is not known to the tracer")
        result: Symbol = handler(*inputs, **kwargs)
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


def elements(value: Symbol, start: int, step: int, length: int) -> tuple[int, bounds.Bound]:
    """Give nodes for some elements of a vector and for their bounds."""
    g = value.trace.graph

    def take(index: int) -> int:
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
        if node.op == "fold":
            return index
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
    return Symbol(trace, node, result, _common_length(values), bound, (0, 1))


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
    result = result_kind(function, base.kind, exponent.kind)
    if result is None:
        refuse(f"** of {base.kind.name} and {exponent.kind.name} is not known")
    constant = exponent.constant if exponent.kind.ndim < 0 else None
    if result.name in INTEGER_KINDS:
        return _integer_power(trace, function, base, constant)
    if result.name not in FLOAT_KINDS:
        refuse(f"** of {base.kind.name} and {exponent.kind.name} is not known")
    raises = result.name in PYTHON_KINDS
    op = _SHORT_POWERS.get(float(constant)) if constant is not None else None
    if op is None:
        slow = Operation(function, "", np.power, bounds.FUNCTION_UNITS, raises=raises)
        return elementwise(trace, slow, base, exponent)
    # Arrays take the short cut; one number goes through the C library's pow().
    by_array = base.kind.ndim == 1 and function is operator.pow
    units = 0.0 if by_array and type(constant) in (int, float) else bounds.POWER_UNITS
    arg = convert(base, result.name)
    args: tuple[int, ...] = (arg.node,)
    given: tuple[bounds.Bound, ...] = (arg.bound,)
    if op == "DIV":
        args, given = (trace.graph.const(1.0), arg.node), (None, arg.bound)
    fast = Operation(function, op, units=units, raises=raises)
    return finish(trace, fast, result, base.length, args, given, result.name)


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
