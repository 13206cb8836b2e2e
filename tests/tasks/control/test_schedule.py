"""Schedule of changes: the numbers of a task, constant tasks, and the share of each environment."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plasticity.tasks.control.schedule import (
    TaskSchedule,
    listed,
    log_uniform,
    share_of_environment,
    uniform_numbers,
)

SEEDS = st.integers(0, 2**70)
INDICES = st.integers(0, 2**40)


@dataclass(frozen=True)
class Weight:
    """Task with a weight."""

    index: int
    weight: float

    def values(self):
        return {"weight": self.weight}


@dataclass(frozen=True, kw_only=True)
class Weights(TaskSchedule[Weight]):
    weight: float | None = None

    @property
    def constant(self):
        return None if self.weight is None else Weight(0, self.weight)

    def make_task(self, seed, index):
        return Weight(index, seed + 0.5 * index)


def test_tasks_follow_the_steps_and_the_last_one_stays():
    schedule = Weights(task_seed=7, num_tasks=3, change_every=10)
    weights = [schedule.task_at(step).weight for step in (0, 9, 10, 19, 20, 29, 30, 10**12)]
    assert weights == [7, 7, 7.5, 7.5, 8, 8, 8, 8]
    assert Weights(task_seed=7, change_every=10).task_at(10**12).index == 10**11


def test_a_constant_task_stays():
    assert {Weights(weight=2.0).task_at(step) for step in (0, 10**9)} == {Weight(0, 2.0)}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"weight": 2, "task_seed": 1},
            ValueError,
            "weight 2 is constant, and task_seed .* one or the",
        ),
        ({}, ValueError, "needs task_seed and change_every: None, None"),
        ({"task_seed": 1}, ValueError, "needs task_seed and change_every: 1, None"),
        ({"task_seed": -1, "change_every": 1}, ValueError, "task_seed must be at least 0"),
        ({"task_seed": 1, "change_every": 0}, ValueError, "change_every must be at least 1"),
        ({"task_seed": 1.5, "change_every": 1}, TypeError, "task_seed must be an integer"),
    ],
)
def test_wrong_schedules_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Weights(**arguments)


@given(SEEDS, INDICES, st.integers(1, 5))
def test_uniform_numbers_are_those_of_numpys_generator(seed, index, count):
    sequence = np.random.SeedSequence(seed, spawn_key=(index,))
    expected = np.random.Generator(np.random.PCG64(sequence)).random(count)
    assert uniform_numbers(seed, index, count) == expected.tolist()


def test_log_uniform_at_its_ends_and_in_the_middle():
    assert log_uniform(0.02, 2, 0.0) == 0.02
    assert log_uniform(0.02, 2, 0.5) == 0.2  # 0.02 * 100 ** 0.5
    # 1 * (e ** 2) ** 0.5 = e, to six digits
    assert log_uniform(1, math.e**2, 0.5) == 2.71828


def test_a_share_is_even_or_refused():
    assert share_of_environment(96, 8) == 12
    with pytest.raises(ValueError, match=r"multiple of num_envs, 8.*: 100\. Nearest: 96 and 104"):
        share_of_environment(100, 8)
    with pytest.raises(ValueError, match=r": 3\. Nearest: 8\."):
        share_of_environment(3, 8)


def test_values_are_listed_with_three_digits():
    assert listed({"gravity": 9.8123, "mass": 2.0}) == "gravity 9.81, mass 2"
    assert listed({"game": "seaquest"}) == "game seaquest"
