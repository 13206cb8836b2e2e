"""Tests of groups: recreated optimizers, foreign keys, excluded groups, replaced parameters."""

import copy
import gc
import logging
import pickle

import pytest
import torch
from torch import nn

from plasticity import anchor, describe_groups, parameter_groups, regularized

SYRE = {"regularizer": "syre", "strength": 0.1, "sigma": 0.5}
SETTINGS = [
    {"regularizer": "weight-decay", "strength": 0.1},
    SYRE,
    {**SYRE, "anisotropy": 0.3, "decoupled": True},
    {"regularizer": "l2-init", "strength": 0.1},
]
every_setting = pytest.mark.parametrize("settings", SETTINGS, ids=str)
every_base = pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop", "NAdam"])


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def train(model, optimizer, steps=3):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(16, 6, generator=generator)).square().mean().backward()
        optimizer.step()


def flat(model):
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def anchors_of(optimizer):
    return [optimizer.anchor(p) for group in optimizer.param_groups for p in group["params"]]


# ---- creating the optimizer again --------------------------------------------------------------------


@every_base
@every_setting
@pytest.mark.parametrize("form", ["defaults", "copied defaults", "groups", "copied groups"])
def test_an_optimizer_created_again_is_the_same(name, settings, form):
    """Compare a reset of the optimizer between tasks with one whose state is cleared."""
    model, twin = network(), network()
    make = regularized(getattr(torch.optim, name))
    torch.manual_seed(5)
    optimizer = make(model.parameters(), lr=0.05, **settings)
    expected = make(twin.parameters(), lr=0.05, **settings)
    train(model, optimizer)
    train(twin, expected)
    torch.manual_seed(99)  # the seed was read once
    if "defaults" in form:
        defaults = optimizer.defaults if form == "defaults" else copy.deepcopy(optimizer.defaults)
        again = type(optimizer)(model.parameters(), **defaults)
    else:
        groups = optimizer.param_groups
        if form == "copied groups":
            groups = [{**group, "params": list(group["params"])} for group in groups]
        again = type(optimizer)(groups, lr=0.05)
    for found, earlier in zip(anchors_of(again), anchors_of(optimizer), strict=True):
        assert torch.equal(found, earlier)
    expected.state.clear()
    train(model, again)
    train(twin, expected)
    assert torch.equal(flat(model), flat(twin))
    assert again.param_groups[0]["weight_decay"] == expected.param_groups[0]["weight_decay"]


def test_defaults_include_the_decay_as_in_torch():
    parameters = list(network().parameters())
    optimizer = regularized(torch.optim.Adam)(
        parameters, lr=1e-3, regularizer="weight-decay", strength=0.1
    )
    (group,) = type(optimizer)(parameters, **optimizer.defaults).param_groups
    assert (group["regularizer"], group["strength"]) == ("weight-decay", 0.1)
    assert group["weight_decay"] == 0.1


def test_adamw_is_created_again_from_its_groups():
    """Use groups, because the defaults of torch's AdamW contain a key that its constructor rejects."""
    optimizer = regularized(torch.optim.AdamW)(network().parameters(), lr=0.1, **SYRE)
    again = type(optimizer)(optimizer.param_groups, lr=0.1)
    assert again.param_groups[0]["decoupled"] is True
    assert torch.equal(anchors_of(again)[0], anchors_of(optimizer)[0])


def test_a_subset_of_the_groups_keeps_its_anchors():
    first, second = network(), network(1)
    groups = [{"params": list(first.parameters())}, {"params": list(second.parameters())}]
    optimizer = regularized(torch.optim.SGD)(groups, lr=0.1, **SYRE)
    again = type(optimizer)(optimizer.param_groups[1:], lr=0.1)
    assert torch.equal(again.anchor(second[0].weight), optimizer.anchor(second[0].weight))
    assert not torch.equal(again.anchor(second[0].weight), optimizer.anchor(first[0].weight))
    again.add_param_group({"params": [nn.Parameter(torch.ones(2, 2))]})
    assert again.param_groups[1]["anchor_position"] == 8  # after the positions in use


def test_a_decay_of_the_base_in_a_transferred_group_is_an_error():
    optimizer = regularized(torch.optim.Adam)(network().parameters(), lr=0.1, **SYRE)
    groups = [{**group, "weight_decay": 0.3} for group in optimizer.param_groups]
    with pytest.raises(ValueError, match=r"weight_decay=0\.3 was given"):
        type(optimizer)(groups, lr=0.1)


