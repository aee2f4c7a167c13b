"""
How functions, arguments and results travel between processes.

The standard pickler comes first.  Where it can't, or where what it made refers to
``__main__``, which the other process has not imported, cloudpickle sends the thing itself.
Buffers of `OUT_OF_BAND` bytes and more don't go through the pickle: they are handed to the
caller, who puts them into shared memory.

Functions of ``__main__`` that are sent so share one namespace in a worker, its own
``__main__``: what an initializer sets there, the tasks see, as they would have after a
fork.
"""

from __future__ import annotations

import collections
import contextlib
import copyreg
import io
import itertools
import os
import pickle
import sys
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

OUT_OF_BAND: Final = 16 * 1024

# What the standard pickler raises for things that it can't pickle.
_REFUSALS = (pickle.PicklingError, AttributeError, TypeError, ImportError)

loads = pickle.loads

_forced = 0  # by_value() blocks that are being run

# Nothing inside that another process could lack, no buffers: no need to look.
_SCALARS = frozenset({type(None), bool, int, float, complex, str, bytes})


Buffers = list[pickle.PickleBuffer]


class _ReadOnly(Exception):
    """There is a read-only array, which the standard pickler would make so there too."""


def _keep_large(
    buffers: Buffers | None, stop_at_read_only: bool
) -> Callable[[pickle.PickleBuffer], bool]:
    def keep(buffer: pickle.PickleBuffer) -> bool:
        view = memoryview(buffer)
        if stop_at_read_only and view.readonly and isinstance(view.obj, np.ndarray):
            raise _ReadOnly
        if buffers is None or view.nbytes < OUT_OF_BAND or not view.contiguous:
            return True  # into the pickle
        buffers.append(buffer)
        return False

    return keep


def _empty(buffers: Buffers | None) -> None:
    if buffers is not None:
        buffers.clear()


def _reduce_array(array: Any) -> Any:
    """Let a read-only array arrive as one that its receiver owns, as it does in a copy."""
    reduced = array.__reduce_ex__(5)
    if array.flags.writeable or len(reduced) != 2:
        return reduced
    return _own_copy, reduced


def _own_copy(make: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    return make(*args).copy(order="K")


_ARRAYS: Final[dict[Any, Any]] = {np.ndarray: _reduce_array}


class _ArrayPickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, buffers: Buffers | None) -> None:
        super().__init__(file, 5, buffer_callback=_keep_large(buffers, False))
        others: Any = copyreg.dispatch_table
        self.dispatch_table = collections.ChainMap(_ARRAYS, others)


def _dumps(thing: Any, buffers: Buffers | None) -> bytes:
    """Pickle as the standard pickler does, but for read-only arrays."""
    try:
        return pickle.dumps(thing, 5, buffer_callback=_keep_large(buffers, True))
    except _ReadOnly:
        _empty(buffers)
    file = io.BytesIO()
    _ArrayPickler(file, buffers).dump(thing)
    return file.getvalue()


class ForkedMain:
    """What a process that is forked now has of ``__main__``: its functions and classes."""

    def __init__(self) -> None:
        self._known = dict(_definitions())

    def lacks(self, data: bytes) -> bool:
        """Tell whether a pickle may name one that was defined or replaced since."""
        return any(
            self._known.get(name) is not thing and name.encode() in data
            for name, thing in _definitions()
        )


def _definitions() -> Iterator[tuple[str, Any]]:
    for name, thing in list(main_namespace().items()):
        if isinstance(thing, (types.FunctionType, type)):
            yield name, thing


def dumps(thing: Any, buffers: Buffers | None, main: ForkedMain | None = None) -> bytes:
    """
    Pickle a thing for another process.

    Parameters
    ----------
    thing : object
        What to send.
    buffers : list or None
        Gets the large buffers, in order, for `loads`; None leaves them in the pickle.
    main : ForkedMain, optional
        What the other process has of this one's ``__main__``; by default nothing.

    Returns
    -------
    bytes
        The pickle, without those buffers.
    """
    if type(thing) in _SCALARS:
        return pickle.dumps(thing, 5)
    if _forced:
        return _dumps_by_value(thing, buffers, None)
    try:
        data = _dumps(thing, buffers)
    except _REFUSALS as refusal:
        _empty(buffers)
        return _dumps_by_value(thing, buffers, refusal)
    if b"__main__" in data and (main is None or main.lacks(data)):
        try:
            by_value: Buffers | None = None if buffers is None else []
            sent = _dumps_by_value(thing, by_value, None)
        except _REFUSALS:
            return data  # then the worker has to import ``__main__``
        if buffers is not None:
            buffers[:] = by_value or []
        return sent
    return data


