"""Memory: the result and little more, whatever n and m; and nothing leaks."""

from __future__ import annotations

import gc
import os
import sys
import tracemalloc
from decimal import Decimal

import numpy as np
import pytest

import pydistrib

PEAK = r"""
    import re
    import numpy as np
    import pydistrib

    def peak_mb():
        # Not getrusage(), whose peak begins with that of the process that forked.
        with open("/proc/self/status") as file:
            return int(re.search(r"VmHWM:\s*(\d+) kB", file.read())[1]) * 1024 / 1e6

    # What the first call of anything needs once.
    small = np.random.default_rng(0).random((300, 3))
    for points in (small, small.astype("f4"), small[:, 0]):
        pydistrib.kernel(lambda a, b: float(np.sum(a)), points[:9], points, trace="never")
        pydistrib.kernel("rbf", points, points, workers=2)
    inputs = {inputs}
    before = peak_mb()
    result = {call}
    print(peak_mb() - before, result.nbytes / 1e6)
"""

CALLS = {
    "one feature": (
        "np.linspace(0, 1, 5000), np.linspace(0, 1, 7000)",
        "pydistrib.kernel('cityblock', *inputs, workers=2)",
    ),
    "float64": (
        "(np.linspace(0, 1, 4000),)",
        "pydistrib.pairwise(*inputs, metric='chebyshev', workers=2)",
    ),
    "float32, strided, many flushes": (
        "np.ones((3000, 400), 'f4').T[:, ::2].T, np.ones((3000, 400), 'f4')[::2]",
        "pydistrib.pairwise(inputs[0], inputs[1], 'rbf', workers=2)",
    ),
    "many features": (
        "np.ones((2000, 3000)), np.ones((2000, 3000))[::-1, ::-1]",
        "pydistrib.pairwise(*inputs, workers=2)",
    ),
    "wide": (
        "np.ones(3), np.ones(3_000_000)",
        "pydistrib.pairwise(*inputs, workers=2)",
    ),
    "tall": (
        "np.ones(3_000_000), np.ones(3)",
        "pydistrib.pairwise(*inputs, workers=2)",
    ),
    "a function, wide": (
        "np.ones(2), np.ones(3_000_000)",
        "pydistrib.kernel(max, *inputs, trace='never')",
    ),
    "a function, tall": (
        "np.ones(3_000_000), np.ones(2)",
        "pydistrib.kernel(max, *inputs, trace='never')",
    ),
    "a function, square": (
        "np.ones(1500), np.ones(1500)",
        "pydistrib.kernel(max, *inputs, trace='never')",
    ),
    "a function of rows": (
        "np.ones((700, 2)), np.ones((700, 2))",
        "pydistrib.kernel(lambda a, b: 1.0, *inputs, trace='never')",
    ),
}


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@linux
@pytest.mark.parametrize("name", CALLS)
def test_the_result_and_at_most_16_mb(name, run_python):
    inputs, call = CALLS[name]
    used, result = map(float, run_python(PEAK.format(inputs=inputs, call=call)).split())
    assert used <= result + 16
    assert used >= 0.8 * result or result < 16  # else the measure is broken


@linux
def test_with_out_at_most_16_mb(run_python):
    inputs = "np.linspace(0, 1, 4000), np.zeros((4000, 4000), 'f4') + 1"
    call = "pydistrib.kernel('cityblock', inputs[0], inputs[0], out=inputs[1], workers=2)"
    used, _ = map(float, run_python(PEAK.format(inputs=inputs, call=call)).split())
    assert used <= 16


@linux
def test_held_results_stay_within_their_limit(run_python):
    code = """
        import gc, resource
        import numpy as np
        import pydistrib
        from pydistrib import _core

        def resident_mb():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * resource.getpagesize() / 1e6

        x = np.linspace(0, 1, 3000)
        results = [pydistrib.kernel("cityblock", x, x[: 1000 + 50 * i]) for i in range(40)]
        info = _core.result_cache_info()
        assert info["held"] == 0
        full = resident_mb()
        results.clear()
        gc.collect()
        info = _core.result_cache_info()
        assert 0 < info["held"] <= info["limit"] == 256 << 20
        _core.set_result_cache_limit(0)
        assert _core.result_cache_info()["held"] == 0
        print(full - resident_mb())
    """
    assert float(run_python(code)) > 600


