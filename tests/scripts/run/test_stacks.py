"""Grouping of runs that are stacked."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.mitigations import L2Init, Mitigation, Shift, Syre
from plasticity.network_spec import LayerSpec
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.config.run_config import ControlRunConfig, SupervisedRunConfig
from plasticity.scripts.run.jobs import Job, JobGroup
from plasticity.scripts.run.stacks import even_parts, groups_of, left_of, planned, require_use
from plasticity.tasks.control.ant.config import SlipperyAntConfig
from plasticity.tasks.streams.permuted_images import PermutedImagesConfig

IMAGES = SupervisedRunConfig(
    benchmark="permuted-digits", stream=PermutedImagesConfig(dataset="digits", num_tasks=2)
)
ANTS = ControlRunConfig(
    benchmark="slippery-ant-warp",
    stream=SlipperyAntConfig(engine="warp", num_steps=100, change_every=800),
)


def jobs_of(*configs):
    return [Job(Path(str(index)), config) for index, config in enumerate(configs)]


def shape(work):
    """Return the numbers of the jobs of each process."""
    return [[int(job.path.name) for job in each.jobs] for each in work]


MIXED = jobs_of(
    IMAGES,
    with_values(IMAGES, {"method": (Syre(strength=0.1, sigma=0.3, anisotropy=0.1),)}),
    with_values(IMAGES, {"method": (Shift(sigma=0.3),)}),
    with_values(IMAGES, {"seed": 5}),
    with_values(IMAGES, {"agent": ClassifierConfig(learning_rate=0.5)}),
    with_values(IMAGES, {"method": (L2Init(strength=0.2),)}),
    with_values(IMAGES, {"method": (Shift(sigma=0.3),), "seed": 1}),
)


def test_runs_that_differ_in_method_seed_and_decay_are_stacked():
    assert shape(planned(MIXED, 8)) == [[0, 1, 2, 3, 5, 6], [4]]
    assert shape(planned(MIXED, 2)) == [[0, 1], [2, 3], [5, 6], [4]]
    assert shape(planned(MIXED, 5)) == [[0, 1, 2], [3, 5, 6], [4]]  # as even as can be


@dataclass(frozen=True, kw_only=True)
class Narrow(Mitigation):
    """Mitigation that changes the network."""

    name = "narrow"
    claims = "the width"
    parts: int = 2

    def network(self, spec):
        return replace(spec, layer=LayerSpec(activations=(torch.relu,) * self.parts))


def test_runs_whose_methods_change_the_network_alike_are_stacked():
    methods = [
        (),
        (Narrow(),),
        (Narrow(), Syre()),
        (Narrow(parts=4),),
        (Syre(),),
        (Syre(), Narrow()),
    ]
    jobs = jobs_of(*(with_values(IMAGES, {"method": method}) for method in methods))
    assert shape(planned(jobs, 8)) == [[0, 4], [1, 2, 5], [3]]


def test_one_at_a_time_is_the_ordinary_run():
    assert planned(MIXED, 1) == [JobGroup((MIXED[i],)) for i in (0, 1, 2, 3, 5, 6, 4)]


def test_the_unfinished_part_of_a_plan_keeps_its_groups():
    work = planned(MIXED, 2)
    assert left_of(work, MIXED) == work
    left = left_of(work, [MIXED[i] for i in (6, 5, 3, 0)])
    assert shape(left) == [[0], [3], [5, 6]]
    assert [each.had_more for each in left] == [True, True, False]
    assert left_of(work, []) == []


def test_auto_depends_on_the_device():
    assert shape(planned(MIXED, "auto")) == [[0], [1], [2], [3], [5], [6], [4]]
    there = jobs_of(*(with_values(job.config, {"device": "cuda:1"}) for job in MIXED))
    work = planned(there, "auto")
    assert shape(work) == [[0, 1, 2, 3, 5, 6], [4]]
    assert [each.is_measured for each in work] == [True, True]
    assert not planned(there, 4)[0].is_measured


def test_the_ants_of_a_gpu_are_a_group_even_alone():
    syre = {
        "method": (Syre(strength=0.0, sigma=0.0),),
        "critic_method": (Syre(strength=0.5, sigma=0.0),),
    }
    jobs = jobs_of(ANTS, with_values(ANTS, {"seed": 1}), with_values(ANTS, syre))
    assert shape(planned(jobs, "auto")) == [[0], [1], [2]]
    assert shape(planned(jobs, 1)) == [[0], [1], [2]]
    assert shape(planned(jobs, 3)) == [[0, 1, 2]]
    there = jobs_of(*(with_values(job.config, {"device": "cuda"}) for job in jobs))
    assert shape(planned(there, "auto")) == [[0, 1, 2]]


def test_ants_on_cores_have_a_process_each():
    jobs = jobs_of(
        with_values(ANTS, {"stream.engine": "mujoco", "device": "cuda"}),
        with_values(ANTS, {"stream.engine": "bullet"}),
    )
    assert planned(jobs, "auto") == [JobGroup((job,)) for job in jobs]
    with pytest.raises(ValueError, match="--stack 2 means nothing to these runs of slippery"):
        require_use(jobs, 2)
    require_use(jobs, 1)
    require_use(MIXED, 2)


@pytest.mark.parametrize(
    ("stack", "error", "message"),
    [
        (0, ValueError, "--stack must be at least 1: 0"),
        (-3, ValueError, "--stack must be at least 1: -3"),
        (True, TypeError, "--stack must be an integer"),
    ],
)
def test_a_wrong_number_is_refused(stack, error, message):
    with pytest.raises(error, match=re.escape(message)):
        require_use(MIXED, stack)


@given(st.lists(st.sampled_from(MIXED), unique=True), st.integers(1, 9))
def test_every_job_is_in_one_group(jobs, most):
    found = [job for each in planned(jobs, most) for job in each.jobs]
    assert sorted(found, key=jobs.index) == jobs
    assert all(len(each.jobs) <= most for each in planned(jobs, most))
    assert sum(map(len, groups_of(jobs))) == len(jobs)


@given(st.integers(0, 200), st.integers(1, 50))
def test_parts_are_few_and_even(count, most):
    parts = even_parts(range(count), most)
    assert [each for part in parts for each in part] == list(range(count))
    assert len(parts) == -(-count // most)
    assert all(1 <= len(part) <= most for part in parts)
    assert not parts or max(map(len, parts)) - min(map(len, parts)) <= 1
