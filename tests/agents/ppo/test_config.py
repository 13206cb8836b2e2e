"""Settings that a PPO configuration rejects, and the published presets."""

import math

import pytest

from plasticity.agents.ppo.config import PRESETS, PPOConfig


def test_published_presets():
    standard, other = PRESETS["standard"], PRESETS["non-stationary"]
    assert standard.betas == (0.9, 0.999)
    assert other.betas == (0.99, 0.99)
    for preset in (standard, other):
        assert preset.hidden == (256, 256)
        assert (preset.rollout_steps, preset.epochs, preset.num_minibatches) == (2048, 10, 16)
        assert (preset.learning_rate, preset.clip_range) == (1e-4, 0.2)
        assert (preset.gamma, preset.gae_lambda) == (0.99, 0.95)
        assert not preset.normalize_observations
        assert preset.max_gradient_norm is None
        assert preset.value_clip_range is None


def test_learning_rate():
    assert PPOConfig().learning_rate_at(10**9) == 1e-4
    linear = PPOConfig(learning_rate=0.4, learning_rate_schedule="linear", total_steps=8192)
    # four updates of 2048 steps: 4/4, 3/4, 2/4, 1/4; and no negative rate after the end
    rates = [linear.learning_rate_at(step) for step in range(0, 5 * 2048, 2048)]
    assert rates == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0])
    assert linear.learning_rate_at(10**6) == 0.0


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"hidden": [256]}, TypeError, r"hidden must be a tuple of widths, not \[256\]"),
        ({"hidden": ()}, ValueError, "at least one hidden layer"),
        ({"hidden": (0,)}, ValueError, "width must be at least 1: 0"),
        ({"activation": "rely"}, ValueError, "Did you mean 'relu'"),
        ({"initialization": "ortogonal"}, ValueError, "Did you mean 'orthogonal'"),
        ({"image_network": "natura"}, ValueError, "Did you mean 'nature'"),
        (
            {"image_network": "nature", "normalize_observations": True},
            ValueError,
            "leave out normalize_observations",
        ),
        ({"initial_log_std": math.nan}, ValueError, "initial_log_std must be a finite number"),
        ({"rollout_steps": 1}, ValueError, "rollout_steps must be at least 2: 1"),
        ({"rollout_steps": 2048.0}, TypeError, "rollout_steps must be an integer"),
        ({"epochs": 0}, ValueError, "epochs must be at least 1: 0"),
        ({"minibatch_size": 0}, ValueError, "minibatch_size must be at least 1"),
        # 2048 = 2^11, whose divisor nearest to 100 is 128
        ({"minibatch_size": 100}, ValueError, "does not divide rollout_steps=2048.*Try 128"),
        ({"learning_rate": 0}, ValueError, "learning_rate must be above 0, not 0"),
        ({"learning_rate": "fast"}, TypeError, "learning_rate must be a number"),
        ({"learning_rate_schedule": "liner"}, ValueError, "Did you mean 'linear'"),
        ({"learning_rate_schedule": "linear"}, ValueError, "needs total_steps"),
        ({"total_steps": 100}, ValueError, "has no effect with a constant learning rate"),
        (
            {"learning_rate_schedule": "linear", "total_steps": 0},
            ValueError,
            "total_steps must be at least 1",
        ),
        ({"betas": (0.9, 1.0)}, ValueError, "a beta must be"),
        ({"betas": [0.9, 0.99]}, TypeError, "betas must be a tuple of two numbers"),
        ({"betas": (0.9,)}, TypeError, "betas must be a tuple of two numbers"),
        ({"epsilon": 0.0}, ValueError, "epsilon must be above 0"),
        ({"gamma": 1.1}, ValueError, "gamma must be at most 1: 1.1"),
        ({"gae_lambda": -0.1}, ValueError, "gae_lambda must be"),
        ({"reward_scale": 0.0}, ValueError, "reward_scale must be above 0, not 0.0"),
        (
            {"reward_scale": 0.05, "normalize_rewards": True},
            ValueError,
            "reward_scale=0.05 has no effect on rewards that are scaled",
        ),
        ({"clip_range": 0.0}, ValueError, "clip_range must be above 0"),
        ({"value_clip_range": 0.0}, ValueError, "value_clip_range must be above 0"),
        ({"entropy_coefficient": -1.0}, ValueError, "entropy_coefficient must be"),
        ({"value_coefficient": math.inf}, ValueError, "value_coefficient must be"),
        ({"max_gradient_norm": 0.0}, ValueError, "max_gradient_norm must be above 0"),
        ({"target_kl": -0.01}, ValueError, "target_kl must be"),
        ({"normalize_advantages": True}, ValueError, "Unknown normalize_advantages True"),
        ({"normalize_rewards": 1}, TypeError, "normalize_rewards must be True or False, not 1"),
        (
            {"normalize_advantages": "minibatch", "minibatch_size": 1},
            ValueError,
            "A minibatch of 1 has no standard deviation",
        ),
    ],
)
def test_wrong_settings(settings, error, message):
    with pytest.raises(error, match=message):
        PPOConfig(**settings)
