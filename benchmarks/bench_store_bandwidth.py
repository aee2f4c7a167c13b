"""
abs(a - b) of all pairs to float32: bound by how fast memory takes the result.

The share of the bandwidth is a ratio of minima: a bandwidth is the most there is, and the
probe, whose threads have fixed halves, suffers more from what else runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import peers
from bench_post_kernel import fastest_way
from probe import store_probe
from timing import Row, Settings, ratio_row, take_turns

import pydistrib

SUBJECT = "abs(a - b) to float32, out="


def rows(settings: Settings) -> list[Row]:
    n = 4000 if settings.quick else 8000
    random = np.random.default_rng(1)
    a, b = random.normal(size=n), random.normal(size=n)
    out = np.ones((n, n), np.float32)
    function, note = fastest_way()

    contestants: dict[str, Callable[[], object]] = {
        "ours": lambda: pydistrib.kernel(function, a, b, out=out, decimals=None),
        "rounded": lambda: pydistrib.kernel(function, a, b, out=out),
    }
    contestants |= _probes(out, settings.threads)
    targets = _add_peers(contestants, a, b, out)
    times = take_turns(contestants, settings.rounds)

    case = f"n = m = {n}"
    result = []
    if "stream" in times:
        for name, text in (("ours", ""), ("rounded", ", rounded to 3 decimals")):
            result.append(
                Row(
                    SUBJECT,
                    case + text,
                    "streaming stores alone",
                    100 * times["stream"].minimum / times[name].minimum,
                    "%",
                    75.0,
                    ours=times[name],
                    theirs=times["stream"],
                    note=note,
                )
            )
        result.append(
            ratio_row(
                SUBJECT, case, "plain stores alone", times["ours"], times["plain"], None
            )
        )
    for peer, target in targets.items():
        result.append(ratio_row(SUBJECT, case, peer, times["ours"], times[peer], target))
    return result


def _probes(out: Any, threads: int) -> dict[str, Callable[[], object]]:
    probe = store_probe()
    if probe is None:
        return {}
    return {
        "stream": lambda: probe.fill(out, threads, True, 1),
        "plain": lambda: probe.fill(out, threads, False, 1),
    }


def _add_peers(
    contestants: dict[str, Callable[[], object]], a: Any, b: Any, out: Any
) -> dict[str, float]:
    """Add what is installed; give each peer's target."""
    a32, b32 = a.astype(np.float32), b.astype(np.float32)
    column, column32 = a[:, None], a32[:, None]
    targets = {}

    def add(name: str, call: Callable[[], object], target: float) -> None:
        contestants[name] = call
        targets[name] = target

    def numpy_out(x: Any, y: Any) -> None:
        np.subtract(x, y, out=out, casting="same_kind")
        np.abs(out, out=out)

    add("NumPy, out=", lambda: numpy_out(column, b), 2.5)
    add("NumPy, out=, inputs as float32", lambda: numpy_out(column32, b32), 2.5)
    if peers.numba is not None:
        for fastmath in (False, True):
            fill = peers.numba_abs_difference(fastmath)
            fill(a, b, out)
            name = f"numba prange{', fastmath' if fastmath else ''}"
            add(name, lambda fill=fill: fill(a, b, out), 1.0)  # type: ignore[misc]
    if peers.numexpr is not None:
        evaluate = peers.numexpr.evaluate
        for name, x, y in (("", column, b), (", inputs as float32", column32, b32)):
            add(
                f"numexpr{name}",
                lambda x=x, y=y: evaluate(  # type: ignore[misc]
                    "abs(x - y)", {"x": x, "y": y}, out=out, casting="same_kind"
                ),
                8.0,
            )
    if peers.torch is not None:
        torch = peers.torch
        to = torch.from_numpy(out)

        def torch_out(x: Any, y: Any) -> None:
            torch.sub(x, y, out=to)
            to.abs_()

        for name, x, y in (("", column, b), (", inputs as float32", column32, b32)):
            xt, yt = torch.from_numpy(x), torch.from_numpy(y)
            add(
                f"PyTorch{name}",
                lambda xt=xt, yt=yt: torch_out(xt, yt),  # type: ignore[misc]
                2.0,
            )
    return targets
