"""Settings of algorithms for continuous actions: what they give to their packages, and what they refuse.

That their defaults are the packages' is tested with the others' (`test_off_policy.py`).
"""

import re

import pytest

from plasticity.agents.sb3 import CrossQConfig, SACConfig, TD3Config, TQCConfig


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (SACConfig, {"tau": 0.0}, "tau must be above 0"),
        (SACConfig, {"tau": 1.5}, "tau must be at most 1"),
        (SACConfig, {"entropy_coefficient": -1.0}, "entropy_coefficient must be a finite number"),
        (
            SACConfig,
            {"entropy_coefficient": 0.1, "target_entropy": -1.0},
            "target_entropy=-1.0 has no effect with a fixed entropy_coefficient of 0.1",
        ),
        (TQCConfig, {"num_quantiles": 3, "dropped_quantiles": 3}, "dropped_quantiles must be at"),
        (TD3Config, {"exploration_noise": -0.1}, "exploration_noise must be a finite number"),
        (TD3Config, {"policy_delay": 0}, "policy_delay must be at least 1"),
        (CrossQConfig, {"critic_hidden": ()}, "critic_hidden needs at least one width"),
    ],
)
def test_bad_values_are_refused_by_name(kind, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(**settings)


def test_the_entropy_is_learned_or_fixed():
    assert SACConfig(target_entropy=-2.0).arguments(1)["target_entropy"] == -2.0
    assert SACConfig().arguments(1)["ent_coef"] == "auto"
    assert CrossQConfig(entropy_coefficient=0.2).arguments(1)["ent_coef"] == 0.2


def test_actor_and_critics_of_crossq_have_widths_of_their_own():
    config = CrossQConfig(hidden=(3,), critic_hidden=(4, 5))
    assert config.policy_arguments() == {"net_arch": {"pi": [3], "qf": [4, 5]}}
