"""Tests of the shifted form loss(theta + theta_0)."""

import copy

import pytest
import torch
from torch import nn

from plasticity.optim.shifted_model import ShiftedModel


def pair():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    anchors = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    return model, anchors


def test_starts_as_the_same_function():
    model, anchors = pair()
    inputs = torch.randn(5, 3)
    expected = model(inputs)
    shifted = ShiftedModel(copy.deepcopy(model), anchors)
    torch.testing.assert_close(shifted(inputs), expected)
    for name, parameter in shifted.model.named_parameters():
        torch.testing.assert_close(parameter, dict(model.named_parameters())[name] - anchors[name])


def test_shift_without_keeping_the_function():
    model, anchors = pair()
    shifted = ShiftedModel(copy.deepcopy(model), anchors, keep_function=False)
    for name, effective in shifted.effective_parameters().items():
        torch.testing.assert_close(effective, dict(model.named_parameters())[name] + anchors[name])


def test_gradient_is_that_of_the_effective_weights():
    model, anchors = pair()
    shifted = ShiftedModel(copy.deepcopy(model), anchors)
    inputs = torch.randn(5, 3)
    model(inputs).square().sum().backward()
    shifted(inputs).square().sum().backward()
    for p, q in zip(model.parameters(), shifted.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_missing_and_none_anchors_are_zero():
    model, anchors = pair()
    shifted = ShiftedModel(copy.deepcopy(model), {"0.weight": anchors["0.weight"], "0.bias": None})
    assert torch.equal(shifted.effective_parameters()["2.weight"], model[2].weight)
    assert torch.equal(shifted.effective_parameters()["0.bias"], model[0].bias)


def test_state_dict_keeps_the_anchors():
    model, anchors = pair()
    first = ShiftedModel(copy.deepcopy(model), anchors)
    second = ShiftedModel(copy.deepcopy(model), {name: 0 * a for name, a in anchors.items()})
    second.load_state_dict(first.state_dict())
    inputs = torch.randn(2, 3)
    assert torch.equal(first(inputs), second(inputs))


def test_wrong_anchors_are_errors():
    model, _ = pair()
    with pytest.raises(ValueError, match=r"No parameter is named 'fc\.weight'"):
        ShiftedModel(model, {"fc.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"has shape \(3, 4\), its parameter \(4, 3\)"):
        ShiftedModel(model, {"0.weight": torch.zeros(3, 4)})
