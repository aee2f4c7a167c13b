"""
State that processes and threads share: a dict, arrays and a lock, without a server.

All of it lies in memory that has no name.  Objects reach another process by inheritance
(fork), as arguments of a `multiprocessing.Process`, or through a pool, queue or pipe of
`multiprocessing` or `concurrent.futures`; what travels is a handle, and the memory is
freed when the last process has dropped it, however that process ended.
"""

from __future__ import annotations

import ast
import os
import pickle
from collections.abc import (
    Callable,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    ValuesView,
)
from collections.abc import ItemsView as AbstractItemsView
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing import reduction
from typing import Any, Final, Generic, NoReturn, TypeVar, cast
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from pydistrib import _core

__all__ = ["Manager", "SharedArray", "SharedDict", "SharedLock", "share", "shared_empty"]

K = TypeVar("K")
V = TypeVar("V")

_UNSET: Final[Any] = object()
_OPTIMISTIC_TRIES: Final = 16


def _refuse_pickle(shared: object) -> NoReturn:
    raise TypeError(
        f"a {type(shared).__name__} cannot be pickled by itself: it travels as an argument "
        "of a multiprocessing.Process, or through a Pool, Queue or Pipe of multiprocessing "
        "or concurrent.futures"
    )


def _receive(descriptor: Any) -> int:
    """Take over a descriptor that another process has sent."""
    try:
        return cast(int, descriptor.detach())
    except (OSError, EOFError, pickle.PickleError) as error:
        raise RuntimeError(
            "the shared memory cannot be reached: the process that sent it must still run "
            f"and be of this program ({type(error).__name__}: {error})"
        ) from error


# ---- The dict ----


class _Values(ValuesView[V]):
    """The values, of the moment that each iteration begins."""

    _mapping: SharedDict[Any, V]

    def __iter__(self) -> Iterator[V]:
        return (value for _, value in self._mapping._list(True, False))

    def __repr__(self) -> str:
        return f"dict_values({list(self)!r})"


class _Items(AbstractItemsView[K, V]):
    """The items, of the moment that each iteration begins."""

    _mapping: SharedDict[K, V]

    def __iter__(self) -> Iterator[tuple[K, V]]:
        return iter(self._mapping._list(True, False))

    def __repr__(self) -> str:
        return f"dict_items({list(self)!r})"


