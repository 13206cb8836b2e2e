"""Picture at the top of the README, from rows of runs."""

import json

import numpy as np
import pytest

from plasticity.scripts.reference.overview import METHODS, PANELS, draw, read_series


def write_runs(folder, method, seeds):
    for seed in seeds:
        path = folder / method / f"seed_{seed}" / "metrics.jsonl"
        path.parent.mkdir(parents=True)
        rows = [dict.fromkeys(PANELS, seed + 0.1 * task) | {"task": task} for task in range(3)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_lines_are_means_and_bands_extremes_over_seeds(tmp_path):
    for method in METHODS:
        write_runs(tmp_path, method, (0, 1, 5))
    series = read_series(tmp_path)
    np.testing.assert_allclose(
        series["syre"]["online_accuracy"], [[0, 0.1, 0.2], [1, 1.1, 1.2], [5, 5.1, 5.2]]
    )
    figure = draw(series)
    assert len(figure.axes) == len(PANELS)
    for axis in figure.axes:
        assert len(axis.lines) == len(METHODS)
        np.testing.assert_allclose(axis.lines[0].get_ydata(), [2, 2.1, 2.2])  # (0 + 1 + 5) / 3
        band = axis.collections[0].get_paths()[0].vertices[:, 1]
        np.testing.assert_allclose([band.min(), band.max()], [0, 5.2])


def test_a_method_without_runs_is_named(tmp_path):
    write_runs(tmp_path, "none", (0,))
    with pytest.raises(FileNotFoundError, match="no runs of weight-decay"):
        read_series(tmp_path)
