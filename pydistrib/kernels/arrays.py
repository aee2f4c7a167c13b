"""What goes in and what comes out: checks of points and of `out`."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from pydistrib import _core

# Pairs in doubt: rows of (row, col), and of rectangles (row, col, rows, cols).
Doubts = tuple[NDArray[np.intp], NDArray[np.intp]]

# bool, signed, unsigned and floating: what counts as a real number.
_REAL_KINDS = "biuf"


def as_points(value: ArrayLike, name: str) -> NDArray[Any]:
    """
    Take an argument as points: a 1-D array of numbers, or a 2-D array of rows.

    The array keeps its dtype, since a Python function is to be called with what its user
    gave; see `as_native` for the core's.
    """
    if _is_masked(value):
        raise TypeError(f"{name} is a masked array; fill or compress it first")
    try:
        points = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} is not an array: {error}") from None
    if points.dtype.kind not in _REAL_KINDS:
        raise TypeError(
            f"{name} must hold real numbers (bool, integer or floating), not dtype "
            f"{points.dtype}"
        )
    if points.ndim not in (1, 2):
        raise ValueError(
            f"{name} must be 1-D (numbers) or 2-D (one point a row), not of shape "
            f"{points.shape}"
        )
    return points


def _is_masked(value: object) -> bool:
    # NumPy imports its masked arrays when they are first named.  Not here: it takes its
    # time, and a fork while one thread imports leaves the child with a locked module.
    masked_arrays = getattr(sys.modules.get("numpy.ma"), "MaskedArray", ())
    return isinstance(value, masked_arrays)


def check_pair(x: NDArray[Any], y: NDArray[Any], x_name: str, y_name: str) -> None:
    """Check that the points of both arrays are alike."""
    if x.ndim != y.ndim:
        raise ValueError(
            f"{x_name} and {y_name} must both be 1-D or both 2-D, not of shape {x.shape} "
            f"and {y.shape}"
        )
    if x.ndim == 2 and x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{x_name} and {y_name} must have the same number of features; {x_name} has "
            f"{x.shape[1]} columns and {y_name} has {y.shape[1]}"
        )


def as_native(x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """
    Convert both arrays to the type that the core computes in, copying only if needed.

    That is float32 if both are, else float64: exact for every integer of up to 53 bits.
    """
    for points in (x, y):
        if points.dtype.kind == "f" and points.dtype.itemsize > 8:
            raise TypeError(
                f"{points.dtype} is not supported, the core computes in float64: convert "
                "with .astype(np.float64)"
            )
    both_single = x.dtype == y.dtype == np.float32
    dtype = np.dtype(np.float32 if both_single else np.float64)
    return (
        np.require(x, dtype, requirements="A"),
        np.require(y, dtype, requirements="A"),
    )


def result_dtype(dtype: DTypeLike | None, default: np.dtype[Any]) -> np.dtype[Any]:
    """Check the dtype of a result; None means `default`."""
    if dtype is None:
        return default
    try:
        wanted = np.dtype(dtype)
    except (TypeError, ValueError) as error:
        raise TypeError(f"dtype must be float32, float64 or None: {error}") from None
    if wanted not in (np.float32, np.float64):
        raise TypeError(f"dtype must be float32, float64 or None, not {wanted}")
    return wanted


def result_array(
    out: NDArray[Any] | None,
    shape: tuple[int, int],
    dtype: np.dtype[Any],
    inputs: dict[str, NDArray[Any]],
) -> NDArray[Any]:
    """Give the array to write into: `out` if it is fit for that, else a new one."""
    if out is None:
        return _core.empty_result(shape[0], shape[1], dtype)
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be an ndarray or None, not {type(out).__name__}")
    if out.shape != shape:
        raise ValueError(f"out must be of shape {shape}, not {out.shape}")
    if out.dtype != dtype or not out.dtype.isnative:
        raise TypeError(f"out must be of dtype {dtype}, not {out.dtype}")
    if not (out.flags.c_contiguous and out.flags.aligned):
        raise ValueError("out must be C-contiguous and aligned")
    if not out.flags.writeable:
        raise ValueError("out is read-only")
    for name, points in inputs.items():
        if np.may_share_memory(out, points) and _overlap(out, points):
            raise ValueError(f"out overlaps {name} in memory")
    return out


def _overlap(a: NDArray[Any], b: NDArray[Any]) -> bool:
    try:
        return np.shares_memory(a, b, max_work=10_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True
