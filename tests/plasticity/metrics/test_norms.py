import math

import pytest
import torch
from torch import nn

from plasticity.metrics.norms import (
    anchor_distance,
    feature_norm,
    gradient_norm,
    parameter_snapshot,
    update_norm,
    update_to_weight_ratio,
    weight_norm,
)


class Network(nn.Module):
    """Network with layers at two depths and one parameter owned by the root."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([6.0, 8.0]))
        self.first = nn.Linear(2, 1)
        self.block = nn.Sequential(nn.ReLU(), nn.Linear(1, 1))
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([[1.0, 2.0]]))
            self.first.bias.fill_(2.0)
            self.block[1].weight.fill_(-3.0)
            self.block[1].bias.fill_(4.0)


def numbers(norms):
    return {name: norm.item() for name, norm in norms.items()}


def test_weight_norm_by_hand():
    # scale: sqrt(36 + 64); first: sqrt(1 + 4 + 4); block.1: sqrt(9 + 16); total: sqrt(100 + 9 + 25).
    norms = weight_norm(Network())
    expected = {"scale": 10.0, "first": 3.0, "block.1": 5.0, "total": math.sqrt(134)}
    assert numbers(norms) == pytest.approx(expected, rel=1e-7)
    assert list(norms) == list(expected)
    assert not any(norm.requires_grad for norm in norms.values())
    assert all(norm.dtype == torch.float32 and norm.shape == () for norm in norms.values())


def test_total_is_the_norm_of_the_whole_parameter_vector():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4))
    vector = nn.utils.parameters_to_vector(model.parameters()).double()
    norms = weight_norm(model)
    assert norms["total"].item() == pytest.approx(vector.norm().item(), rel=1e-6)
    assert list(norms) == ["0", "1", "3", "total"]


def test_shared_parameters_count_once():
    model = nn.Module()
    model.encoder = nn.Linear(3, 3, bias=False)
    model.decoder = nn.Linear(3, 3, bias=False)
    model.decoder.weight = model.encoder.weight
    norms = numbers(weight_norm(model))
    alone = model.encoder.weight.norm().item()
    assert norms == pytest.approx({"encoder": alone, "total": alone})


def test_a_model_without_parameters_has_total_zero():
    assert numbers(weight_norm(nn.ReLU())) == {"total": 0}


def test_a_layer_named_total_is_rejected():
    model = nn.Module()
    model.total = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="total"):
        weight_norm(model)


def test_gradient_norm_leaves_out_parameters_without_a_gradient():
    model = Network()
    assert numbers(gradient_norm(model)) == {"total": 0}
    model.first.weight.grad = torch.tensor([[3.0, 4.0]])
    model.scale.grad = torch.tensor([0.0, 12.0])
    assert numbers(gradient_norm(model)) == {"scale": 12.0, "first": 5.0, "total": 13.0}


def test_gradient_norm_of_a_sparse_gradient():
    # Row 1 is looked up twice: its gradient is 1 + 1 in each of 2 entries; row 3 once.
    model = nn.Embedding(5, 2, sparse=True)
    model(torch.tensor([1, 1, 3])).sum().backward()
    # A lone Embedding is the root: its parameter is a layer by itself. sqrt(2 * 4 + 2 * 1).
    assert numbers(gradient_norm(model)) == pytest.approx(
        {"weight": math.sqrt(10), "total": math.sqrt(10)}
    )


def test_update_norm_after_one_step_of_gradient_descent_is_rate_times_gradient():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    previous = parameter_snapshot(model)
    model(torch.randn(16, 4, dtype=torch.float64)).square().sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    gradients = numbers(gradient_norm(model))
    assert numbers(update_norm(model, previous)) == pytest.approx(
        {name: 0.01 * norm for name, norm in gradients.items()}, rel=1e-9
    )


def test_snapshot_is_a_copy_without_a_graph():
    model = Network()
    snapshot = parameter_snapshot(model)
    assert list(snapshot) == [name for name, _ in model.named_parameters()]
    assert not any(value.requires_grad for value in snapshot.values())
    assert numbers(update_norm(model, snapshot))["total"] == 0
    with torch.no_grad():
        model.first.bias.add_(2.0)
    assert snapshot["first.bias"].item() == 2.0
    assert numbers(update_norm(model, snapshot)) == {
        "scale": 0.0,
        "first": 2.0,
        "block.1": 0.0,
        "total": 2.0,
    }


def test_update_norm_rejects_the_snapshot_of_another_network():
    model = Network()
    snapshot = parameter_snapshot(model)
    with pytest.raises(ValueError, match=r"no value for 'first\.bias'.*parameter_snapshot"):
        update_norm(model, {k: v for k, v in snapshot.items() if k != "first.bias"})
    with pytest.raises(ValueError, match="'other'"):
        update_norm(model, {**snapshot, "other": torch.zeros(1)})
    with pytest.raises(
        ValueError, match=r"previous\['scale'\] has shape \(3,\), the parameter \(2,\)"
    ):
        update_norm(model, {**snapshot, "scale": torch.zeros(3)})


def test_anchor_distance_by_hand():
    # first.weight - anchor = (1, 2) - (4, 6) = (-3, -4); scale - anchor = (6, 8) - (6, -4) = (0, 12).
    anchors = {"first.weight": torch.tensor([[4.0, 6.0]]), "scale": torch.tensor([6.0, -4.0])}
    norms = anchor_distance(Network(), anchors)
    assert numbers(norms) == {"scale": 12.0, "first": 5.0, "total": 13.0}
    assert list(norms) == ["scale", "first", "total"]
    assert numbers(anchor_distance(Network(), {})) == {"total": 0}


def test_anchor_at_zero_gives_the_weight_norm():
    model = Network()
    zeros = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    assert numbers(anchor_distance(model, zeros)) == numbers(weight_norm(model))


def test_misspelt_anchor_is_an_error_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"Did you mean 'first\.weight'"):
        anchor_distance(Network(), {"first.wieght": torch.zeros(1, 2)})
    with pytest.raises(ValueError, match="Known: 'scale'"):
        anchor_distance(Network(), {"zzzz": torch.zeros(1, 2)})


@pytest.mark.parametrize("value", [1e-30, 1e30])
def test_extreme_values_stay_in_range(value):
    # Their squares, 1e-60 and 1e60, are out of range in float32.
    model = nn.Linear(4, 4, bias=False)
    nn.init.constant_(model.weight, value)
    model.weight.grad = torch.full((4, 4), value)
    for norms in (weight_norm(model), gradient_norm(model)):
        assert norms["total"].item() == pytest.approx(4 * value, rel=1e-6)
    assert feature_norm(torch.full((3, 4), value)).item() == pytest.approx(2 * value, rel=1e-6)


def test_half_precision_does_not_overflow():
    # sqrt(10_000 * 1000²) = 100_000 is above float16's 65_504.
    model = nn.Linear(10_000, 1, bias=False).half()
    nn.init.constant_(model.weight, 1000.0)
    norms = weight_norm(model)
    assert norms["total"].dtype == torch.float32
    assert norms["total"].item() == pytest.approx(100_000)


def test_double_precision_is_kept():
    model = nn.Linear(3, 1, bias=False).double()
    previous = parameter_snapshot(model)
    with torch.no_grad():
        model.weight.add_(1e-12)
    update = update_norm(model, previous)["total"]
    assert update.dtype == torch.float64
    assert update.item() == pytest.approx(math.sqrt(3) * 1e-12, rel=1e-3)


def test_feature_norm_is_the_mean_over_rows():
    # Rows of norm 5 and 13: mean 9, where the norm of the matrix would be sqrt(194).
    features = torch.tensor([[3.0, 4.0], [5.0, 12.0]], requires_grad=True)
    norm = feature_norm(features)
    assert norm.item() == 9.0
    assert not norm.requires_grad
    stacked = torch.stack([features.detach(), 2 * features.detach()])[None]
    assert feature_norm(stacked).tolist() == [[9.0, 18.0]]


def test_feature_norm_rejects_wrong_shapes_and_dtypes():
    with pytest.raises(ValueError, match="batch, width"):
        feature_norm(torch.ones(3))
    with pytest.raises(TypeError, match="int64"):
        feature_norm(torch.ones(3, 3, dtype=torch.int64))


def test_update_to_weight_ratio_by_hand():
    model = Network()
    snapshot = parameter_snapshot(model)
    with torch.no_grad():
        model.scale.mul_(1.5)  # of norm 10, moved by 5
        model.first.bias.add_(3.0)  # its layer has norm 3
    found = numbers(update_to_weight_ratio(model, snapshot))
    # In total: sqrt(25 + 9) over sqrt(134).
    expected = {"scale": 0.5, "first": 1.0, "block.1": 0.0, "total": math.sqrt(34 / 134)}
    assert found == pytest.approx(expected, rel=1e-6)
    assert list(found) == list(expected)


def test_the_ratio_of_a_layer_that_was_0_is_finite():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    snapshot = parameter_snapshot(model)
    assert numbers(update_to_weight_ratio(model, snapshot)) == {"weight": 0.0, "total": 0.0}
    nn.init.ones_(model.weight)
    assert numbers(update_to_weight_ratio(model, snapshot))["weight"] == pytest.approx(1e8)
