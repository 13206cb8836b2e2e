"""Picture at the top of the README: what three methods do to one network, over the tasks of a benchmark.

plasticity run permuted-digits --methods none weight-decay syre --seeds 0 1 2 --tasks 30 --out runs/first
python -m plasticity.scripts.reference.overview runs/first/permuted-digits docs/figures/overview.png
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

PANELS = {
    "online_accuracy": "Does it still learn?\nonline accuracy",
    "effective_rank/fc1": "How many directions?\neffective rank, last hidden layer",
    "dead_fraction/fc1": "How many units are dead?\nshare of the last hidden layer",
}
"""Title of each panel, by the key of its numbers in a row."""

METHODS = {
    "none": ("plain SGD", "#666666"),
    "weight-decay": ("weight decay", "#D55E00"),
    "syre": ("syre", "#0072B2"),
}
"""Name and colour of each line, by method."""


def read_series(folder: Path) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Read the numbers of finished runs, by method and key. Shape of each: (seeds, tasks).

    Args:
        folder: Folder of one benchmark, with METHOD/seed_N below it.

    Raises:
        FileNotFoundError: if a method has no runs there.
    """
    found: dict[str, dict[str, NDArray[np.float64]]] = {}
    for method in METHODS:
        paths = sorted((folder / method).glob("seed_*/metrics.jsonl"))
        if not paths:
            raise FileNotFoundError(
                f"{folder} has no runs of {method}: train them by the command in {__name__}."
            )
        runs = [[json.loads(line) for line in path.read_text().splitlines()] for path in paths]
        found[method] = {
            key: np.array([[row[key] for row in run] for run in runs]) for key in PANELS
        }
    return found


def draw(series: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> Figure:
    """Return the figure: a line for the mean over seeds, and a band from the lowest to the highest.

    Args:
        series: Numbers by method and key. Shape of each: (seeds, tasks).
    """
    figure = Figure(figsize=(10, 3.1), layout="constrained")
    for axis, (key, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for method, (name, color) in METHODS.items():
            values = series[method][key]
            tasks = np.arange(1, values.shape[1] + 1)
            axis.plot(tasks, values.mean(axis=0), color=color, label=name, linewidth=2)
            axis.fill_between(
                tasks, values.min(axis=0), values.max(axis=0), color=color, alpha=0.15, linewidth=0
            )
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("task")
        axis.spines[["top", "right"]].set_visible(False)
    figure.axes[-1].legend(frameon=False)
    return figure


if __name__ == "__main__":
    draw(read_series(Path(sys.argv[1]))).savefig(sys.argv[2], dpi=140)
