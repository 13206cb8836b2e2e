"""Running statistics compared with numpy over all samples, and the normalizers with Stable-Baselines3's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity.agents.ppo.normalization import (
    ObservationNormalizer,
    RewardNormalizer,
    RunningStatistics,
)


@settings(deadline=None)  # a slow machine is not an error
@given(seed=st.integers(0, 2**32), sizes=st.lists(st.integers(1, 20), min_size=1, max_size=6))
def test_equals_the_statistics_of_all_samples(seed, sizes):
    random = np.random.default_rng(seed)
    samples = random.normal(5.0, 3.0, size=(sum(sizes), 4))
    statistics = RunningStatistics((4,))
    statistics.count = 0.0  # drop the initial samples of (0, 1)
    for part in np.split(samples, np.cumsum(sizes)[:-1]):
        statistics.update(part)
    np.testing.assert_allclose(statistics.mean, samples.mean(0), rtol=1e-12)
    np.testing.assert_allclose(statistics.variance, samples.var(0), rtol=1e-9, atol=1e-12)
    assert statistics.count == len(samples)


class Recorded:
    """Vector environment of Stable-Baselines3 that replays recorded numbers."""

    def __init__(self, observations, rewards, ended):
        vec_env = pytest.importorskip("stable_baselines3.common.vec_env")
        from gymnasium import spaces

        num_envs, size = observations.shape[1:]
        recorded = self

        class Player(vec_env.VecEnv):
            def __init__(self):
                self.step_count = 0
                super().__init__(
                    num_envs, spaces.Box(-np.inf, np.inf, (size,)), spaces.Box(-1, 1, (1,))
                )

            def reset(self):
                return observations[0]

            def step_async(self, actions):
                pass

            def step_wait(self):
                t = self.step_count
                self.step_count += 1
                return observations[t + 1], rewards[t], ended[t], [{}] * num_envs

            def get_attr(self, name, indices=None):
                return [None] * num_envs

            def close(self):
                pass

            set_attr = env_method = env_is_wrapped = close

        recorded.normalized = vec_env.VecNormalize(Player(), gamma=0.9)


def test_equal_stable_baselines3():
    random = np.random.default_rng(0)
    observations = random.normal(3, 2, size=(31, 3, 4)).astype(np.float32)
    rewards = random.normal(-1, 5, size=(30, 3)).astype(np.float32)
    rewards[7] *= 1000  # to be clipped
    ended = random.random((30, 3)) < 0.2
    theirs = Recorded(observations, rewards, ended).normalized
    of_observations, of_rewards = ObservationNormalizer(4), RewardNormalizer(3, gamma=0.9)
    np.testing.assert_allclose(of_observations(observations[0]), theirs.reset(), rtol=1e-5)
    for t in range(30):
        expected_observations, expected_rewards, _, _ = theirs.step(np.zeros((3, 1)))
        found = of_observations(observations[t + 1])
        np.testing.assert_allclose(found, expected_observations, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(of_rewards(rewards[t], ended[t]), expected_rewards, rtol=1e-5)
    final = random.normal(size=(2, 4))
    expected = theirs.normalize_obs(final)
    np.testing.assert_allclose(of_observations(final, learn=False), expected, rtol=1e-5)
    assert of_observations.statistics.count == pytest.approx(31 * 3 + 1e-4)


def test_continues_from_its_state():
    random = np.random.default_rng(0)
    first, second = RewardNormalizer(2, 0.9), RewardNormalizer(2, 0.9)
    ended = np.array([True, False])
    for _ in range(5):
        first(random.normal(size=2), ended)
    state = first.state_dict()
    first(np.ones(2), ended)  # does not change what was saved
    second.load_state_dict(state)
    third = RewardNormalizer(2, 0.9)
    third.load_state_dict(state)
    rewards = random.normal(size=(5, 2))
    for reward in rewards:
        assert np.array_equal(second(reward, ~ended), third(reward, ~ended))
    assert second.statistics.mean != 0
    assert isinstance(state["returns"], torch.Tensor)


def test_a_constant_observation_becomes_zero():
    normalizer = ObservationNormalizer(1)
    normalizer.statistics.count = 0.0
    assert normalizer(np.full((8, 1), 4.0)).tolist() == [[0.0]] * 8
