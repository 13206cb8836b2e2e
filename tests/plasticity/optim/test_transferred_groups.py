"""Tests of groups transferred to another optimizer, and of their parameters in copies and saved states."""

import copy
import gc
import pickle

import pytest
import torch
from torch import nn

from plasticity import muon_parameter_groups, parameter_groups, regularized

L2_INIT = {"regularizer": "l2-init", "strength": 0.1}
SYRE = {"regularizer": "syre", "strength": 0.1, "sigma": 0.5, "anchor_seed": 3}


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def make(model, base="SGD", **settings):
    return regularized(getattr(torch.optim, base))(model.parameters(), lr=0.1, **settings)


def train(model, optimizer):
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(16, 6, generator=generator)).square().mean().backward()
        optimizer.step()


def set_trainable(layer, trainable):
    for parameter in layer.parameters():
        parameter.requires_grad_(trainable)


# ---- initial weights ---------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [False, True])
def test_a_group_keeps_the_anchors_of_its_own_optimizer(copied):
    """Create a second optimizer over the same parameters, whose anchors must not be used."""
    model = network()
    first = make(model, **L2_INIT)
    expected = first.anchor(model[0].weight)
    train(model, first)
    second = make(model, **L2_INIT)
    groups = [{**group} for group in first.param_groups] if copied else first.param_groups
    again = type(first)(groups, lr=0.1)
    assert torch.equal(again.anchor(model[0].weight), expected)
    assert not torch.equal(second.anchor(model[0].weight), expected)


def test_a_copy_that_may_come_from_two_optimizers_is_refused():
    model = network()
    first = make(model, **L2_INIT)
    train(model, first)
    second = make(model, **L2_INIT)
    groups = [{**group, "params": list(group["params"])} for group in first.param_groups]
    with pytest.raises(ValueError, match=r"2 optimizers anchor .*\(8, 6\).*initial_weights="):
        type(first)(groups, lr=0.1)
    del second
    gc.collect()
    again = type(first)(groups, lr=0.1)
    assert torch.equal(again.anchor(model[0].weight), first.anchor(model[0].weight))


def test_anchors_survive_the_deletion_of_an_optimizer_that_used_the_groups():
    model = network()
    first = make(model, **L2_INIT)
    type(first)(first.param_groups, lr=0.1)
    gc.collect()
    again = type(first)(first.param_groups, lr=0.1)
    assert torch.equal(again.anchor(model[0].weight), model[0].weight)


def test_a_parameter_unfrozen_before_the_transfer_is_anchored_to_its_weights():
    model = network()
    set_trainable(model[0], False)
    first = make(model, "Adam", **L2_INIT)
    train(model, first)
    expected = model[0].weight.detach().clone()
    set_trainable(model[0], True)
    again = type(first)(first.param_groups, lr=0.1)
    train(model, again)
    assert torch.equal(again.anchor(model[0].weight), expected)


def test_groups_for_muon_and_adamw_may_use_l2_init():
    model = network()
    matrices, others = muon_parameter_groups(model, **L2_INIT)
    muon = regularized(torch.optim.Muon)(matrices, lr=0.1)
    adamw = regularized(torch.optim.AdamW)(others, lr=0.1)
    assert torch.equal(muon.anchor(model[0].weight), model[0].weight)
    assert torch.equal(adamw.anchor(model[2].weight), model[2].weight)


# ---- a state that was saved when some parameters were frozen -----------------------------------------


def test_parameters_frozen_in_a_saved_state_may_be_unfrozen_before_loading():
    model = network()
    set_trainable(model[0], False)
    optimizer = make(model, "Adam", **L2_INIT)
    train(model, optimizer)
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    other = network(seed=5)
    resumed = make(other, "Adam", **L2_INIT)
    other.load_state_dict(weights)
    resumed.load_state_dict(state)
    train(other, resumed)
    assert torch.equal(resumed.anchor(other[0].weight), weights["0.weight"])
    assert torch.equal(resumed.anchor(other[2].weight), optimizer.anchor(model[2].weight))


def test_a_saved_state_that_lost_one_anchor_is_refused():
    model = network()
    optimizer = make(model, "Adam", **L2_INIT)
    train(model, optimizer)
    state = optimizer.state_dict()
    state["state"][1] = {k: v for k, v in state["state"][1].items() if k != "anchor"}
    with pytest.raises(ValueError, match=r"lacks those of parameter 1"):
        optimizer.load_state_dict(state)


# ---- a parameter replaced before the next step -------------------------------------------------------


def copied(optimizer):
    return copy.deepcopy(optimizer)


def pickled(optimizer):
    return pickle.loads(pickle.dumps(optimizer))


def loaded(optimizer):
    optimizer.load_state_dict(optimizer.state_dict())
    return optimizer


def transferred(optimizer):
    return type(optimizer)(optimizer.param_groups, lr=0.1)


def itself(optimizer):
    return optimizer


@pytest.mark.parametrize("form", [itself, copied, pickled, loaded, transferred])
@pytest.mark.parametrize("settings", [SYRE, L2_INIT], ids=str)
def test_a_larger_head_has_its_own_anchor_at_once(form, settings):
    model = network()
    optimizer = regularized(torch.optim.SGD)(parameter_groups(model, **settings), lr=0.1)
    train(model, optimizer)
    grown = nn.Parameter(torch.randn(3, 500))
    optimizer.param_groups[0]["params"][2] = grown
    found = form(optimizer)
    head = found.param_groups[0]["params"][2]
    anchor = found.anchor(head)
    assert found.param_groups[0]["fan_in"] == [6, 6, 500, 500]
    if settings is SYRE:
        assert anchor.std().item() == pytest.approx(0.5 / 500**0.5, rel=0.1)
    else:
        assert torch.equal(anchor, grown)


@pytest.mark.parametrize("form", [copied, pickled])
def test_a_copy_notices_a_larger_head(form):
    model = network()
    optimizer = regularized(torch.optim.SGD)(parameter_groups(model, **SYRE), lr=0.1)
    found = form(optimizer)
    found.param_groups[0]["params"][2] = nn.Parameter(torch.randn(3, 500))
    found.step()
    assert found.param_groups[0]["fan_in"] == [6, 6, 500, 500]


def test_a_saved_state_has_the_fan_in_of_a_larger_head():
    model = network()
    optimizer = regularized(torch.optim.SGD)(parameter_groups(model, **SYRE), lr=0.1)
    optimizer.param_groups[0]["params"][2] = nn.Parameter(torch.randn(3, 500))
    assert optimizer.state_dict()["param_groups"][0]["fan_in"] == [6, 6, 500, 500]


# ---- groups of other bases ---------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["SGD", "RMSprop"])
def test_groups_may_go_to_a_base_with_options_of_other_names(base):
    """Transfer a momentum to NAdam, which must not take it for a misspelt momentum_decay."""
    model = network()
    first = make(model, base, **SYRE)
    again = regularized(torch.optim.NAdam)(first.param_groups, lr=0.1)
    assert torch.equal(again.anchor(model[0].weight), first.anchor(model[0].weight))
    with pytest.raises(ValueError, match="Did you mean 'strength'"):
        regularized(torch.optim.NAdam)([{**first.param_groups[0], "strenght": 0.2}], lr=0.1)
