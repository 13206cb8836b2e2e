"""Format of the values in a table."""

import pytest

from plasticity.scripts.report.statistics import Estimate
from plasticity.scripts.report.tables import Cell, estimate_cell, format_values


@pytest.mark.parametrize(
    ("values", "metric", "signed", "texts"),
    [
        ([0.1234], "test_accuracy", False, ["12.3"]),
        ([0.1234, -0.001], "dead_fraction/fc1", True, ["+12.3", "-0.1"]),
        # 0.8 points apart, of which an eighth is 0.1; then 0.72
        ([0.0004, -0.004, 0.004], "test_accuracy", True, ["+0.0", "-0.4", "+0.4"]),
        ([0.0004, -0.0036, 0.0036], "test_accuracy", True, ["+0.04", "-0.36", "+0.36"]),
        ([0.0004, -0.0036, 0.0036], "test_accuracy", False, ["0.0", "-0.4", "0.4"]),
        ([2e-6, 1e-6, 3e-6], "test_accuracy", True, ["+0.000", "+0.000", "+0.000"]),
        ([0.1, 0.1 + 1e-16], "test_accuracy", True, ["+10.0", "+10.0"]),
        ([1234.6], "weight_norm/total", False, ["1235"]),
        ([12.345], "effective_rank/fc1", False, ["12.3"]),
        ([0.5, -0.1, 1.1], "effective_rank/fc1", True, ["+0.50", "-0.10", "+1.10"]),
        ([-0.12345], "train_loss", True, ["-0.123"]),
        ([0.0012345, 0.0001], "online_loss", False, ["0.00123", "0.00010"]),
        ([0.00012345], "online_loss", False, ["0.000123"]),
        ([2e-9], "online_loss", False, ["0.000000"]),
        ([0.0], "online_loss", False, ["0.0"]),
        ([float("inf"), 0.5], "train_loss", True, ["+inf", "+0"]),
        ([3012.5, 3012.0, 3013.0], "episode_return", True, ["+3012.5", "+3012.0", "+3013.0"]),
    ],
)
def test_format_of_values(values, metric, signed, texts):
    assert format_values(values, metric, signed=signed) == texts


@pytest.mark.parametrize(
    ("found", "cell"),
    [
        (None, Cell("—")),
        (Estimate(10.0, 1, None, None), Cell("10.0", ("one seed", "1 of 3 seeds"))),
        (
            Estimate(10.0, 2, (-2.7, 22.7), (9.0, 11.0)),
            Cell("10.0", ("[-2.7, 22.7]", "(9.0, 11.0)", "2 of 3 seeds")),
        ),
        (
            Estimate(10.0, 3, (7.5, 12.5), (9.0, 11.0)),
            Cell("10.0", ("[7.5, 12.5]", "(9.0, 11.0)")),
        ),
    ],
)
def test_a_mean_has_its_intervals_and_number_of_seeds(found, cell):
    assert estimate_cell(found, "episode_return", 3) == cell


def test_the_interval_of_a_share_is_clipped_to_0_and_100_per_cent():
    found = Estimate(0.9, 3, (0.7, 1.1), (0.8, 1.0))
    assert estimate_cell(found, "test_accuracy", 3) == Cell(
        "90.0", ("[70.0, 100.0]", "(80.0, 100.0)")
    )
    difference = estimate_cell(found, "test_accuracy", 3, signed=True)
    assert difference.details == ("[+70.0, +110.0]", "(+80.0, +100.0)")


def test_a_difference_has_its_sign():
    found = Estimate(0.5, 3, (-1.0, 2.0), (-0.25, 1.5))
    cell = estimate_cell(found, "episode_return", 3, signed=True)
    assert cell == Cell("+0.50", ("[-1.00, +2.00]", "(-0.25, +1.50)"))
