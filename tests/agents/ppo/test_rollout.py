"""Conversion of spaces to vectors, rejected spaces, and transfers between host and device."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from plasticity.agents.ppo.rollout import Rollout, Spaces

SAME_STEP = gym.vector.AutoresetMode.SAME_STEP


class Still(gym.Env):
    """Environment in which nothing happens."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


def vector(observation_space, action_space, mode=SAME_STEP):
    return gym.vector.SyncVectorEnv(
        [lambda: Still(observation_space, action_space)] * 2, autoreset_mode=mode
    )


BOX = spaces.Box(-1.0, 1.0, (3,))


def test_box():
    low = np.array([[-1, -np.inf], [0, 2]], np.float64)
    high = np.array([[1, np.inf], [3, 4]], np.float64)
    found = Spaces.of(vector(spaces.Box(0, 1, (2, 3)), spaces.Box(low, high, dtype=np.float64)))
    assert (found.observation_size, found.action_size, found.discrete) == (6, 4, False)
    assert found.action_shape == (2, 2)
    assert found.action_dtype == np.float64
    assert found.low.tolist() == [-1, -np.inf, 0, 2]
    assert found.high.tolist() == [1, np.inf, 3, 4]


def test_discrete_actions_that_do_not_start_at_zero():
    found = Spaces.of(vector(BOX, spaces.Discrete(4, start=-2)))
    assert (found.action_size, found.discrete, found.action_shape) == (4, True, ())
    assert (found.low, found.high) == (-2, 1)


@pytest.mark.parametrize(
    ("observations", "actions", "error", "message"),
    [
        (spaces.Discrete(3), BOX, TypeError, "observations from a Box, not Discrete.*Flatten"),
        (BOX, spaces.MultiDiscrete([2, 3]), TypeError, "Box of floats or from Discrete, not Multi"),
        (BOX, spaces.Box(0, 5, (2,), np.int64), TypeError, "Box of floats"),
    ],
)
def test_rejected_spaces(observations, actions, error, message):
    with pytest.raises(error, match=message):
        Spaces.of(vector(observations, actions))


@pytest.mark.parametrize("mode", ["NextStep", "Disabled"])
def test_rejected_autoreset_modes(mode):
    envs = vector(BOX, BOX, gym.vector.AutoresetMode(mode))
    with pytest.raises(
        ValueError, match=r"set autoreset_mode=gymnasium\.vector\.AutoresetMode\.SAME_STEP"
    ):
        Spaces.of(envs)


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
        ),
    ],
)
def test_stored_observations_and_actions(device):
    found = Spaces.of(vector(BOX, spaces.Box(-1, 1, (2,))))
    rollout = Rollout(3, 2, found, torch.device(device))
    observations = np.arange(6.0).reshape(2, 3)
    rollout.store_observations(1, observations)
    observations[:] = -1  # the environments may reuse their array
    assert rollout.observations[1].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert not rollout.observations[[0, 2, 3]].any()
    outputs = torch.tensor([[1.0, 2.0], [3.0, 4.0]], device=device)
    to_host = rollout.store_actions(2, outputs, outputs + 10)
    assert to_host.tolist() == [[11, 12], [13, 14]]
    assert rollout.outputs[2].tolist() == [[1, 2], [3, 4]]
    assert rollout.actions[2].tolist() == [[11, 12], [13, 14]]
    assert rollout.actions.device.type == device
