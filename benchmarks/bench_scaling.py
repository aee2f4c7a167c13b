"""
Two threads against one, where arithmetic decides.

Two CPUs of a virtual machine may be two halves of one core, or busy with others.  What
they can give is measured beside: a second process computes all the time while this one
does half of the work on one thread.  All values here are ratios of minima.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from typing import Any

import numpy as np
from timing import Row, Settings, take_turns

import pydistrib

SUBJECT = "Two threads against one"
CASES = (
    ("sqeuclidean", 128, "float64"),
    ("cityblock", 128, "float32"),
    ("chebyshev", 64, "float64"),
    ("rbf", 16, "float64"),
)


def _inputs(features: int, dtype: str) -> Any:
    return np.random.default_rng(features).normal(size=(2000, features)).astype(dtype)


def _compute(name: str, x: Any, out: Any, workers: int) -> None:
    pydistrib.pairwise(x[: len(out)], x, name, out=out, workers=workers)


def _load(name: str, features: int, dtype: str, begun: Event, ended: Event) -> None:
    x = _inputs(features, dtype)
    out = np.ones((len(x) // 2, len(x)), dtype)
    _compute(name, x, out, 1)
    begun.set()
    while not ended.is_set():
        _compute(name, x, out, 1)


@contextmanager
def _other_process(name: str, features: int, dtype: str) -> Iterator[None]:
    context = multiprocessing.get_context("spawn")
    begun, ended = context.Event(), context.Event()
    process = context.Process(target=_load, args=(name, features, dtype, begun, ended))
    process.start()
    try:
        begun.wait()
        yield
    finally:
        ended.set()
        process.join()


def rows(settings: Settings) -> list[Row]:
    if settings.threads < 2:
        return []
    return [_row(settings, *case) for case in CASES]


def _row(settings: Settings, name: str, features: int, dtype: str) -> Row:
    x = _inputs(features, dtype)
    out = np.ones((len(x), len(x)), dtype)
    half = out[: len(x) // 2]
    times = take_turns(
        {
            "one": lambda: _compute(name, x, out, 1),
            "two": lambda: _compute(name, x, out, 2),
        },
        settings.rounds,
    )
    alone = times["one"].minimum
    with _other_process(name, features, dtype):
        beside = take_turns({"half": lambda: _compute(name, x, half, 1)}, settings.rounds)
    ideal = alone / beside["half"].minimum
    return Row(
        SUBJECT,
        f"{name}, d = {features}, {dtype}",
        f"one thread; two processes: {ideal:.2f} x",
        alone / times["two"].minimum,
        "x",
        1.8,
        ours=times["two"],
        theirs=times["one"],
    )
