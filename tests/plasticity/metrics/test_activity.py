"""Active outputs and linearised units, computed by hand."""

import pytest
import torch
from torch import nn

from plasticity.metrics.activity import active_fraction, linearized_fraction, linearized_units
from plasticity.metrics.dormancy import dead_fraction
from plasticity.metrics.tracker import Tracker


def test_active_outputs_by_hand():
    # One dead unit, one active on a single sample of four, one always active: (0 + 1 + 4) / 12.
    activations = torch.tensor([[0.0, 0, 1], [0, 2, 1], [0, 0, 3], [0, 0, 1]])
    assert active_fraction(activations).item() == pytest.approx(5 / 12)
    assert dead_fraction(activations).item() == pytest.approx(1 / 3)


def test_active_outputs_of_functions_that_saturate():
    tanh = torch.tensor([[-1.0, -0.99], [0.0, 0.995]])
    assert active_fraction(tanh, (-0.99, 0.99)).item() == 0.5
    assert active_fraction(tanh).item() == 0.75  # only the 0 counts as silent
    sigmoid = torch.tensor([[0.005, 0.01], [0.5, 0.999]])
    assert active_fraction(sigmoid, (0.01, 0.99)).item() == 0.5


def test_linearised_units_by_hand():
    # Of ten samples, the units are positive on 10, 9, 8 and 0: two reach nine tenths.
    activations = torch.ones(10, 4)
    activations[0, 1], activations[:2, 2], activations[:, 3] = 0.0, -1.0, 0.0
    assert linearized_units(activations).tolist() == [True, True, False, False]
    assert linearized_fraction(activations).item() == 0.5
    assert linearized_fraction(activations, threshold=1.0).item() == 0.25
    assert linearized_fraction(activations, threshold=0.8).item() == 0.75


def test_leading_dimensions_and_a_diverged_layer():
    activations = torch.zeros(3, 4, 2)
    activations[1] = 1.0
    activations[2, 0, 0] = torch.nan
    for metric in (active_fraction, linearized_fraction):
        found = metric(activations)
        assert found[:2].tolist() == [0.0, 1.0]
        assert found[2].isnan()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: active_fraction(a, (0.9, 0.1)), r"ascending, got \(0.9, 0.1\)"),
        (lambda a: linearized_fraction(a, 0.0), "above 0 and at most 1, got 0.0"),
        (lambda a: linearized_fraction(a, 1.5), "got 1.5"),
        (lambda a: active_fraction(a[:0]), "batch"),
        (lambda a: linearized_units(a[:0]), "batch"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.ones(2, 2))


def test_a_tracker_knows_them():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    probe = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    row = Tracker(model, probe, ["active_fraction", "linearized_fraction"]).measure()
    assert row == {"active_fraction/1": 0.5, "linearized_fraction/1": 0.5}