def test_lost_initial_weights_of_a_transferred_group_are_an_error():
    model = network()
    optimizer = regularized(torch.optim.SGD)(
        model.parameters(), lr=0.1, regularizer="l2-init", strength=0.1
    )
    base, groups = type(optimizer), optimizer.param_groups
    del optimizer
    gc.collect()
    with pytest.raises(ValueError, match=r"deleted with the optimizer.*initial_weights="):
        base(groups, lr=0.1)
    zeros = {parameter: torch.zeros_like(parameter) for parameter in model.parameters()}
    again = base(groups, lr=0.1, initial_weights=zeros)
    assert all(not anchor.any() for anchor in anchors_of(again))


def test_given_initial_weights_must_fit():
    parameter = nn.Parameter(torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"\(2, 2\) weights of shape \(3,\)"):
        regularized(torch.optim.SGD)(
            [parameter],
            lr=0.1,
            regularizer="l2-init",
            strength=0.1,
            initial_weights={parameter: torch.ones(3)},
        )


def test_copies_keep_their_initial_weights():
    model = network()
    optimizer = regularized(torch.optim.SGD)(
        model.parameters(), lr=0.1, regularizer="l2-init", strength=0.1
    )
    train(model, optimizer)
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        again = type(twin)(twin.param_groups, lr=0.1)
        for found, earlier in zip(anchors_of(again), anchors_of(optimizer), strict=True):
            assert torch.equal(found, earlier)


# ---- ensembles ---------------------------------------------------------------------------------------


def test_anchors_of_an_ensemble_differ_by_name_and_are_reproducible():
    torch.manual_seed(3)
    members = [network(seed) for seed in range(3)]
    torch.manual_seed(3)

    def make(model, name):
        return regularized(torch.optim.SGD)(model.parameters(), lr=0.1, anchor_name=name, **SYRE)

    optimizers = [make(model, f"member {k}") for k, model in enumerate(members)]
    first = [anchors_of(optimizer)[0] for optimizer in optimizers]
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[1], first[2])
    assert torch.equal(anchors_of(make(members[1], "member 1"))[0], first[1])
    again = type(optimizers[2])(members[2].parameters(), **optimizers[2].defaults)
    assert torch.equal(anchors_of(again)[0], first[2])
    seeded = regularized(torch.optim.SGD)(
        members[0].parameters(), lr=0.1, anchor_seed=3, anchor_name="member 0", **SYRE
    )
    assert torch.equal(anchors_of(seeded)[0], first[0])


# ---- keys of a group ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        "lr_scale",
        "rho",
        "use_muon",
        "max_momentum",
        "no_weight_decay",
        "layer",
        "weight_decay_mult",
    ],
)
def test_foreign_keys_are_kept(key):
    group = {"params": list(network().parameters()), key: 0.5}
    optimizer = regularized(torch.optim.SGD)([group], lr=0.1, **SYRE)
    assert optimizer.param_groups[0][key] == 0.5


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("strenght", "strength"),
        ("Strength", "strength"),
        ("anchor-seed", "anchor_seed"),
        ("regulariser", "regularizer"),
        ("regularization", "regularizer"),
        ("sigma_0", "sigma"),
        ("fanin", "fan_in"),
        ("momentun", "momentum"),
        ("LR", "lr"),
        ("weight-decay", "weight_decay"),
        ("nesterow", "nesterov"),
    ],
)
def test_misspelt_keys_are_refused(key, meant):
    group = {"params": list(network().parameters()), key: 0.5}
    with pytest.raises(ValueError, match=rf"{key!r}. Did you mean '{meant}'\?"):
        regularized(torch.optim.SGD)([group], lr=0.1, **SYRE)


# ---- a group's own weight_decay ----------------------------------------------------------------------


def test_a_group_with_zero_weight_decay_is_not_regularized():
    """Mark biases and normalisation as Hugging Face's Trainer, timm and most recipes do."""
    weight, bias = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(2))
    groups = [{"params": [weight]}, {"params": [bias], "weight_decay": 0.0}]
    optimizer = regularized(torch.optim.SGD)(groups, lr=0.1, **SYRE)
    for parameter in (weight, bias):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.equal(bias, torch.ones(2))
    assert optimizer.anchor(bias) is None
    assert not torch.equal(weight, torch.ones(2, 3))


def test_a_groups_weight_decay_is_its_strength():
    parameters = [nn.Parameter(torch.ones(2, 3)) for _ in range(2)]
    groups = [
        {"params": [p], "weight_decay": w} for p, w in zip(parameters, (0.3, 0.0), strict=True)
    ]
    optimizer = regularized(torch.optim.Adam)(groups, lr=0.1, regularizer="syre", sigma=0.5)
    assert [group["strength"] for group in optimizer.param_groups] == [0.3, 0.0]
    assert [group["regularizer"] for group in optimizer.param_groups] == ["syre", "none"]