def dumps_result(thing: Any, buffers: Buffers | None) -> bytes:
    """
    Pickle a worker's result.

    As the standard library's pools do, it refuses a lambda of an imported module.
    """
    if type(thing) in _SCALARS:
        return pickle.dumps(thing, 5)
    try:
        return _dumps(thing, buffers)
    except _REFUSALS as refusal:
        if "<lambda>" in str(refusal) and "__main__" not in str(refusal):
            raise
        _empty(buffers)
        return _dumps_by_value(thing, buffers, refusal)


def _dumps_by_value(
    thing: Any, buffers: Buffers | None, refusal: BaseException | None
) -> bytes:
    file = io.BytesIO()
    try:
        _pickler()(file, _keep_large(buffers, False)).dump(thing)
    except _REFUSALS as error:
        if refusal is None:
            raise
        raise error from refusal
    return file.getvalue()


# --------------------------------------------------------------------------------------
# Whether a function is still what it was
# --------------------------------------------------------------------------------------

# What a function refers to: where, by which name, and what that is.
Dependencies = list[tuple[dict[str, Any], str, Any]]

_MISSING = object()
_UNCHANGING = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    types.ModuleType,
    types.BuiltinFunctionType,
)


def dependencies(function: Any) -> Dependencies | None:
    """
    List what the pickle of a function depends on, or None if it may change unseen.

    A function without closure or attributes is its code, its defaults and the globals that
    the code names.  As long as those are the same objects, none of which can change, the
    pickle is the same.
    """
    found: Dependencies = []
    return found if _depend(function, found, set()) else None


def _depend(function: Any, found: Dependencies, seen: set[int]) -> bool:
    if not isinstance(function, types.FunctionType) or id(function) in seen:
        return isinstance(function, types.FunctionType)
    seen.add(id(function))
    defaults = (function.__defaults__ or ()) + tuple(
        (function.__kwdefaults__ or {}).values()
    )
    if (
        function.__closure__ is not None
        or function.__dict__
        or function.__annotations__
        or not all(isinstance(value, _UNCHANGING) for value in defaults)
    ):
        return False
    for name in _names(function.__code__):
        value = function.__globals__.get(name, _MISSING)
        found.append((function.__globals__, name, value))
        if value is _MISSING or isinstance(value, _UNCHANGING):
            continue
        if isinstance(value, type) and value.__module__ != "__main__":
            continue
        if not _depend(value, found, seen):
            return False
    return True


def _names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return names


def unchanged(found: Dependencies) -> bool:
    """Tell whether everything is still the same."""
    return all(space.get(name, _MISSING) is value for space, name, value in found)


# --------------------------------------------------------------------------------------
# cloudpickle, with a shared __main__
# --------------------------------------------------------------------------------------


class _MainNamespace(dict[str, Any]):
    """Stands for the namespace of ``__main__`` in a pickle."""

    def __reduce__(self) -> Any:
        return main_namespace, ()


def main_namespace() -> dict[str, Any]:
    """Give the namespace of this process's ``__main__``."""
    return sys.modules["__main__"].__dict__


# name -> the object that arrived last: what differs was set by this process, and stays.
_arrived: dict[str, Any] = {}


def adopt_main() -> None:
    """Take ``__main__`` as it is for what has arrived: newer things replace it."""
    _arrived.update(main_namespace())


def _set_main_function(function: types.FunctionType, state: Any) -> None:
    """Complete a function of ``__main__`` that has arrived."""
    from cloudpickle import cloudpickle

    attributes, slots = state
    namespace = function.__globals__
    for name, value in slots["__globals__"].items():
        present = namespace.get(name, _MISSING)
        if present is _MISSING or present is _arrived.get(name, _MISSING):
            namespace[name] = _arrived[name] = value
    slots["__globals__"] = {}
    cloudpickle._function_setstate(function, (attributes, slots))


