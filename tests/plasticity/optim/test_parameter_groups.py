"""Tests of the choice of regularized parameters, their fan-ins, and the descriptions of groups."""

import logging

import pytest
import torch
from torch import nn

from plasticity import describe_groups, parameter_groups, regularized


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.log_std = nn.Parameter(torch.zeros(3))
        self.trunk = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(16, 3)
        self.norm = nn.LayerNorm(3)


def test_modules_are_recognized(caplog):
    policy = Policy()
    with caplog.at_level(logging.INFO, logger="plasticity"):
        groups = parameter_groups(policy, regularizer="syre", strength=1e-3, sigma=0.3)
    decayed, alone = groups
    convolution, head = policy.trunk[0], policy.head
    expected = [convolution.weight, convolution.bias, head.weight, head.bias]
    assert all(a is b for a, b in zip(decayed["params"], expected, strict=True))
    assert decayed["fan_in"] == [18, 18, 16, 16]  # 2 channels x 3 x 3; 16 inputs
    kept = [policy.log_std, *policy.trunk[1].parameters(), *policy.norm.parameters()]
    assert {id(p) for p in alone["params"]} == {id(p) for p in kept}
    assert alone["regularizer"] == "none"
    # 72 + 4 + 48 + 3 = 127 and 3 + 8 + 6 = 17
    assert "syre, 4 tensors with 127 parameters" in caplog.text
    assert "none, 5 tensors with 17 parameters" in caplog.text


def test_normalization_on_request():
    groups = parameter_groups(
        Policy(), regularizer="syre", strength=1e-3, include_normalization=True
    )
    assert [len(group["params"]) for group in groups] == [8, 1]
    assert sorted(groups[0]["fan_in"]) == [1, 1, 1, 1, 16, 16, 18, 18]


def test_shared_parameters_are_taken_once():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    (group,) = parameter_groups(
        nn.Sequential(first, second), regularizer="weight-decay", strength=0.1
    )
    assert len(group["params"]) == 3
    assert group["fan_in"] == [4, 4, 4]  # also the second bias, whose weight was counted before


def test_model_without_parameters_is_an_error():
    with pytest.raises(ValueError, match="ReLU has no parameters"):
        parameter_groups(nn.ReLU(), regularizer="syre", strength=0.1)


def test_unknown_regularizer_names_the_nearest():
    with pytest.raises(ValueError, match=r"'sire'.*Did you mean 'syre'"):
        parameter_groups(nn.Linear(2, 2), regularizer="sire", strength=0.1)


def test_description_of_a_single_element():
    text = describe_groups([{"params": [torch.zeros(1)], "regularizer": "none"}])
    assert text == "group 0: none, 1 tensor with 1 parameter"


# ---- exclusion --------------------------------------------------------------------------------------


def regularized_names(model, **settings):
    groups = parameter_groups(model, regularizer="syre", strength=0.1, **settings)
    names = {p: n for n, p in model.named_parameters()}
    every = [p for group in groups for p in group["params"]]
    assert sorted(map(id, every)) == sorted(map(id, model.parameters()))  # each exactly once
    chosen = [group for group in groups if group["regularizer"] == "syre"]
    return {names[p] for group in chosen for p in group["params"]}


def test_exclude_by_pattern():
    policy = Policy()
    assert regularized_names(policy, exclude=["head.*", "*.bias"]) == {"trunk.0.weight"}
    assert regularized_names(policy, exclude="head.bias") == {
        "trunk.0.weight",
        "trunk.0.bias",
        "head.weight",
    }
    assert regularized_names(policy, exclude="*") == set()


def test_excluded_parameters_are_not_regularized():
    policy = Policy()
    decayed, alone = parameter_groups(
        policy, regularizer="syre", strength=0.1, exclude="head.weight"
    )
    assert len(decayed["fan_in"]) == len(decayed["params"]) == 3
    assert any(p is policy.head.weight for p in alone["params"])
    assert (alone["regularizer"], alone["strength"]) == ("none", 0.0)


def test_a_tied_parameter_is_excluded_by_any_of_its_names():
    model = nn.ModuleDict({"body": nn.Linear(4, 4), "head": nn.Linear(4, 4, bias=False)})
    model["head"].weight = model["body"].weight
    assert regularized_names(model, exclude="head.*") == {"body.bias"}


def test_patterns_match_the_names_inside_a_wrapped_model():
    model = nn.DataParallel(Policy())
    found = regularized_names(model, exclude=["head.*", "module.trunk.0.bias"])
    assert found == {"module.trunk.0.weight"}


def test_a_pattern_that_matches_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"exclude: 'haed\.\*' matches no parameter.*'head\."):
        regularized_names(Policy(), exclude=["trunk.*", "haed.*"])


def test_exclude_biases():
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.LSTM(3, 3), nn.Linear(3, 2, False))
    weights = {"0.weight", "2.weight_ih_l0", "2.weight_hh_l0", "3.weight"}
    assert regularized_names(model, exclude_biases=True) == weights
    with_norms = regularized_names(model, exclude_biases=True, include_normalization=True)
    assert with_norms == weights | {"1.weight"}


