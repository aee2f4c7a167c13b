"""Stand-ins: what a traced function finds in place of what it calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from pydistrib.kernels.tracing.kinds import Kind
from pydistrib.kernels.tracing.refusal import refuse
from pydistrib.kernels.tracing.symbols import Symbol, Trace

# What makes a symbol of a function's arguments, at least one of which is a symbol.
Handler = Callable[..., Any]


def has_symbol(args: Any) -> bool:
    """Tell whether a symbol is among some arguments or in their tuples and lists."""
    for arg in args:
        if type(arg) is Symbol:
            return True
        if isinstance(arg, (tuple, list)) and has_symbol(arg):
            return True
    return False


class StandIn:
    """
    What a traced function sees in place of a function.

    Parameters
    ----------
    function : callable
        The function: called where no argument is a symbol.
    handler : callable
        Called in its place where one is.
    attributes : mapping of str to object, optional
        The function's attributes that are known, a ufunc's ``reduce`` say.
    """

    __slots__ = ("__name__", "_attributes", "_function", "_handler", "_inputs")

    def __init__(
        self,
        function: Callable[..., Any],
        handler: Handler,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        self.__name__ = getattr(function, "__name__", "a function")
        self._function = function
        self._handler = handler
        self._attributes = attributes or {}
        self._inputs = getattr(function, "nin", None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make a symbol if an argument is one, else call the function itself."""
        if has_symbol(args) or (kwargs and has_symbol(kwargs.values())):
            return _handle(self._handler, self.__name__, args, kwargs)
        if "out" in kwargs or (self._inputs is not None and len(args) > self._inputs):
            refuse(f"{self.__name__} writes into an array")
        args = tuple(map(_real, args))
        return self._function(*args, **{k: _real(v) for k, v in kwargs.items()})

    def __getattr__(self, name: str) -> Any:
        """Give an attribute that is known."""
        return _attribute(self.__name__, self._attributes, name)


class TypeStandIn:
    """A class that converts symbols and can stand in isinstance()."""

    __slots__ = ("_attributes", "_convert", "_real")

    def __init__(self, real: type, convert: Handler, **attributes: Any) -> None:
        self._real = real
        self._convert = convert
        self._attributes = attributes

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Convert a symbol, or make an object of the class itself."""
        if has_symbol(args) or (kwargs and has_symbol(kwargs.values())):
            return _handle(self._convert, self._real.__name__, args, kwargs)
        return self._real(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Give an attribute that is known."""
        return _attribute(self._real.__name__, self._attributes, name)


def _handle(handler: Handler, name: str, args: Any, kwargs: Any) -> Any:
    try:
        return handler(*args, **kwargs)
    except Exception:
        # The handler's own: it takes fewer options than what it stands for.
        refuse(f"{name}() with these arguments is not known to the tracer")


def _attribute(owner: str, attributes: Mapping[str, Any], name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    if name not in attributes:
        refuse(f"{owner}.{name} is not known to the tracer")
    return attributes[name]


def _real(value: Any) -> Any:
    return value._real if type(value) is TypeStandIn else value


def real_class(value: Any) -> Any:
    """Give the class that a stand-in stands for."""
    return _real(value)


def unknown(name: str) -> Handler:
    """Make the handler of a function that is known for numbers only."""

    def handler(*args: Any, **kwargs: Any) -> NoReturn:
        refuse(f"{name} of its arguments is not known to the tracer")

    return handler


def trace_of(*args: Any) -> Trace:
    """Give the trace that the first symbol among some arguments belongs to."""
    for arg in args:
        if isinstance(arg, Symbol):
            return arg.trace
    refuse("a list of symbols is not known to the tracer")


def as_python_float(a: Any) -> Any:
    """Convert to Python's float, as the built-in class does."""
    if not isinstance(a, Symbol):
        return float(a)
    if a.kind.ndim == 1:
        refuse("it makes one float of an array")
    return Symbol(a.trace, a.node, Kind("float"), 0, a.bound)
