"""
The built-in metrics, as objects that are also functions of two points.

A metric stands in three places at once: as a name (``metric="cityblock"``), as a function
for one pair (``absolute_distance(2.0, 5.0)``), and as what `kernel` and `pairwise`
recognise and run natively.  All three give the same bits, since one pair is computed as a
matrix of one by one.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pydistrib import _core
from pydistrib.kernels.arrays import as_points, check_pair


@dataclass(frozen=True)
class Metric:
    """
    A distance or kernel that the native core knows.

    Parameters
    ----------
    name : str
        The name that `pairwise` takes as ``metric=``.
    formula : str
        The value of a pair of points x and y, in words of mathematics.
    aliases : tuple of str, optional
        Other names that mean the same.
    defaults : dict of str to callable, optional
        The parameters, each with a function of the number of features that gives its
        value where the caller does not.
    """

    name: str
    formula: str
    aliases: tuple[str, ...] = ()
    defaults: dict[str, Callable[[int], float]] = field(
        default_factory=dict, repr=False, hash=False
    )

    def parameters(self, given: dict[str, Any], features: int) -> dict[str, float]:
        """
        Complete and check the parameters of a call.

        Parameters
        ----------
        given : dict
            What the caller gave.
        features : int
            Number of features of a point.

        Returns
        -------
        dict of str to float
            A value for every parameter of the metric.

        Raises
        ------
        TypeError
            If a parameter is unknown or not a real number.
        ValueError
            If it is not finite or is negative.
        """
        unknown = sorted(set(given) - set(self.defaults))
        if unknown:
            takes = ", ".join(self.defaults) or "no parameters"
            raise TypeError(
                f"metric {self.name!r} takes {takes}, not {', '.join(map(repr, unknown))}"
            )
        values = {}
        for name, default in self.defaults.items():
            value = given.get(name)
            if value is None:
                values[name] = default(features)
                continue
            number = _real_number(value, name)
            if not (np.isfinite(number) and number >= 0):
                raise ValueError(f"{name} must be finite and at least 0, not {number}")
            values[name] = number
        return values

    def producer(
        self, x: NDArray[Any], y: NDArray[Any], given: dict[str, Any]
    ) -> _core.Producer:
        """
        Make the producer of the matrix of all pairs.

        Parameters
        ----------
        x, y : ndarray of shape (n, d) and (m, d), or (n,) and (m,)
            Points, float32 or float64, both the same.
        given : dict
            Parameters of the metric that the caller gave.

        Returns
        -------
        Producer
            What the native core walks over.
        """
        features = 1 if x.ndim == 1 else x.shape[1]
        values = self.parameters(given, features)
        return _core.metric_producer(self.name, x, y, values.get("gamma", 0.0))

    def __call__(self, a: ArrayLike, b: ArrayLike, **params: Any) -> np.floating[Any]:
        """
        Compute the value of one pair.

        Parameters
        ----------
        a, b : float or array_like of shape (d,)
            The two points.
        **params
            Parameters of the metric.

        Returns
        -------
        numpy.float64 or numpy.float32
            The value; a float32 if both points are, else a float64.

        Raises
        ------
        TypeError
            If a point is not real, or a parameter is unknown.
        ValueError
            If the points differ in their number of features.
        """
        from pydistrib.kernels.pairwise import pairwise

        x, y = _as_row(a, "a"), _as_row(b, "b")
        check_pair(x, y, "a", "b")
        value: np.floating[Any] = pairwise(x, y, self, workers=1, **params)[0, 0]
        return value


def _as_row(point: ArrayLike, name: str) -> NDArray[Any]:
    """Take one point, a number or a 1-D array, as the only row of a matrix."""
    if np.ndim(point) > 1:
        raise ValueError(
            f"{name} must be one point, a number or a 1-D array, not of shape "
            f"{np.shape(point)}"
        )
    # Keeps subclasses, so that as_points() sees what it refuses, such as a masked array.
    return as_points(np.atleast_2d(point), name)


def _real_number(value: object, name: str) -> float:
    if isinstance(value, numbers.Real):
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"{name} must be finite and at least 0, not {value}") from None
    raise TypeError(f"{name} must be a real number, not {value!r:.80}")


# A function of its own and no lambda: metrics can be pickled.
def _one_over(features: int) -> float:
    return 1.0 / max(features, 1)


absolute_distance: Final = Metric(
    "cityblock", "sum(|x - y|)", aliases=("absolute", "manhattan", "l1")
)
sqeuclidean: Final = Metric("sqeuclidean", "sum((x - y)**2)")
euclidean: Final = Metric("euclidean", "sqrt(sum((x - y)**2))", aliases=("l2",))
chebyshev: Final = Metric("chebyshev", "max(|x - y|)", aliases=("linf",))
rbf: Final = Metric(
    "rbf",
    "exp(-gamma * sum((x - y)**2))",
    aliases=("gaussian",),
    defaults={"gamma": _one_over},
)

METRICS: Final = (absolute_distance, sqeuclidean, euclidean, chebyshev, rbf)

_BY_NAME: Final = {name: m for m in METRICS for name in (m.name, *m.aliases)}


def metric_named(name: str) -> Metric:
    """Look a metric up by its name or one of its aliases, in any case."""
    try:
        return _BY_NAME[name.lower()]
    except KeyError:
        raise ValueError(
            f"metric {name!r} is unknown; known are {', '.join(sorted(_BY_NAME))}, and any "
            "function of two points"
        ) from None
