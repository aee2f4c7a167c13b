"""Stand-ins: what a traced function finds in place of the functions it calls."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from pydistrib.kernels.tracing.kinds import Kind
from pydistrib.kernels.tracing.refusal import refuse
from pydistrib.kernels.tracing.symbols import Symbol, Trace

# What makes a symbol of a function's arguments, at least one of which is a symbol.
Handler = Callable[..., Any]


def has_symbol(args: Any) -> bool:
    """Tell whether a symbol is among some arguments or in their tuples and lists."""
    return any(
        isinstance(arg, Symbol) or (isinstance(arg, (tuple, list)) and has_symbol(arg))
        for arg in args
    )


def stand_in(function: Callable[..., Any], handler: Handler) -> Handler:
    """Make the function that a traced function sees in place of `function`."""

    @functools.wraps(function, updated=())
    def stand(*args: Any, **kwargs: Any) -> Any:
        if has_symbol(args) or has_symbol(kwargs.values()):
            return handler(*args, **kwargs)
        return function(*args, **kwargs)

    return stand


def trace_of(*args: Any) -> Trace:
    """Give the trace that the first symbol among some arguments belongs to."""
    for arg in args:
        if isinstance(arg, Symbol):
            return arg.trace
    refuse("a list of symbols is not known to the tracer")


class TypeStandIn:
    """A class that converts symbols and can stand in isinstance()."""

    def __init__(self, real: type, convert: Handler) -> None:
        self.real = real
        self.convert = convert

    def __call__(self, *args: Any) -> Any:
        return self.convert(*args) if has_symbol(args) else self.real(*args)


def as_python_float(a: Any) -> Any:
    """Convert to Python's float, as the built-in class does."""
    if not isinstance(a, Symbol):
        return a
    if a.kind.ndim == 1:
        refuse("it makes one float of an array")
    return Symbol(a.trace, a.node, Kind("float"), 0, a.bound)
