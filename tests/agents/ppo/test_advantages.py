"""Advantages compared with hand-computed ones, the recursion in float64, and Stable-Baselines3."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity.agents.ppo.advantages import generalized_advantages


def column(*numbers, dtype=torch.float64):
    return torch.tensor(numbers, dtype=dtype).unsqueeze(1)


def test_by_hand():
    # gamma = lambda = 1/2. Step 1 reaches a time limit, with value 8 of its last observation; step 2 dies.
    # A_3 = 4 + 0.5 * 2 - 1            = 4
    # A_2 = 3 - 2                      = 1       (dead: neither the next value nor A_3)
    # A_1 = 2 + 0.5 * 8 - 1            = 5       (time limit: the final observation's value, but not A_2)
    # A_0 = 1 + 0.5 * 1 - 2 + 0.25 * 5 = 0.75
    advantages = generalized_advantages(
        column(1, 2, 3, 4),
        column(2, 1, 2, 1),
        column(1, 8, 99, 2),
        column(False, False, True, False, dtype=torch.bool),
        column(False, True, False, False, dtype=torch.bool),
        gamma=0.5,
        gae_lambda=0.5,
    )
    torch.testing.assert_close(advantages, column(0.75, 5, 1, 4))


def test_a_death_at_the_time_limit_is_a_death():
    yes = column(True, dtype=torch.bool)
    found = generalized_advantages(
        column(3), column(1), column(100), yes, yes, gamma=0.9, gae_lambda=0.9
    )
    assert found.item() == 2


def recursion(rewards, values, next_values, terminated, truncated, gamma, gae_lambda):
    """Compute the paper's recursion, one number at a time."""
    advantages = np.zeros(rewards.shape)
    for env in range(rewards.shape[1]):
        following = 0.0
        for t in reversed(range(rewards.shape[0])):
            bootstrap = 0.0 if terminated[t, env] else gamma * next_values[t, env]
            following = 0.0 if terminated[t, env] or truncated[t, env] else following
            delta = rewards[t, env] + bootstrap - values[t, env]
            following = delta + gamma * gae_lambda * following
            advantages[t, env] = following
    return advantages


@settings(deadline=None)  # a slow machine is not an error
@given(
    seed=st.integers(0, 2**32),
    steps=st.integers(1, 70),
    envs=st.integers(1, 3),
    gamma=st.floats(0, 1),
    gae_lambda=st.floats(0, 1),
)
def test_doubling_equals_the_recursion(seed, steps, envs, gamma, gae_lambda):
    random = np.random.default_rng(seed)
    numbers = random.normal(size=(3, steps, envs))
    ends = random.random((2, steps, envs)) < 0.1
    discounts = {"gamma": gamma, "gae_lambda": gae_lambda}
    found = generalized_advantages(*map(torch.from_numpy, (*numbers, *ends)), **discounts)
    expected = recursion(*numbers, *ends, **discounts)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10, atol=1e-10)


def test_a_long_rollout_in_float32():
    random = np.random.default_rng(0)
    numbers = random.normal(size=(3, 2048, 2))
    ends = random.random((2, 2048, 2)) < 0.001
    tensors = [torch.from_numpy(n).float() for n in numbers] + [torch.from_numpy(e) for e in ends]
    found = generalized_advantages(*tensors, gamma=0.99, gae_lambda=0.95)
    expected = recursion(*numbers, *ends, 0.99, 0.95)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(0.99, 0.95), (0.9, 1.0), (1.0, 0.0)])
def test_equals_stable_baselines3(gamma, gae_lambda):
    buffers = pytest.importorskip("stable_baselines3.common.buffers")
    from gymnasium import spaces

    steps, envs = 64, 3
    random = np.random.default_rng(1)
    rewards, values, final_values = random.normal(size=(3, steps, envs)).astype(np.float32)
    terminated, truncated = random.random((2, steps, envs)) < 0.1
    truncated[-1, 0], terminated[-1, :2] = (
        True,
        (False, True),
    )  # also episodes that end in the last step
    last_values = random.normal(size=envs).astype(np.float32)

    box = spaces.Box(-1, 1, (1,))
    buffer = buffers.RolloutBuffer(
        steps, box, box, "cpu", gae_lambda=gae_lambda, gamma=gamma, n_envs=envs
    )
    starts = np.zeros(envs)
    limit = truncated & ~terminated
    for t in range(steps):
        # as in OnPolicyAlgorithm.collect_rollouts: the value at a time limit is added to the reward
        reward = rewards[t] + gamma * final_values[t] * limit[t]
        nothing = np.zeros((envs, 1))
        value = torch.from_numpy(values[t])
        buffer.add(nothing, nothing, reward, starts, value, torch.zeros(envs))
        starts = terminated[t] | truncated[t]
    buffer.compute_returns_and_advantage(torch.from_numpy(last_values), starts)

    next_values = np.concatenate((values[1:], last_values[None]))
    next_values[limit] = final_values[limit]
    tensors = map(torch.from_numpy, (rewards, values, next_values, terminated, truncated))
    found = generalized_advantages(*tensors, gamma=gamma, gae_lambda=gae_lambda)
    np.testing.assert_allclose(found.numpy(), buffer.advantages, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(found.numpy() + values, buffer.returns, rtol=1e-4, atol=2e-5)
