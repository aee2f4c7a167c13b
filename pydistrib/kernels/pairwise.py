"""
`kernel` and `pairwise`: the matrix of a function of all pairs.

Both are the same three steps: find the *producer* of the values (a built-in metric, the
expression that a Python function was traced to, or the function itself), make the result
array, and let the core walk producer x store.  They differ in their defaults only.

A traced function may leave pairs *in doubt*: so near to a rounding boundary that another
order of summation could show, or where the function might raise.  The core lists them, and
the function itself is called on them, in row-major order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from pydistrib import _core
from pydistrib._config import resolve_workers, thread_count, whole_number
from pydistrib.kernels.arrays import (
    Doubts,
    as_native,
    as_points,
    check_pair,
    result_array,
    result_dtype,
)
from pydistrib.kernels.metrics import Metric, metric_named
from pydistrib.kernels.recipe import Recipe

if TYPE_CHECKING:
    from pydistrib.kernels.trace import Traced
from pydistrib.pools.protocol import PoolBase

Trace = Literal["auto", "require", "never"]
DistanceFunction = Callable[[Any, Any], Any]

_TRACE_MODES: Final = ("auto", "require", "never")

# float32's largest power of ten, and about where float64's digits end.
_MAX_DECIMALS: Final = 300


@dataclass(frozen=True)
class Explanation:
    """
    Which way a function goes, and why.

    Parameters
    ----------
    way : {'metric', 'traced', 'called'}
        A built-in metric, the traced expression, both in native threads, or the function
        itself, called once for each pair.
    reason : str
        Why it is not a faster way; the formula where there is none faster.
    expression : str, optional
        The traced expression.
    """

    way: Literal["metric", "traced", "called"]
    reason: str
    expression: str = ""

    def __str__(self) -> str:
        text = f"{self.way}: {self.reason}"
        return f"{text}\n{self.expression}" if self.expression else text


@dataclass(frozen=True)
class _Plan:
    """A producer, how a worker makes it, and the function that settles its doubts."""

    producer: _core.Producer
    recipe: Recipe
    explanation: Explanation
    function: DistanceFunction | None = None
    traced: Traced | None = None


def _check_trace(trace: str) -> None:
    if not (isinstance(trace, str) and trace in _TRACE_MODES):
        raise ValueError(
            f"trace must be one of {', '.join(map(repr, _TRACE_MODES))}, not {trace!r}"
        )


def _plan(
    function: DistanceFunction | Metric | str,
    x: NDArray[Any],
    y: NDArray[Any],
    trace: str,
    params: dict[str, Any],
    argument: str,
) -> _Plan:
    """Choose the producer of function(x[i], y[j])."""
    _check_trace(trace)
    if isinstance(function, str):
        function = metric_named(function)
    if isinstance(function, Metric):
        producer = function.producer(*as_native(x, y), params)
        recipe = Recipe("metric", function.name, params)
        return _Plan(producer, recipe, Explanation("metric", function.formula))
    if not callable(function):
        raise TypeError(
            f"{argument} must be a function of two points, a metric or a metric's name, "
            f"not {type(function).__name__}"
        )
    if params:
        raise TypeError(
            f"{', '.join(map(repr, params))}: a Python function takes its parameters by "
            "functools.partial or a closure"
        )
    return _plan_function(function, x, y, trace)


def _plan_function(
    function: DistanceFunction, x: NDArray[Any], y: NDArray[Any], trace: str
) -> _Plan:
    from pydistrib.kernels.trace import NotTraceable, trace_pairs

    reason = 'trace="never"'
    if trace != "never":
        try:
            traced = trace_pairs(function, x, y)
        except NotTraceable as error:
            reason = str(error)
            if trace == "require":
                raise
        else:
            return _Plan(
                traced.producer,
                Recipe("traced", traced.program),
                Explanation("traced", "verified against the function"),
                function,
                traced,
            )
    producer = _core.callable_producer(function, x, y)
    recipe = Recipe("called", function)
    return _Plan(producer, recipe, Explanation("called", reason), function)


@dataclass(frozen=True)
class _Wish:
    """What the caller wants: the result's type, rounding and place, and who computes."""

    dtype: np.dtype[Any]
    decimals: int | None
    out: NDArray[Any] | None
    workers: int | None
    pool: PoolBase | None


