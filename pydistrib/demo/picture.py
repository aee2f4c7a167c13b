"""The picture: a kernel matrix of the digits, and the density of the flight delays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from pydistrib import pairwise
from pydistrib.demo import data
from pydistrib.demo.comparison import MissingPackage
from pydistrib.demo.uses import USUAL_MINUTES, bandwidth_of, density

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The width of the digits' kernel: at this one, a digit is near its own kind only.
GAMMA: Final = 0.001


def draw_kernel(axes: Axes) -> None:
    """Draw the kernel of every pair of digits, sorted by what they show."""
    points, labels = data.digits()
    order = np.argsort(labels, kind="stable")
    matrix = pairwise(points[order], metric="rbf", gamma=GAMMA)
    image = axes.imshow(matrix, cmap="magma", vmin=0, vmax=1)
    colours = axes.figure.colorbar(image, ax=axes, shrink=0.82)
    colours.set_label(rf"similarity, $\exp(-{GAMMA}\,\Vert x-y\Vert^2)$")
    ends = np.searchsorted(labels[order], np.arange(11))
    middles = (ends[:-1] + ends[1:]) / 2
    for set_ticks in (axes.set_xticks, axes.set_yticks):
        set_ticks(middles, labels=[str(digit) for digit in range(10)])
    axes.tick_params(length=0)
    axes.set(
        title=f"RBF kernel of {len(points):,} handwritten digits",
        xlabel="digit shown by x",
        ylabel="digit shown by y",
    )


def draw_density(axes: Axes) -> None:
    """Draw the density of the delays over their histogram."""
    delays, _ = data.flights()
    start, end = USUAL_MINUTES
    minutes = np.arange(float(start), end + 1)
    bandwidth = bandwidth_of(delays)
    per_minute = density(delays, minutes, bandwidth)
    edges = np.arange(start - 0.5, end + 2, 2)
    counts, _ = np.histogram(delays, edges)
    axes.stairs(
        100 * counts / (len(delays) * np.diff(edges)),
        edges,
        fill=True,
        color="0.82",
        label="histogram, 2 minutes a bar",
    )
    axes.plot(
        minutes,
        100 * per_minute,
        color="tab:red",
        label=f"kernel density, bandwidth {bandwidth:.2g} min",
    )
    axes.axvline(0, color="0.4", linewidth=0.8, linestyle=":")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set(
        title=f"Departure delay of {len(delays):,} flights, New York 2013",
        xlabel="delay (minutes; below 0: early)",
        ylabel="flights per minute of delay (%, log scale)",
        xlim=USUAL_MINUTES,
        xticks=range(start, end + 1, 30),
    )
    axes.legend(frameon=False)


def _drawable() -> list[Callable[[Axes], None]]:
    panels: list[Callable[[Axes], None]] = []
    missing: MissingPackage | None = None
    for load, draw in ((data.digits, draw_kernel), (data.flights, draw_density)):
        try:
            load()
        except MissingPackage as error:
            missing = error
        else:
            panels.append(draw)
    if missing and not panels:
        raise missing
    return panels


def save_picture(path: Path) -> None:
    """
    Draw both panels, or the one whose data are installed, into a PNG file.

    Raises `MissingPackage` where matplotlib or the data of both panels are missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackage("matplotlib") from error
    panels = _drawable()
    figure = Figure(figsize=(6.5 * len(panels), 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    for i, draw in enumerate(panels):
        draw(figure.add_subplot(1, len(panels), i + 1))
    figure.savefig(path, format="png", dpi=150)
