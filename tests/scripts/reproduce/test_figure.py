"""Registry of figures, also for those of users; and that each says what it must."""

import re
from dataclasses import replace

import pytest
import walk_figure

from plasticity.mitigations import Syre, WeightDecay
from plasticity.scripts.config.benchmarks import BENCHMARKS, read_config
from plasticity.scripts.config.options import default_options
from plasticity.scripts.reproduce.figure import FIGURES, SCALES, figure, require_figure


def test_a_figure_is_a_benchmark_of_its_runs():
    benchmark = BENCHMARKS["walks"]
    assert benchmark.description == "a walk goes where its drift points (Fig. 1 of: A Paper (1905))"
    assert benchmark.mitigation("syre") == Syre(sigma=0.25)
    assert benchmark.mitigation("weight-decay") == WeightDecay()
    assert default_options("walks", {"scale": "full"}).config.stream.num_steps == 12
    assert read_config(benchmark.config.to_json()) == benchmark.config


def test_unknown_figures_are_refused():
    assert isinstance(require_figure("walks"), walk_figure.WalkFigure)
    with pytest.raises(ValueError, match="walks"):
        require_figure("walk")


def test_what_cannot_be_registered():
    kind = walk_figure.WalkFigure
    with pytest.raises(ValueError, match="There is a figure 'walks' already"):
        figure("walks")(kind)
    config = replace(kind.config, benchmark="permuted-digits")
    with pytest.raises(ValueError, match="There is a benchmark named 'permuted-digits'"):
        figure("permuted-digits")(type("Other", (kind,), {"config": config}))
    with pytest.raises(ValueError, match="There is a benchmark named 'walks'"):
        figure("others")(kind)
    config = replace(kind.config, benchmark="others")
    with pytest.raises(ValueError, match=re.escape("expected ('small', 'full')")):
        figure("others")(type("Other", (kind,), {"config": config, "scales": {"small": {}}}))
    assert "others" not in FIGURES


@pytest.mark.parametrize("name", FIGURES)
def test_each_figure_is_complete(name, tmp_path):
    each = FIGURES[name]
    assert each.claim
    assert not each.claim.endswith(".")
    assert each.num_seeds >= each.min_seeds
    for scale in SCALES:
        options = default_options(each.config.benchmark, {"scale": scale})
        # Where two lines share a point, its runs are the same.
        configs = {}
        for arm in each.arms(scale):
            for job in arm.jobs(options, tmp_path):
                assert configs.setdefault(job.path, job.config) == job.config
        assert {arm.method for arm in each.arms(scale)} == set(each.methods)