def test_biases_of_parametrized_layers_are_biases():
    layer = nn.Linear(3, 3)
    nn.utils.parametrize.register_parametrization(layer, "bias", nn.Tanh(), unsafe=True)
    assert regularized_names(layer, exclude_biases=True) == {"weight"}


# ---- fan-ins ----------------------------------------------------------------------------------------


class Mixer(nn.Module):
    """Module that does not say which axis holds the units."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Parameter(torch.zeros(256, 16))
        self.bias = nn.Parameter(torch.zeros(16))
        self.activation = nn.PReLU()


def fan_in_of(model, **settings):
    groups = parameter_groups(model, regularizer="syre", strength=0.1, **settings)
    names = {p: n for n, p in model.named_parameters()}
    pairs = zip(groups[0]["params"], groups[0]["fan_in"], strict=True)
    return {names[p]: inputs for p, inputs in pairs}


def test_an_unknown_layout_is_reported(caplog):
    with caplog.at_level(logging.INFO, logger="plasticity"):
        groups = parameter_groups(Mixer(), regularizer="syre", strength=0.1)
    assert groups[0]["fan_in"] == [16, 16]
    text = describe_groups(groups)
    assert "of unknown layout, with a guessed fan-in: mix" in text.splitlines()[0]
    assert text in caplog.text
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "mix (256, 16) gets 16" in warning
    assert 'fan_in={"pattern"' in warning


@pytest.mark.parametrize(
    "settings",
    [
        {"regularizer": "weight-decay", "strength": 0.1},
        {"regularizer": "syre", "strength": 0.1, "sigma": 0.0},
        {"regularizer": "syre", "strength": 0.1, "exclude": "mix"},
        {"regularizer": "syre", "strength": 0.1, "fan_in": {"mix": 256}},
    ],
)
def test_there_is_no_warning_if_no_anchor_is_scaled_by_a_guess(settings, caplog):
    with caplog.at_level(logging.WARNING, logger="plasticity"):
        parameter_groups(Mixer(), **settings)
    assert caplog.text == ""


def test_many_unknown_layouts_are_counted():
    model = nn.ParameterList([torch.zeros(2, 2) for _ in range(9)])
    text = describe_groups(parameter_groups(model, regularizer="syre", strength=0.1))
    assert text.endswith("guessed fan-in: 0, 1, 2, 3, 4, 5 and 3 more")


def test_a_known_model_has_nothing_to_report():
    groups = parameter_groups(Policy(), regularizer="syre", strength=0.1)
    assert "unknown_layouts" not in groups[0]
    assert "unknown" not in describe_groups(groups)


def test_fan_in_by_pattern():
    assert fan_in_of(Mixer(), fan_in={"m?x": 256}) == {"mix": 256, "bias": 256}
    assert fan_in_of(Mixer(), fan_in={"mix": 256, "*.weight": 1}) == {
        "mix": 256,
        "bias": 256,
        "activation.weight": 1,
    }
    assert fan_in_of(nn.Embedding(9, 4), fan_in={"weight": 1}) == {"weight": 1}


def test_a_given_fan_in_does_not_include_normalization():
    assert fan_in_of(Policy(), fan_in={"norm.*": 4}, exclude="log_std").keys() == {
        "trunk.0.weight",
        "trunk.0.bias",
        "head.weight",
        "head.bias",
    }


@pytest.mark.parametrize(
    ("fan_in", "error", "message"),
    [
        ({"mux": 4}, ValueError, r"fan_in: 'mux' matches no parameter.*'mix'"),
        ({"mix": 0}, ValueError, r"fan_in\['mix'\] must be at least 1: 0"),
        ({"mix": 1.5}, TypeError, r"fan_in\['mix'\] must be an integer, not 1\.5"),
        ({"mix": True}, TypeError, r"fan_in\['mix'\] must be an integer, not True"),
        ({"m*": 4, "*x": 5}, ValueError, r"fan_in gives 'mix' both 4 and 5"),
        (256, TypeError, r"fan_in must map patterns.*not 256"),
        ({3: 4}, TypeError, r"fan_in takes patterns of parameter names.*not 3"),
    ],
)
def test_bad_fan_ins_are_refused(fan_in, error, message):
    with pytest.raises(error, match=message):
        parameter_groups(Mixer(), regularizer="syre", strength=0.1, fan_in=fan_in)


def test_the_anchor_of_a_transposed_layer_has_the_spread_of_its_inputs():
    class Conv1D(nn.Module):
        __module__ = "transformers.pytorch_utils"

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(16, 4096))

    layer = Conv1D()
    groups = parameter_groups(layer, regularizer="syre", strength=0.1, sigma=0.4, anchor_seed=0)
    anchor = regularized(torch.optim.SGD)(groups, lr=0.1).anchor(layer.weight)
    # 0.4 / sqrt(16) = 0.1; by torch's convention it would be 0.4 / 64
    assert anchor.std().item() == pytest.approx(0.1, rel=0.02)


def test_groups_with_an_unknown_layout_go_into_an_optimizer():
    groups = parameter_groups(Mixer(), regularizer="syre", strength=0.1)
    optimizer = regularized(torch.optim.SGD)(groups, lr=0.1)
    assert "guessed fan-in: mix" in describe_groups(optimizer)
