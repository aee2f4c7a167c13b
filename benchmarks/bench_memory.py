"""Peak memory of a call beyond its result, each in a fresh process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from timing import Row, Settings

SUBJECT = "Peak memory beyond the result"

# Peak resident memory is reset after the inputs are there, where the system can.
PROGRAM = """
import sys
import numpy as np
import pydistrib

def peak():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10

n, m, d, dtype, call, workers = eval(sys.argv[1])
random = np.random.default_rng(0)
shape = lambda k: (k,) if d is None else (k, d)
x, y = random.random(shape(n), dtype), random.random(shape(m), dtype)
small = x[:40], y[:40]
f = lambda a, b: getattr(pydistrib, call[0])(*call[1](a, b), workers=workers)
f(*small)
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = peak()
result = f(x, y)
print(peak() - before - result.nbytes)
"""

KERNEL = "('kernel', lambda a, b: (pydistrib.absolute_distance, a, b))"
METRIC = "('pairwise', lambda a, b: (a, b, {name!r}))"


def rows(settings: Settings) -> list[Row]:
    if not Path("/proc/self/clear_refs").exists():
        return []
    city, rbf = METRIC.format(name="cityblock"), METRIC.format(name="rbf")
    cases = {
        "kernel, 8000 x 8000": (8000, 8000, None, "float64", KERNEL),
        "kernel, 10 x 10,000,000": (10, 10_000_000, None, "float64", KERNEL),
        "kernel, 10,000,000 x 10": (10_000_000, 10, None, "float64", KERNEL),
        "cityblock, 8000 x 8000, d = 3": (8000, 8000, 3, "float64", city),
        "cityblock, 50 x 500,000, d = 40, float32": (50, 500_000, 40, "float32", city),
        "rbf, 300 x 300, d = 100,000": (300, 300, 100_000, "float64", rbf),
    }
    result = []
    for case, (n, m, d, dtype, call) in cases.items():
        arguments = f"({n}, {m}, {d}, {dtype!r}, {call}, {settings.threads})"
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM, arguments],
            capture_output=True,
            text=True,
            check=True,
        )
        extra = int(run.stdout) / (1 << 20)
        result.append(Row(SUBJECT, case, "", max(extra, 0.0), "MiB", 16.0, "lower"))
    return result
