"""`pairwise`: accurate, and the same bits whatever the threads, strides and neighbours."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import pydistrib
from pydistrib import _core

METRICS = ["cityblock", "sqeuclidean", "euclidean", "chebyshev", "rbf"]
TYPES = [np.float32, np.float64]

metrics = pytest.mark.parametrize("metric", METRICS)
types = pytest.mark.parametrize("dtype", TYPES)


def points(n, d, dtype, seed=0, scale=1.0):
    return (np.random.default_rng(seed).normal(0, scale, (n, d))).astype(dtype)


@st.composite
def inputs(draw):
    """Two arrays of points of one type, of ordinary size."""
    dtype = np.dtype(draw(st.sampled_from(TYPES)))
    features = draw(st.integers(0, 70))
    numbers = st.floats(-1000, 1000, width=32)
    return tuple(
        draw(hnp.arrays(dtype, (draw(st.integers(1, 12)), features), elements=numbers))
        for _ in range(2)
    )


class TestSameBits:
    @metrics
    @types
    @pytest.mark.parametrize(
        "shape", [(700, 500, 1), (300, 310, 3), (200, 190, 40), (70, 60, 1300)]
    )
    def test_any_number_of_workers(self, metric, dtype, shape, assert_same_bits):
        x, y = points(shape[0], shape[2], dtype), points(shape[1], shape[2], dtype, 1)
        expected = pydistrib.pairwise(x, y, metric, workers=1)
        for workers in (2, 3, 4, 7, 64):
            for _ in range(3):
                assert_same_bits(
                    pydistrib.pairwise(x, y, metric, workers=workers), expected
                )

    @metrics
    @types
    def test_any_instruction_set(self, metric, dtype, assert_same_bits):
        info = _core.simd_info()
        try:
            for n, m, d in [(33, 70, 1), (33, 70, 2), (20, 31, 33), (9, 35, 1100)]:
                x, y = points(n, d, dtype, scale=3), points(m, d, dtype, 1)
                results = []
                for name in info["available"]:
                    assert _core.simd_select(name)
                    assert _core.simd_info()["active"] == name
                    results.append(pydistrib.pairwise(x, y, metric))
                for result in results:
                    assert_same_bits(result, results[-1])
        finally:
            _core.simd_select(info["active"])

    @given(pair=inputs(), data=st.data())
    @metrics
    def test_any_strides(self, metric, pair, data, assert_same_bits):
        x, y = pair
        expected = pydistrib.pairwise(x, y, metric)
        wide = np.zeros((x.shape[0] * 2, x.shape[1] * 3), x.dtype)
        wide[::2, ::3] = x
        layouts = [
            np.asfortranarray(x),
            x[::-1].copy()[::-1],
            x[:, ::-1].copy()[:, ::-1],
            wide[::2, ::3],
        ]
        assert_same_bits(
            pydistrib.pairwise(data.draw(st.sampled_from(layouts)), y, metric), expected
        )
        assert_same_bits(
            pydistrib.pairwise(y, data.draw(st.sampled_from(layouts)), metric), expected.T
        )

    @given(pair=inputs(), data=st.data())
    @metrics
    def test_any_neighbours(self, metric, pair, data, assert_same_bits):
        x, y = pair
        whole = pydistrib.pairwise(x, y, metric)
        rows = data.draw(st.lists(st.integers(0, len(x) - 1), min_size=1, max_size=30))
        columns = data.draw(st.lists(st.integers(0, len(y) - 1), min_size=1, max_size=30))
        part = pydistrib.pairwise(x[rows], y[columns], metric)
        assert_same_bits(part, whole[np.ix_(rows, columns)])

    @given(pair=inputs())
    @metrics
    def test_symmetry(self, metric, pair, assert_same_bits):
        x, y = pair
        assert_same_bits(
            pydistrib.pairwise(y, x, metric),
            np.ascontiguousarray(pydistrib.pairwise(x, y, metric).T),
        )
        square = pydistrib.pairwise(x, metric=metric)
        assert_same_bits(square, pydistrib.pairwise(x, x, metric))
        assert (np.diag(square) == (1 if metric == "rbf" else 0)).all()

    @given(
        pair=st.tuples(
            hnp.arrays(np.int64, (5, 3), elements=st.integers(-(2**20), 2**20)),
            hnp.arrays(np.int64, (4, 3), elements=st.integers(-(2**20), 2**20)),
        ),
        shift=st.integers(-(2**40), 2**40),
    )
    @metrics
    def test_translation(self, metric, pair, shift, assert_same_bits):
        # Exact where the coordinates are: differences see no common part.
        x, y = (part.astype(float) for part in pair)
        moved = pydistrib.pairwise(x + float(shift), y + float(shift), metric)
        assert_same_bits(moved, pydistrib.pairwise(x, y, metric))

    @metrics
    def test_integers_are_converted_exactly(self, metric, assert_same_bits):
        x = np.arange(-20, 22).reshape(14, 3)
        expected = pydistrib.pairwise(x.astype(float), metric=metric)
        for dtype in ("i1", "i2", "i4", "i8", ">i4", "f2"):
            assert_same_bits(pydistrib.pairwise(x.astype(dtype), metric=metric), expected)
        assert_same_bits(pydistrib.pairwise(x.tolist(), metric=metric), expected)

    @metrics
    def test_one_dimension_is_one_feature(self, metric, assert_same_bits):
        for dtype in TYPES:
            x = points(40, 1, dtype)
            expected = pydistrib.pairwise(x, metric=metric)
            assert_same_bits(pydistrib.pairwise(x[:, 0], metric=metric), expected)
            assert_same_bits(
                pydistrib.pairwise(x[::-1, 0], metric=metric), expected[::-1, ::-1]
            )

    def test_environment_chooses_the_instruction_set(self, run_python):
        code = """
            import hashlib, numpy as np, pydistrib
            x = np.random.default_rng(0).normal(size=(300, 20))
            digest = hashlib.sha256()
            for metric in ("cityblock", "euclidean", "chebyshev", "rbf"):
                digest.update(pydistrib.pairwise(x, metric=metric))
            print(pydistrib._core.simd_info()["active"], digest.hexdigest())
        """
        digests = set()
        for name in _core.simd_info()["available"]:
            active, digest = run_python(code, PYDISTRIB_SIMD=name.upper()).split()
            assert active == name
            digests.add(digest)
        assert len(digests) == 1

    def test_an_instruction_set_that_is_not_there(self):
        done = subprocess.run(
            [sys.executable, "-c", "import pydistrib"],
            env={"PYDISTRIB_SIMD": "mmx"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert "ValueError: the environment variable PYDISTRIB_SIMD is 'mmx'" in done.stderr
        assert "scalar" in done.stderr


class TestAccuracy:
    @types
    @pytest.mark.parametrize("offset", [0.0, 1e6])
    def test_against_exact_sums(self, dtype, offset):
        for d in (1, 3, 33, 200):
            x = points(4, d, dtype) + dtype(offset)
            y = points(5, d, dtype, 1) + dtype(offset)
            cityblock = pydistrib.pairwise(x, y, "cityblock")
            sqeuclidean = pydistrib.pairwise(x, y, "sqeuclidean")
            chebyshev = pydistrib.pairwise(x, y, "chebyshev")
            # One rounding a difference and one a term; short sums in float32.
            terms = 2 + (d if dtype is np.float64 else min(d, 32))
            for i, j in np.ndindex(4, 5):
                differences = [
                    abs(Fraction(float(a)) - Fraction(float(b)))
                    for a, b in zip(x[i], y[j], strict=True)
                ]
                tolerance = terms * float(np.finfo(dtype).eps)
                exact = float(sum(differences))
                assert abs(cityblock[i, j] - exact) <= tolerance * exact
                exact = float(sum(d**2 for d in differences))
                assert abs(sqeuclidean[i, j] - exact) <= 2 * tolerance * exact
                assert chebyshev[i, j] == dtype(float(max(differences)))

    def test_near_points_far_from_the_origin_keep_their_digits(self):
        x = np.array([[1e8, 1e8], [1e8 + 1, 1e8]])
        np.testing.assert_array_equal(pydistrib.pairwise(x), [[0, 1], [1, 0]])
        x = np.array([[30000.0], [30000.25]], np.float32)
        np.testing.assert_array_equal(
            pydistrib.pairwise(x), np.float32([[0, 0.25], [0.25, 0]])
        )

    def test_errors_of_float32_terms_do_not_pile_up(self):
        x = np.zeros((1, 1_000_000), np.float32)
        y = np.full((1, 1_000_000), 0.1, np.float32)
        exact = float(np.float32(0.1)) * 1e6
        result = pydistrib.pairwise(x, y, "cityblock")
        assert result.dtype == np.float32
        # No more than the 32 terms between two flushes can lose.
        assert abs(float(result[0, 0]) - exact) <= 16 * float(np.finfo("f4").eps) * exact

    @types
    def test_rbf_down_to_denormal_results(self, dtype):
        top = 87.0 if dtype is np.float32 else 740.0
        squares = np.linspace(0, top, 1001)
        y = np.sqrt(squares).astype(dtype)
        result = pydistrib.pairwise(np.zeros(1, dtype), y, "rbf", gamma=1.0)[0]
        exact = np.exp(-(y.astype(np.longdouble) ** 2))
        error = np.abs(result - exact) / exact
        normal = exact > np.finfo(dtype).tiny
        # The argument of exp() is rounded once, which exp() makes relative.
        allowed = (squares + 4) * np.finfo(dtype).eps
        assert (error[normal] <= allowed[normal]).all()
        assert (np.diff(result) <= 0).all()

    @types
    @pytest.mark.parametrize("d", [1, 2, 7, 40, 300])
    def test_against_scipy(self, dtype, d):
        distance = pytest.importorskip("scipy.spatial.distance")
        x, y = points(30, d, dtype), points(41, d, dtype, 1)
        tolerance = 1e-12 if dtype is np.float64 else 1e-5
        for metric in METRICS[:4]:
            expected = distance.cdist(x.astype(float), y.astype(float), metric)
            result = pydistrib.pairwise(x, y, metric)
            assert result.dtype == dtype
            np.testing.assert_allclose(result, expected, rtol=tolerance, atol=0)
        expected = np.exp(
            -distance.cdist(x.astype(float), y.astype(float), "sqeuclidean") / d
        )
        np.testing.assert_allclose(
            pydistrib.pairwise(x, y, "rbf"), expected, rtol=tolerance * 10
        )

    def test_denormals_are_numbers(self):
        tiny = np.array([0.0, 5e-324, 1e-310])
        expected = np.abs(tiny[:, None] - tiny)
        assert np.array_equal(pydistrib.pairwise(tiny, metric="cityblock"), expected)
        single = np.array([0, 1e-45, 1e-40], np.float32)
        expected = np.abs(single[:, None] - single)
        assert np.array_equal(pydistrib.pairwise(single, metric="chebyshev"), expected)


class TestCall:
    def test_euclidean_is_the_default(self, assert_same_bits):
        x = points(5, 3, np.float64)
        assert_same_bits(pydistrib.pairwise(x), pydistrib.pairwise(x, x, "euclidean"))

    @pytest.mark.parametrize(
        ("names", "metric"),
        [
            (
                ["cityblock", "manhattan", "l1", "absolute", "CityBlock"],
                "absolute_distance",
            ),
            (["sqeuclidean"], "sqeuclidean"),
            (["euclidean", "l2", "Euclidean"], "euclidean"),
            (["chebyshev", "linf"], "chebyshev"),
            (["rbf", "gaussian"], "rbf"),
        ],
    )
    def test_names(self, names, metric, assert_same_bits):
        x = points(6, 3, np.float64)
        expected = pydistrib.pairwise(x, metric=getattr(pydistrib, metric))
        for name in names:
            assert_same_bits(pydistrib.pairwise(x, metric=name), expected)

    def test_types(self):
        single, double = points(3, 2, np.float32), points(3, 2, np.float64)
        assert pydistrib.pairwise(single).dtype == np.float32
        assert pydistrib.pairwise(single, double).dtype == np.float64
        assert pydistrib.pairwise(double, single).dtype == np.float64
        assert pydistrib.pairwise(single.astype("f2")).dtype == np.float64
        assert pydistrib.pairwise(single.astype("i4")).dtype == np.float64
        assert pydistrib.pairwise(single, dtype=np.float64).dtype == np.float64
        assert pydistrib.pairwise(double, dtype=np.float32).dtype == np.float32

    def test_gamma(self):
        x = points(5, 4, np.float64)
        squares = pydistrib.pairwise(x, metric="sqeuclidean")
        for gamma in (0, 0.0, 1, np.float32(0.5), 3.25, 1e-300, 1e300):
            result = pydistrib.pairwise(x, metric="rbf", gamma=gamma)
            np.testing.assert_allclose(result, np.exp(-float(gamma) * squares), rtol=1e-14)
        default = pydistrib.pairwise(x, metric="rbf", gamma=None)
        assert np.array_equal(default, pydistrib.pairwise(x, metric="rbf", gamma=0.25))

    def test_nothing_is_rounded(self, post_matrix, assert_same_bits):
        x = points(5, 3, np.float64)
        function = lambda a, b: float(np.abs(a - b).sum()) / 3  # noqa: E731
        expected = post_matrix(function, x, x)
        assert_same_bits(pydistrib.pairwise(x, x, function, trace="never"), expected)

    @metrics
    @types
    def test_out(self, metric, dtype, assert_same_bits):
        x, y = points(300, 5, dtype), points(200, 5, dtype, 1)
        expected = pydistrib.pairwise(x, y, metric)
        out = np.full((300, 200), np.nan, dtype)
        assert pydistrib.pairwise(x, y, metric, out=out) is out
        assert_same_bits(out, expected)

    @types
    def test_large_results_go_past_the_caches(self, dtype, assert_same_bits):
        x, y = points(1999, 2, dtype), points(1501, 2, dtype, 1)
        result = pydistrib.pairwise(x, y, "chebyshev")
        expected = np.abs(x[:, None] - y[None]).max(axis=2)
        assert_same_bits(result, expected)
