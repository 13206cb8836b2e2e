import math
from collections import OrderedDict

import pytest
import torch
from torch import nn

from plasticity.symmetry import (
    attention_heads,
    permutation_distance,
    rotation_eigenvalues,
    sign_flip_distance,
)
from plasticity.symmetry_report import symmetry_distances, symmetry_report


class Activated(nn.Linear):
    """A layer that applies its activation itself."""

    def forward(self, features):
        return torch.relu(super().forward(features))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def convolutional_network():
    # 8 × 8 images: 4 × 4 behind the pooling, 2 × 2 behind the second convolution.
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 3, 3, padding=1),
            norm=nn.BatchNorm2d(3),
            pool=nn.MaxPool2d(2),
            conv2=nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False),
            relu=nn.ReLU(),
            flatten=nn.Flatten(),
            fc1=Activated(20, 6),
            fc2=nn.Linear(6, 4),
        )
    )


def test_layers_are_paired_in_order():
    model = convolutional_network()
    model(torch.ones(2, 1, 8, 8))
    distances = symmetry_distances(model)
    assert list(distances) == ["conv1", "conv2", "fc1"]
    expected = {
        "conv1": permutation_distance(model.conv1.weight, model.conv2.weight, model.conv1.bias),
        "conv2": permutation_distance(model.conv2.weight, model.fc1.weight),
        "fc1": permutation_distance(model.fc1.weight, model.fc2.weight, model.fc1.bias),
    }
    for name, distance in distances.items():
        torch.testing.assert_close(distance, expected[name])
    assert [len(distance) for distance in distances.values()] == [2, 4, 5]


def test_named_pairs_give_the_same():
    model = convolutional_network()
    distances = symmetry_distances(model, pairs=[("fc1", "fc2"), ("conv2", "fc1")])
    everything = symmetry_distances(model)
    assert list(distances) == ["conv2", "fc1"]
    for name, distance in distances.items():
        assert torch.equal(distance, everything[name])


def test_report_counts_copied_neurons():
    model = convolutional_network()
    with torch.no_grad():
        model.conv2.weight[4] = model.conv2.weight[1]
        # Channel c of 2 × 2 positions is read by columns 4 c to 4 c + 3.
        model.fc1.weight[:, 16:20] = model.fc1.weight[:, 4:8]
        model.fc1.weight[2] = 0
        model.fc1.bias[2] = 0
        model.fc2.weight[:, 2] = 0
    report = symmetry_report(model, threshold=1e-3)
    assert {name: degree.item() for name, degree in report.items()} == {
        "conv1": 0,
        "conv2": 1,
        "fc1": 0,
    }
    assert all(degree.dtype == torch.int64 for degree in report.values())
    # The neuron at zero is the state of a rescaling, not of a permutation.
    rescaled = symmetry_report(model, 1e-3, symmetry="rescaling")
    assert [degree.item() for degree in rescaled.values()] == [0, 0, 1]
    flipped = symmetry_distances(model, symmetry="sign-flip")["fc1"]
    torch.testing.assert_close(
        flipped, sign_flip_distance(model.fc1.weight, model.fc2.weight, model.fc1.bias)
    )


def test_relative_to_the_initial_distances():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    initial = symmetry_distances(model)
    assert symmetry_report(model, 0.1, reference=initial)["0"].item() == 0
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.09)
    assert symmetry_report(model, 0.1, reference=initial)["0"].item() == 3


def test_several_readers_make_one_vector():
    model = nn.ModuleDict(
        {"trunk": nn.Linear(3, 4), "policy": nn.Linear(4, 2), "value": nn.Linear(4, 1)}
    )
    pairs = [("trunk", "policy"), ("trunk", "value")]
    outgoing = torch.cat([model["policy"].weight, model["value"].weight])
    expected = permutation_distance(model["trunk"].weight, outgoing, model["trunk"].bias)
    distances = symmetry_distances(model, pairs=pairs)
    assert list(distances) == ["trunk"]
    torch.testing.assert_close(distances["trunk"], expected)
    # In order, the policy would be read by the value.
    with pytest.raises(ValueError, match="the neurons of 'policy' are not what 'value' reads"):
        symmetry_distances(model)


