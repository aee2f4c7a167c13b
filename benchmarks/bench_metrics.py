"""Metrics beside SciPy, PyTorch and scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import peers
from timing import Row, Settings, ratio_row, take_turns

import pydistrib

SUBJECT = "Metrics, out= where the peer has it"
MOST_REAL = {"float64": 5.0, "float32": 10.0}
NAMES = ("sqeuclidean", "cityblock", "chebyshev", "euclidean", "rbf")
TORCH_NORMS = {"cityblock": 1.0, "chebyshev": float("inf"), "euclidean": 2.0}


def rows(settings: Settings) -> list[Row]:
    n = 1000 if settings.quick else 2000
    result: list[Row] = []
    for features in (3, 16, 128):
        for dtype in ("float64", "float32"):
            random = np.random.default_rng(features)
            x = random.normal(size=(n, features)).astype(dtype)
            y = random.normal(size=(n, features)).astype(dtype)
            for name in NAMES:
                result += _one(settings, name, x, y)
    return result


def _one(settings: Settings, name: str, x: Any, y: Any) -> list[Row]:
    dtype, features = x.dtype.name, x.shape[1]
    out = np.ones((len(x), len(y)), x.dtype)
    contestants: dict[str, Callable[[], object]] = {
        "ours": lambda: pydistrib.pairwise(x, y, name, out=out)
    }
    targets: dict[str, float | None] = {}
    if peers.scipy is not None and name != "rbf":
        wide = np.ones((len(x), len(y)))  # cdist computes in float64 only
        contestants["SciPy cdist"] = lambda: peers.cdist(x, y, name, out=wide)
        targets["SciPy cdist"] = None if name == "euclidean" else MOST_REAL[dtype]
    if peers.torch is not None and name in TORCH_NORMS:
        _add_torch(contestants, targets, name, x, y)
    if peers.sklearn is not None and name == "euclidean":
        contestants["scikit-learn"] = lambda: peers.euclidean_distances(x, y)
        targets["scikit-learn"] = 1.0 if features == 128 else None
    if peers.sklearn is not None and name == "rbf":
        contestants["scikit-learn"] = lambda: peers.rbf_kernel(x, y)
        targets["scikit-learn"] = None
    if not targets:
        return []
    times = take_turns(contestants, settings.rounds)
    case = f"{name}, n = m = {len(x)}, d = {features}, {dtype}"
    return [
        ratio_row(SUBJECT, case, peer, times["ours"], times[peer], target)
        for peer, target in targets.items()
    ]


def _add_torch(
    contestants: dict[str, Callable[[], object]],
    targets: dict[str, float | None],
    name: str,
    x: Any,
    y: Any,
) -> None:
    p = TORCH_NORMS[name]
    xt, yt = peers.torch.from_numpy(x), peers.torch.from_numpy(y)
    modes = {"torch.cdist": "donot_use_mm_for_euclid_dist"}
    if name == "euclidean":
        modes["torch.cdist, matrix product"] = "use_mm_for_euclid_dist"
    for label, mode in modes.items():
        contestants[label] = (  # type: ignore[misc]
            lambda mode=mode: peers.torch.cdist(xt, yt, p, compute_mode=mode)
        )
        targets[label] = None if name == "euclidean" else 3.0
