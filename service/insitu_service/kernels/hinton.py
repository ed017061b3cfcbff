"""Hinton diagrams: a square a weight, its area the size of a change, its colour the sign.

Hinton, McClelland and Rumelhart, "Distributed representations" (1986); red is up, blue is down.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

RISEN, FALLEN = "#C8102E", "#1F5FBF"
_BACKGROUND = "#F2F2F2"


def draw_hinton(axes: Axes, values: npt.NDArray[np.float32], scale: float) -> None:
    """Rows down, columns across, from the upper left.

    Args:
        values: (rows, columns); NaN leaves a white place.
        scale: the value whose square fills its place.
    """
    rows, columns = values.shape
    for sign, colour in ((1.0, RISEN), (-1.0, FALLEN)):
        chosen = np.argwhere(sign * np.nan_to_num(values) > 0.0)
        side = np.sqrt(np.abs(values[tuple(chosen.T)]) / scale)
        axes.add_collection(PolyCollection(_squares(chosen, side), facecolors=colour))
    gaps = np.argwhere(np.isnan(values))
    white = PolyCollection(_squares(gaps, np.full(len(gaps), 1.02)), facecolors="white", zorder=0.5)
    axes.add_collection(white)
    axes.set_facecolor(_BACKGROUND)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_aspect("equal")


def _squares(
    places: npt.NDArray[np.int64], side: npt.NDArray[np.float64]
) -> list[npt.NDArray[np.float64]]:
    """(4, 2) corners of squares around (row, column) places."""
    corners = 0.5 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    return list(places[:, None, ::-1] + np.asarray(side)[:, None, None] * corners)