def test_transformer_pairs_are_those_inside_a_block():
    block = nn.TransformerEncoderLayer(8, 2, dim_feedforward=5, batch_first=True)
    model = nn.Sequential(
        nn.Embedding(7, 8), nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
    )
    distances = symmetry_distances(model)
    names = [f"1.layers.{index}.{part}" for index in (0, 1) for part in ("self_attn", "linear1")]
    assert list(distances) == names
    attention = model[1].layers[1].self_attn
    expected = rotation_eigenvalues(*attention_heads(attention))
    torch.testing.assert_close(distances[names[2]], expected)
    assert distances[names[2]].shape == (2, 4)
    assert distances[names[1]].shape == (4,)


def test_report_of_attention_counts_by_head():
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(6, 2)})
    initial = symmetry_distances(model)
    with torch.no_grad():
        # Head 1 has rows 3 to 5 of W_Q and of W_K, which starts at row 6.
        model["attention"].in_proj_weight[4] = 0
        model["attention"].in_proj_weight[6 + 4] = 0
    assert symmetry_report(model, 1e-6)["attention"].tolist() == [0, 1]
    relative = symmetry_report(model, 0.1, reference=initial)
    assert relative["attention"].tolist() == [0, 1]
    # An eigenvalue equal to the threshold counts.
    largest = symmetry_distances(model)["attention"].max().item()
    assert symmetry_report(model, largest)["attention"].tolist() == [3, 3]


def test_nothing_is_left_behind():
    model = convolutional_network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    report = symmetry_report(model, 0.1)
    assert not any(degree.requires_grad for degree in report.values())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_parametrized_and_compiled_models_keep_their_names():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    expected = symmetry_distances(model)["0"]
    compiled = torch.compile(model, backend="eager")
    assert torch.equal(symmetry_distances(compiled)["0"], expected)
    nn.utils.parametrizations.weight_norm(model[0])
    torch.testing.assert_close(symmetry_distances(model)["0"], expected)


def shared():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 2)), r"'0' are not what '1' reads.*pairs=\["),
        (nn.Sequential(nn.Linear(3, 4), nn.LSTM(4, 4)), r"layer '1', LSTM.*pairs=\["),
        (nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Conv2d(4, 2, 3)), "'0' has 2 groups"),
        (nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, groups=4)), "'1' has 4 groups"),
        (shared(), "'0' and '2' are the same module"),
        (nn.Sequential(nn.Linear(3, 4), nn.ReLU()), "no hidden neurons to measure"),
    ],
)
def test_models_that_cannot_be_guessed_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        symmetry_distances(model)


def test_a_model_that_cannot_be_guessed_can_be_named():
    recurrent = nn.Sequential(nn.LSTM(4, 4), nn.Linear(4, 3), nn.Linear(3, 2))
    distances = symmetry_distances(recurrent, pairs=[("1", "2")])
    assert list(distances) == ["1"]
    # A layer read by itself: the loop of a shared layer.
    model = shared()
    twice = symmetry_distances(model, pairs=[("0", "2")])
    expected = permutation_distance(model[0].weight, model[0].weight, model[0].bias)
    torch.testing.assert_close(twice["0"], expected)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"pairs": [("fc1", "fc3")]}, ValueError, "'fc3'.*Did you mean 'fc2'"),
        ({"pairs": ("fc1", "fc2")}, ValueError, "give a list of"),
        ({"pairs": [("fc1", "relu")]}, ValueError, "'relu', which is no weight layer"),
        ({"pairs": []}, ValueError, "no hidden neurons to measure"),
        ({"symmetry": "sign-flips"}, ValueError, "Did you mean 'sign-flip'"),
        ({"threshold": -1}, ValueError, "threshold"),
        ({"threshold": math.nan}, ValueError, "threshold"),
        ({"reference": {"fc": torch.ones(5)}}, ValueError, "no distances of 'conv1'"),
        (
            {"reference": {"fc1": torch.ones(4)}, "pairs": [("fc1", "fc2")]},
            ValueError,
            r"shape \(4,\), expected \(5,\)",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    settings = {"threshold": 0.1, **arguments}
    with pytest.raises(error, match=message):
        symmetry_report(convolutional_network(), **settings)


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match="Module"):
        symmetry_distances([nn.Linear(2, 2)])