# --------------------------------------------------------------------------------------
# Functions of __main__ among arguments: pickled once, unpickled once in a worker
# --------------------------------------------------------------------------------------


@dataclass
class _Whole:
    """The pickle of a function that stays what it is while `found` and its code do."""

    code: types.CodeType
    found: Dependencies
    key: tuple[bytes, int]
    data: bytes


_wholes: weakref.WeakKeyDictionary[types.FunctionType, _Whole] = weakref.WeakKeyDictionary()
_received: OrderedDict[tuple[bytes, int], Any] = OrderedDict()
_RECEIVED_KEPT: Final = 256
_numbers = itertools.count()
_sender = os.urandom(8)  # with a number of ours it makes a key that nobody else gives


def _after_fork_in_child() -> None:
    global _sender
    _sender = os.urandom(8)
    _wholes.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _whole(
    function: types.FunctionType, main: dict[str, Any]
) -> tuple[tuple[bytes, int], bytes] | None:
    """Give a function's key and pickle, or None if it may change unseen."""
    if function.__globals__ is not main or function.__module__ != "__main__":
        return None
    known = _wholes.get(function)
    if known is None or known.code is not function.__code__ or not unchanged(known.found):
        found = dependencies(function)
        if found is None:
            return None
        file = io.BytesIO()
        pickler = _pickler()(file, None)
        pickler.whole = function
        pickler.dump(function)
        key = (_sender, next(_numbers))
        known = _Whole(function.__code__, found, key, file.getvalue())
        _wholes[function] = known
    return known.key, known.data


def main_function(key: tuple[bytes, int], data: bytes) -> Any:
    """Give a function of another process's ``__main__``, the same one for the same key."""
    function = _received.get(key)
    if function is None:
        function = _received[key] = pickle.loads(data)
        if len(_received) > _RECEIVED_KEPT:
            _received.popitem(last=False)
    return function


_pickler_type: Any = None


def _pickler() -> Any:
    global _pickler_type
    if _pickler_type is None:
        _pickler_type = _make_pickler_type()
    return _pickler_type


def _make_pickler_type() -> Any:
    from cloudpickle import cloudpickle

    class ByValue(cloudpickle.Pickler):  # type: ignore[misc]
        dispatch_table: ClassVar[Any] = collections.ChainMap(
            _ARRAYS, cloudpickle.Pickler.dispatch_table
        )

        def __init__(self, file: io.BytesIO, keep: Any) -> None:
            super().__init__(file, protocol=5, buffer_callback=keep)
            self.main = main_namespace()
            self.whole: Any = None
            # Not empty, so that cloudpickle adds nothing to it.
            self.globals_ref[id(self.main)] = _MainNamespace(__name__="__main__")

        def reducer_override(self, obj: Any) -> Any:
            # Not the thing itself, which _whole() pickles: that would have no end.
            if type(obj) is types.FunctionType and obj is not self.whole:
                known = _whole(obj, self.main)
                if known is not None:
                    return main_function, known
            return super().reducer_override(obj)

        def _dynamic_function_reduce(self, func: types.FunctionType) -> Any:
            reduced = super()._dynamic_function_reduce(func)
            if func.__globals__ is self.main:
                return (*reduced[:5], _set_main_function)
            return reduced

    return ByValue


@contextlib.contextmanager
def by_value(function: Any) -> Iterator[None]:
    """
    Send what is of the function's module itself rather than its name.

    For modules that the other process can't import, or where it finds something else.
    """
    import cloudpickle

    global _forced
    name = getattr(function, "__module__", None)
    module = sys.modules.get(name) if isinstance(name, str) else None
    if module is None or name == "__main__":
        yield
        return
    before = cloudpickle.list_registry_pickle_by_value()
    cloudpickle.register_pickle_by_value(module)
    _forced += 1
    try:
        yield
    finally:
        _forced -= 1
        if name not in before:
            cloudpickle.unregister_pickle_by_value(module)
