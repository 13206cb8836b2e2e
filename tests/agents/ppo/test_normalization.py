"""Running statistics compared with numpy over all samples, stacked ones with separate ones, and normalizers
with Stable-Baselines3's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity.agents.ppo import normalization
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
    statistics.count.zero_()  # drop the initial samples of (0, 1)
    for part in np.split(samples, np.cumsum(sizes)[:-1]):
        statistics.update(torch.from_numpy(part))
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
    first = of_observations(torch.from_numpy(observations[0]))
    np.testing.assert_allclose(first, theirs.reset(), rtol=1e-5)
    for t in range(30):
        expected_observations, expected_rewards, _, _ = theirs.step(np.zeros((3, 1)))
        found = of_observations(torch.from_numpy(observations[t + 1]))
        np.testing.assert_allclose(found, expected_observations, rtol=1e-5, atol=1e-6)
        found = of_rewards(*map(torch.from_numpy, (rewards[t], ended[t])))
        np.testing.assert_allclose(found, expected_rewards, rtol=1e-5)
    final = random.normal(size=(2, 4))
    expected = theirs.normalize_obs(final)
    found = of_observations(torch.from_numpy(final), learn=False)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert of_observations.statistics.count.item() == pytest.approx(31 * 3 + 1e-4)


CLOSE = {"rtol": 1e-12, "atol": 1e-13}


def test_stacked_observations_equal_separate_ones():
    random = torch.Generator().manual_seed(0)
    ours, theirs = ObservationNormalizer(2, (3,)), [ObservationNormalizer(2) for _ in range(3)]
    shift = torch.tensor([0.0, 5.0, -9.0]).view(3, 1, 1)
    for step in range(6):
        samples = 3 * torch.randn(3, 4, 2, generator=random, dtype=torch.float64) + shift
        final = torch.randn(3, 4, 2, generator=random)
        found, unlearned = ours(samples), ours(final, learn=False)
        for index, separate in enumerate(theirs):
            torch.testing.assert_close(found[index], separate(samples[index]), **CLOSE)
            expected = separate(final[index], learn=False)
            torch.testing.assert_close(unlearned[index], expected, **CLOSE)
        if step == 3:  # each continues from the other's state
            for index, separate in enumerate(theirs):
                state = ours.statistics.state_dict(index)
                ours.statistics.load_state_dict(separate.statistics.state_dict(), index)
                separate.statistics.load_state_dict(state)
    assert found.abs().max() <= 10


def test_stacked_rewards_equal_separate_ones():
    random = torch.Generator().manual_seed(0)
    ours, theirs = RewardNormalizer(3, 0.9, (2,)), [RewardNormalizer(3, 0.9) for _ in range(2)]
    for step in range(12):
        rewards = 1 + 3 * torch.randn(2, 3, generator=random, dtype=torch.float64)
        ended = torch.rand(2, 3, generator=random) < 0.2
        found = ours(rewards, ended)
        for index, separate in enumerate(theirs):
            torch.testing.assert_close(
                found[index], separate(rewards[index], ended[index]), **CLOSE
            )
        if step == 7:
            for index, separate in enumerate(theirs):
                state = ours.state_dict(index)
                ours.load_state_dict(separate.state_dict(), index)
                separate.load_state_dict(state)


@pytest.mark.parametrize("lead", [(), (3,)])
def test_numpy_and_torch_agree(lead):
    """On a CPU mean and variance are numpy's, elsewhere torch's."""
    samples = torch.randn(*lead, 5, 2, generator=torch.Generator().manual_seed(0))
    found = normalization._variance_and_mean(samples.double(), len(lead))
    expected = torch.var_mean(samples.double(), dim=len(lead), correction=0)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


def test_nan_does_not_spread_to_other_agents():
    ours = ObservationNormalizer(1, (2,))
    found = ours(torch.tensor([[[torch.nan], [1.0]], [[2.0], [3.0]]]))
    assert found[0].isnan().all()
    assert found[1].isfinite().all()


@pytest.mark.parametrize("lead", [(), (1,)])
def test_a_large_mean_keeps_its_variance(lead):
    """In float32 the variance would be lost."""
    ours = ObservationNormalizer(1, lead)
    samples = torch.tensor([[1e4 - 1e-2], [1e4 + 1e-2]], dtype=torch.float64)
    for _ in range(5):
        ours.statistics.update(samples.view(*lead, 2, 1))
    # the initial 1e-4 samples of (0, 1) contribute 1e-4 / 10 x 1e4^2 = 1e3
    variance = ours.statistics.variance.item()
    count = 10 + 1e-4
    mean_square = (1e-4 * 1 + 10 * (1e8 + 1e-4)) / count
    np.testing.assert_allclose(variance, mean_square - (10 * 1e4 / count) ** 2, rtol=1e-6)


def test_continues_from_its_state():
    random = torch.Generator().manual_seed(0)
    first, second, third = (RewardNormalizer(2, 0.9) for _ in range(3))
    ended = torch.tensor([True, False])
    for _ in range(5):
        first(torch.randn(2, generator=random), ended)
    state = first.state_dict()
    first(torch.ones(2), ended)  # does not change what was saved
    second.load_state_dict(state)
    third.load_state_dict(state)
    for reward in torch.randn(5, 2, generator=random):
        assert torch.equal(second(reward, ~ended), third(reward, ~ended))
    assert second.statistics.mean != 0
    assert isinstance(state["statistics"]["count"], float)


def test_a_constant_observation_becomes_zero():
    normalizer = ObservationNormalizer(1)
    normalizer.statistics.count.zero_()
    assert normalizer(torch.full((8, 1), 4.0)).tolist() == [[0.0]] * 8
