import pytest
import torch
from networks_in_training import images, marker
from torch import nn
from torch.nn import functional

from plasticity.agents.networks import CNN
from plasticity.mitigations.hidden_units import hidden_units, named_readers
from plasticity.units import trace_units


def units_of(model, inputs, layers=None):
    return hidden_units(trace_units(model, inputs), model, layers)


def test_hidden_layers_with_their_own_weights_and_the_weights_that_read_them():
    found = units_of(marker(), images())
    assert list(found) == ["conv", "fc"]  # not the output
    conv, fc = found.values()
    assert (conv.count, conv.weight, conv.axis, conv.bias) == (3, "conv.weight", 0, "conv.bias")
    assert (fc.count, fc.weight, fc.axis, fc.bias) == (5, "fc.weight", 0, "fc.bias")
    (reader,) = conv.readers
    assert (reader.layer, reader.weight, reader.axis) == ("fc", "fc.weight", 1)
    assert reader.columns.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert (reader.in_order, reader.reads_map) == (True, False)
    chosen = torch.tensor([[True, False, True], [False, True, False]])
    columns = [[True] * 4 + [False] * 4 + [True] * 4, [False] * 4 + [True] * 4 + [False] * 4]
    assert reader.fed_by(chosen).tolist() == columns


@pytest.mark.parametrize("channels_last", [False, True])
def test_features_of_a_flattened_map_are_samples_of_its_channels(channels_last):
    model, inputs = marker(channels_last=channels_last), images(4)
    (reader,) = units_of(model, inputs)["conv"].readers
    maps = torch.tanh(model.conv(inputs))  # (4, 3, 2, 2)
    flat = (maps.permute(0, 2, 3, 1) if channels_last else maps).flatten(1)
    found = reader.by_unit(flat, 0)
    assert found.shape == (16, 3)
    expected = maps.permute(1, 0, 2, 3).reshape(3, 16)
    assert torch.equal(found.mT.sort().values, expected.sort().values)
    stacked = reader.by_unit(torch.stack([flat, -flat]), 1)
    assert torch.equal(stacked, torch.stack([found, -found]))


def test_features_that_a_convolution_reads_are_samples_of_its_channels():
    network = CNN(channels=(3, 4), hidden=(5,)).build(CNN.spec(CNN(), (1, 8, 8), 2))
    found = units_of(network, torch.randn(2, 1, 8, 8))
    assert list(found) == ["conv1", "conv2", "fc1"]
    (reader,) = found["conv1"].readers
    assert (reader.layer, reader.reads_map) == ("conv2", True)
    maps = torch.randn(2, 3, 4, 4)
    assert torch.equal(reader.by_unit(maps, 0), maps.permute(0, 2, 3, 1).reshape(32, 3))
    both = torch.stack([maps, 2 * maps])
    expected = torch.stack([maps, 2 * maps]).permute(0, 1, 3, 4, 2).reshape(2, 32, 3)
    assert torch.equal(reader.by_unit(both, 1), expected)


def test_both_outputs_of_a_crelu_are_samples_of_their_unit():
    model, inputs = marker(crelu=True), images(4)
    (reader,) = units_of(model, inputs)["fc"].readers
    assert reader.columns.tolist() == [[unit, unit + 5] for unit in range(5)]
    sums = torch.randn(4, 5)
    features = torch.cat([torch.relu(sums), torch.relu(-sums)], 1)
    found = reader.by_unit(features, 0)
    assert found.shape == (8, 5)
    torch.testing.assert_close(found.abs().mean(0), sums.abs().mean(0) / 2)


def test_the_layers_may_be_named():
    assert list(units_of(marker(), images(), ["fc"])) == ["fc"]
    with pytest.raises(KeyError, match="no layer 'fc1' ran"):
        units_of(marker(), images(), ["fc1"])


class Residual(nn.Module):
    """Network whose second hidden layer is added to the first."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = (nn.Linear(3, 3) for _ in range(3))

    def forward(self, inputs):
        features = functional.relu(self.first(inputs))
        return self.head(features + functional.relu(self.second(features)))


def test_layers_whose_units_cannot_be_followed_are_refused():
    inputs = torch.randn(4, 3)
    with pytest.raises(ValueError, match="'head' cannot be reset one by one: its units are output"):
        units_of(Residual(), inputs, ["head"])
    with pytest.raises(ValueError, match="are added to those of second"):
        units_of(Residual(), inputs, ["first"])
    with pytest.raises(ValueError, match="cannot be reset one by one"):
        units_of(Residual(), inputs)


def test_readers_may_be_named_where_a_model_cannot_be_followed():
    model = marker()
    found = named_readers(model, {"conv": "fc", "fc": "head"})
    expected = units_of(model, images())
    for name, own in found.items():
        (reader,), (traced,) = own.readers, expected[name].readers
        assert torch.equal(reader.columns, traced.columns)
        assert torch.equal(reader.owners, traced.owners)
        assert (own.weight, own.bias, own.count) == (
            expected[name].weight,
            expected[name].bias,
            expected[name].count,
        )


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ({"fc": "tanh"}, "'tanh' must be the name of a linear layer"),
        ({"fc": "conv"}, "'conv' has 1 inputs, no multiple of the 5 units of 'fc'"),
    ],
)
def test_wrong_names_of_readers_are_refused(pairs, message):
    with pytest.raises(ValueError, match=message):
        named_readers(marker(), pairs)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.third, self.head = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, inputs):
        hidden = torch.relu(self.second(torch.relu(self.first(inputs))))
        return self.head(torch.relu(self.third(hidden)))


def test_units_of_a_weight_that_other_layers_have_too_are_refused():
    model, inputs = Tied(), torch.ones(2, 4)
    with pytest.raises(ValueError, match=r"'first' cannot be .*: other layers also use") as error:
        units_of(model, inputs)
    assert "layers=['third']" in str(error.value)
    assert list(units_of(model, inputs, ["third"])) == ["third"]