@pytest.mark.parametrize("settings", [{}, SYRE], ids=["no regularizer", "another strength"])
def test_two_decays_for_a_group_are_an_error(settings):
    group = {"params": list(network().parameters()), "weight_decay": 0.3}
    with pytest.raises(ValueError, match=r"weight_decay=0\.3 was given"):
        regularized(torch.optim.Adam)([group], lr=0.1, **settings)


def test_settings_that_no_group_uses_are_an_error():
    """Pass groups as Trainer does with its default weight_decay of 0."""
    first, last = network().children().__iter__().__next__(), nn.Linear(2, 2)
    groups = [{"params": list(layer.parameters()), "weight_decay": 0.0} for layer in (first, last)]
    with pytest.raises(ValueError, match=r"every group has weight_decay=0"):
        regularized(torch.optim.AdamW)(groups, lr=0.1, **SYRE)


def test_a_groups_own_settings_take_precedence_over_its_weight_decay():
    group = {"params": list(network().parameters()), "weight_decay": 0.0, **SYRE}
    optimizer = regularized(torch.optim.Adam)([group], lr=0.1)
    assert optimizer.param_groups[0]["regularizer"] == "syre"


# ---- parameters that are frozen or replaced ----------------------------------------------------------


@pytest.mark.parametrize("settings", [SYRE, SETTINGS[3]], ids=str)
def test_frozen_parameters_take_no_memory(settings):
    trained, frozen = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(8, 8))
    frozen.requires_grad_(False)
    optimizer = regularized(torch.optim.SGD)([trained, frozen], lr=0.1, **settings)
    trained.grad = torch.ones_like(trained)
    optimizer.step()
    assert list(optimizer._initial_weights) in ([], [trained])
    assert set(optimizer._targets[0]._anchors) == {0}
    # When unfrozen, its anchor is its unchanged weight, or the same random point as before.
    expected = optimizer.anchor(frozen)
    frozen.requires_grad_(True)
    frozen.grad = torch.ones_like(frozen)
    optimizer.step()
    frozen.grad = torch.ones_like(frozen)
    optimizer.step()
    assert torch.equal(optimizer.anchor(frozen), expected)
    saved = optimizer.state_dict()
    assert ("anchor" in saved["state"].get(1, {})) == (settings["regularizer"] == "l2-init")


@pytest.mark.parametrize("with_modules", [False, True])
@pytest.mark.parametrize("settings", [SYRE, SETTINGS[3]], ids=str)
def test_a_larger_head(with_modules, settings, caplog):
    """Replace a head in the group by one with a different number of inputs."""
    model = network()
    parameters = list(model.parameters())
    groups = parameter_groups(model, **settings) if with_modules else parameters
    optimizer = regularized(torch.optim.SGD)(groups, lr=0.1, **settings)
    train(model, optimizer)
    head = nn.Linear(32, 5)
    before = head.weight.detach().clone()
    group = optimizer.param_groups[0]
    with caplog.at_level(logging.INFO, logger="plasticity"):
        group["params"][2:] = list(head.parameters())
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    assert group["fan_in"] == [6, 6, 32, 32]
    assert "4 tensors with 221 parameters" in caplog.text  # 6*8 + 8 + 32*5 + 5
    if (
        settings is SYRE
    ):  # 160 normals of deviation 0.5 / sqrt(32) = 0.088, within 4 standard errors
        assert abs(optimizer.anchor(head.weight).std() - 0.0884) < 4 * 0.0884 / 320**0.5
    else:
        assert torch.equal(optimizer.anchor(head.weight), before)


# ---- saving and loading ------------------------------------------------------------------------------


def test_anchors_of_l2_init_are_in_the_state_of_their_parameters():
    model = network()
    optimizer = regularized(torch.optim.Adam)(
        model.parameters(), lr=0.1, regularizer="l2-init", strength=0.1
    )
    initial = [parameter.detach().clone() for parameter in model.parameters()]
    train(model, optimizer)
    saved = optimizer.state_dict()
    assert set(saved) == {"state", "param_groups"}
    for position, weights in enumerate(initial):
        assert torch.equal(saved["state"][position]["anchor"], weights)
        assert "anchor" not in optimizer.state[list(model.parameters())[position]]
    # With other names for the parameters, as written by tools.
    named = {
        "state": {f"p{position}": entry for position, entry in saved["state"].items()},
        "param_groups": [{**saved["param_groups"][0], "params": ["p0", "p1", "p2", "p3"]}],
    }
    again = regularized(torch.optim.Adam)(
        model.parameters(), lr=0.1, regularizer="l2-init", strength=0.1
    )
    again.load_state_dict(named)
    for found, weights in zip(anchors_of(again), initial, strict=True):
        assert torch.equal(found, weights)
    before = model[0].weight.detach().clone()
    train(model, again, steps=1)  # Adam's moments were loaded
    assert not torch.equal(model[0].weight, before)


