"""Stacked normalizers compared with separate ones."""

import numpy as np
import torch

from plasticity.agents.ppo.normalization import ObservationNormalizer, RewardNormalizer
from plasticity.agents.ppo.stacked_normalization import (
    StackedObservationNormalizer,
    StackedRewardNormalizer,
)

CPU = torch.device("cpu")
CLOSE = {"rtol": 1e-12, "atol": 1e-13}


def test_observations():
    generator = np.random.default_rng(0)
    ours = StackedObservationNormalizer(3, 2, CPU)
    theirs = [ObservationNormalizer(2) for _ in range(3)]
    for step in range(6):
        shift = np.array([0.0, 5.0, -9.0])[:, None, None]
        samples = generator.normal(generator.normal(), 3.0, (3, 4, 2)) + shift
        final = generator.normal(size=(3, 4, 2))
        flat = torch.tensor(samples.reshape(12, 2))
        found = ours(flat).view(3, 4, 2)
        unlearned = ours(torch.tensor(final.reshape(12, 2)), learn=False).view(3, 4, 2)
        for index, separate in enumerate(theirs):
            np.testing.assert_allclose(found[index], separate(samples[index]), **CLOSE)
            np.testing.assert_allclose(
                unlearned[index], separate(final[index], learn=False), **CLOSE
            )
        if step == 3:  # each continues from the other's state
            for index, separate in enumerate(theirs):
                state = ours.statistics.state_dict(index)
                ours.statistics.load_state_dict(index, separate.statistics.state_dict())
                separate.statistics.load_state_dict(state)
    assert found.abs().max() <= 10


def test_rewards():
    generator = np.random.default_rng(0)
    ours = StackedRewardNormalizer(2, 3, 0.9, CPU)
    theirs = [RewardNormalizer(3, 0.9) for _ in range(2)]
    for step in range(12):
        rewards = generator.normal(1, 3, (2, 3))
        ended = generator.random((2, 3)) < 0.2
        found = ours(torch.tensor(rewards.ravel()), torch.tensor(ended.ravel())).view(2, 3)
        for index, separate in enumerate(theirs):
            expected = separate(rewards[index], ended[index])
            np.testing.assert_allclose(found[index], expected, **CLOSE)
        if step == 7:
            for index, separate in enumerate(theirs):
                state = ours.state_dict(index)
                ours.load_state_dict(index, separate.state_dict())
                separate.load_state_dict(state)


def test_nan_does_not_spread_to_other_agents():
    ours = StackedObservationNormalizer(2, 1, CPU)
    found = ours(torch.tensor([[torch.nan], [1.0], [2.0], [3.0]]))
    assert found[:2].isnan().all()
    assert found[2:].isfinite().all()


def test_a_large_mean_keeps_its_variance():
    """As with `RunningStatistics`; in float32 the variance would be lost."""
    ours = StackedObservationNormalizer(1, 1, CPU)
    samples = torch.tensor([[1e4 - 1e-2], [1e4 + 1e-2]], dtype=torch.float64)
    for _ in range(5):
        ours.statistics.update(samples.view(1, 2, 1))
    # the initial 1e-4 samples of (0, 1) contribute 1e-4 / 10 x 1e4^2 = 1e3
    variance = ours.statistics.variance.item()
    count = 10 + 1e-4
    mean_square = (1e-4 * 1 + 10 * (1e8 + 1e-4)) / count
    np.testing.assert_allclose(variance, mean_square - (10 * 1e4 / count) ** 2, rtol=1e-6)