class SharedDict(_core.SharedTable, MutableMapping[K, V], Generic[K, V]):
    """
    A dict in shared memory, for processes and threads, without a server process.

    Parameters
    ----------
    other : mapping or iterable of pairs, optional
        What it holds at first, like `dict`'s argument.
    allow_pickle : bool, default True
        Whether values may be arbitrary objects, which are pickled.  False limits them to
        int, float, bool, None, str, bytes and arrays without objects; reading what others
        wrote then runs none of their code.
    **items
        More of what it holds at first.

    Raises
    ------
    MemoryError
        From any method that stores, if the machine has no more memory.
    RuntimeError
        From any method, if the shared memory was damaged.
    TypeError
        For a key that is not a str, bytes, int, float, bool, None or a tuple of these.

    See Also
    --------
    SharedArray : An array that several processes write to.

    Notes
    -----
    Each method is one step that others see whole or not at all, also when its process is
    killed in the middle.  `d[k] += 1` is two steps, a get and a set: use `add`, `update`
    or `editing`.

    What a key holds is a copy: changing an object that was read changes nothing in the
    dict, and `editing` writes it back.  Arrays are read without copying: as read-only views
    of the value at that moment, which later writes leave as it is.

    Keys that are equal are one key, whatever process hashes them: 1, 1.0 and True.  All
    NaNs are one key.  Iteration follows the order of insertion, over the keys there were
    when it began.

    Examples
    --------
    >>> d = SharedDict(hits=0)
    >>> d.add("hits", 2)
    2
    >>> d["row", 1] = np.arange(3.0)
    >>> d["row", 1]
    array([0., 1., 2.])
    >>> with d.editing("log", []) as log:
    ...     log.append("started")
    >>> dict(d)
    {'hits': 2, ('row', 1): array([0., 1., 2.]), 'log': ['started']}
    """

    def __new__(
        cls, other: Any = (), /, *, allow_pickle: bool = True, **items: Any
    ) -> SharedDict[K, V]:
        """Make the shared memory."""
        return _remember(super().__new__(cls, -1, allow_pickle))

    def __init__(
        self,
        other: Mapping[K, V] | Iterable[tuple[K, V]] = (),
        /,
        *,
        allow_pickle: bool = True,
        **items: V,
    ) -> None:
        self.update(other, **items)

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Let a derived class travel, too."""
        super().__init_subclass__(**keywords)
        reduction.register(cls, _reduce_dict)

    def __iter__(self) -> Iterator[K]:
        """Iterate over the keys that there are now."""
        keys: list[K] = self._list(False, False)
        return iter(keys)

    def __reversed__(self) -> Iterator[K]:
        """Iterate over the keys that there are now, the newest first."""
        keys: list[K] = self._list(False, False)
        return reversed(keys)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.snapshot()!r})"

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Mapping):
            return NotImplemented
        theirs = other.snapshot() if isinstance(other, SharedDict) else dict(other.items())
        return self.snapshot() == theirs

    __hash__ = None  # type: ignore[assignment]

    def __or__(self, other: Mapping[Any, Any]) -> dict[Any, Any]:
        """Give a plain dict of both."""
        return (
            self.snapshot() | dict(other) if isinstance(other, Mapping) else NotImplemented
        )

    def __ror__(self, other: Mapping[Any, Any]) -> dict[Any, Any]:
        """Give a plain dict of both."""
        return (
            dict(other) | self.snapshot() if isinstance(other, Mapping) else NotImplemented
        )

    def __ior__(self, other: Any) -> SharedDict[K, V]:  # type: ignore[misc]
        """Store what the other has."""
        self.update(other)
        return self

    def __reduce__(self) -> NoReturn:
        """Refuse plain pickling, which cannot hand over memory."""
        _refuse_pickle(self)

    def __copy__(self) -> dict[K, V]:
        """Give a plain dict."""
        return self.snapshot()

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[K, V]:
        """Give a plain dict."""
        return self.snapshot()

    def values(self) -> ValuesView[V]:
        """
        Give a view of the values.

        Returns
        -------
        ValuesView
            Each iteration over it begins with the values of that moment.
        """
        return _Values(self)

    def items(self) -> AbstractItemsView[K, V]:
        """
        Give a view of the items.

        Returns
        -------
        ItemsView
            Each iteration over it begins with the items of that moment.
        """
        return _Items(self)

    def snapshot(self) -> dict[K, V]:
        """
        Give a plain dict of what there is at one moment.

        Returns
        -------
        dict
            No write of any process lies between two of its items.
        """
        return dict(self._list(True, True))

    copy = snapshot

    def popitem(self) -> tuple[K, V]:
        """
        Remove the newest item.

        Returns
        -------
        tuple
            The key and its value.

        Raises
        ------
        KeyError
            If the dict is empty.
        """
        while keys := self._list(False, False):
            value = self.pop(keys[-1], _UNSET)
            if value is not _UNSET:  # else somebody was quicker
                return keys[-1], value
        raise KeyError("popitem(): dictionary is empty")

    def _add_any(self, key: K, n: Any) -> Any:
        """Add what the core cannot; `add` calls it."""
        return self.update(key, lambda old: old + n, 0)

    def compare_and_set(self, key: K, expected: Any, new: V, /) -> bool:
        """
        Store a value if the key holds the expected one.

        Parameters
        ----------
        key : key
            A key; `setdefault` is for one that is not there yet.
        expected : object
            What the value must be equal to.
        new : object
            What to store.

        Returns
        -------
        bool
            Whether it was stored.
        """
        while (found := self._read(key)) is not None:
            value, version = found
            if not _are_equal(value, expected):
                return False
            if self._replace(key, version, new):
                return True
        return False

    def update(self, other: Any = (), /, *function: Any, **items: Any) -> Any:
        """
        Store many items, or replace the value of one key by a function of it.

        `update(mapping, **items)` is `dict.update`: item by item, each in one step.
        `update(key, function)` and `update(key, function, default)` replace a value in one
        step; without a default a key that is not there is a `KeyError`.

        Parameters
        ----------
        other : mapping, iterable of pairs, or key
            What to store, or the key whose value is to be replaced.
        *function : callable, optionally followed by a default
            Gets the old value and returns the new one.  No lock is held meanwhile, so when
            another process writes to the key first, it is called again: it should do
            nothing but compute.
        **items
            More of what to store.

        Returns
        -------
        object
            The new value; None if many items were stored.

        Examples
        --------
        >>> d = SharedDict(best=5)
        >>> d.update("best", lambda best: max(best, 7))
        7
        >>> d.update({"name": "x"}, size=3)
        """
        if function:
            return self._update_one(other, *function, **items)
        pairs = other.items() if isinstance(other, Mapping) else other
        if not isinstance(other, Mapping) and hasattr(other, "keys"):
            pairs = ((key, other[key]) for key in other.keys())  # noqa: SIM118
        for key, value in pairs:
            self[key] = value
        for name, value in items.items():
            self[cast(K, name)] = value
        return None

    def _update_one(
        self, key: K, function: Callable[[Any], Any], default: Any = _UNSET
    ) -> Any:
        if not callable(function):
            raise TypeError(
                "update() takes a mapping, or a key and a function, "
                f"not a key and a {type(function).__name__}"
            )
        tries, claimed = 0, False
        try:
            while True:
                value, version = self._read(key) or (default, None)
                if value is _UNSET:
                    raise KeyError(key)
                new = function(value)
                if self._replace(key, version, new):
                    return new
                tries += 1
                if tries >= _OPTIMISTIC_TRIES and not claimed:
                    claimed = self._claim(key)
        finally:
            if claimed:
                self._release(key)

    @contextmanager
    def editing(self, key: K, default: Any = _UNSET, /) -> Iterator[Any]:
        """
        Change a value in place: nobody else writes to its key meanwhile.

        Parameters
        ----------
        key : key
            A key.
        default : object, optional
            What to begin with if the key is not there.

        Yields
        ------
        object
            A copy of the value, which is stored at the end of the block unless the block
            raises.  Arrays are copied, so that they can be written to.

        Raises
        ------
        KeyError
            If the key is not there and no default was given.
        RuntimeError
            If the thread is editing this key already.

        Notes
        -----
        Writes of others to the key wait until the block ends or its process dies; reads do
        not.  Who edits two keys at once should do it in the same order everywhere.

        Examples
        --------
        >>> d = SharedDict(names=["a"])
        >>> with d.editing("names") as names:
        ...     names.append("b")
        >>> d["names"]
        ['a', 'b']
        """
        if not self._claim(key):
            raise RuntimeError(f"this thread is editing {key!r} already")
        try:
            value = self.get(key, default)
            if value is _UNSET:
                raise KeyError(key)
            value = np.array(value) if isinstance(value, np.ndarray) else value
            yield value
            self[key] = value
        finally:
            self._release(key)


def _are_equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return bool(np.array_equal(a, b))
    return bool(a == b)


# Of each shared memory there is one dict a process, however often it is received.
_dicts: WeakValueDictionary[tuple[int, int], SharedDict[Any, Any]] = WeakValueDictionary()


def _identity(fd: int) -> tuple[int, int]:
    about = os.fstat(fd)
    return about.st_dev, about.st_ino


def _remember(new: SharedDict[Any, Any]) -> SharedDict[Any, Any]:
    return _dicts.setdefault(_identity(new.fileno()), new)


def _reduce_dict(shared: SharedDict[Any, Any]) -> tuple[Any, ...]:
    descriptor = reduction.DupFd(shared.fileno())
    return _rebuild_dict, (type(shared), descriptor, shared.allow_pickle)


def _rebuild_dict(
    cls: type[SharedDict[Any, Any]], descriptor: Any, allow_pickle: bool
) -> SharedDict[Any, Any]:
    fd = _receive(descriptor)
    try:
        known = _dicts.get(_identity(fd))
        if type(known) is cls and known.allow_pickle == allow_pickle:
            os.close(fd)
            return known
        new = _core.SharedTable.__new__(cls, fd, allow_pickle)
    except BaseException:
        os.close(fd)
        raise
    return _remember(new) if known is None else new


# ---- Arrays ----


class SharedArray(np.ndarray[Any, np.dtype[Any]]):
    """
    An array in shared memory: what one process writes, the others see.

    Made by `shared_empty` and `share`, not by calling it.  Another process gets a handle,
    not a copy, and so it does for a view or a slice.  Results of arithmetic, and copies,
    are plain arrays of the process that made them.

    Attributes
    ----------
    is_shared : bool
        Whether its memory is shared.  It is not where a method of NumPy's has kept the type
        for a result of its own.

    See Also
    --------
    shared_empty : Make one of a shape and a dtype.
    share : Make one of an array.

    Notes
    -----
    There is no lock in it: who needs one takes a `SharedLock`.

    Examples
    --------
    >>> a = shared_empty((2, 3), dtype=np.float32)
    >>> a[:] = 1
    >>> float(a.sum())
    6.0
    >>> type(a * 2)
    <class 'numpy.ndarray'>
    """

    _block: _core.SharedBlock | None

    def __new__(cls, *args: Any, **keywords: Any) -> SharedArray:
        """Refuse: the functions that make them are clearer."""
        raise TypeError(
            "a SharedArray is made by shared_empty(shape, dtype) or share(array)"
        )

    @property
    def is_shared(self) -> bool:
        """Whether its memory is shared."""
        return self._block is not None

    def __array_finalize__(self, obj: Any) -> None:
        """Stay shared only where the memory is the same."""
        block = getattr(obj, "_block", None)
        self._block = block if block is not None and _lies_in(self, block) else None

    def __array_wrap__(
        self, array: Any, context: Any = None, return_scalar: bool = False
    ) -> Any:
        """Give plain arrays and scalars for results, but for `out=` of a shared one."""
        if array is self or getattr(array, "_block", None) is not None:
            return array
        return array[()] if return_scalar or array.ndim == 0 else array.view(np.ndarray)

    def __getitem__(self, index: Any) -> Any:
        """Give a shared view, or a plain copy where the index asks for one."""
        part = super().__getitem__(index)
        if isinstance(part, SharedArray) and part._block is None:
            return part.view(np.ndarray)
        return part

    def copy(self, order: Any = "C") -> NDArray[Any]:  # type: ignore[override]
        """
        Give a copy in memory of this process alone.

        Parameters
        ----------
        order : {'C', 'F', 'A', 'K'}, default 'C'
            As of `numpy.ndarray.copy`.

        Returns
        -------
        ndarray
            The copy.
        """
        return np.array(self, order=order, subok=False)

    def astype(self, *args: Any, **keywords: Any) -> NDArray[Any]:
        """
        Give a copy of another dtype in memory of this process alone.

        Parameters
        ----------
        *args, **keywords
            As of `numpy.ndarray.astype`.

        Returns
        -------
        ndarray
            The copy.
        """
        return self.view(np.ndarray).astype(*args, **keywords)

    def __copy__(self) -> NDArray[Any]:  # type: ignore[override]
        """Give a copy in memory of this process alone."""
        return self.copy("K")

    def __deepcopy__(self, memo: dict[int, Any], /) -> NDArray[Any]:  # type: ignore[override]
        """Give a copy in memory of this process alone."""
        return self.copy("K")

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse plain pickling, which cannot hand over memory."""
        return self.__reduce__()

    def __reduce__(self) -> Any:
        """Refuse plain pickling, which cannot hand over memory."""
        if self._block is None:
            return self.view(np.ndarray).__reduce__()
        _refuse_pickle(self)


