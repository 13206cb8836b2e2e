"""Churn of outputs by one step, computed by hand."""

import math

import pytest
import torch
from torch import nn

from plasticity.metrics.churn import churn, churn_of_outputs
from plasticity.metrics.norms import parameter_snapshot
from plasticity.metrics.tracker import Tracker

PROBE = torch.tensor([[1.0, 0.0], [0.0, 1.0]])


def linear():
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.eye(2))
        model.bias.zero_()
    return model


def numbers(found):
    return {name: each.item() for name, each in found.items()}


def test_outputs_by_hand():
    # Changes (1, 0) and (0, -2): a mean square of 5 / 4. The second sample's largest output moves.
    before = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    after = torch.tensor([[2.0, 0.0], [0.0, -1.0]])
    assert numbers(churn_of_outputs(before, after)) == {"value": 1.25, "argmax": 0.5}


def test_a_shift_of_all_outputs_moves_no_argmax():
    model = linear()
    before = parameter_snapshot(model)
    with torch.no_grad():
        model.bias.add_(3.0)
    assert numbers(churn(model, before, lambda m: m(PROBE))) == {"value": 9.0, "argmax": 0.0}
    assert model.bias.tolist() == [3.0, 3.0]
    assert model.weight.grad_fn is None
    assert model.weight.requires_grad


def test_no_update_no_churn():
    model = linear()
    found = churn(model, parameter_snapshot(model), lambda m: m(PROBE))
    assert numbers(found) == {"value": 0.0, "argmax": 0.0}


def test_classes_that_a_task_lacks_do_not_count_and_a_diverged_network_is_nan():
    masked = torch.tensor([[1.0, -math.inf]])
    assert numbers(churn_of_outputs(masked, masked)) == {"value": 0.0, "argmax": 0.0}
    found = churn_of_outputs(masked, torch.tensor([[math.nan, 1.0]]))
    assert found["value"].isnan()
    assert found["argmax"].isnan()


def test_a_single_output_has_no_argmax():
    assert list(churn_of_outputs(torch.zeros(3, 1), torch.ones(3, 1))) == ["value"]


def test_parameters_of_another_network_and_outputs_that_are_not_a_tensor_are_refused():
    model = linear()
    with pytest.raises(ValueError, match="before has no value for 'bias'"):
        churn(model, {"weight": torch.eye(2)}, lambda m: m(PROBE))
    with pytest.raises(ValueError, match=r"before\['bias'\] has shape \(1,\)"):
        churn(model, {"weight": torch.eye(2), "bias": torch.zeros(1)}, lambda m: m(PROBE))
    with pytest.raises(ValueError, match="churn needs outputs of shape"):
        churn(model, parameter_snapshot(model), lambda m: (m(PROBE),))


def test_the_parameters_are_back_after_an_error():
    model = linear()
    other = {name: each + 1 for name, each in parameter_snapshot(model).items()}
    calls = []

    def run(module):
        calls.append(module.bias.tolist())
        if len(calls) == 2:
            raise RuntimeError("no")
        return module(PROBE)

    with pytest.raises(RuntimeError, match="no"):
        churn(model, other, run)
    assert calls == [[0.0, 0.0], [1.0, 1.0]]
    assert model.bias.tolist() == [0.0, 0.0]


def test_a_tracker_measures_the_step_before_which_it_was_called():
    model = nn.Sequential(linear(), nn.ReLU())
    tracker = Tracker(model, PROBE, ["churn"])
    assert tracker.measure() == {}  # of no step yet
    tracker.before_step()
    with torch.no_grad():
        model[0].bias.add_(2.0)
    assert tracker.boundary(task=0)["churn/value"] == 4.0
    assert "churn/value" not in tracker.boundary(task=1)  # of another step than the latest


def test_a_tracker_continued_after_the_step_measures_it():
    model = nn.Sequential(linear(), nn.ReLU())
    tracker = Tracker(model, PROBE, ["churn"])
    tracker.before_step()
    with torch.no_grad():
        model[0].bias.add_(2.0)
    state = tracker.state_dict()
    continued = Tracker(model, PROBE, ["churn"])
    continued.load_state_dict(state)
    assert continued.boundary(task=0)["churn/value"] == 4.0


def test_a_step_leaves_a_graph_that_was_recorded_before_usable():
    model = linear()
    loss = model(PROBE).square().sum()
    tracker = Tracker(model, PROBE, ["churn"])
    tracker.before_step()
    tracker.measure()
    loss.backward()
    assert model.weight.grad is not None
