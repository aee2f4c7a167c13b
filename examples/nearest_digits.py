"""
Read handwritten digits by their nearest neighbours.

Needs scikit-learn for the digits: pip install 'pydistrib[demo]'

    python examples/nearest_digits.py
"""

import numpy as np
from sklearn.datasets import load_digits

from pydistrib import pairwise


def main() -> None:
    """Compare every fourth digit with all others."""
    points, labels = load_digits(return_X_y=True)
    held_out = np.arange(len(points)) % 4 == 0
    known, known_labels = points[~held_out], labels[~held_out]

    distances = pairwise(points[held_out], known, metric="euclidean")
    read = known_labels[distances.argmin(axis=1)]

    right = read == labels[held_out]
    print(f"{right.sum()} of {right.size} digits read right ({right.mean():.1%})")
    for index in np.flatnonzero(~right)[:3]:
        print(f"  a {labels[held_out][index]} was read as {read[index]}")


if __name__ == "__main__":
    main()