def test_a_saved_l2_init_without_its_anchors_is_refused():
    model = network()
    optimizer = regularized(torch.optim.SGD)(
        model.parameters(), lr=0.1, regularizer="l2-init", strength=0.1
    )
    saved = {**optimizer.state_dict(), "state": {}}
    with pytest.raises(ValueError, match=r"anchors group 0 to its initial weights.*parameter 0"):
        optimizer.load_state_dict(saved)


def test_a_decay_in_a_state_of_the_plain_base_is_reported(caplog):
    model = network()
    plain = torch.optim.AdamW(model.parameters(), weight_decay=0.3)
    optimizer = regularized(torch.optim.AdamW)(model.parameters(), lr=0.1, **SYRE)
    optimizer.load_state_dict(plain.state_dict())
    assert "its own weight_decay=0.3, which regularizer='syre'" in caplog.text


def test_new_settings_on_resume():
    model = network()
    make = regularized(torch.optim.Adam)
    old = make(model.parameters(), lr=0.1, anchor_seed=1, **SYRE)
    train(model, old)
    new = make(
        model.parameters(), lr=0.1, anchor_seed=2, regularizer="syre", strength=0.3, sigma=1.0
    )
    new.load_state_dict(old.state_dict(), keep_settings=True)
    (group,) = new.param_groups
    assert (group["strength"], group["sigma"], group["anchor_seed"]) == (0.3, 1.0, 1)
    # sigma is twice as large: the same normals, scaled by two
    torch.testing.assert_close(anchors_of(new)[0], 2 * anchors_of(old)[0])
    assert new.state[model[0].weight]["step"] == 3
    new.load_state_dict(old.state_dict())
    assert new.param_groups[0]["strength"] == 0.1
    plain = make(model.parameters(), lr=0.1, regularizer="none")
    plain.load_state_dict(old.state_dict(), keep_settings=True)
    train(model, plain, steps=1)
    assert plain.param_groups[0]["weight_decay"] == 0.0


# ---- through wrappers --------------------------------------------------------------------------------


class Wrapper:
    def __init__(self, optimizer):
        self.optimizer = optimizer


def test_anchor_through_wrappers():
    model = network()
    optimizer = regularized(torch.optim.SGD)(model.parameters(), lr=0.1, **SYRE)
    found = anchor(Wrapper(Wrapper(optimizer)), model[0].weight)
    assert torch.equal(found, optimizer.anchor(model[0].weight))
    with pytest.raises(TypeError, match=r"made by regularized.*not SGD"):
        anchor(torch.optim.SGD(model.parameters()), model[0].weight)


def test_an_optimizer_can_be_described():
    optimizer = regularized(torch.optim.SGD)(network().parameters(), lr=0.1, **SYRE)
    assert describe_groups(optimizer).startswith("group 0: syre, 4 tensors with 83 parameters")


def test_a_group_may_be_empty():
    model = network()
    groups = [{"params": list(model.parameters())}, {"params": []}]
    optimizer = regularized(torch.optim.SGD)(groups, lr=0.1, **SYRE)
    train(model, optimizer)
    assert optimizer.param_groups[1]["fan_in"] == []


@pytest.mark.parametrize("value", [torch.tensor(0.1), -0.1, "0.1"], ids=repr)
def test_a_wrong_weight_decay_of_a_group_is_an_error(value):
    groups = [{"params": list(network().parameters()), "weight_decay": value}]
    with pytest.raises((TypeError, ValueError), match=r"A group's weight_decay must be"):
        regularized(torch.optim.SGD)(groups, lr=0.1, regularizer="syre")


def test_integers_of_a_quantised_layer_are_not_regularized():
    model = network()
    model.codes = nn.Parameter(torch.zeros(3, 3, dtype=torch.uint8), requires_grad=False)
    optimizer = regularized(torch.optim.Adam)(parameter_groups(model, **SYRE), lr=0.1)
    train(model, optimizer)
    assert optimizer.anchor(model.codes) is None