def _address(array: NDArray[Any]) -> int:
    return cast(int, array.__array_interface__["data"][0])


def _lies_in(array: NDArray[Any], block: _core.SharedBlock) -> bool:
    first = _address(array)
    return block.address <= first <= block.address + block.nbytes


def shared_empty(
    shape: int | tuple[int, ...], dtype: DTypeLike = np.float64, *, order: str = "C"
) -> SharedArray:
    """
    Make an array in shared memory.

    Parameters
    ----------
    shape : int or tuple of int
        Its shape.
    dtype : dtype, default float64
        Its dtype; one with Python objects cannot be shared.
    order : {'C', 'F'}, default 'C'
        Whether rows or columns are contiguous.

    Returns
    -------
    SharedArray
        Of that shape; its elements are zero.

    Raises
    ------
    MemoryError
        If the machine has no memory for it; memory is taken at once.
    TypeError
        For a dtype with Python objects.

    See Also
    --------
    share : Make one of an array.

    Examples
    --------
    >>> weights = shared_empty(1000, dtype=np.float32)
    >>> weights.shape, weights.dtype
    ((1000,), dtype('float32'))
    """
    dtype = np.dtype(dtype)
    if dtype.hasobject:
        raise TypeError(f"dtype must have no Python objects to be shared, not {dtype}")
    if order not in ("C", "F"):
        raise ValueError(f"order must be 'C' or 'F', not {order!r}")
    lengths = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
    if any(length < 0 for length in lengths):
        raise ValueError(f"shape must not be negative, not {shape}")
    count = 1
    for length in lengths:
        count *= int(length)  # Python's integers do not overflow
    if count * dtype.itemsize >= 2**62:
        raise MemoryError(f"an array of shape {shape} and dtype {dtype} is too large")
    block = _core.SharedBlock(-1, count * dtype.itemsize)
    return _view_block(block, lengths, dtype, 0, None, order)


