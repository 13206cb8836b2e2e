"""Matching by permutation: permuted copies are found again, and small cases against all orders."""

import copy
from collections import OrderedDict
from itertools import permutations

import pytest
import torch
from torch import nn

from plasticity.mitigations import SeededMethod, WFix
from plasticity.symmetry.matching import match_units, permute_units

INPUTS = torch.randn(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
IMAGES = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def mlp(seed, *widths):
    torch.manual_seed(seed)
    layers = [nn.Linear(6, widths[0])]
    for inputs, outputs in zip(widths, (*widths[1:], 3), strict=True):
        layers += [nn.ReLU(), nn.Linear(inputs, outputs)]
    return nn.Sequential(*layers).double()


def cnn(seed):
    torch.manual_seed(seed)
    network = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 3, 3, padding=1),
            norm=nn.BatchNorm2d(3),
            relu=nn.ReLU(),
            pool=nn.MaxPool2d(2),
            conv2=nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False),
            flatten=nn.Flatten(),
            fc1=nn.Linear(20, 6),
            tanh=nn.Tanh(),
            fc2=nn.Linear(6, 4),
        )
    ).double()
    for tensor in (network.norm.weight, network.norm.bias, *network.norm.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5)
    return network


def shuffled(sizes, seed=7):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randperm(size, generator=generator) for name, size in sizes.items()}


@pytest.mark.parametrize(
    ("model", "inputs", "sizes"),
    [
        (mlp(0, 16), INPUTS, {"0": 16}),
        (mlp(0, 16, 12, 9), INPUTS, {"0": 16, "2": 12, "4": 9}),
        (cnn(0), IMAGES, {"conv1": 3, "conv2": 5, "fc1": 6}),
    ],
)
def test_a_permuted_copy_is_the_same_function_and_is_matched_back_exactly(model, inputs, sizes):
    orders = shuffled(sizes)
    before = copy.deepcopy(model.state_dict())
    permuted = permute_units(model, orders, inputs)
    torch.testing.assert_close(permuted.eval()(inputs), model.eval()(inputs))
    pairs = zip(permuted.parameters(), model.parameters(), strict=True)
    assert not all(torch.equal(*pair) for pair in pairs)
    found = match_units(model, permuted, inputs)
    # The order that undoes another: its argsort.
    assert {n: o.tolist() for n, o in found.items()} == {
        name: order.argsort().tolist() for name, order in orders.items()
    }
    back = permute_units(permuted, found, inputs).state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(back[name], tensor), name
        assert torch.equal(before[name], tensor), name


def test_one_layer_has_the_best_of_all_orders():
    one, other = mlp(1, 5), mlp(2, 5)
    found = match_units(one, other, INPUTS)["0"].tolist()

    def distance(order):
        moved = permute_units(other, {"0": order}, INPUTS)
        pairs = zip(one.parameters(), moved.parameters(), strict=True)
        return sum((a - b).square().sum().item() for a, b in pairs)

    assert found == list(min(permutations(range(5)), key=distance))


def test_no_layer_alone_comes_closer():
    one, other = mlp(1, 4, 4), mlp(2, 4, 4)
    matched = permute_units(other, match_units(one, other, INPUTS), INPUTS)

    def distance(model):
        pairs = zip(one.parameters(), model.parameters(), strict=True)
        return sum((a - b).square().sum().item() for a, b in pairs)

    assert distance(matched) < distance(other)
    for layer in ("0", "2"):
        for order in permutations(range(4)):
            moved = permute_units(matched, {layer: order}, INPUTS)
            assert distance(moved) >= distance(matched) - 1e-12


def test_what_cannot_be_matched_is_refused():
    with pytest.raises(ValueError, match="differ in form"):
        match_units(mlp(0, 4), mlp(0, 5), INPUTS)
    with pytest.raises(KeyError, match="no hidden layer '7', only '0'"):
        permute_units(mlp(0, 2), {"7": [0]}, INPUTS)
    for order in ([0, 0], [0], [1, 2]):
        with pytest.raises(ValueError, match="each of its 2 units once"):
            permute_units(mlp(0, 2), {"0": order}, INPUTS)

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2, self.fc3 = nn.Linear(6, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, inputs):
            features = self.fc1(inputs).relu()
            return self.fc3(features + self.fc2(features).relu())

    with pytest.raises(ValueError, match=r"'fc1' cannot be reordered alone: .* added to .*fc2"):
        match_units(Residual().double(), Residual().double(), INPUTS)


class Scaled(nn.Module):
    """Factor of each unit, which is no normalization's."""

    def __init__(self):
        super().__init__()
        self.factors = nn.Parameter(torch.arange(1.0, 5.0, dtype=torch.float64))

    def forward(self, features):
        return features * self.factors


def with_between(between, weight=lambda layer: layer):
    torch.manual_seed(0)
    return nn.Sequential(weight(nn.Linear(6, 4)), between, nn.Linear(4, 2)).double()


def test_parameters_of_each_unit_that_do_not_follow_are_noticed():
    slopes = nn.PReLU(4)
    nn.init.uniform_(slopes.weight)
    for between in (slopes, Scaled()):
        model = with_between(between)
        permute_units(model, {"0": [0, 1, 2, 3]}, INPUTS)
        with pytest.raises(ValueError, match="the outputs changed"):
            permute_units(model, {"0": [1, 0, 2, 3]}, INPUTS)


def test_computed_weights_and_diverged_networks_are_refused():
    model = with_between(nn.ReLU(), nn.utils.parametrizations.weight_norm)
    for act in (
        lambda: match_units(model, model, INPUTS),
        lambda: permute_units(model, {}, INPUTS),
    ):
        with pytest.raises(ValueError, match=r"alone: 0\.weight is computed from other parameters"):
            act()
    diverged = mlp(0, 4)
    nn.init.constant_(diverged[2].bias, torch.nan)
    for pair in ((diverged, mlp(0, 4)), (mlp(0, 4), diverged)):
        with pytest.raises(ValueError, match=r"2\.bias has values that are NaN or infinite"):
            match_units(*pair, INPUTS)


def test_a_compiled_network_is_permuted():
    model = mlp(0, 4)
    compiled = torch.compile(model, backend="eager")
    permuted = permute_units(compiled, {"0": [3, 1, 0, 2]}, INPUTS)
    assert torch.equal(permuted._orig_mod[0].weight, model[0].weight[[3, 1, 0, 2]])


def test_fixed_entries_go_with_their_weights():
    model = mlp(0, 4)
    SeededMethod((WFix(share=0.5),), 0).prepare(model)
    order = [3, 1, 0, 2]
    permuted = permute_units(model, {"0": order}, INPUTS)
    for name in ("weight", "weight_is_fixed", "weight_fixed"):
        assert torch.equal(getattr(permuted[0], name), getattr(model[0], name)[order])
        assert torch.equal(getattr(permuted[2], name), getattr(model[2], name)[:, order])
