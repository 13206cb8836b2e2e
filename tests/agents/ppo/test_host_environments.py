"""A Gymnasium vector environment presented as one on the device: same numbers, one block each way."""

import copy
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from plasticity.agents.ppo.device_environments import HostEnvironments
from plasticity.agents.ppo.rollout import environment_seeds
from plasticity.tasks.vector.environments import VectorEnvironments

SEEDS = environment_seeds(0, 3)


class Walk(gym.Env):
    """Sums actions, (2, 1). Episodes differ in length; every other one ends in death."""

    observation_space = spaces.Box(-np.inf, np.inf, (2, 1))
    action_space = spaces.Box(np.array([-1, -2], np.float32), np.array([3, 4], np.float32))
    reports = True

    def __init__(self):
        self.episode = -1

    def info(self):
        return {"task": self.episode // 2, "friction": self.episode + 0.1} if self.reports else {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        self.left = int(self.np_random.integers(2, 5))
        self.state = self.np_random.normal(size=(2, 1))
        return self.state.astype(np.float32), self.info()

    def step(self, action):
        self.state = self.state + action[:, None]
        self.left -= 1
        died = self.left == 0 and self.episode % 2 == 1
        observation, reward = self.state.astype(np.float32), float(self.state.sum())
        return observation, reward, died, self.left == 0 and not died, self.info()

    def state_dict(self):
        return {"now": (self.episode, self.left, self.state), "random": self.np_random}

    def load_state_dict(self, state):
        self.episode, self.left, self.state = state["now"]
        self.np_random = state["random"]


class Silent(Walk):
    reports = False


def envs(make=Walk, device="cpu"):
    return HostEnvironments(VectorEnvironments([make] * 3), SEEDS, device)


def actions(count, seed=0):
    return torch.randn(count, 3, 2, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
        ),
    ],
)
def test_every_step_equals_that_of_the_vector_environment(device):
    ours, vector = envs(device=device), VectorEnvironments([Walk] * 3)
    observations, infos = vector.reset(seed=SEEDS)
    assert ours.reset().tolist() == observations.reshape(3, 2).tolist()
    seen = np.zeros(2, bool)
    for action in actions(20):
        assert ours.tasks.tolist() == infos["task"].tolist()
        assert ours.frictions.tolist() == infos["friction"].tolist()
        step = ours.step(action.to(device))
        observations, rewards, terminated, truncated, infos = vector.step(action.numpy())
        assert {part.device.type for part in step} == {device}
        assert step.observations.tolist() == observations.reshape(3, 2).tolist()
        assert step.rewards.tolist() == rewards.tolist()
        assert step.terminated.tolist() == terminated.tolist()
        assert step.truncated.tolist() == truncated.tolist()
        finals = observations.reshape(3, 2).copy()
        for index in np.flatnonzero(terminated | truncated):
            finals[index] = infos["final_obs"][index].ravel()
        assert step.final_observations.tolist() == finals.tolist()
        seen |= [terminated.any(), truncated.any()]
    assert seen.all()


def test_attributes_needed_by_an_agent():
    ours = envs()
    assert (ours.num_envs, ours.observation_size, ours.action_size) == (3, 2, 2)
    assert (ours.action_low.tolist(), ours.action_high.tolist()) == ([-1, -2], [3, 4])
    assert ours.device == torch.device("cpu")
    ours.check()
    ours.close()
    with pytest.raises(gym.error.ClosedEnvironmentError):
        ours.reset()


def test_environments_without_tasks():
    ours = envs(Silent)
    ours.reset()
    for action in actions(6):
        ours.step(action)
    assert ours.tasks.tolist() == [-1] * 3
    assert all(map(math.isnan, ours.frictions.tolist()))
    assert set(ours.state_dict()) == {"environments"}


def test_a_reset_starts_over():
    ours = envs()
    first = ours.reset().clone()
    for action in actions(8):
        ours.step(action)
    assert ours.tasks.max() > 0
    again = ours.reset()
    assert again.tolist() == first.tolist()


def test_one_block_is_transferred_each_way(crossings):
    ours = envs(device="meta")
    crossings.into.clear()
    ours.reset()
    # for 3 environments: 8-byte tasks, frictions and rewards, 2 x 4 bytes of observations and of final
    # observations, and 2 flags, each array rounded up to a multiple of 8 bytes
    often, whole = 24 + 24 + 8 + 3, 24 + 24 + 8 + 8 + 24 + 24 + 24
    assert crossings.into == [(whole,)]
    ends = 0
    for _ in range(12):
        crossings.into.clear()
        crossings.out.clear()
        step = ours.step(torch.zeros(3, 2, device="meta"))
        assert crossings.out == [(3, 2)]
        ended = step.final_observations is not step.observations
        assert crossings.into == [(whole if ended else often,)]
        ends += ended
    assert 0 < ends < 12


def test_data_in_transfer_is_not_overwritten():
    """A reset, a step and a loaded state wait for the previous copy to arrive."""
    ours = envs()
    ours.reset()
    state, host = copy.deepcopy(ours.state_dict()), ours._block.on_host
    host["frictions"][:] = 7
    waits = []

    class Arrival:
        def synchronize(self):
            waits.append(host["frictions"].tolist() == [7] * 3)

    ours._block._arrived = Arrival()
    for act in (
        lambda: ours.step(torch.zeros(3, 2)),
        ours.reset,
        lambda: ours.load_state_dict(state),
    ):
        waits.clear()
        host["frictions"][:] = 7
        act()
        assert waits == [True]
        assert host["frictions"].tolist() != [7] * 3


def test_a_task_that_changes_within_an_episode_is_reported():
    class Restless(Walk):
        def info(self):
            return {"task": self.left, "friction": 0.5}

    ours = envs(Restless)
    ours.reset()
    before = ours.tasks.clone()
    assert not ours.step(torch.zeros(3, 2)).truncated.any()
    assert ours.tasks.tolist() == (before - 1).tolist()


def turned(part):
    """Move the last environment to the front."""
    return part.roll(1, 0) if isinstance(part, torch.Tensor) else [part[-1], *part[:-1]]


def test_continues_with_reordered_environments():
    straight, given = envs(), actions(12)
    straight.reset()
    for action in given[:5]:
        straight.step(action)
    state = copy.deepcopy(straight.state_dict())
    assert {len(part) for part in state.values()} == {3}
    other = envs()
    other.reset()
    other.load_state_dict({name: turned(part) for name, part in state.items()})
    assert other.tasks.tolist() == turned(straight.tasks).tolist()
    assert other.frictions.tolist() == turned(straight.frictions).tolist()
    for action in given[5:]:
        found, expected = other.step(turned(action)), straight.step(action)
        for one, wanted in zip(found, expected, strict=True):
            assert one.tolist() == turned(wanted).tolist()
    assert other.tasks.tolist() == turned(straight.tasks).tolist()


@pytest.mark.parametrize(
    ("make", "seeds", "error", "message"),
    [
        (lambda: VectorEnvironments([Walk] * 3), [1, 2], ValueError, "3 environments need as many"),
        (
            lambda: VectorEnvironments([lambda: gym.make("CartPole-v1")]),
            [1],
            TypeError,
            "Stacked agents need continuous actions, not Discrete",
        ),
        (lambda: gym.make_vec("Pendulum-v1", 1), [1], ValueError, "autoreset_mode="),
    ],
)
def test_wrong_arguments(make, seeds, error, message):
    with pytest.raises(error, match=message):
        HostEnvironments(make(), seeds)
