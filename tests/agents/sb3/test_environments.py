"""The adapter steps our environments as Stable-Baselines3's own vector environment would."""

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from small_agents import make_environments, small, stream_for
from stable_baselines3.common.vec_env import DummyVecEnv

from plasticity.agents.ppo.environments import environment_seeds
from plasticity.agents.sb3.environments import SB3Environments


def reference(config, num_envs):
    """Return Stable-Baselines3's vector environment of the same environments."""
    stream = stream_for(config, num_envs)

    def make():
        env = stream.make_env(task_seed=5, change_every=stream.env_change_every)
        return TimeLimit(env, 9)

    envs = DummyVecEnv([make] * num_envs)
    envs._seeds = environment_seeds(3, num_envs)
    return envs


@pytest.mark.parametrize("name", ["sb3:dqn", "sb3:sac"])
def test_steps_are_those_of_stable_baselines3(name):
    config = small(name)
    ours, theirs = SB3Environments(make_environments(config, 2)), reference(config, 2)
    assert isinstance(ours.action_space, type(theirs.action_space))
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    draws = theirs.action_space
    draws.seed(0)
    kept, ended, cut = [], [], 0
    for _ in range(60):
        actions = np.stack([draws.sample() for _ in range(2)])
        found, expected = ours.step(actions), theirs.step(actions)
        for one, other in zip(found[:3], expected[:3], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6)
            assert one.dtype == other.dtype
        for own, other in zip(found[3], expected[3], strict=True):
            assert own.get("TimeLimit.truncated", False) == other["TimeLimit.truncated"]
            cut += own.get("TimeLimit.truncated", False)
            if "terminal_observation" in other:
                np.testing.assert_array_equal(
                    own["terminal_observation"], other["terminal_observation"]
                )
            assert "task" not in own  # the learner is not told
        kept.append(expected[1])
        ended.append(expected[2])
    assert cut
    rewards, ends, tasks = ours.take_steps()
    np.testing.assert_allclose(rewards, kept, rtol=1e-6)
    np.testing.assert_array_equal(ends, ended)
    assert tasks.shape == (61, 2)
    # Episodes of at most 9 steps, and a change every 20: tasks 0, 1 and 2 at least.
    assert tasks[0].tolist() == [0, 0]
    assert ours.newest_task == tasks[-1].max() >= 2


def test_the_spaces_are_flat():
    ours = SB3Environments(make_environments(small("sb3:td3")))
    assert ours.observation_space == spaces.Box(-np.inf, np.inf, (3,), np.float32)
    assert ours.action_space == spaces.Box(-2.0, 2.0, (1,), np.float32)


def test_what_is_returned_stays_as_it_is():
    ours = SB3Environments(make_environments(small("sb3:dqn"), 2))
    first = ours.reset()
    before = first.copy()
    found = ours.step(np.array([0, 1]))
    found[1][:] = 7.0  # as PPO does where it bootstraps
    np.testing.assert_array_equal(first, before)
    np.testing.assert_array_equal(ours.take_steps()[0], [[1.0, 1.0]])


def test_nothing_else_can_be_asked_of_them():
    ours = SB3Environments(make_environments(small("sb3:dqn"), 2))
    assert ours.env_is_wrapped(TimeLimit) == [False, False]
    for call in (
        lambda: ours.get_attr("gravity"),
        lambda: ours.set_attr("gravity", 1.0),
        lambda: ours.env_method("reset"),
    ):
        with pytest.raises(AttributeError, match="The environments of a run"):
            call()
