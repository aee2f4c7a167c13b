"""What importing costs, on top of NumPy's import, and that it starts nothing."""

from __future__ import annotations

import statistics
import subprocess
import sys

from timing import Row, Settings, Timing

SUBJECT = "Import, in fresh interpreters that have imported NumPy"

PROGRAM = """
import time
import numpy
from pathlib import Path
tasks = Path("/proc/self/task")
before = len(list(tasks.iterdir())) if tasks.exists() else 0
start = time.perf_counter()
import pydistrib
seconds = time.perf_counter() - start
after = len(list(tasks.iterdir())) if tasks.exists() else 0
print(seconds, after - before + pydistrib._core.team_threads())
"""


def rows(settings: Settings) -> list[Row]:
    seconds, threads = [], 0
    for _ in range(10 if settings.quick else 30):
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
        )
        words = run.stdout.split()
        seconds.append(float(words[0]))
        threads = max(threads, int(words[1]))
    timing = Timing(min(seconds), statistics.median(seconds))
    return [
        Row(
            SUBJECT,
            "import pydistrib",
            "",
            1e3 * timing.median,
            "ms",
            30.0,
            "lower",
            timing,
        ),
        Row(SUBJECT, "threads started by the import", "", threads, "", 0.0, "lower"),
    ]