def _check_wish(
    wish: _Wish, x: NDArray[Any], y: NDArray[Any], names: tuple[str, str]
) -> None:
    if wish.out is not None:
        inputs = dict(zip(names, (x, y), strict=True))
        result_array(wish.out, (len(x), len(y)), wish.dtype, inputs)
    if wish.pool is None:
        return
    if not isinstance(wish.pool, PoolBase):
        raise TypeError(
            "pool must be a pool of pydistrib, such as ThreadPool or DaskPool, or None, "
            f"not {type(wish.pool).__name__}"
        )
    wish.pool._check_running()


def _compute(plan: _Plan, x: NDArray[Any], y: NDArray[Any], wish: _Wish) -> NDArray[Any]:
    """Compute the matrix: on the pool if there is one and the work is worth it."""
    done = None
    if wish.pool is not None:
        from pydistrib.kernels.distributed import compute_on

        done = compute_on(
            wish.pool,
            plan.recipe,
            x,
            y,
            wish.out,
            wish.dtype,
            wish.decimals,
            wish.workers,
        )
    if done is not None:
        result, doubts = done
    else:
        shape = (len(x), len(y))
        result = result_array(wish.out, shape, wish.dtype, {})
        workers = resolve_workers(wish.workers)
        doubts = _core.store(plan.producer, result, wish.decimals, workers)
    _settle(plan, x, y, result, wish.decimals, doubts)
    return result


def _settle(
    plan: _Plan,
    x: NDArray[Any],
    y: NDArray[Any],
    out: NDArray[Any],
    decimals: int | None,
    doubts: Doubts | None,
) -> None:
    """Ask the function for the pairs in doubt."""
    if doubts is None:
        return
    assert plan.function is not None, "only traced functions doubt"
    for row, cols in _by_rows(*doubts):
        rows = np.full(len(cols), row, np.intp)
        values = _core.call_pairs(plan.function, x, y, rows, cols)
        out[row, cols] = _finish(values, out.dtype, decimals)


