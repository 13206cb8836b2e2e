"""Frictions: their distribution, their purity as a function, and the times at which they change."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from plasticity.tasks import SCHEDULES, FrictionStream, FrictionTask, task_friction
from plasticity.tasks.control.slippery.friction import FrictionSchedule

SEEDS = st.integers(0, 2**70)
INDICES = st.integers(0, 2**40)


def test_frictions_are_log_uniform():
    frictions = [task_friction(0, index) for index in range(3000)]
    assert stats.kstest(frictions, stats.loguniform(0.02, 2).cdf).pvalue > 0.01


@given(SEEDS, INDICES)
def test_a_friction_comes_from_numpys_own_uniform_number(seed, index):
    """Compare with numpy's conversion of PCG64's output to a uniform number: friction = 0.02 * 100 ** u."""
    sequence = np.random.SeedSequence(seed, spawn_key=(index,))
    uniform = np.random.Generator(np.random.PCG64(sequence)).random()
    expected = math.exp(math.log(0.02) + uniform * (math.log(2) - math.log(0.02)))
    friction = task_friction(seed, index)
    assert friction == pytest.approx(expected, rel=1e-5)
    assert 0.02 <= friction <= 2
    assert friction == float(f"{friction:.6g}")


def test_frictions_are_pinned():
    """Check pinned values: with another stream, runs of different versions could not be compared."""
    assert [task_friction(0, k) for k in range(4)] == FIRST_OF_SEED_0
    assert task_friction(1, 0) != FIRST_OF_SEED_0[0]


FIRST_OF_SEED_0 = [1.53782, 0.452297, 0.949669, 0.107126]


@given(SEEDS, st.integers(1, 50), st.integers(1, 10**9), st.data())
def test_a_task_does_not_depend_on_the_stream_around_it(seed, num_tasks, change_every, data):
    stream = FrictionStream(num_tasks, change_every, seed)
    index = data.draw(st.integers(0, num_tasks - 1))
    assert stream[index] == FrictionTask(index, task_friction(seed, index))
    assert stream[index] == FrictionStream(num_tasks + 1, 1, seed)[index]
    assert len(stream) == num_tasks
    assert list(stream) == [stream[k] for k in range(num_tasks)]


@pytest.mark.parametrize("index", [3, 4, -1, 2**70])
def test_past_the_end_is_an_index_error(index):
    with pytest.raises(IndexError, match=rf"tasks 0 to 2: {index}\."):
        FrictionStream(3, 10, seed=0)[index]


@pytest.mark.parametrize("index", [slice(0, 2), 1.0, True, None])
def test_an_index_is_an_integer(index):
    with pytest.raises(TypeError, match="integer"):
        FrictionStream(3, 10, seed=0)[index]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [((0, 1, 0), "num_tasks"), ((1, 0, 0), "change_every"), ((1, 1, -1), "seed")],
)
def test_a_stream_names_what_is_out_of_range(arguments, name):
    with pytest.raises(ValueError, match=name):
        FrictionStream(*arguments)


def test_published_schedules():
    """Check those of Dohare et al. 2024, every 2 M steps, and Ziyin et al. 2025, Fig. 6, every 5 M."""
    assert SCHEDULES["nature"] == 2_000_000
    assert SCHEDULES["syre"] == 5_000_000
    assert list(SCHEDULES) == ["nature", "syre", "small"]


def test_the_task_changes_with_the_steps():
    schedule = FrictionSchedule(task_seed=7, num_tasks=3, change_every=10)
    # 0…9: task 0; 10…19: task 1; 20…29: task 2, the last, which stays.
    steps = [0, 9, 10, 19, 20, 29, 30, 10**12]
    assert [schedule.task_at(step).index for step in steps] == [0, 0, 1, 1, 2, 2, 2, 2]
    assert schedule.task_at(10) == FrictionTask(1, task_friction(7, 1))
    endless = FrictionSchedule(task_seed=7, change_every=10)
    assert endless.task_at(10**12).index == 10**11


@given(SEEDS, st.integers(1, 1000), st.integers(0, 10**6))
@settings(max_examples=50)
def test_tasks_follow_the_order_of_the_stream(seed, change_every, step):
    schedule = FrictionSchedule(task_seed=seed, change_every=change_every)
    now, then = (schedule.task_at(s).index for s in (step, step + change_every))
    assert then == now + 1
    assert now * change_every <= step < then * change_every


def test_a_constant_friction_stays():
    schedule = FrictionSchedule(friction=1)
    assert {schedule.task_at(step) for step in (0, 10**9)} == {FrictionTask(0, 1.0)}


def test_numpy_numbers_become_python_numbers():
    stream = FrictionSchedule(
        task_seed=np.int64(1), change_every=np.int64(5), num_tasks=np.int64(3)
    )
    for task in (stream.task_at(7), stream.task_at(100)):
        assert type(task.index) is int
    assert {type(n) for n in (stream.task_seed, stream.change_every, stream.num_tasks)} == {int}
    fixed = FrictionSchedule(friction=np.float32(0.5))
    assert type(fixed.friction) is type(fixed.task_at(0).friction) is float


def test_a_friction_or_a_stream():
    stream = {"task_seed": 0, "change_every": 5, "num_tasks": 2}
    for names in itertools.chain.from_iterable(
        itertools.combinations(stream, n) for n in (1, 2, 3)
    ):
        given_names = {name: stream[name] for name in names}
        with pytest.raises(ValueError, match=names[0]):
            FrictionSchedule(friction=0.5, **given_names)
        if not {"task_seed", "change_every"} <= set(names):
            with pytest.raises(ValueError, match="task_seed and change_every"):
                FrictionSchedule(**given_names)
    with pytest.raises(ValueError, match="task_seed and change_every"):
        FrictionSchedule()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"friction": -0.1}, ValueError),
        ({"friction": math.nan}, ValueError),
        ({"friction": "slippery"}, TypeError),
        ({"task_seed": -1, "change_every": 1}, ValueError),
        ({"change_every": 0, "task_seed": 1}, ValueError),
        ({"num_tasks": 0, "change_every": 1, "task_seed": 1}, ValueError),
        ({"task_seed": 0.5, "change_every": 1}, TypeError),
    ],
)
def test_a_schedule_names_what_is_out_of_range(arguments, error):
    with pytest.raises(error, match=next(iter(arguments))):
        FrictionSchedule(**arguments)
