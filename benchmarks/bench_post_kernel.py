"""The post's kernel: our call beside the double loop that it replaces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from timing import Row, Settings, ratio_row, take_turns

import pydistrib

SUBJECT = "The post's kernel: abs(a - b), float32, 3 decimals"


def post_distance(a: Any, b: Any) -> Any:
    return abs(a - b)


def post_loop(function: Callable[[Any, Any], Any], alpha: Any, beta: Any) -> Any:
    """What pydistrib.kernel replaces."""
    n, m = alpha.shape[0], beta.shape[0]
    covariance = np.full((n, m), 0.0)
    for i in range(n):
        for j in range(m):
            covariance[i, j] = function(alpha[i], beta[j])
    return covariance.astype(np.float32).round(3)


def fastest_way() -> tuple[Any, str]:
    """The post's function if it is traced, else the metric that computes the same."""
    few = np.linspace(0.0, 1.0, 5)
    if pydistrib.explain(post_distance, few, few).way == "traced":
        return post_distance, ""
    return pydistrib.absolute_distance, "Functions are not traced: absolute_distance ran."


def rows(settings: Settings) -> list[Row]:
    function, note = fastest_way()
    result = [_tiny(pydistrib.absolute_distance, "absolute_distance", 0.015, "")]
    if not note:
        result.append(_tiny(post_distance, "traced and checked", 0.3, ""))
    sizes = {1000: (250.0, 250.0)}
    if not settings.quick:
        sizes[4000] = (300.0, 1000.0)
    for n, targets in sizes.items():
        result += _against_the_loop(settings, function, note, n, targets)
    return result


def _tiny(function: Any, name: str, target_ms: float, note: str) -> Row:
    x = np.random.default_rng(0).normal(size=5)
    timing = take_turns({"": lambda: pydistrib.kernel(function, x, x)}, 50)[""]
    return Row(
        SUBJECT,
        f"n = m = 5, whole call ({name})",
        "",
        1e3 * timing.median,
        "ms",
        target_ms,
        "lower",
        ours=timing,
        note=note,
    )


def _against_the_loop(
    settings: Settings, function: Any, note: str, n: int, targets: tuple[float, float]
) -> list[Row]:
    random = np.random.default_rng(n)
    alpha, beta = random.normal(size=n), random.normal(size=n)
    out = np.ones((n, n), np.float32)
    expected = post_loop(post_distance, alpha[:50], beta)
    assert np.array_equal(pydistrib.kernel(function, alpha[:50], beta), expected)
    times = take_turns(
        {
            "loop": lambda: post_loop(post_distance, alpha, beta),
            "fresh": lambda: pydistrib.kernel(function, alpha, beta),
            "out": lambda: pydistrib.kernel(function, alpha, beta, out=out),
        },
        3 if n <= 1000 or settings.quick else 2,
    )
    return [
        ratio_row(
            SUBJECT,
            f"n = m = {n}, {text}",
            "the post's loop",
            times[name],
            times["loop"],
            target,
            note,
        )
        for name, text, target in (
            ("fresh", "fresh result, dropped after each call", targets[0]),
            ("out", "out=", targets[1]),
        )
    ]
