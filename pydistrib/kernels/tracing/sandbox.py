"""
The sandbox: what a traced function can reach.

A function that is traced runs a handful of times where the loop would have called it for
every pair.  That is sound only if it depends on nothing but its arguments and changes
nothing, so it is not the function itself that runs but a copy of it, made of the same code
with other globals, built-ins and closure cells:

- numbers, strings and tuples of them stand as they are, lists, dicts and arrays as copies
  that cannot be changed;
- the modules numpy, math and operator, and functions of theirs, are stand-ins that hold
  what `numpy_functions` and `python_functions` know;
- other Python functions are copied in the same way, with what they reach; methods, objects
  of plain classes and the user's modules show their attributes in the same way;
- everything else is a `Poison`, which refuses the trace when it is used in any way.

Nothing of the user's is patched, so threads do not see each other's traces.  Code that
stores anywhere but in its own local variables is refused before it runs (`code`).
"""

from __future__ import annotations

import builtins
import functools
import math
import operator
import types
from collections.abc import Callable
from functools import cache
from typing import Any, Final, Literal

import numpy as np

from pydistrib.kernels.tracing import numpy_functions, python_functions
from pydistrib.kernels.tracing.code import names_of, objection
from pydistrib.kernels.tracing.poison import FixedDict, FixedList, Poison, reason_of
from pydistrib.kernels.tracing.refusal import refuse

# More are not one distance function but a program.
MAX_FUNCTIONS: Final = 100

# Larger arrays of constants are not copied; and more entries of lists and dicts.
MAX_CONSTANTS: Final = 2**18

_MISSING: Final = object()


class _Module:
    """A stand-in of a module: what the tracer knows of it."""

    __slots__ = ("__module", "__names")

    def __init__(self, module: types.ModuleType, names: dict[str, Any]) -> None:
        self.__module = module
        # Beside each stand-in what it stands for, which somebody may replace.
        self.__names = {
            name: (stand, getattr(module, name))
            for name, stand in names.items()
            if _is_original(module, getattr(module, name))
        }

    def __getattr__(self, attribute: str) -> Any:
        known = self.__names.get(attribute)
        if known is None:
            refuse(f"{self.__module.__name__}.{attribute} is not known to the tracer")
        if getattr(self.__module, attribute, None) is not known[1]:
            refuse(f"{self.__module.__name__}.{attribute} was replaced by something else")
        return known[0]


def _is_original(module: types.ModuleType, value: Any) -> bool:
    """Tell whether a module's function is its own: somebody may have replaced it."""
    home = getattr(value, "__module__", None)
    return home in (None, module.__name__, f"_{module.__name__}") or not callable(value)


