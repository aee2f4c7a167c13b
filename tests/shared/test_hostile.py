"""A damaged segment, read from Python: an exception or some value, and never a crash."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("seed", range(3))
def test_any_bytes_may_be_anything(run_python, seed):
    code = f"""
        import collections, os, random
        import numpy as np
        from pydistrib import SharedDict

        rng = random.Random({seed})
        keys = ["a", "long " * 20, 1, 1.5, b"x", (1, ("y", 2.0)), ("z" * 50, None), 2**70]
        values = [1, 2.5, "text", "t" * 100, "u" * 3000, b"b" * 2000, 2**100, True, None,
                  np.arange(5), np.zeros((3, 1000)), np.zeros(200, "i4,f8")]
        told = collections.Counter()

        def attempt(act):
            try:
                act()
                told["fine"] += 1
            except (RuntimeError, ValueError, TypeError, KeyError, SyntaxError,
                    MemoryError, RecursionError) as error:
                told[type(error).__name__] += 1

        for _ in range(60):
            d = SharedDict(allow_pickle=False)
            for key in keys:
                for value in values:
                    d[key, len(str(value))] = d[key] = value
            fd, size = d.fileno(), d.nbytes
            for _ in range(rng.randrange(1, 400)):
                # What lies before the blocks is test_hostile.c's matter.
                place = rng.randrange(65536, size)
                garbage = rng.choice([
                    rng.randbytes(1), rng.randbytes(8), bytes(8), b"\\xff" * 8,
                    rng.randrange(size).to_bytes(8, "little"),
                ])
                os.pwrite(fd, garbage, place)
            for key in keys:
                attempt(lambda: str(d[key]))
                attempt(lambda: str(d.get((key, 5))))
                attempt(lambda: d.add(key))
            attempt(lambda: repr(d))
            attempt(lambda: list(d))
            attempt(lambda: d._audit())
            for key in keys:
                attempt(lambda: d.pop(key))
                attempt(lambda: d.update([(key, np.arange(999))]))
            attempt(d.clear)
        print(*told)
    """
    told = run_python(code).split()
    assert "fine" in told
    assert "RuntimeError" in told
