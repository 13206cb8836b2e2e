"""Vectors of ants, of each engine: workers, the schedule, saving and loading, and wrong arguments."""

from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence as equal

from plasticity.tasks import SlipperyAntMujocoEnv, slippery_ant_vector, task_friction


def test_ants_of_mujoco_do_not_depend_on_the_number_of_workers():
    pytest.importorskip("mujoco")
    make = partial(slippery_ant_vector, 3, engine="mujoco", task_seed=1, change_every=30)
    actions = np.random.default_rng(0).uniform(-1, 1, (60, 3, 8))
    seen = []
    for num_workers in (0, 2):
        envs = make(num_workers=num_workers)
        seen.append([envs.reset(seed=0), *map(envs.step, actions), envs.state_dict()])
        envs.close()
    assert equal(seen[1], seen[0], exact=True)
    # Each equals the single environment with its share of the interval and its own seed.
    single = SlipperyAntMujocoEnv(task_seed=1, change_every=10)
    first, _ = single.reset(seed=2)
    np.testing.assert_array_equal(first, seen[0][0][0][2])


def test_ants_of_mujoco_change_their_friction_and_continue_from_a_state():
    pytest.importorskip("mujoco")
    make = partial(slippery_ant_vector, 2, engine="mujoco", task_seed=1, change_every=20)
    envs, other = make(), make(num_workers=2)
    envs.reset(seed=0)
    other.reset(seed=5)
    tasks = set()
    for step in range(60):
        # Back and forth, every four steps: after about ten steps it jumps higher than an episode allows.
        actions = np.tile([-1, 1, -1, 1, -1, -1, -1, 1], (2, 1)) * (1 if step // 4 % 2 else -1)
        if step == 30:
            other.load_state_dict(envs.state_dict())
        *seen, infos = envs.step(actions)
        tasks |= set(infos["task"].tolist())
        if step >= 30:
            assert equal(tuple(seen), other.step(actions)[:-1], exact=True)
    envs.close()
    other.close()
    assert len(tasks) > 2


def test_ants_do_not_depend_on_the_number_of_workers():
    pytest.importorskip("pybullet")
    make = partial(slippery_ant_vector, 3, task_seed=1, num_tasks=3, change_every=90)
    seen = []
    for num_workers in (0, 2):
        envs = make(num_workers=num_workers)
        envs.reset(seed=0)
        seen.append([envs.step(np.zeros((3, 8))) for _ in range(75)])
        envs.close()
    alone, shared = seen
    for ours, expected in zip(shared, alone, strict=True):
        assert equal(ours, expected, exact=True)
    # 90 / 3 = 30 steps of each; unpowered, an ant falls after 20: episodes begin at 0, 20, 40, 60.
    tasks = [infos["task"].tolist() for *_, infos in alone]
    assert tasks == [[0] * 3] * 39 + [[1] * 3] * 20 + [[2] * 3] * 16
    final = alone[39][-1]
    assert final["final_info"]["task"].tolist() == [0] * 3
    assert final["friction"].tolist() == [task_friction(1, 1)] * 3
    assert final["_final_obs"].all()


@pytest.mark.parametrize(("saving", "loading"), [(2, 0), (0, 2)])
def test_a_resumed_run_equals_an_uninterrupted_one(saving, loading):
    pytest.importorskip("pybullet")
    make = partial(slippery_ant_vector, 2, task_seed=1, change_every=100)
    envs = make(saving)
    actions = 0.3 * np.random.default_rng(0).uniform(-1, 1, (120, 2, 8))
    envs.reset(seed=0)
    for each in actions[:33]:
        envs.step(each)
    state = envs.state_dict()
    expected = [envs.step(each) for each in actions[33:]]
    assert expected[-1][-1]["task"].tolist() == [2, 2]
    envs.close()
    other = make(loading)
    other.reset(seed=9)
    other.load_state_dict(state)
    for each, then in zip(actions[33:], expected, strict=True):
        assert equal(other.step(each), then, exact=True)
    other.close()


def test_render_returns_a_picture_of_each():
    pytest.importorskip("pybullet")
    envs = slippery_ant_vector(2, render_mode="rgb_array")
    envs.reset(seed=0)
    assert [frame.shape for frame in envs.render()] == [(240, 320, 3)] * 2
    envs.close()


def test_an_error_in_this_process_is_raised_as_it_is_and_ends_all():
    pytest.importorskip("pybullet")
    envs = slippery_ant_vector(2)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match="finite"):
        envs.step(np.full((2, 8), np.nan))
    with pytest.raises(gymnasium.error.ClosedEnvironmentError):
        envs.step(np.zeros((2, 8)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"task_seed": 0, "change_every": 100},
            ValueError,
            "multiple of num_envs, 8.* Nearest: 96 and 104",
        ),
        ({"task_seed": 0, "change_every": 3}, ValueError, "Nearest: 8"),
        (
            {"engine": "bulet"},
            ValueError,
            "engine must be one of 'bullet', 'mujoco', 'warp': 'bulet'",
        ),
        ({"engine": "warp"}, ValueError, "steps all its ants at once on a device"),
        ({"friction": 1, "task_seed": 2}, ValueError, "one or the other"),
        ({"change_every": 8}, ValueError, "task_seed and change_every"),
    ],
)
def test_wrong_arguments_for_ants_are_refused(arguments, error, message):
    pytest.importorskip("pybullet")
    with pytest.raises(error, match=message):
        slippery_ant_vector(8, **arguments)