@cache
def _modules() -> dict[types.ModuleType, Any]:
    linalg = _Module(np.linalg, {"norm": numpy_functions.norm_handler()})
    return {
        np: _Module(np, {**numpy_functions.numpy_names(), "linalg": linalg}),
        np.linalg: linalg,
        math: _Module(math, python_functions.math_names()),
        operator: _Module(operator, python_functions.operator_names()),
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
            if callable(real) and _is_original(module, real):
                known[id(real)] = stand
    known[id(np.linalg.norm)] = numpy_functions.norm_handler()
    return known


class _Object(Poison):
    """An object, or a module, of the user's: its attributes in the sandbox."""

    __slots__ = ("_find",)

    def __init__(self, name: str, find: Callable[[Any, str], Any]) -> None:
        super().__init__(f"it uses {name} otherwise than by its attributes")
        object.__setattr__(self, "_find", find)

    def __getattribute__(self, attribute: str) -> Any:
        return object.__getattribute__(self, "_find")(self, attribute)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        method = object.__getattribute__(self, "_find")(self, "__call__")
        return method(*args, **kwargs)


class Sandbox:
    """Copies of functions and of what they use, each made once."""

    def __init__(self) -> None:
        self._copies: dict[int, Any] = {}
        self._originals: list[Any] = []  # keeps the ids of the keys alive
        self._functions = 0
        self._constants = 0

    def admit(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """
        Copy the function to be traced.

        Parameters
        ----------
        function : callable
            A Python function, a method or a callable object of a plain class, a
            `functools.partial` of one, or a function that the tracer knows.

        Returns
        -------
        callable
            The copy, to be called with symbols.

        Raises
        ------
        Refusal
            If it is something else or its code does what a traced function must not do.
        """
        copy = self._convert(function, "")
        if type(copy) is Poison:
            refuse(reason_of(copy))
        result: Callable[..., Any] = copy
        return result

    def _convert(self, value: Any, name: str) -> Any:
        """Give what stands for a value; reasons call it `name`, or the function if ""."""
        if value is None or type(value) in (bool, int, float, str, bytes):
            return value
        known = self._copies.get(id(value))
        if known is not None:
            return known
        # By its type: isinstance() would ask the object for its class.
        if issubclass(type(value), (np.bool_, np.integer, np.floating)):
            return value
        if callable(value):
            stand = _known_functions().get(id(value))
            if stand is not None:
                return stand
        if type(value) in _CONVERTERS:
            return _CONVERTERS[type(value)](self, value, name)
        if _is_plain_exception(value):
            return value
        if _is_plain_object(value):
            return self._remember(value, _Object(_called(value, name), self._of(value)))
        return Poison(_why_not(value, name))

    def _remember(self, value: Any, copy: Any) -> Any:
        self._copies[id(value)] = copy
        self._originals.append(value)
        return copy

    # Functions -------------------------------------------------------------------

    def _function(self, function: types.FunctionType, name: str) -> Any:
        code = function.__code__
        why = objection(code)
        if why is None and self._functions == MAX_FUNCTIONS:
            why = f"it reaches more than {MAX_FUNCTIONS} functions"
        if why is not None:
            return Poison(f"{why}, in {function.__name__}()" if name else why)
        self._functions += 1
        built_in: dict[str, Any] = {}
        scope: dict[str, Any] = {"__builtins__": built_in, "__name__": "traced"}
        cells = tuple(types.CellType() for _ in code.co_freevars)
        copy = types.FunctionType(code, scope, function.__name__, None, cells or None)
        self._remember(function, copy)
        # Filled after the copy is known: functions may refer to themselves.
        for used in names_of(code):
            value = function.__globals__.get(used, _MISSING)
            if value is not _MISSING:
                scope[used] = self._convert(value, f"the global {used!r}")
                continue
            value = _builtins_of(function).get(used, _MISSING)
            if value is not _MISSING:
                built_in[used] = self._built_in(value, used)
        for variable, ours, theirs in zip(
            code.co_freevars, cells, function.__closure__ or (), strict=True
        ):
            try:
                content = theirs.cell_contents
            except ValueError:
                continue  # not assigned yet: it stays so
            ours.cell_contents = self._convert(content, f"the variable {variable!r}")
        if function.__defaults__ is not None:
            first = code.co_argcount - len(function.__defaults__)
            copy.__defaults__ = tuple(
                self._convert(value, f"the default of {variable!r}")
                for value, variable in zip(
                    function.__defaults__, code.co_varnames[first:], strict=False
                )
            )
        if function.__kwdefaults__:
            copy.__kwdefaults__ = self._entries(function.__kwdefaults__)
        if function.__dict__:
            copy.__dict__.update(self._entries(function.__dict__))
        return copy

    def _built_in(self, value: Any, name: str) -> Any:
        converted = self._convert(value, name)
        if type(converted) is Poison:
            return Poison(f"the built-in {name}() is not known to the tracer")
        return converted

    def _entries(self, entries: dict[str, Any]) -> dict[str, Any]:
        return {
            name: self._convert(value, f"{name}=")
            for name, value in entries.items()
            if not name.startswith("__")
        }

    def _partial(self, value: functools.partial[Any], name: str) -> Any:
        function = self._convert(value.func, name)
        if type(function) is Poison:
            return function
        args = [self._convert(arg, "an argument of partial()") for arg in value.args]
        return functools.partial(function, *args, **self._entries(value.keywords))

    def _method(self, value: types.MethodType, name: str) -> Any:
        function = self._convert(value.__func__, name)
        if type(function) is Poison:
            return function
        return functools.partial(function, self._convert(value.__self__, "self"))

    # Objects ---------------------------------------------------------------------

    def _module(self, value: types.ModuleType, name: str) -> Any:
        known = _modules().get(value)
        if known is not None:
            return known
        return self._remember(
            value, _Object(f"the module {value.__name__}", self._of(value))
        )

    def _of(self, value: Any) -> Callable[[Any, str], Any]:
        """Make the function that finds an attribute of `value`."""

        def find(owner: _Object, attribute: str) -> Any:
            own = vars(value) if hasattr(value, "__dict__") else {}
            if isinstance(value, types.ModuleType):
                found = own.get(attribute, _MISSING)
                where = f"{value.__name__}.{attribute}"
            else:
                found = self._class_attribute(value, owner, own, attribute)
                where = f"{type(value).__name__}.{attribute}"
            if found is _MISSING:
                refuse(f"{where} is not known to the tracer")
            if isinstance(found, _Bound):
                return found.value
            return self._convert(found, where)

        return find

    def _class_attribute(
        self, value: Any, owner: _Object, own: dict[str, Any], name: str
    ) -> Any:
        found = next((vars(c)[name] for c in type(value).__mro__ if name in vars(c)), None)
        if isinstance(found, types.MemberDescriptorType):  # of __slots__
            return getattr(value, name, _MISSING)
        if isinstance(found, property):
            return _Bound(self._bind(found.fget, owner, name)())
        if name in own and name != "__call__":
            # A descriptor that stores would come before the object's own attribute.
            return _MISSING if hasattr(type(found), "__set__") else own[name]
        if type(found) is types.FunctionType:
            return _Bound(self._bind(found, owner, name))
        if isinstance(found, staticmethod):
            return found.__func__
        return _MISSING if found is None or hasattr(type(found), "__get__") else found

    def _bind(self, function: Any, owner: _Object, name: str) -> Callable[..., Any]:
        copy = self._convert(function, name)
        if type(copy) is Poison:
            refuse(reason_of(copy))
        return functools.partial(copy, owner)

    # Constants -------------------------------------------------------------------

    def _count(self, more: int) -> bool:
        self._constants += more
        return self._constants <= MAX_CONSTANTS

    def _array(self, value: np.ndarray[Any, Any], name: str) -> Any:
        if value.dtype.kind not in "biuf":
            return Poison(f"it uses {name}, an array of {value.dtype}")
        if not self._count(value.size):
            return Poison(f"it uses {name}, an array of {value.size} numbers")
        if not (value.flags.forc and value.dtype.isnative):
            # A copy would be added up in another order, or by another loop.
            return Poison(f"it uses {name}, an array that is not contiguous")
        # Of bytes, since nothing makes those writeable.
        order: Literal["C", "F"] = "C" if value.flags.c_contiguous else "F"
        copy = np.frombuffer(value.tobytes("A"), value.dtype)
        copy = copy.reshape(value.shape, order=order)
        return self._remember(value, copy)

    def _tuple(self, value: tuple[Any, ...], name: str) -> Any:
        if not self._count(len(value)):
            return Poison(f"it uses {name}, a tuple of too many entries")
        return tuple(self._convert(entry, name) for entry in value)

    def _list(self, value: list[Any], name: str) -> Any:
        if not self._count(len(value)):
            return Poison(f"it uses {name}, a list of {len(value)} entries")
        copy = FixedList()
        self._remember(value, copy)
        list.extend(copy, [self._convert(entry, name) for entry in value])
        return copy

    def _dict(self, value: dict[Any, Any], name: str) -> Any:
        if not self._count(len(value)):
            return Poison(f"it uses {name}, a dict of {len(value)} entries")
        if not all(type(key) in (str, int, bool, type(None)) for key in value):
            return Poison(f"it uses {name}, a dict whose keys are not plain")
        copy = FixedDict()
        self._remember(value, copy)
        dict.update(copy, {key: self._convert(entry, name) for key, entry in value.items()})
        return copy


class _Bound:
    """An attribute that is in the sandbox already."""

    def __init__(self, value: Any) -> None:
        self.value = value


_CONVERTERS: Final[dict[type, Callable[[Sandbox, Any, str], Any]]] = {
    types.FunctionType: Sandbox._function,
    types.MethodType: Sandbox._method,
    types.ModuleType: Sandbox._module,
    functools.partial: Sandbox._partial,
    np.ndarray: Sandbox._array,
    tuple: Sandbox._tuple,
    list: Sandbox._list,
    dict: Sandbox._dict,
}


# What type checkers do not know of functions.
_builtins_of: Final = operator.attrgetter("__builtins__")


def _called(value: Any, name: str) -> str:
    return f"{name}, of type {type(value).__name__}," if name else "the object"


def _why_not(value: Any, name: str) -> str:
    type_name = type(value).__name__
    if not name:
        return f"a {type_name} is no Python function: its code is not known"
    if issubclass(type(value), type):
        return f"it uses the class {value.__name__}"
    return f"it uses {name}, of type {type_name}"


def _is_plain_exception(value: Any) -> bool:
    """Tell whether a value is an exception class that runs no code of its own."""
    return (
        issubclass(type(value), type)
        and issubclass(value, Exception)
        and isinstance(value.__init__, types.WrapperDescriptorType)
        and isinstance(value.__new__, types.BuiltinFunctionType)
    )


def _is_plain_object(value: Any) -> bool:
    """Tell whether an object's attributes are where plain classes have them."""
    cls = type(value)
    bases = cls.__mro__[:-1]
    return (
        type(cls) is type
        and all(
            base.__flags__ & _HEAP_TYPE and "__getattr__" not in vars(base)
            for base in bases
        )
        and all(base.__module__ not in ("builtins", "numpy") for base in bases)
        and not any("__getattribute__" in vars(base) for base in bases)
    )


_HEAP_TYPE: Final = 1 << 9  # Py_TPFLAGS_HEAPTYPE: not a C extension's static type