def share(array: ArrayLike) -> SharedArray:
    """
    Copy an array to shared memory.

    Parameters
    ----------
    array : array_like
        What to share.  One that is shared already is returned as it is.

    Returns
    -------
    SharedArray
        Of the same shape, dtype and elements.

    Raises
    ------
    TypeError
        For a dtype with Python objects.

    See Also
    --------
    shared_empty : Make one of a shape and a dtype.

    Examples
    --------
    >>> share([1.0, 2.0])
    SharedArray([1., 2.])
    """
    if isinstance(array, SharedArray) and array._block is not None:
        return array
    source = np.asarray(array)
    fortran = source.flags.f_contiguous and not source.flags.c_contiguous
    shared = shared_empty(source.shape, source.dtype, order="F" if fortran else "C")
    shared[...] = source
    return shared


def _view_block(
    block: _core.SharedBlock,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    offset: int,
    strides: tuple[int, ...] | None,
    order: Any = "C",
) -> SharedArray:
    array = np.ndarray.__new__(
        SharedArray, shape, dtype, cast(Any, block), offset, strides, order
    )
    array._block = block
    return array


def _reduce_array(array: SharedArray) -> tuple[Any, ...]:
    block = array._block
    if block is None:
        return cast("tuple[Any, ...]", array.view(np.ndarray).__reduce__())
    # A view may begin with its last element: what is sent is where the first one lies.
    place = (array.shape, array.dtype, _address(array) - block.address, array.strides)
    descriptor = reduction.DupFd(block.fileno())
    return _rebuild_array, (descriptor, block.nbytes, place, array.flags.writeable)


