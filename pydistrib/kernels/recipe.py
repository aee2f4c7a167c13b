"""What a producer is made from, wherever it shall run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from numpy.typing import NDArray

from pydistrib import _core
from pydistrib.kernels.arrays import as_native
from pydistrib.kernels.metrics import metric_named


@dataclass(frozen=True)
class Recipe:
    """
    How to make the producer of any part of the matrix; it can be sent.

    Parameters
    ----------
    way : {'metric', 'traced', 'called'}
        As in `Explanation`.
    what : str, Program or callable
        The metric's name, the traced function's program, the function.
    params : dict, optional
        Parameters of the metric.
    """

    way: Literal["metric", "traced", "called"]
    what: Any
    params: dict[str, Any] = field(default_factory=dict)

    def producer(self, x: NDArray[Any], y: NDArray[Any]) -> _core.Producer:
        """Make the producer of the pairs of `x` and `y`, which the caller's type has."""
        if self.way == "metric":
            return metric_named(self.what).producer(*as_native(x, y), self.params)
        if self.way == "traced":
            program = self.what
            return _core.expr_producer(program.words, program.functions, *as_native(x, y))
        return _core.callable_producer(self.what, x, y)
