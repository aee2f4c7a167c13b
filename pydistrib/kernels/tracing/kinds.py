"""
Kinds: what type a value would have if the function were called with real numbers.

The result of an operation, ``np.float32(1) * 0.1`` say, depends on the types of its
operands and on the version of NumPy.  Here nobody knows the rules: each operation is tried
once on sample operands of the same kinds, and what comes out is believed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, Final, NamedTuple

import numpy as np

# Python's numbers, which NumPy treats as weak, beside NumPy's.
PYTHON_KINDS: Final = ("bool", "int", "float")
INTEGER_KINDS: Final = (
    "int", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
)  # fmt: skip
BOOL_KINDS: Final = ("bool", "bool_")
FLOAT_KINDS: Final = ("float", "float32", "float64")
KINDS: Final = frozenset(INTEGER_KINDS + BOOL_KINDS + FLOAT_KINDS)

# NumPy 1 chooses the type of an array and a number by the number's value.
TYPES_FOLLOW_VALUES: Final = np.lib.NumpyVersion(np.__version__) < "2.0.0"

# Doubles hold every integer up to here.
MAX_EXACT: Final = 2**53


class Kind(NamedTuple):
    """
    A type.

    Parameters
    ----------
    name : str
        ``"float"`` for Python's, else the dtype's name (``"bool_"`` for NumPy's bool).
    ndim : int
        1 for an array of features, 0 for an array of no dimension, -1 for a number.
    """

    name: str
    ndim: int = -1


def kind_of(value: Any) -> Kind | None:
    """Give the kind of a number or of an array of at most one dimension, if it has one."""
    if type(value) in (bool, int, float):
        return Kind(type(value).__name__)
    if isinstance(value, (np.generic, np.ndarray)):
        ndim = value.ndim if isinstance(value, np.ndarray) else -1
        name = dtype_kind(value.dtype)
        if name in KINDS and ndim <= 1 and value.dtype.isnative:
            return Kind(name, ndim)
    return None


@cache
def dtype_kind(dtype: np.dtype[Any]) -> str:
    """Give the name of the kind of a dtype, known or not."""
    return "bool_" if dtype == np.bool_ else dtype.name


@cache
def sample(kind: Kind) -> Any:
    """Give a value of a kind, on which nearly every operation is defined."""
    if kind.name in PYTHON_KINDS:
        return {"bool": True, "int": 1, "float": 0.75}[kind.name]
    dtype = np.dtype("bool" if kind.name == "bool_" else kind.name)
    number = dtype.type(0.75 if dtype.kind == "f" else 1)
    return number if kind.ndim < 0 else np.full((1,) * kind.ndim, number)


@lru_cache(maxsize=4096)
def result_kind(function: Callable[..., Any], *kinds: Kind) -> Kind | None:
    """Give the kind of ``function(*operands)``; None if it has none that is known."""
    return kind_of_operands(function, [sample(kind) for kind in kinds])


def kind_of_operands(function: Callable[..., Any], operands: list[Any]) -> Kind | None:
    """Give the kind of ``function(*operands)``; None if it has none that is known."""
    try:
        with np.errstate(all="ignore"):
            return kind_of(function(*operands))
    except Exception:
        # A TypeError for the most part; the function itself will say it better.
        return None


def added(*operands: Any) -> Any:
    """
    Add operands up: what comes out is of the kind in which they are compared.

    Two of Python's bools add up to an int, and compare as ints too.
    """
    total = operands[0]
    for operand in operands[1:]:
        total = total + operand
    return total


def unit(kind: str) -> float:
    """Give the distance from 1 to the next number of a kind."""
    return 2.0**-23 if kind == "float32" else 2.0**-52


def integer_range(kind: str) -> tuple[int, int]:
    """Give the integers that a kind holds, as far as doubles hold them too."""
    if kind in BOOL_KINDS:
        return 0, 1
    if kind == "int":
        return -MAX_EXACT, MAX_EXACT
    info = np.iinfo(kind)
    return max(int(info.min), -MAX_EXACT), min(int(info.max), MAX_EXACT)
