"""Settings of algorithms with a replay buffer: defaults of their packages, and what they refuse."""

import importlib
import inspect
import math
import re

import pytest

from plasticity.agents.sb3 import (
    ALGORITHMS,
    DQNConfig,
    OffPolicyConfig,
    QRDQNConfig,
    SACConfig,
)

NAMES = [name for name, kind in ALGORITHMS.items() if issubclass(kind, OffPolicyConfig)]

OURS = {"exploration_fraction"}
"""Argument that differs: exploration ends after a number of steps, and not after a share of the run."""


@pytest.mark.parametrize("name", NAMES)
def test_the_defaults_are_those_of_the_package(name):
    config = ALGORITHMS[name]()
    module, _, kind = config.source.partition(":")
    if module == "sb3_contrib":
        pytest.importorskip("sb3_contrib", reason="needs sb3-contrib: pip install sb3-contrib")
    known = inspect.signature(getattr(importlib.import_module(module), kind)).parameters
    found = config.arguments(num_envs=1)
    assert {n: v for n, v in found.items() if n not in OURS} == {
        each: known[each].default for each in found if each not in OURS
    }


# Their share of a million steps: 0.1 and 0.005.
def test_exploration_lasts_as_long_as_in_a_million_steps():
    assert (DQNConfig().exploration_steps, QRDQNConfig().exploration_steps) == (100_000, 5000)
    assert DQNConfig().arguments(1)["exploration_fraction"] == 1.0


def test_no_clipping_is_a_limit_that_nothing_reaches():
    assert DQNConfig(max_gradient_norm=None).arguments(1)["max_grad_norm"] == math.inf
    assert QRDQNConfig(max_gradient_norm=None).arguments(1)["max_grad_norm"] is None


def test_a_round_has_the_steps_of_all_environments():
    assert DQNConfig(train_freq=4).round_steps(3) == 12


def test_epsilon_follows_the_minibatch():
    # as QRDQN.__init__ of sb3-contrib computes it
    assert QRDQNConfig(batch_size=32).optimizer_arguments() == {"eps": 0.01 / 32}


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (SACConfig, {"buffer_size": 0}, "buffer_size must be at least 1"),
        (SACConfig, {"learning_starts": -1}, "learning_starts must be at least 0"),
        (SACConfig, {"gradient_steps": 0}, "gradient_steps must be above 0, or -1"),
        (DQNConfig, {"exploration_steps": 0}, "exploration_steps must be at least 1"),
        (DQNConfig, {"final_exploration": 2.0}, "final_exploration must be at most 1"),
        (DQNConfig, {"max_gradient_norm": 0.0}, "max_gradient_norm must be above 0"),
    ],
)
def test_bad_values_are_refused_by_name(kind, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(**settings)


def test_a_buffer_holds_a_step_of_each_environment():
    with pytest.raises(ValueError, match="buffer_size 3 must hold a step of each of the 4"):
        SACConfig(buffer_size=3).arguments(num_envs=4)
