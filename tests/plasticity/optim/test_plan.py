"""Tests of the form in which a group is decayed."""

import pytest
import torch
from torch import nn

from plasticity.optim.plan import decay_form
from plasticity.optim.regularizers import regularized

SGD, ADAM, ADAMW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
WEIGHT_DECAY = {"regularizer": "weight-decay", "strength": 0.1}
SYRE = {"regularizer": "syre", "strength": 0.1, "sigma": 0.5}
NONE, COUPLED, DECOUPLED = "none", "coupled", "decoupled"


def group_of(base, **options):
    parameters = [nn.Parameter(torch.zeros(2, 2))]
    return regularized(base)(parameters, lr=0.1, **options).param_groups[0]


@pytest.mark.parametrize(
    ("base", "options", "base_decay", "form"),
    [
        (SGD, {"regularizer": "none"}, COUPLED, "none"),
        (SGD, {**SYRE, "strength": 0.0}, COUPLED, "none"),
        # toward zero, in the base's own form or in the other one
        (ADAM, WEIGHT_DECAY, COUPLED, "base"),
        (ADAMW, WEIGHT_DECAY, DECOUPLED, "base"),
        (ADAM, {**SYRE, "sigma": 0.0}, COUPLED, "base"),
        (ADAM, {**WEIGHT_DECAY, "decoupled": True}, COUPLED, "decoupled"),
        (ADAMW, {**WEIGHT_DECAY, "decoupled": False}, DECOUPLED, "coupled"),
        (ADAM, WEIGHT_DECAY, NONE, "coupled"),
        # toward an anchor
        (ADAM, SYRE, COUPLED, "shifted"),
        (ADAMW, SYRE, DECOUPLED, "decoupled"),
        (ADAM, {**SYRE, "anisotropy": 0.1}, COUPLED, "coupled"),
        (SGD, {**SYRE, "momentum": 0.9}, COUPLED, "shifted"),
        (SGD, SYRE, COUPLED, "decoupled"),
        (SGD, {**SYRE, "strength": 1e-7}, COUPLED, "shifted"),  # it would be lost to rounding
    ],
)
def test_forms(base, options, base_decay, form):
    assert decay_form(group_of(base, **options), base, base_decay) == form


def test_nothing_is_shifted_in_kernels_or_under_a_scale():
    group = group_of(ADAM, **SYRE)
    assert decay_form(group, ADAM, COUPLED, in_kernels=True) == "coupled"
    assert decay_form(group, ADAM, COUPLED, is_scaled=True) == "coupled"


def test_a_group_without_a_choice_follows_its_base():
    group = group_of(ADAM, **WEIGHT_DECAY)
    group["decoupled"] = None
    assert decay_form(group, ADAM, "other") == "base"
    assert decay_form(group, ADAM, DECOUPLED) == "base"
    group.update(SYRE)
    assert decay_form(group, ADAM, DECOUPLED) == "decoupled"
