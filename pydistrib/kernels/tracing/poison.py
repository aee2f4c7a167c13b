"""What a traced function must not touch, and containers that it must not change."""

from __future__ import annotations

from typing import Any, Final, NoReturn

from pydistrib.kernels.tracing.refusal import refuse


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
abs add and array array_function array_ufunc bool bytes call complex contains delattr
delitem divmod enter eq exit float floordiv format ge getattribute getitem gt hash iadd
iand ifloordiv ilshift imatmul imod imul index int invert ior ipow irshift isub iter
itruediv ixor le len length_hint lshift lt matmul mod mul ne neg next or pos pow radd rand
rdivmod reduce_ex repr reversed rfloordiv rlshift rmatmul rmod rmul ror round rpow rrshift
rshift rsub rtruediv rxor setattr setitem str sub truediv trunc xor
"""
for _name in _USES.split():
    setattr(Poison, f"__{_name}__", _poisoned)


class FixedList(list[Any]):
    """A copy of a list that exists before the function is called."""


class FixedDict(dict[Any, Any]):
    """A copy of a dict that exists before the function is called."""


def _fix(cls: type, names: str) -> None:
    def changes(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
        refuse(f"it changes a {cls.__mro__[1].__name__} that outlives the call")

    for name in names.split():
        setattr(cls, name, changes)
    cls.__name__ = cls.__mro__[1].__name__


_fix(
    FixedList,
    "append clear extend insert pop remove reverse sort "
    "__delitem__ __iadd__ __imul__ __setitem__",
)
_fix(FixedDict, "clear pop popitem setdefault update __delitem__ __ior__ __setitem__")