def exercise():
    """One of everything, with what fails."""
    x, p = np.linspace(0, 1, 6), np.linspace(0, 1, 12).reshape(4, 3)
    single = p.astype("f4")
    for metric in ("cityblock", "sqeuclidean", "euclidean", "chebyshev", "rbf"):
        pydistrib.kernel(metric, x, x, workers=2)
        pydistrib.pairwise(p, single, metric)
        pydistrib.pairwise(single[::-1], metric=metric)
        pydistrib.pairwise(p[:, :0], metric=metric)
    pydistrib.pairwise(np.linspace(0, 1, 400))
    pydistrib.absolute_distance(1.0, 2.0)
    pydistrib.explain("rbf", x, x)
    pydistrib.num_threads()
    for result in (1.0, np.float32(2), 3, np.array(1.5), Decimal(2), np.True_):
        pydistrib.kernel(lambda a, b: result, x, p[0], trace="never")
        pydistrib.kernel(lambda a, b: result, p, p, trace="never")
    for bad in ("text", None, 1j, np.ones(2, "f8"), [1], object()):
        with pytest.raises(TypeError):
            pydistrib.kernel(lambda a, b: bad, x, x, trace="never")
    with pytest.raises(TypeError):
        pydistrib.kernel(5, x, x)
    for error in (KeyError("mine"), KeyboardInterrupt()):

        def fail(a, b):
            raise error

        with pytest.raises(type(error)):
            pydistrib.kernel(fail, p, p, trace="never")
        error.__traceback__ = None
    huge = np.broadcast_to(1.0, 2**40)
    with pytest.raises(MemoryError):
        pydistrib.pairwise(huge)
    for options in (
        {"out": np.empty((2, 2), "f8")},
        {"workers": 0},
        {"dtype": "nonsense"},
        {"metric": "nonsense"},
        {"metric": "rbf", "gamma": -1},
        {"metric": max, "power": 2},
        {"trace": "nonsense"},
    ):
        with pytest.raises((TypeError, ValueError)):
            pydistrib.pairwise(x, **options)
    for bad in ("text", [None], np.ones((1, 1, 1), "f8"), p):
        with pytest.raises((TypeError, ValueError)):
            pydistrib.kernel("cityblock", bad, x)


def test_references_are_given_back():
    def function(a, b):
        return 0.5

    x, p = np.linspace(0, 1, 6), np.linspace(0, 1, 12).reshape(4, 3)
    watched = [function, x, p, *map(np.dtype, ("f4", "f8", "?", "i8", "u1")), np.ndarray]
    watched += [np.float64, np.float32, np.True_, pydistrib._core.Producer]

    def use():
        for points in (x, p, x.astype("f4"), p.astype("i8"), x > 0, p.astype("u1")):
            for called in (function, "cityblock", pydistrib.rbf):
                pydistrib.kernel(called, points, points, trace="never")
                pydistrib.kernel(called, points, points, dtype=None, trace="never")
            with pytest.raises(TypeError):
                pydistrib.kernel(lambda a, b: points, points, points, trace="never")
        exercise()

    use()
    gc.collect()
    before = [sys.getrefcount(thing) for thing in watched]
    for _ in range(50):
        use()
    gc.collect()
    after = [sys.getrefcount(thing) for thing in watched]
    # A leak would show fifty times; others may take a reference or two meanwhile.
    assert all(abs(a - b) < 25 for a, b in zip(after, before, strict=True)), (before, after)


def growth():
    """Tell by how many bytes Python's objects grow, three times over 400 rounds."""
    tracemalloc.start()
    held = []
    for _ in range(4):
        for _ in range(400):
            exercise()
        gc.collect()
        held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    return np.diff(held).tolist()


def test_python_objects_do_not_pile_up(run_python):
    # In a process of its own: other tests leave threads that make objects.
    here = os.path.dirname(__file__)
    code = f"import sys; sys.path.insert(0, {here!r}); import test_memory"
    said = run_python(code + "; print(*test_memory.growth())", quiet=False)
    # What Python and NumPy keep for re-use grows now and then, up to some 30 KB; a leak
    # of the smallest object grows by this much every time.
    assert min(map(int, said.split())) < 400 * 30


@linux
def test_memory_does_not_pile_up(run_python):
    code = """
        import resource
        import numpy as np
        import pydistrib

        def resident_mb():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * resource.getpagesize() / 1e6

        x, p = np.linspace(0, 1, 600), np.ones((40, 1500), "f4")
        rows = np.ones((2000, 5))

        def fail(a, b):
            raise KeyError

        def work(rounds):
            for _ in range(rounds):
                pydistrib.pairwise(x, workers=2)
                pydistrib.pairwise(p, metric="rbf", workers=2)
                pydistrib.pairwise(p.T[:40], metric="chebyshev")
                for function in (fail, lambda a, b: "x"):
                    try:
                        pydistrib.kernel(function, rows, rows, trace="never")
                    except (KeyError, TypeError):
                        pass

        work(300)
        before = resident_mb()
        work(1500)
        print(resident_mb() - before)
    """
    assert float(run_python(code)) < 3
