"""Shapes and parameter counts computed by hand, and the distribution of the initial weights."""

import math

import pytest
import torch
from torch import nn

from plasticity import Tracker, capture
from plasticity.agents.networks.actor_critic import ActorCritic, DenseNetwork, initialise
from plasticity.agents.ppo.config import PPOConfig
from plasticity.initialization import Uniform
from plasticity.network_spec import LayerSpec


def make(config=None, *, discrete=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return ActorCritic(28, 8, config or PPOConfig(), discrete=discrete, generator=generator)


def test_published_network_by_hand():
    policy = make()
    # fc1: 28 * 256 + 256; fc2: 256 * 256 + 256; head: 256 * 8 + 8 or 256 + 1; log_std: 8
    shared = 28 * 256 + 256 + 256 * 256 + 256
    assert sum(p.numel() for p in policy.actor.parameters()) == shared + 256 * 8 + 8
    assert sum(p.numel() for p in policy.critic.parameters()) == shared + 257
    assert policy.log_std.tolist() == [0.0] * 8
    assert policy.hidden_layers == ("actor.fc1", "actor.fc2", "critic.fc1", "critic.fc2")
    means, values = policy(torch.zeros(5, 3, 28))
    assert means.shape == (5, 3, 8)
    assert values.shape == (5, 3)


def test_discrete_actions_have_no_log_std():
    policy = make(discrete=True)
    assert policy.log_std is None
    assert policy(torch.zeros(5, 28))[0].shape == (5, 8)


def test_equals_a_plain_sequential():
    network = DenseNetwork(3, (5, 4), 2, LayerSpec(activations=(torch.tanh,)))
    twin = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))
    for p, q in zip(twin.parameters(), network.parameters(), strict=True):
        p.data.copy_(q.data)
    inputs = torch.randn(7, 3)
    torch.testing.assert_close(network(inputs), twin(inputs))


def test_lecun_weights():
    policy = make()
    for layer in (*policy.actor.layers(), *policy.critic.layers()):
        bound = math.sqrt(3 / layer.in_features)
        assert layer.weight.abs().max() <= bound
        if layer.weight.numel() > 1000:
            assert layer.weight.abs().max() > 0.99 * bound
            # a uniform distribution within ±b has variance b^2 / 3 = 1 / fan-in
            assert layer.weight.var().item() == pytest.approx(1 / layer.in_features, rel=0.1)
        assert not layer.bias.any()


def test_orthogonal_weights():
    policy = make(PPOConfig(initialization="orthogonal", hidden=(64, 32)))
    for network, gain in ((policy.actor, 0.01), (policy.critic, 1.0)):
        for layer, expected in zip(network.layers(), (2**0.5, 2**0.5, gain), strict=True):
            short = min(layer.weight.shape)
            singular = torch.linalg.svdvals(layer.weight)
            torch.testing.assert_close(singular, torch.full((short,), expected))
            assert not layer.bias.any()


def test_weights_and_biases_as_torch_draws_them():
    """Compare with the bound of torch's layers, 1 / sqrt(fan-in): 1/8 in a layer of 64 inputs."""
    policy = make(PPOConfig(initialization="torch", hidden=(64, 64)))
    for network in (policy.actor, policy.critic):
        for layer, bound in zip(network.layers(), (28**-0.5, 1 / 8, 1 / 8), strict=True):
            for parameter in (layer.weight, layer.bias):
                assert parameter.abs().max() <= bound
                assert len(parameter.unique()) > 0.99 * parameter.numel()
            # a uniform number has a deviation of its bound / sqrt(3)
            if layer.weight.numel() > 1000:
                assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
    assert policy.initialization()["actor.head.bias"] == Uniform(1 / 8)


@pytest.mark.parametrize("scheme", ["lecun", "orthogonal", "torch"])
def test_the_generator_draws_all_weights(scheme):
    config = PPOConfig(initialization=scheme)
    before = torch.get_rng_state()
    first, again, other = make(config), make(config), make(config, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name))
        if name.endswith("weight"):
            assert not torch.equal(parameter, other.get_parameter(name))


def test_torchs_default_generator_draws_without_a_generator():
    network = DenseNetwork(3, (5,), 2, LayerSpec())
    torch.manual_seed(3)
    initialise(network, "lecun", head_gain=1.0)
    first = network.fc1.weight.clone()
    torch.manual_seed(3)
    initialise(network, "lecun", head_gain=1.0)
    assert torch.equal(network.fc1.weight, first)


def test_a_tracker_sees_every_hidden_layer():
    policy = make(PPOConfig(hidden=(6, 5)))
    observations = torch.randn(40, 28)
    with capture(policy, layers=policy.hidden_layers) as activations:
        policy(observations)
    assert tuple(activations) == policy.hidden_layers
    expected = policy.critic.fc2(policy.critic.fc1(observations))
    torch.testing.assert_close(activations["critic.fc2"], expected)
    tracker = Tracker(policy, observations, ["dead_fraction"], layers=policy.hidden_layers)
    assert list(tracker.measure()) == [f"dead_fraction/{name}" for name in policy.hidden_layers]


def test_own_networks_are_used_as_they_are():
    actor, critic = nn.Linear(3, 2), nn.Linear(3, 1)
    before = torch.get_rng_state()
    policy = ActorCritic(3, 2, PPOConfig(), actor=actor, critic=critic)
    assert torch.equal(torch.get_rng_state(), before)
    assert (policy.actor, policy.critic) == (actor, critic)
    assert policy.hidden_layers == ()
    outputs, values = policy(torch.ones(4, 3))
    assert torch.equal(outputs, actor(torch.ones(4, 3)))
    assert values.shape == (4,)
    one = ActorCritic(3, 2, PPOConfig(hidden=(4,)), critic=critic)
    assert one.hidden_layers == ("actor.fc1",)


def test_actor_and_critic_share_no_parameters():
    trunk = nn.Linear(3, 4)
    with pytest.raises(ValueError, match=r"parameter '0\.weight' is also the actor's '0\.weight'"):
        ActorCritic(
            3,
            2,
            PPOConfig(),
            actor=nn.Sequential(trunk, nn.Linear(4, 2)),
            critic=nn.Sequential(trunk, nn.Linear(4, 1)),
        )


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        ({"critic": nn.Linear(3, 2)}, r"critic maps .* of shape \(2, 2\), \(2, 1\) was expected"),
        ({"actor": nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))}, r"actor maps .* shape \(2,\)"),
        (
            {"critic": nn.Linear(3, 1).requires_grad_(False)},
            "critic has no parameter that requires",
        ),
    ],
)
def test_networks_of_ones_own_must_fit(networks, message):
    with pytest.raises(ValueError, match=message):
        ActorCritic(3, 2, PPOConfig(), **networks)
