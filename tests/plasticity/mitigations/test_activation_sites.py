"""Activations behind layers: their layers, shapes and axes."""

import pytest
import torch
from torch import nn

from plasticity.mitigations.activation_sites import ActivationSite, activation_sites


@pytest.mark.parametrize(
    ("layers", "inputs", "site"),
    [
        ([nn.Linear(4, 6), nn.ReLU()], (2, 4), ActivationSite(("0",), (6,), -1)),
        ([nn.Linear(4, 6), nn.GELU()], (2, 9, 4), ActivationSite(("0",), (6,), -1)),
        ([nn.Conv2d(1, 3, 2), nn.Tanh()], (2, 1, 5, 6), ActivationSite(("0",), (3, 4, 5), -3)),
        ([nn.Conv1d(1, 3, 2), nn.SiLU()], (2, 1, 5), ActivationSite(("0",), (3, 4), -2)),
    ],
)
def test_shapes_and_axes(layers, inputs, site):
    units = site.shape[-1] if len(site.shape) > 1 else site.shape[0]
    model = nn.Sequential(*layers, nn.Linear(units, 2))
    _, found = activation_sites(model, (torch.randn(inputs),), None)
    assert found == {"1": site}


def test_flattened_maps_are_no_site():
    model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.Flatten(), nn.ReLU(), nn.Linear(12, 2))
    with pytest.raises(ValueError, match=r"'0' cannot be converted: no activation.*layers=\[\]"):
        activation_sites(model, (torch.randn(2, 1, 3, 3),), None)


def test_an_activation_of_the_outputs_or_of_the_inputs_is_no_site():
    model = nn.Sequential(nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2), nn.Tanh())
    flow, found = activation_sites(model, (torch.randn(2, 4),), None)
    assert list(found) == ["2"]
    assert flow["3"].is_output
