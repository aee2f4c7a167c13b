"""
The sandbox: what a traced function can reach.

A function that is traced runs a handful of times where the loop would have called it for
every pair.  That is sound only if it depends on nothing but its arguments and changes
nothing, so it is not the function itself that runs but a copy of it, made of the same code
with other globals and closure cells:

- numbers, strings and tuples of them stand as they are, arrays as read-only copies;
- the modules numpy, math and operator, and functions of theirs, are stand-ins that hold
  what `numpy_functions` and `python_functions` know;
- other Python functions are copied in the same way, with what they reach;
- everything else is a `Poison`, which refuses the trace when it is used in any way.

Nothing of the user's is patched, so threads do not see each other's traces.  Code that
stores anywhere but in its own local variables is refused before it runs.
"""

from __future__ import annotations

import builtins
import dis
import functools
import inspect
import math
import operator
import types
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, Final, NoReturn

import numpy as np

from pydistrib.kernels.tracing import numpy_functions, python_functions
from pydistrib.kernels.tracing.refusal import refuse

# More are not one distance function but a program.
MAX_FUNCTIONS: Final = 100

_NOT_PLAIN: Final = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR

_STORES: Final = frozenset(
    dis.opmap[name]
    for name in (
        "STORE_GLOBAL", "DELETE_GLOBAL", "STORE_NAME", "DELETE_NAME", "STORE_ATTR",
        "DELETE_ATTR", "STORE_SUBSCR", "DELETE_SUBSCR", "STORE_SLICE", "IMPORT_NAME",
        "IMPORT_FROM", "IMPORT_STAR", "LOAD_BUILD_CLASS", "GET_AWAITABLE", "GET_AITER",
    )
    if name in dis.opmap
)  # fmt: skip
_CELL_STORES: Final = frozenset(
    dis.opmap[name] for name in ("STORE_DEREF", "DELETE_DEREF") if name in dis.opmap
)
_CACHE: Final = dis.opmap["CACHE"]  # what specialised instructions keep; says nothing
_IS: Final = dis.opmap["IS_OP"]
_LOAD_CONST: Final = dis.opmap["LOAD_CONST"]


@lru_cache(maxsize=1024)
def objection(code: types.CodeType) -> str | None:
    """Say why code must not be traced, by its instructions alone; None if it may be."""
    ops = code.co_code
    before = (-1, 0)
    for at in range(0, len(ops), 2):
        op, arg = ops[at], ops[at + 1]
        if op == _CACHE:
            continue
        if op in _STORES:
            return f"it uses {dis.opname[op]}: it imports or changes something"
        if op in _CELL_STORES and code.co_freevars:
            return "it changes a variable of the function around it"
        if op == _IS and not (before[0] == _LOAD_CONST and _none(code, before[1])):
            return "it compares identities"
        # After an extended argument the byte is not the whole index: no known None.
        before = (op, arg) if before[0] != dis.EXTENDED_ARG else (-1, 0)
    for name in code.co_names:
        if name.startswith("__"):
            return f"it uses {name}"
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            inner = objection(const)
            if inner is not None:
                return inner
    return None


def _none(code: types.CodeType, index: int) -> bool:
    return index < len(code.co_consts) and code.co_consts[index] is None


@lru_cache(maxsize=1024)
def names_of(code: types.CodeType) -> frozenset[str]:
    """Give the names that code and the code within it may look up in the globals."""
    names = set(code.co_names)
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            names |= names_of(const)
    return frozenset(names)


class Poison:
    """What a traced function must not use; it may be passed around."""

    __slots__ = ("_reason",)

    def __init__(self, reason: str) -> None:
        object.__setattr__(self, "_reason", reason)


def reason_of(poison: Poison) -> str:
    """Say why a value is a poison."""
    return str(object.__getattribute__(poison, "_reason"))


def _poisoned(self: Poison, *args: Any, **kwargs: Any) -> NoReturn:
    refuse(reason_of(self))


# Every way that there is to use an object.
_USES: Final = """
abs add and array bool bytes call complex contains delattr delitem divmod enter eq exit
float floordiv format ge getattribute getitem gt hash iadd iand ifloordiv ilshift
imatmul imod imul index int invert ior ipow irshift isub iter itruediv ixor le len
length_hint lshift lt matmul mod mul ne neg next or pos pow radd rand rdivmod reduce_ex
repr reversed rfloordiv rlshift rmatmul rmod rmul ror round rpow rrshift rshift rsub
rtruediv rxor setattr setitem str sub truediv trunc xor
"""
for _name in _USES.split():
    setattr(Poison, f"__{_name}__", _poisoned)


class _Module:
    """A stand-in of a module: what the tracer knows of it."""

    def __init__(self, name: str, names: dict[str, Any]) -> None:
        self._name = name
        self._names = names

    def __getattr__(self, attribute: str) -> Any:
        try:
            return self._names[attribute]
        except KeyError:
            refuse(f"{self._name}.{attribute} is not known to the tracer")