def _by_rows(
    pairs: NDArray[np.intp], rectangles: NDArray[np.intp]
) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Give the columns of the pairs in doubt, row by row, in the order of the loop."""
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    rectangles = rectangles[np.argsort(rectangles[:, 0], kind="stable")]
    rows = np.unique(
        np.concatenate(
            [pairs[:, 0], *(np.arange(r, r + n) for r, _, n, _ in rectangles.tolist())]
        )
    )
    starts = np.searchsorted(pairs[:, 0], rows)
    ends = np.searchsorted(pairs[:, 0], rows, side="right")
    for row, start, end in zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True):
        within = (rectangles[:, 0] <= row) & (row < rectangles[:, 0] + rectangles[:, 2])
        spans = [np.arange(c, c + n) for _, c, _, n in rectangles[within].tolist()]
        yield row, np.sort(np.concatenate([pairs[start:end, 1], *spans]))


def _finish(
    values: NDArray[Any], dtype: np.dtype[Any], decimals: int | None
) -> NDArray[Any]:
    with np.errstate(all="ignore"):
        cast = values.astype(dtype)
        return cast if decimals is None else cast.round(decimals)


def _check_decimals(decimals: SupportsIndex | None) -> int | None:
    if decimals is None:
        return None
    number = whole_number(decimals, "decimals must be an integer or None")
    if abs(number) > _MAX_DECIMALS:
        raise ValueError(
            f"decimals must be within -{_MAX_DECIMALS} and {_MAX_DECIMALS}, not {number}"
        )
    return number


def kernel(
    distance_function: DistanceFunction | Metric | str,
    alpha: ArrayLike,
    beta: ArrayLike,
    *,
    dtype: DTypeLike | None = np.float32,
    decimals: SupportsIndex | None = 3,
    out: NDArray[Any] | None = None,
    workers: SupportsIndex | None = None,
    pool: PoolBase | None = None,
    trace: Trace = "auto",
) -> NDArray[Any]:
    """
    Compute a function of every pair of two arrays: the matrix of a distance or kernel.

    The result is bit for bit that of the double loop ::

        for i in range(n):
            for j in range(m):
                covariance[i, j] = distance_function(alpha[i], beta[j])

    over a float64 `covariance`, followed by ``.astype(dtype).round(decimals)``.  It is
    computed in native threads without the GIL where `distance_function` is a built-in
    metric or can be traced into an expression; `explain` tells which way a function goes.

    Parameters
    ----------
    distance_function : callable, Metric or str
        A function of two points that returns one real number, a built-in metric such as
        `absolute_distance`, or a metric's name.  A point of a 1-D array is a NumPy scalar,
        a point of a 2-D array a 1-D array, read-only.
    alpha : array_like of shape (n,) or (n, d)
        The n points of the rows: bools, integers or floats.  Never copied if both inputs
        are float32 or both float64.
    beta : array_like of shape (m,) or (m, d)
        The m points of the columns.
    dtype : float32, float64 or None, optional
        Type of the result; None means float64.
    decimals : int or None, optional
        Decimals to round to, as `numpy.round` does; None does not round.
    out : ndarray of shape (n, m), optional
        C-ordered array of the type `dtype` to write into; must not overlap the inputs.
        After an exception its content is undefined.
    workers : int, optional
        Number of threads, at least 1, the calling one included.  By default
        `num_threads`.  With `pool` the threads of a tile.
    pool : ThreadPool, DaskPool or another pool, optional
        Computes the matrix in tiles on the workers of a pool; the bits are the same.
    trace : {'auto', 'require', 'never'}, optional
        Whether a Python function is traced: if possible, or else raising `NotTraceable`,
        or not at all.

    Returns
    -------
    ndarray of shape (n, m)
        The matrix; `out` where that was given.

    Raises
    ------
    TypeError
        If an input does not hold real numbers, `dtype` or the type of `out` is not
        supported, `distance_function` is not callable or returns something else than one
        real number.
    ValueError
        If the inputs are neither both 1-D nor both 2-D, differ in their number of features,
        a metric's name is unknown, `out` has another shape or order, is read-only or
        overlaps an input, or `workers` is less than 1.
    MemoryError
        If the n * m values do not fit in memory.
    NotTraceable
        If `trace` is 'require' and the function cannot be traced.

    See Also
    --------
    pairwise : The same in full precision, for libraries.
    explain : Which way a function goes, and why.

    Notes
    -----
    An exception of `distance_function` arrives unchanged, with its traceback.  A function
    that cannot be traced is called exactly once for each pair, in the order of the loop
    (for m up to 1,048,576).  A function that is traced is called on a sample of pairs, to
    verify the trace, and on pairs in doubt; NumPy's floating-point warnings are not shown
    then.

    Traced are functions of arithmetic, comparisons and branches, loops over up to 256
    features, the elementary functions and reductions of NumPy and `math`, and whatever else
    of Python comes down to these: helper functions, closures, methods, constant arrays,
    lists and dicts.  They must depend on nothing but their arguments and change nothing; a
    function for which that is not certain is called.  The constants are those of the call.

    Without rounding (``decimals=None`` and float64) a traced function's value may differ
    from the loop's by the few units in the last place by which NumPy's own functions differ
    between one element and many, and BLAS sums between two orders.

    With `pool` a tile is at least 100 ms of work; what is less than two tiles is computed
    here.  A traced function is sent as its program, and asked here for pairs in doubt.  A
    function that is called is called by the workers, more than once for some pairs.

    Time is O(n m d); memory is the result and less than 16 MB.  NaN and infinities follow
    IEEE arithmetic.  n or m of 0 gives an empty matrix.

    Examples
    --------
    >>> import numpy as np
    >>> from pydistrib import kernel
    >>> kernel(lambda a, b: abs(a - b), np.array([0.5, 2.0]), np.array([1.0, 1.2345]))
    array([[0.5  , 0.734],
           [1.   , 0.766]], dtype=float32)
    """
    x, y = as_points(alpha, "alpha"), as_points(beta, "beta")
    check_pair(x, y, "alpha", "beta")
    count = None if workers is None else thread_count(workers, "workers")
    places = _check_decimals(decimals)
    wanted = result_dtype(dtype, np.dtype(np.float64))
    wish = _Wish(wanted, places, out, count, pool)
    _check_wish(wish, x, y, ("alpha", "beta"))
    plan = _plan(distance_function, x, y, trace, {}, "distance_function")
    return _compute(plan, x, y, wish)


def pairwise(
    x: ArrayLike,
    y: ArrayLike | None = None,
    metric: DistanceFunction | Metric | str = "euclidean",
    *,
    dtype: DTypeLike | None = None,
    out: NDArray[Any] | None = None,
    workers: SupportsIndex | None = None,
    pool: PoolBase | None = None,
    trace: Trace = "auto",
    **params: Any,
) -> NDArray[Any]:
    """
    Compute the distance or kernel between every row of `x` and every row of `y`.

    This is the library-grade call: full precision, nothing is rounded, and float32 stays
    float32.  Distances are computed from differences, not from dot products, so that near
    points keep their digits; the bits are the same for any number of threads and any
    instruction set.

    Parameters
    ----------
    x : array_like of shape (n, d) or (n,)
        The n points, one a row: bools, integers or floats.  Never copied, whatever the
        strides, if both inputs are float32 or both float64; else converted to float64.
    y : array_like of shape (m, d) or (m,), optional
        The m points to compare with.  By default `x`.
    metric : str, Metric or callable, optional
        The name of a metric (cityblock, sqeuclidean, euclidean, chebyshev, rbf and their
        aliases), a metric, or any function of two points that returns one real number.
    dtype : float32, float64 or None, optional
        Type of the result.  None means float32 if both inputs are, else float64.
    out : ndarray of shape (n, m), optional
        C-ordered array of the result's type to write into; must not overlap the inputs.
        After an exception its content is undefined.
    workers : int, optional
        Number of threads, at least 1, the calling one included.  By default
        `num_threads`.  With `pool` the threads of a tile.
    pool : ThreadPool, DaskPool or another pool, optional
        Computes the matrix in tiles on the workers of a pool; the bits are the same.
    trace : {'auto', 'require', 'never'}, optional
        As for `kernel`.
    **params
        Parameters of the metric: ``gamma`` of 'rbf', by default 1 / d.

    Returns
    -------
    ndarray of shape (n, m)
        The matrix; `out` where that was given.

    Raises
    ------
    TypeError
        If an input does not hold real numbers, a type is not supported, or a parameter is
        unknown.
    ValueError
        If shapes do not fit, the metric is unknown, `out` is not fit to write into, or
        `workers` is less than 1.
    MemoryError
        If the n * m values do not fit in memory.

    See Also
    --------
    kernel : Rounded to float32 and 3 decimals, as the loop that it replaces.
    scipy.spatial.distance.cdist : More metrics, one thread.

    Notes
    -----
    Time is O(n m d); memory is the result and less than 16 MB.  A NaN in a row makes every
    distance of that row NaN, also in 'chebyshev'; d of 0 gives 0 (1 for 'rbf').  float32
    sums are flushed into float64 every 32 terms.

    Examples
    --------
    >>> import numpy as np
    >>> from pydistrib import pairwise
    >>> x = np.array([[0.0, 0.0], [3.0, 4.0]])
    >>> pairwise(x)
    array([[0., 5.],
           [5., 0.]])
    >>> pairwise(x, metric="rbf", gamma=0.02)
    array([[1.        , 0.60653066],
           [0.60653066, 1.        ]])
    """
    a = as_points(x, "x")
    b = a if y is None else as_points(y, "y")
    check_pair(a, b, "x", "y")
    count = None if workers is None else thread_count(workers, "workers")
    single = a.dtype == b.dtype == np.float32
    wanted = result_dtype(dtype, np.dtype(np.float32 if single else np.float64))
    wish = _Wish(wanted, None, out, count, pool)
    _check_wish(wish, a, b, ("x", "y"))
    plan = _plan(metric, a, b, trace, params, "metric")
    return _compute(plan, a, b, wish)


def explain(
    function: DistanceFunction | Metric | str, x: ArrayLike, y: ArrayLike
) -> Explanation:
    """
    Tell which way `kernel` and `pairwise` would run a function, and why.

    Parameters
    ----------
    function : callable, Metric or str
        What would be given as `distance_function` or `metric`.
    x : array_like of shape (n,) or (n, d)
        The points of the rows: the way may depend on their type and values.
    y : array_like of shape (m,) or (m, d)
        The points of the columns.

    Returns
    -------
    Explanation
        Its `way` is 'metric', 'traced' or 'called'; `reason` says why it is no faster one;
        `expression` is what a traced function became.  Print it.

    Raises
    ------
    TypeError
        If an input does not hold real numbers or `function` is not callable.
    ValueError
        If shapes do not fit or a metric's name is unknown.

    See Also
    --------
    kernel : Runs the function.

    Examples
    --------
    >>> import numpy as np
    >>> from pydistrib import explain
    >>> x = np.linspace(0, 1, 5)
    >>> explain(lambda a, b: abs(a - b), x, x).way
    'traced'
    >>> explain(lambda a, b: float(str(a - b)), x, x).way
    'called'
    """
    a, b = as_points(x, "x"), as_points(y, "y")
    check_pair(a, b, "x", "y")
    plan = _plan(function, a, b, "auto", {}, "function")
    if plan.traced is None:
        return plan.explanation
    return replace(plan.explanation, expression=plan.traced.expression())
