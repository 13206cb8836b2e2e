"""Settings of all algorithms and of PPO: the defaults are Stable-Baselines3's, bad values are refused."""

import inspect
import re

import pytest
import stable_baselines3

from plasticity.agents.sb3 import ALGORITHMS, SB3PPOConfig
from plasticity.agents.sb3.config import algorithm


def test_the_defaults_are_those_of_stable_baselines3():
    known = inspect.signature(stable_baselines3.PPO).parameters
    found = SB3PPOConfig().arguments(num_envs=1)
    assert found == {name: known[name].default for name in found}
    # its other arguments are no settings of the learning, or of exploration by gSDE
    assert set(known) - set(found) == {
        *("policy", "env", "policy_kwargs", "device", "seed", "verbose", "_init_setup_model"),
        *("use_sde", "sde_sample_freq", "rollout_buffer_class", "rollout_buffer_kwargs"),
        *("stats_window_size", "tensorboard_log"),
    }


def test_environments_share_a_rollout():
    assert SB3PPOConfig(rollout_steps=600).arguments(num_envs=4)["n_steps"] == 150
    assert SB3PPOConfig(rollout_steps=600).round_steps(4) == 600
    with pytest.raises(ValueError, match="rollout_steps 600 cannot be shared by 7 environments"):
        SB3PPOConfig(rollout_steps=600).arguments(num_envs=7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": ()}, "hidden needs at least one width"),
        ({"activation": "rely"}, "Unknown activation 'rely'. Did you mean 'relu'?"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"gamma": 1.1}, "gamma must be at most 1"),
        ({"gae_lambda": 1.1}, "gae_lambda must be at most 1"),
        ({"rollout_steps": 1}, "rollout_steps must be at least 2"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"clip_range": 0}, "clip_range must be above 0"),
        ({"target_kl": 0}, "target_kl must be above 0"),
        ({"value_coefficient": -1.0}, "value_coefficient must be a finite number of at least 0"),
        ({"batch_size": 1}, "A minibatch of 1 has no standard deviation"),
    ],
)
def test_bad_values_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        SB3PPOConfig(**settings)


def test_an_algorithm_has_a_name_of_its_own():
    assert all(kind().algorithm == name for name, kind in ALGORITHMS.items())
    with pytest.raises(ValueError, match="There is an algorithm 'sb3:ppo' already"):
        algorithm("sb3:ppo")(SB3PPOConfig)
