"""
Run the benchmarks: ``python benchmarks/run.py [--quick] [--only NAME ...]``.

Each subject is a module bench_NAME.py with a function rows(settings).  Peers and ours run
in one process, in turns (timing.py), with the same number of threads.  The report is
printed, and written to benchmarks/results/.

A peer that is not installed is named as absent; PyTorch is no part of the extra `bench`,
since it is large: ``pip install torch`` beside it.

Two variables that force OpenBLAS to the kernels of another CPU are taken away first, so
that the peers which use it run at their best.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FORCES_BLAS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


def free_blas() -> None:
    """Start again without the variables, which OpenBLAS reads when it is loaded."""
    forced = [name for name in FORCES_BLAS if name in os.environ]
    if forced:
        print(f"starting again without {' and '.join(forced)}", flush=True)
        kept = {k: v for k, v in os.environ.items() if k not in forced}
        os.execve(sys.executable, [sys.executable, *sys.argv], kept)


def main() -> None:
    subjects = sorted(p.stem.removeprefix("bench_") for p in HERE.glob("bench_*.py"))
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, rough numbers")
    parser.add_argument("--only", nargs="+", choices=subjects, default=subjects)
    parser.add_argument("--threads", type=int, default=2, help="of ours and of the peers")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    free_blas()

    import peers
    import report
    from timing import Row, Settings

    import pydistrib

    threads = min(options.threads, pydistrib.cpu_count())
    settings = Settings(quick=options.quick, threads=threads)
    peers.set_threads(threads)
    pydistrib.set_num_threads(threads)
    machine = peers.machine() | {"threads": str(threads)}
    others = peers.Others()
    rows: list[Row] = []
    for name in options.only:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows += importlib.import_module(f"bench_{name}").rows(settings)
    machine["meanwhile"] = others.share()
    print(report.write(options.results, machine, rows), end="")


if __name__ == "__main__":
    main()
