"""Normalisers of replicas against those of each alone."""

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
        unlearnt = ours(torch.tensor(final.reshape(12, 2)), learn=False).view(3, 4, 2)
        for replica, alone in enumerate(theirs):
            np.testing.assert_allclose(found[replica], alone(samples[replica]), **CLOSE)
            np.testing.assert_allclose(
                unlearnt[replica], alone(final[replica], learn=False), **CLOSE
            )
        if step == 3:  # each goes on from the other's state
            for replica, alone in enumerate(theirs):
                state = ours.statistics.state_dict(replica)
                ours.statistics.load_state_dict(replica, alone.statistics.state_dict())
                alone.statistics.load_state_dict(state)
    assert found.abs().max() <= 10


def test_rewards():
    generator = np.random.default_rng(0)
    ours = StackedRewardNormalizer(2, 3, 0.9, CPU)
    theirs = [RewardNormalizer(3, 0.9) for _ in range(2)]
    for step in range(12):
        rewards = generator.normal(1, 3, (2, 3))
        ended = generator.random((2, 3)) < 0.2
        found = ours(torch.tensor(rewards.ravel()), torch.tensor(ended.ravel())).view(2, 3)
        for replica, alone in enumerate(theirs):
            expected = alone(rewards[replica], ended[replica])
            np.testing.assert_allclose(found[replica], expected, **CLOSE)
        if step == 7:
            for replica, alone in enumerate(theirs):
                state = ours.state_dict(replica)
                ours.load_state_dict(replica, alone.state_dict())
                alone.load_state_dict(state)


def test_nan_stays_with_its_replica():
    ours = StackedObservationNormalizer(2, 1, CPU)
    found = ours(torch.tensor([[torch.nan], [1.0], [2.0], [3.0]]))
    assert found[:2].isnan().all()
    assert found[2:].isfinite().all()


def test_a_large_mean_keeps_its_variance():
    """As the ordinary one does: in float32 it would be gone."""
    ours = StackedObservationNormalizer(1, 1, CPU)
    samples = torch.tensor([[1e4 - 1e-2], [1e4 + 1e-2]], dtype=torch.float64)
    for _ in range(5):
        ours.statistics.update(samples.view(1, 2, 1))
    # the first 1e-4 samples of (0, 1) weigh 1e-4 / 10 x 1e4^2, which is 1e3
    variance = ours.statistics.variance.item()
    count = 10 + 1e-4
    mean_square = (1e-4 * 1 + 10 * (1e8 + 1e-4)) / count
    np.testing.assert_allclose(variance, mean_square - (10 * 1e4 / count) ** 2, rtol=1e-6)