@cache
def _modules() -> dict[types.ModuleType, Any]:
    numpy_names = numpy_functions.numpy_names()
    linalg = _Module("numpy.linalg", {"norm": numpy_functions.norm_handler()})
    return {
        np: _Module("numpy", {**numpy_names, "linalg": linalg}),
        np.linalg: linalg,
        math: _Module("math", python_functions.math_names()),
        operator: _Module("operator", python_functions.operator_names()),
    }


@cache
def _known_functions() -> dict[int, Any]:
    """Stand-ins of functions and classes that are reached by name, by identity."""
    known: dict[int, Any] = {}
    for module, names in (
        (np, numpy_functions.numpy_names()),
        (math, python_functions.math_names()),
        (operator, python_functions.operator_names()),
        (builtins, python_functions.builtin_functions()),
    ):
        for name, stand in names.items():
            real = getattr(module, name)
            if callable(real):
                known[id(real)] = stand
    known[id(np.linalg.norm)] = numpy_functions.norm_handler()
    return known


@cache
def _builtins() -> dict[str, Any]:
    table: dict[str, Any] = {
        name: Poison(f"the built-in {name} is not known to the tracer")
        for name in vars(builtins)
    }
    return table | python_functions.builtin_functions()


class Sandbox:
    """Copies of functions, each made once."""

    def __init__(self) -> None:
        self._copies: dict[int, types.FunctionType] = {}
        self._originals: list[Any] = []  # keeps the ids of the keys alive

    def admit(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """
        Copy the function to be traced.

        Parameters
        ----------
        function : callable
            A Python function, a `functools.partial` of one, or a function that the tracer
            knows.

        Returns
        -------
        callable
            The copy, to be called with symbols.

        Raises
        ------
        NotTraceable
            If it is something else or its code does what a traced function must not do.
        """
        copy = self._convert(function, "")
        if isinstance(copy, Poison):
            refuse(reason_of(copy))
        result: Callable[..., Any] = copy
        return result

    def _convert(self, value: Any, name: str) -> Any:
        """Give what stands for a value that the function finds under `name`."""
        if value is None or type(value) in (bool, int, float, str, bytes):
            return value
        if isinstance(value, (np.bool_, np.integer, np.floating)):
            return value
        if type(value) is tuple:
            return tuple(self._convert(entry, name) for entry in value)
        if type(value) is np.ndarray and value.dtype.kind in "biuf":
            copy = value.copy()
            copy.flags.writeable = False
            return copy
        if isinstance(value, types.ModuleType):
            known = _modules().get(value)
            return known or Poison(f"it uses the module {value.__name__}")
        stand = _known_functions().get(id(value))
        if stand is not None:
            return stand
        if type(value) is types.FunctionType:
            return self._copies.get(id(value)) or self._copy(value)
        if type(value) is functools.partial:
            return self._partial(value, name)
        if _is_plain_exception(value):
            return value
        type_name = type(value).__name__
        if not name:
            return Poison(f"a {type_name} is no Python function: its code is not known")
        return Poison(f"it uses {name!r}, of type {type_name}")

    def _partial(self, value: functools.partial[Any], name: str) -> Any:
        function = self._convert(value.func, name)
        if isinstance(function, Poison):
            return function
        args = [self._convert(arg, name) for arg in value.args]
        kwargs = {k: self._convert(v, k) for k, v in value.keywords.items()}
        return functools.partial(function, *args, **kwargs)

    def _copy(self, function: types.FunctionType) -> types.FunctionType | Poison:
        code = function.__code__
        why = objection(code)
        if why is None and code.co_flags & _NOT_PLAIN:
            why = f"{function.__qualname__} is a generator or a coroutine"
        if why is None and len(self._copies) == MAX_FUNCTIONS:
            why = f"it reaches more than {MAX_FUNCTIONS} functions"
        if why is not None:
            return Poison(why)
        scope: dict[str, Any] = {"__builtins__": _builtins(), "__name__": "traced"}
        cells = tuple(types.CellType() for _ in code.co_freevars)
        copy = types.FunctionType(code, scope, function.__name__, None, cells or None)
        self._copies[id(function)] = copy
        self._originals.append(function)
        # Filled after the copy is known: functions may refer to themselves.
        for name in names_of(code):
            if name in function.__globals__:
                scope[name] = self._convert(function.__globals__[name], name)
        for name, ours, theirs in zip(
            code.co_freevars, cells, function.__closure__ or (), strict=True
        ):
            try:
                content = theirs.cell_contents
            except ValueError:
                continue  # not assigned yet: it stays so
            ours.cell_contents = self._convert(content, name)
        copy.__defaults__ = self._defaults(function)
        if function.__kwdefaults__:
            copy.__kwdefaults__ = {
                name: self._convert(value, name)
                for name, value in function.__kwdefaults__.items()
            }
        return copy

    def _defaults(self, function: types.FunctionType) -> tuple[Any, ...] | None:
        if function.__defaults__ is None:
            return None
        return tuple(self._convert(v, "a default") for v in function.__defaults__)


def _is_plain_exception(value: Any) -> bool:
    """Tell whether a value is an exception class that runs no code of its own."""
    return (
        isinstance(value, type)
        and issubclass(value, Exception)
        and isinstance(value.__init__, types.WrapperDescriptorType)
        and isinstance(value.__new__, types.BuiltinFunctionType)
    )
