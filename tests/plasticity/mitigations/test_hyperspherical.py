"""Hyperspherical layers: the projection after steps, invariance to scale, refusals, and whole runs."""

import pytest
import torch
from networks_in_training import adam, context_of, single, stacked, step

from plasticity.agents.networks import CNN, MLP, ResNet
from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.ppo.config import PPOConfig
from plasticity.mitigations import (
    Hyperspherical,
    LayerNorm,
    ReDo,
    SeededMethod,
    Syre,
    WeightDecay,
    WFix,
    mitigation_names,
)
from plasticity.mitigations.hooks import Hooks
from plasticity.optim.parameter_groups import parameter_groups

ALONE = Hyperspherical()


def build(config, seed=0, method=(ALONE,), shape=(1, 9, 9)):
    torch.manual_seed(seed)
    network = config.make(shape, 3, method)
    SeededMethod(method).prepare(network)
    return network.double()


def norms(network):
    return torch.cat([network.get_submodule(name).weight.norm(dim=-1) for name in ("fc1", "fc2")])


@pytest.mark.parametrize("initialization", ["torch", "orthogonal"])
def test_weights_and_features_have_norm_1_through_training(initialization):
    network = build(MLP(hidden=(8, 6), initialization=initialization))
    inputs = torch.randn(5, 1, 9, 9, dtype=torch.float64)
    optimizer = adam(network)
    context = context_of(single(network, optimizer, inputs))
    for _ in range(3):
        torch.testing.assert_close(norms(network), torch.ones(14).double())
        features = network.fc2(network.fc1(inputs.flatten(1)))
        torch.testing.assert_close(features.norm(dim=-1), torch.ones(5).double())
        step(network, optimizer, inputs)
        assert (norms(network) - 1).abs().max() > 1e-4
        moments = context.moments("fc1.weight")["exp_avg"].clone()
        with torch.no_grad():
            ALONE.after_step(context)
        assert torch.equal(context.moments("fc1.weight")["exp_avg"], moments)
    before = network.state_dict()["fc1.weight"].clone()
    with torch.no_grad():
        ALONE.boundary(context)
    torch.testing.assert_close(network.fc1.weight, before, rtol=1e-15, atol=1e-15)


def test_the_scale_of_weights_before_the_projection_does_not_matter():
    network, inputs = build(MLP(hidden=(8, 6))), torch.randn(5, 1, 9, 9, dtype=torch.float64)
    context = context_of(single(network, adam(network), inputs))
    before = network(inputs)
    with torch.no_grad():
        network.fc1.weight *= 7
        network.fc2.weight *= 0.2
        ALONE.after_step(context)
    torch.testing.assert_close(network(inputs), before)
    with torch.no_grad():
        network.fc1.weight *= 7  # by another mitigation, between two tasks
        ALONE.boundary(context)
    torch.testing.assert_close(norms(network), torch.ones(14).double())


def test_stacked_networks_are_projected_as_alone():
    inputs = torch.randn(5, 1, 9, 9, dtype=torch.float64)
    models = [build(MLP(hidden=(8, 6)), seed) for seed in range(2)]
    found, networks, optimizer = stacked(models, inputs)
    step(networks, optimizer, inputs.expand(2, *inputs.shape))
    with torch.no_grad():
        ALONE.after_step(context_of(found, 0, 1))
    for run, model in enumerate(models):
        own = adam(model)
        step(model, own, inputs)
        with torch.no_grad():
            ALONE.after_step(context_of(single(model, own, inputs)))
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(found.parameters[name][run], parameter, rtol=1e-9, atol=1e-9)


def test_convolutions_and_outputs_are_left_as_they_are():
    config = CNN(channels=(4,), hidden=(8,))
    torch.manual_seed(0)
    plain, network = config.make((1, 9, 9), 3).double(), build(config)
    assert torch.equal(network.conv1.weight, plain.conv1.weight)
    assert network.fc1.weight.shape == (8, 4 * 5 * 5 + 1)  # the shift is one more input
    assert network.fc2.bias is not None
    names = {id(p): name for name, p in network.named_parameters()}
    groups = parameter_groups(network, regularizer="syre", strength=0.1, sigma=0.3)
    found = {g["regularizer"]: {names[id(p)] for p in g["params"]} for g in groups}
    assert found["none"] == {"fc1.sphere_scale.factor"}


def test_actor_and_critic_may_differ():
    config = PPOConfig(hidden=(8, 8))
    policy = ActorCritic(3, 2, config, actor_method=[ALONE])
    assert [each.bias is None for each in policy.actor.layers()] == [True, True, False]
    assert [each.bias is None for each in policy.critic.layers()] == [False] * 3
    # sqrt(2 / 8) = 0.5
    assert policy.initialization()["actor.fc1.sphere_scale.factor"].value == 0.5


def test_whole_runs(stacked_as_alone, continues_exactly):
    syre = (ALONE, Syre(strength=0.01, sigma=0.3))
    stacked_as_alone((ALONE, ReDo(every=5, tau=0.3)), (ALONE, ReDo(every=5, tau=0.1)))
    stacked_as_alone((ALONE,), syre, (WeightDecay(strength=0.01), ALONE))
    resets = (ALONE, ReDo(every=5, tau=0.3))
    continues_exactly(resets)
    continues_exactly(resets, stacked=True)


def test_weights_are_projected_after_resets_in_the_same_step():
    method = (ALONE, ReDo(every=1, tau=0.1))
    network, inputs = build(MLP(hidden=(8, 6)), method=method), torch.randn(5, 1, 9, 9).double()
    optimizer = adam(network)
    hooks = Hooks([method], single(network, optimizer, inputs), [0])
    hooks.begin(lambda: inputs)
    step(network, optimizer, inputs)
    features = {"fc2": torch.ones(5, 8).double(), "fc3": torch.ones(5, 6).double()}
    features["fc2"][:, 0] = 0.0  # one unit of fc1 is dormant
    hooks.observe(inputs, features)
    hooks.after_step()
    assert hooks.take_counts() == [{"reset_units/fc1": 1, "reset_units/fc2": 0}]
    assert (network.fc2.weight[:, 0] == 0).all()
    torch.testing.assert_close(norms(network), torch.ones(14).double())


def test_whole_runs_of_ppo(ppo_continues_exactly):
    assert ppo_continues_exactly((ALONE,)) != ppo_continues_exactly(())


def test_it_is_refused_where_it_cannot_act():
    with pytest.raises(ValueError, match="ResidualNetwork was built without hyperspherical"):
        build(ResNet(width=2, blocks=(1,)))
    for method in ((LayerNorm(), ALONE), (ALONE, LayerNorm())):
        with pytest.raises(ValueError, match="leave the normalization out"):
            build(MLP(hidden=(8, 6)), method=method)
    for other in ("layer-norm", "nap", "weight-clipping"):
        with pytest.raises(ValueError, match="both set the"):
            mitigation_names(f"{other}+hyperspherical")
    method = (ALONE, WFix(share=0.5))
    network, inputs = build(MLP(hidden=(8, 6)), method=method), torch.randn(5, 1, 9, 9).double()
    with pytest.raises(ValueError, match=r"some entries of 'fc1' are fixed: leave one"):
        ALONE.initial_state(context_of(single(network, adam(network), inputs)))
    with pytest.raises(ValueError, match="shift must be above 0"):
        Hyperspherical(shift=0.0)
