"""
The matrix of your own function over all pairs, in native threads.

    python examples/kernel_of_a_function.py
"""

from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pydistrib import explain, kernel


def double_loop(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float32]:
    """Do it in plain Python, for comparison."""
    matrix = np.zeros((len(x), len(y)))
    for i in range(len(x)):
        for j in range(len(y)):
            matrix[i, j] = abs(x[i] - y[j])
    return matrix.astype(np.float32).round(3)


def main() -> None:
    """Compare the loop with `kernel`, then try functions of rows."""
    rng = np.random.default_rng(0)
    x, y = rng.random(1000), rng.random(1000)

    start = perf_counter()
    expected = double_loop(x, y)
    loop_seconds = perf_counter() - start

    start = perf_counter()
    matrix = kernel(lambda a, b: abs(a - b), x, y)
    seconds = perf_counter() - start

    print(f"loop {loop_seconds:.3f} s, kernel {seconds:.6f} s")
    print("same bits:", bool(np.array_equal(matrix, expected)))

    # A function of two rows of 2-D arrays: 500 x 500 points in the plane.
    points = rng.standard_normal((500, 2))

    def gaussian(a: Any, b: Any) -> Any:
        return np.exp(-((a - b) ** 2).sum())

    print("mean similarity:", kernel(gaussian, points, points, decimals=None).mean())

    # Which way does a function go, and why?
    print(explain(gaussian, points, points))
    print(explain(lambda a, b: len(f"{a - b:.2g}"), x, y))


if __name__ == "__main__":
    main()
