"""Arms of a figure: combinations, folders, configurations."""

from dataclasses import replace
from pathlib import Path

import pytest
import walk_figure  # noqa: F401  (registers the figure)

from plasticity.scripts.config.options import default_options
from plasticity.scripts.reproduce.arms import Arm, grid


def test_a_grid_combines_and_leaves_out_settings_of_other_methods():
    arms = grid(("none", "syre"), {"drift": (1.0, 2.0), "syre.sigma": (0.1, 0.2)})
    assert arms == [
        Arm("none", {"drift": 1.0}),
        Arm("none", {"drift": 2.0}),
        Arm("syre", {"drift": 1.0, "syre.sigma": 0.1}),
        Arm("syre", {"drift": 1.0, "syre.sigma": 0.2}),
        Arm("syre", {"drift": 2.0, "syre.sigma": 0.1}),
        Arm("syre", {"drift": 2.0, "syre.sigma": 0.2}),
    ]


def test_jobs_have_the_settings_of_the_arm():
    options = replace(default_options("walks"), seeds=(3, 4), device="cpu")
    jobs = Arm("syre", {"drift": 2.5, "syre.strength": 0.125}).jobs(options, Path("o"))
    folder = Path("o/drift=2.5,syre.strength=0.125/walks/syre")
    assert [job.path for job in jobs] == [folder / "seed_3", folder / "seed_4"]
    (syre,) = jobs[1].config.method
    assert jobs[1].config.seed == 4
    assert jobs[1].config.stream.drift == 2.5
    assert (syre.strength, syre.sigma) == (0.125, 0.25)  # the latter is the figure's


def test_unknown_settings_are_refused():
    with pytest.raises(KeyError):
        Arm("none", {"drft": 2.5}).jobs(default_options("walks"), Path())
