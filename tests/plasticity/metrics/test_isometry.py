"""Deviation from isometry, computed by hand and from singular values."""

import pytest
import torch
from torch import nn

from plasticity.metrics.isometry import deviation_from_isometry, isometry_deviation
from plasticity.metrics.tracker import Tracker


def test_a_diagonal_matrix_by_hand():
    # (9 - 1)² + (0.25 - 1)² = 64 + 0.5625
    assert isometry_deviation(torch.diag(torch.tensor([3.0, 0.5]))).item() == 64.5625


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (6, 2, 3, 3)])
def test_it_is_that_of_the_singular_values(shape):
    torch.manual_seed(0)
    weight = torch.randn(shape, dtype=torch.float64)
    values = torch.linalg.svdvals(weight.flatten(1))
    expected = (values**2 - 1).square().sum().item()
    assert isometry_deviation(weight).item() == pytest.approx(expected, rel=1e-12)
    nn.init.orthogonal_(weight)
    assert isometry_deviation(weight).item() < 1e-20


def test_the_zero_matrix_lacks_its_smaller_side():
    assert isometry_deviation(torch.zeros(7, 3)).item() == 3


def test_layers_by_name():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.fill_(2.0)  # a column of length sqrt(8): (8 - 1)² = 49
        model[3].weight.copy_(torch.eye(2))
    found = deviation_from_isometry(model)
    assert {name: each.item() for name, each in found.items()} == {"0": 49.0, "3": 0.0}
    assert all(each.dtype == torch.float32 and each.shape == () for each in found.values())
    assert Tracker(model, torch.ones(1, 1, 1, 1), ["deviation_from_isometry"]).measure() == {
        "deviation_from_isometry/0": 49.0,
        "deviation_from_isometry/3": 0.0,
    }


def test_a_layer_of_several_matrices_and_a_parameter_of_the_root():
    model = nn.Module()
    model.recurrent = nn.LSTM(2, 3)
    model.table = nn.Parameter(torch.eye(2))
    assert list(deviation_from_isometry(model)) == [
        "table",
        "recurrent.weight_ih_l0",
        "recurrent.weight_hh_l0",
    ]