def _rebuild_array(
    descriptor: Any, nbytes: int, place: tuple[Any, ...], writeable: bool
) -> SharedArray:
    fd = _receive(descriptor)
    try:
        block = _core.SharedBlock(fd, nbytes)
    except BaseException:
        os.close(fd)
        raise
    array = _view_block(block, *place)
    array.flags.writeable = writeable
    return array


# ---- The lock ----


class SharedLock(_core.SharedMutex):
    """
    A lock for threads of all processes, which the death of its holder does not block.

    The thread that takes it must give it back.  When a thread or process dies with the
    lock, the next one gets it at once and finds `owner_died` True: what the lock guards may
    be half done.

    See Also
    --------
    SharedDict.editing : Exclusive access to one key.

    Notes
    -----
    Waiting for it leaves the GIL to others and answers Ctrl-C.

    Examples
    --------
    >>> lock = SharedLock()
    >>> with lock:
    ...     repair_first = lock.owner_died
    >>> repair_first, lock.locked()
    (False, False)
    """

    def __new__(cls) -> SharedLock:
        """Make the shared memory."""
        return super().__new__(cls, -1)

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Let a derived class travel, too."""
        super().__init_subclass__(**keywords)
        reduction.register(cls, _reduce_lock)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {'locked' if self.locked() else 'unlocked'}>"

    def __reduce__(self) -> NoReturn:
        """Refuse plain pickling, which cannot hand over memory."""
        _refuse_pickle(self)


def _reduce_lock(lock: SharedLock) -> tuple[Any, ...]:
    return _rebuild_lock, (type(lock), reduction.DupFd(lock.fileno()))


def _rebuild_lock(cls: type[SharedLock], descriptor: Any) -> SharedLock:
    fd = _receive(descriptor)
    try:
        return _core.SharedMutex.__new__(cls, fd)
    except BaseException:
        os.close(fd)
        raise


# ---- The standard library's face ----


class _ManagedDict(SharedDict[K, V]):
    """A SharedDict that gives lists of its keys, values and items, as a proxy does."""

    def keys(self) -> list[K]:  # type: ignore[override]
        """
        Give the keys.

        Returns
        -------
        list
            In the order of insertion.
        """
        return self._list(False, False)

    def values(self) -> list[V]:  # type: ignore[override]
        """
        Give the values.

        Returns
        -------
        list
            In the order of insertion.
        """
        return [value for _, value in self._list(True, False)]

    def items(self) -> list[tuple[K, V]]:  # type: ignore[override]
        """
        Give the items.

        Returns
        -------
        list
            In the order of insertion.
        """
        return self._list(True, False)

    def __repr__(self) -> str:
        return repr(self.snapshot())


class Manager:
    """
    Make shared objects as `multiprocessing.Manager()` does, but without its server.

    It has `dict` and `Lock`.  What they return needs no manager to live on, so `shutdown`
    does nothing but refuse further requests.

    See Also
    --------
    SharedDict : What `dict` makes.
    SharedLock : What `Lock` makes.

    Examples
    --------
    >>> manager = Manager()
    >>> return_dict = manager.dict()
    >>> return_dict["a"] = 1
    >>> print(return_dict.values())
    [1]
    """

    def __init__(self) -> None:
        self._is_shut_down = False

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *exception: object) -> None:
        self.shutdown()

    def _check(self) -> None:
        if self._is_shut_down:
            raise AssertionError("the manager was shut down")

    def dict(self, *args: Any, **items: Any) -> SharedDict[Any, Any]:
        """
        Make a dict.

        Parameters
        ----------
        *args, **items
            As of `dict`.

        Returns
        -------
        SharedDict
            One whose `keys`, `values` and `items` give lists, as the standard proxy's do.
        """
        self._check()
        made: _ManagedDict[Any, Any] = _ManagedDict(*args)
        for name, value in items.items():
            made[name] = value
        return made

    def Lock(self) -> SharedLock:
        """
        Make a lock.

        Returns
        -------
        SharedLock
            A new one.
        """
        self._check()
        return SharedLock()

    def shutdown(self) -> None:
        """Refuse further requests; what was made lives on."""
        self._is_shut_down = True

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"pydistrib's Manager has dict() and Lock(), not {name!r}; "
            "multiprocessing.Manager() has the rest"
        )


# ---- What the extension uses ----


@lru_cache(maxsize=512)
def _dtype_to_text(dtype: np.dtype[Any]) -> str | None:
    """Name a dtype such that `_text_to_dtype` gives it back; None: it has no name."""
    if dtype.hasobject or dtype.metadata:
        return None
    if dtype.fields is None and dtype.subdtype is None:
        text = repr(dtype.str)
    else:
        text = repr(np.lib.format.dtype_to_descr(dtype))
    try:
        return text if _text_to_dtype(text) == dtype else None
    except (TypeError, ValueError, SyntaxError):
        return None


@lru_cache(maxsize=512)
def _text_to_dtype(text: str) -> np.dtype[Any]:
    return np.lib.format.descr_to_dtype(ast.literal_eval(text))


reduction.register(SharedDict, _reduce_dict)
reduction.register(_ManagedDict, _reduce_dict)
reduction.register(SharedArray, _reduce_array)
reduction.register(SharedLock, _reduce_lock)
_core._set_shared_hooks(
    SharedArray, _dtype_to_text, _text_to_dtype, pickle.dumps, pickle.loads
)
