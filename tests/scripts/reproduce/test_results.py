"""Results: values over seeds, of arms chosen by their settings."""

import numpy as np
import pytest
import walk_figure  # noqa: F401  (registers the figure)

from plasticity.scripts.report.run_folders import Run
from plasticity.scripts.reproduce.arms import Arm
from plasticity.scripts.reproduce.results import Results, ratios


def made_run(tmp_path, seed, *values):
    """A run with a row for each value of the place; None for a diverged one."""
    rows = tuple(
        {"step": 3.0 * n, "place": value, "diverged": float(value is None)}
        for n, value in enumerate(values, start=1)
    )
    config = {"benchmark": "walks", "method": {}, "seed": seed, "stream": {"num_steps": 6}}
    return Run(tmp_path / str(seed), config, rows, half_written=False)


@pytest.fixture
def results(tmp_path):
    def runs(*values):
        return [made_run(tmp_path, seed, *each) for seed, each in enumerate(values)]

    return Results(
        [
            (Arm("none", {"drift": 0.0, "pause": 0.0}), runs((1.0, 2.0), (1.0, 4.0), (1.0, None))),
            (Arm("none", {"drift": 5.0, "pause": 0.0}), runs((1.0, 9.0), (1.0, 13.0), (2.0, 5.0))),
            (Arm("none", {"drift": 5.0, "pause": 1.0}), runs((0.0, 1.0), (0.0, 2.0), (0.0, 3.0))),
            (Arm("syre", {"drift": 5.0, "pause": 0.0}), runs((1.0, 1.0), (1.0, 1.0), (1.0, 1.0))),
        ]
    )


def test_values_at_the_end(results):
    assert results.final("place", "none", {"drift": 0.0}) == {0: 2.0, 1: 4.0, 2: None}
    assert results.estimate("place", "none", {"drift": 0.0}).mean == 3.0  # of 2 and 4
    assert results.values_of("drift") == [0.0, 5.0]


def test_differences_are_paired_by_seed(results):
    # 9 - 2 and 13 - 4; the third seed diverged in one of the arms.
    chosen = {"drift": 5.0, "pause": 0.0}
    assert results.difference("place", "none", chosen, {"drift": 0.0}).mean == 8.0
    found = results.difference("place", "none", chosen, chosen, "syre")
    assert found.mean == (8 + 12 + 4) / 3


def test_means_over_rows_and_what_is_kept_of_them(results):
    quiet = {"drift": 0.0}
    both = results.over_rows("place", "none", slice(None), quiet)
    assert both == {0: 1.5, 1: 2.5, 2: None}
    assert results.over_rows("place", "none", slice(2, None), quiet) == dict.fromkeys(range(3))
    first, last = slice(0, 1), slice(-1, None)
    assert results.over_rows("place", "none", first, quiet) == {0: 1.0, 1: 1.0, 2: 1.0}
    assert results.kept("place", "none", first, last, quiet) == {0: 2.0, 1: 4.0, 2: None}
    from_zero = results.kept("place", "none", first, last, {"pause": 1.0})
    assert from_zero == dict.fromkeys(range(3))


def test_ratios_by_seed():
    assert ratios({0: 3.0, 1: None, 2: 3.0, 3: 3.0}, {0: 2.0, 1: 2.0, 2: 0.0, 3: None, 4: 1.0}) == {
        0: 1.5,
        1: None,
        2: None,
        3: None,
        4: None,
    }


def test_rows_at_changes_of_an_environment_are_left_out(tmp_path):
    rows = tuple(
        {"step": step, "place": step, "boundary": float(step == 13)} for step in (10.0, 13.0, 20.0)
    )
    config = {"benchmark": "walks", "method": {}, "seed": 0, "tracking": {"measure_every": 10}}
    found = Results([(Arm("none"), [Run(tmp_path, config, rows, half_written=False)])])
    assert found.over_rows("place", "none", slice(None)) == {0: 15.0}
    assert found.line_over_steps("place", "none", style=0).positions.tolist() == [10.0, 20.0]


def test_an_arm_must_be_named_fully(results):
    with pytest.raises(ValueError, match="no arm of syre with"):
        results.final("place", "syre", {"drift": 0.0})
    with pytest.raises(ValueError, match=r"2 arms of none have .* name more settings"):
        results.final("place", "none", {"drift": 5.0})


def test_a_line_over_metrics(tmp_path):
    rows = ((3.0, 4.0), (5.0, None))
    runs = [
        Run(
            tmp_path / str(seed),
            {"benchmark": "walks", "method": {}, "seed": seed, "stream": {"num_steps": 6}},
            ({"step": 3.0, "a": 0.0, "b": 0.0}, {"step": 6.0, "a": a, "b": b}),
            half_written=False,
        )
        for seed, (a, b) in enumerate(rows)
    ]
    line = Results([(Arm("none"), runs)]).line_over_metrics({1: "a", 2: "b"}, "none", style=3)
    assert line.positions.tolist() == [1, 2]
    assert line.mean.tolist() == [4.0, 4.0]  # of 3 and 5; of the only one
    assert line.seeds[0][1].tolist() == [3.0, 4.0]
    assert (line.label, line.style) == ("none", 3)


def test_lines(results):
    line = results.line_over("drift", "place", "none", {"pause": 0.0}, style=1)
    assert line.positions.tolist() == [0.0, 5.0]
    assert line.mean.tolist() == [3.0, 9.0]
    assert [values.tolist() for _, values in line.seeds[:2]] == [[2.0, 9.0], [4.0, 13.0]]
    assert np.isnan(line.seeds[2][1][0])
    # 2 and 4: 3 ± 12.706 (t at one degree) · 1 (standard error √2 / √2).
    assert line.high[0] == pytest.approx(3 + 12.706, abs=1e-3)
    line = results.line_over_steps("place", "none", {"drift": 0.0}, style=1)
    assert line.positions.tolist() == [3.0, 6.0]
    assert line.mean.tolist() == [1.0, 3.0]
    assert line.diverged == (False, False, True)
