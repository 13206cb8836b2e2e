"""Models as Stable-Baselines3 makes them, with our settings, and with decays in their optimizers."""

import random
import re
import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from small_agents import make_environments, small
from torch import nn

from plasticity.agents.networks.layers import ACTIVATIONS
from plasticity.agents.ppo.host_environments import HostEnvironments
from plasticity.agents.sb3 import ALGORITHMS, SB3PPOConfig, TD3Config
from plasticity.agents.sb3.environments import SB3Environments
from plasticity.agents.sb3.model import (
    MODULES,
    Method,
    algorithm_class,
    make_model,
    require_fitting_spaces,
)
from plasticity.mitigations import HareTortoise, ReDo, Syre, WeightDecay
from plasticity.random_state import random_state, set_random_state
from plasticity.seeds import child_seed


@pytest.fixture(autouse=True)
def generators():
    """Models seed the global generators."""
    before = random_state()
    yield
    set_random_state(before)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_networks_are_those_of_the_package_by_default(name):
    small(name)  # skips what is not installed
    config = ALGORITHMS[name]()
    envs = SB3Environments(make_environments(config))
    if not isinstance(config, SB3PPOConfig):
        config = ALGORITHMS[name](buffer_size=100)  # the networks do not depend on it
    ours = make_model(config, envs, (), seed=7, device="cpu")
    seed = child_seed(7, "stable-baselines3") >> 32
    smaller = {} if isinstance(config, SB3PPOConfig) else {"buffer_size": 100}
    theirs = algorithm_class(config)("MlpPolicy", envs, seed=seed, device="cpu", **smaller)
    found, expected = ours.policy.state_dict(), theirs.policy.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[each], expected[each]) for each in expected)
    for own, other in zip(optimizers(ours), optimizers(theirs), strict=True):
        assert type(own) is type(other)
        assert own.defaults == other.defaults


def optimizers(model):
    parts = [model.policy, getattr(model, "actor", None), getattr(model, "critic", None)]
    found = [getattr(each, "optimizer", None) for each in parts]
    return [each for each in found if each is not None]


def test_activations_are_the_same_functions():
    assert MODULES.keys() == ACTIVATIONS.keys()
    sums = torch.linspace(-3, 3, 25)
    for name, function in ACTIVATIONS.items():
        assert torch.equal(MODULES[name]()(sums), function(sums)), name


def test_settings_reach_the_networks():
    config = small("sb3:sac", hidden=(5, 6), activation="leaky-relu-0.1")
    model = make_model(config, SB3Environments(make_environments(config)), (), seed=0, device="cpu")
    layers = list(model.actor.latent_pi)
    assert [each.out_features for each in layers if isinstance(each, nn.Linear)] == [5, 6]
    assert layers[1].negative_slope == 0.1


def test_the_noise_of_td3():
    for noise, expected in ((0.0, None), (0.3, [0.3])):
        config = TD3Config(buffer_size=10, exploration_noise=noise)
        envs = SB3Environments(make_environments(config))
        found = make_model(config, envs, (), seed=0, device="cpu").action_noise
        assert (None if found is None else found._sigma.tolist()) == expected


def test_decays_are_part_of_the_optimizers(config):
    method = (Syre(strength=0.01, sigma=0.5),)
    envs = SB3Environments(make_environments(config))
    model = make_model(config, envs, method, seed=7, device="cpu")
    plain = make_model(config, envs, (), seed=7, device="cpu")
    seed = child_seed(7, "anchor")
    for own, other in zip(optimizers(model), optimizers(plain), strict=True):
        assert own.defaults["eps"] == other.defaults["eps"]
        for group in own.param_groups:
            if group["name"] == "left alone":
                continue
            assert (group["regularizer"], group["strength"]) == ("syre", 0.01)
            assert group["sigma"] == 0.5
            assert group["anchor_seed"] == child_seed(seed, group["name"])


def test_a_method_is_divided():
    decay, redo, hare = WeightDecay(), ReDo(), HareTortoise()
    assert Method.of((redo, decay, hare)) == Method(decays=(decay,), acting=(redo, hare))


def test_the_seed_decides_what_is_drawn():
    config = small("sb3:td3")
    envs = SB3Environments(make_environments(config))
    drawn = []
    for seed in (1, 1, 2):
        model = make_model(config, envs, (), seed=seed, device="cpu")
        drawn.append(
            (
                float(model.actor.mu[0].weight.detach()[0, 0]),
                float(torch.rand(())),
                float(np.random.rand()),  # noqa: NPY002  (what Stable-Baselines3 draws from)
                random.random(),
                float(model.action_space.sample()[0]),
            )
        )
    assert drawn[0] == drawn[1]
    assert all(one != other for one, other in zip(drawn[0], drawn[2], strict=True))


def test_actions_that_an_algorithm_cannot_take_are_refused():
    pole, pendulum = (make_environments(small(name)) for name in ("sb3:dqn", "sb3:td3"))
    message = (
        "sb3:sac needs continuous actions, and those of poles are discrete: give --agent sb3:ppo,"
        " sb3:dqn or sb3:qrdqn, or a benchmark with continuous actions."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        require_fitting_spaces(small("sb3:sac"), pole, "poles")
    with pytest.raises(ValueError, match="sb3:dqn needs discrete actions"):
        require_fitting_spaces(small("sb3:dqn"), pendulum, "pendulums")
    for envs in (pole, pendulum):
        require_fitting_spaces(small("sb3:ppo"), envs, "anything")
    pendulum.action_high.fill_(torch.inf)
    with pytest.raises(ValueError, match="needs actions with finite bounds"):
        require_fitting_spaces(small("sb3:td3"), pendulum, "pendulums")


class Screen(gymnasium.Env):
    """Environment whose observations are images."""

    observation_space = gymnasium.spaces.Box(0, 255, (3, 8, 8), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)


def test_images_are_refused_as_its_networks_are_dense():
    vector = SyncVectorEnv([Screen], autoreset_mode=AutoresetMode.SAME_STEP)
    message = (
        "sb3:dqn has dense networks, and the observations of screens are images of 3 x 8 x 8: give"
        " --agent ppo"
    )
    with pytest.raises(ValueError, match=message):
        require_fitting_spaces(small("sb3:dqn"), HostEnvironments(vector, [0]), "screens")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install .plasticity\[sb3-contrib\]"):
        algorithm_class(ALGORITHMS["sb3:tqc"]())
