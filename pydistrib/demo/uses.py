"""
What kernels are for, on real data, beside the library that one would take today.

Each use is a function from points to an answer, in plain NumPy around `pairwise`; the
other half of the file says what it is compared with and how good the answer is.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import product
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pydistrib import pairwise
from pydistrib.demo import data
from pydistrib.demo.comparison import (
    Comparison,
    Example,
    MissingPackage,
    Score,
    Setting,
)
from pydistrib.demo.data import Floats, Labelled

NEIGHBOURS: Final = 3

# What the hyper-parameters of the Gaussian process are chosen from.
LENGTH_SCALES: Final = (0.05, 0.1, 0.2, 0.4, 0.8)
NOISES: Final = (0.1, 0.3, 0.5, 1.0, 2.0)

# Flights that one block of the density holds: with some hundred minutes, about 8 MB.
BLOCK: Final = 2048

# The delays that the density is judged by, and drawn over: those of 99 of 100 flights.
# Outside they lie so far apart that one left out has no neighbour.
USUAL_MINUTES: Final = (-30, 180)


class Nearest(NamedTuple):
    """The nearest known points of some points, and the classes that they vote for."""

    distances: Floats
    votes: NDArray[Any]


def nearest_neighbours(known: Labelled, points: Floats) -> Nearest:
    """Let the nearest known points of every point vote for its class."""
    distances = pairwise(points, known.points, "euclidean")
    near = np.argpartition(distances, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]
    votes = _majority(known.labels[near])
    return Nearest(np.sort(np.take_along_axis(distances, near, axis=1)), votes)


def _majority(votes: NDArray[Any]) -> NDArray[Any]:
    classes = np.arange(votes.max() + 1)
    ballots = (votes[:, :, np.newaxis] == classes).sum(axis=1)
    return np.asarray(ballots.argmax(axis=1))


class Process(NamedTuple):
    """The hyper-parameters of a Gaussian process, and what it predicts with them."""

    length_scale: float
    noise: float
    predicted: Floats


def gaussian_process(
    known: Labelled, points: Floats, length_scale: float, noise: float
) -> Floats:
    """Predict the values of points by the mean of a Gaussian process (RBF kernel)."""
    from scipy.linalg import cho_factor, cho_solve

    gamma = 0.5 / length_scale**2
    mean, deviation = known.labels.mean(), known.labels.std()
    covariance = pairwise(known.points, metric="rbf", gamma=gamma)
    covariance[np.diag_indices_from(covariance)] += noise
    weights = cho_solve(cho_factor(covariance), (known.labels - mean) / deviation)
    prediction = pairwise(points, known.points, metric="rbf", gamma=gamma) @ weights
    return np.asarray(mean + deviation * prediction)


def explained_variance(values: Floats, predicted: Floats) -> float:
    """Give R^2, the share of the variance of `values` that a prediction explains."""
    return float(1 - np.mean((values - predicted) ** 2) / np.var(values))


def choose_and_predict(
    predict: Any, train: Labelled, validate: Labelled, points: Floats
) -> Process:
    """Choose hyper-parameters on `validate`, then learn from both parts and predict."""

    def quality(parameters: tuple[float, float]) -> float:
        predicted = predict(train, validate.points, *parameters)
        return explained_variance(validate.labels, predicted)

    best = max(product(LENGTH_SCALES, NOISES), key=quality)
    everything = Labelled(*map(np.concatenate, zip(train, validate, strict=True)))
    return Process(*best, predict(everything, points, *best))


def density(delays: Floats, minutes: Floats, bandwidth: float) -> Floats:
    """
    Give the Gaussian kernel density of `delays` at some `minutes`, per minute.

    The matrix of all kernels would hold gigabytes; it is summed up block by block.
    """
    gamma = 0.5 / bandwidth**2
    sums = np.zeros(len(minutes))
    kernels = np.empty((len(minutes), BLOCK))
    for start in range(0, len(delays), BLOCK):
        block = delays[start : start + BLOCK]
        out = kernels if len(block) == BLOCK else None
        sums += pairwise(minutes, block, "rbf", gamma=gamma, out=out).sum(axis=1)
    return np.asarray(sums / (len(delays) * bandwidth * np.sqrt(2 * np.pi)))


def bandwidth_of(delays: Floats) -> float:
    """Choose a bandwidth by Silverman's rule, but none below the clock's one minute."""
    quarter, three_quarters = np.percentile(delays, [25, 75])
    spread = min(delays.std(), (three_quarters - quarter) / 1.34)
    return float(max(1.0, 0.9 * spread * len(delays) ** -0.2))


class Delays(NamedTuple):
    """The density of all delays at the minutes that occur."""

    minutes: Floats
    per_minute: Floats


def delay_density(delays: Floats) -> Delays:
    """Give the density of the delays at every minute that occurs."""
    minutes = np.unique(delays)
    return Delays(minutes, density(delays, minutes, bandwidth_of(delays)))


def left_out_likelihood(delays: Floats, found: Delays, some: NDArray[np.bool_]) -> float:
    """Give the mean log of the density at `some` delays, each itself left out."""
    count = len(delays)
    own = 1 / (count * bandwidth_of(delays) * np.sqrt(2 * np.pi))
    at_some = found.per_minute[np.searchsorted(found.minutes, delays[some])]
    return float(np.log((at_some - own) * count / (count - 1)).mean())


def _compare_neighbours(setting: Setting) -> Comparison:
    points, labels = data.digits()
    from sklearn.neighbors import KNeighborsClassifier

    held_out, rest = data.split(len(points), 0.25)
    known = Labelled(points[rest], labels[rest])

    def original() -> Nearest:
        model = KNeighborsClassifier(NEIGHBOURS, algorithm="brute")
        model.fit(known.points, known.labels)
        distances, near = model.kneighbors(points[held_out])
        return Nearest(distances, _majority(known.labels[near]))

    return Comparison(
        size=f"{len(held_out)} x {len(rest)}, d = {points.shape[1]}",
        original_name="scikit-learn",
        original=original,
        ours=lambda: nearest_neighbours(known, points[held_out]),
        same=lambda a, b: np.allclose(a.distances, b.distances, rtol=1e-9),
        score=lambda answer: Score(
            "accuracy",
            float(np.mean(answer.votes == labels[held_out])),
            f"on {len(held_out)} digits held out",
        ),
    )


def _sklearn_process(
    known: Labelled, points: Floats, length_scale: float, noise: float
) -> Floats:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF

    model = GaussianProcessRegressor(
        RBF(length_scale, "fixed"), alpha=noise, optimizer=None, normalize_y=True
    )
    predicted: Floats = model.fit(known.points, known.labels).predict(points)
    return predicted


def _compare_processes(setting: Setting) -> Comparison:
    points, labels = data.diabetes()
    parts = data.split(len(points), 0.2, 0.2)
    held_out, validate, train = (Labelled(points[part], labels[part]) for part in parts)

    def on(predict: Any) -> Process:
        return choose_and_predict(predict, train, validate, held_out.points)

    return Comparison(
        size=f"{len(points)} x {len(points)}, d = {points.shape[1]}",
        original_name="scikit-learn",
        original=lambda: on(_sklearn_process),
        ours=lambda: on(gaussian_process),
        same=lambda a, b: (
            a[:2] == b[:2] and np.allclose(a.predicted, b.predicted, rtol=1e-6)
        ),
        note=lambda: f"best of {len(LENGTH_SCALES) * len(NOISES)} fits on a validation set",
        score=lambda answer: Score(
            "R^2",
            explained_variance(held_out.labels, answer.predicted),
            f"on {len(held_out.labels)} patients held out",
        ),
    )


def _scipy_density(delays: Floats) -> Delays:
    from scipy.stats import gaussian_kde

    minutes = np.unique(delays)
    factor = bandwidth_of(delays) / delays.std(ddof=1)
    return Delays(minutes, gaussian_kde(delays, bw_method=factor)(minutes))


def _compare_densities(setting: Setting) -> Comparison:
    delays, rows = data.flights()
    try:
        import scipy  # noqa: F401
    except ImportError as error:
        raise MissingPackage("scipy") from error
    earliest, latest = USUAL_MINUTES
    usual = (delays >= earliest) & (delays <= latest)
    normal = -0.5 * math.log(2 * math.pi * math.e * float(delays[usual].var()))
    return Comparison(
        size=f"{len(delays):,} x {len(np.unique(delays))}",
        original_name="SciPy",
        original=partial(_scipy_density, delays),
        ours=partial(delay_density, delays),
        same=lambda a, b: np.allclose(a, b, rtol=1e-9, atol=0),
        repeats=1 if setting.quick else 3,
        note=lambda: f"{rows:,} rows, {rows - len(delays):,} of them without a delay",
        score=lambda answer: Score(
            "log-likelihood",
            left_out_likelihood(delays, answer, usual),
            f"a flight, itself left out (a normal curve: {normal:.3f})",
        ),
    )


USES: Final = (
    Example("nearest neighbours of digits", _compare_neighbours),
    Example("Gaussian process on diabetes", _compare_processes),
    Example("density of flight delays", _compare_densities),
)
