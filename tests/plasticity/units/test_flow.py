"""Tests of `trace_units` on networks of known wiring, and of the effect of a unit on its readers."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from plasticity.units.flow import trace_call, trace_units


def pairs(model, *inputs):
    """Return pairs of connected layers, where all readers are known and the units can be exchanged."""
    return {
        (layer.name, reader.layer)
        for layer in trace_units(model, *inputs).layers
        if layer.not_followed is None and layer.unequal is None
        for reader in layer.readers
    }


def silence_by_the_weights(model, layer, unit):
    """Set the columns that a unit feeds to zero, in all its readers."""
    for reader in layer.readers:
        columns = reader.columns[unit]
        assert reader.groups == 1
        with torch.no_grad():
            weight = model.get_parameter(reader.weight).movedim(reader.axis, 0)
            weight[columns[columns >= 0]] = 0


def silence_by_the_output(model, layer, unit):
    """Set the incoming weights and the bias of a unit to zero: with a ReLU after it, it outputs 0."""
    with torch.no_grad():
        model.get_parameter(layer.weight).movedim(layer.axis, 0)[unit] = 0
        if layer.bias is not None:
            model.get_parameter(layer.bias)[unit] = 0


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.conv2 = nn.Conv2d(4, 5, 3)
        self.fc1 = nn.Linear(5 * 3 * 3, 7)
        self.policy = nn.Linear(7, 3)
        self.value = nn.Linear(7, 1)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.relu(self.conv2(F.pad(x, (1, 0, 1, 0)))).flatten(1)
        x = F.relu(self.fc1(x))
        return self.policy(x), self.value(x)


class Tokens(nn.Module):
    """Channels last, bare matrices, a transposed layer and a convolution over positions."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.W1 = nn.Parameter(torch.randn(4, 6) / 2)
        self.b1 = nn.Parameter(torch.randn(6))
        self.W2 = nn.Parameter(torch.randn(6, 5) / 2)
        self.over_time = nn.Conv1d(5, 3, 3)
        self.back = nn.ConvTranspose1d(3, 4, 2)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = F.relu(self.conv(x)).permute(0, 2, 3, 1).flatten(1, 2)
        x = F.relu(torch.einsum("bld,dk->blk", x, self.W1) + self.b1)
        x = F.relu(x @ self.W2)
        x = F.relu(self.over_time(x.mT))
        x = F.relu(self.back(x))
        return self.head(x.mean(-1))


class Wide(nn.Module):
    """A concatenation, reordered columns and a split."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(16, 4)
        self.b = nn.Linear(16, 6)
        self.c = nn.Linear(10, 3)
        self.d = nn.Linear(5, 3)

    def forward(self, x):
        x = x.flatten(1)
        x = torch.cat([F.relu(self.a(x)), F.relu(self.b(x))], 1)
        return self.c(x[:, torch.arange(9, -1, -1)]), self.d(x.split(5, 1)[0])


@pytest.mark.parametrize(
    ("make", "hidden"),
    [
        (Cnn, ["conv1", "conv2", "fc1"]),
        (Tokens, ["conv", "W1", "W2", "over_time", "back"]),
        (Wide, ["a", "b"]),
    ],
)
def test_silencing_the_readers_of_a_unit_silences_the_unit(make, hidden):
    torch.manual_seed(0)
    size = 10 if make is Cnn else 4 if make is Wide else 6
    inputs = torch.randn(3, 1, size, size)
    flow = trace_units(make(), inputs)
    assert [layer.name for layer in flow.layers if layer.readers] == hidden
    for name in hidden:
        for unit in range(flow[name].units):
            outputs = []
            for silence in (silence_by_the_output, silence_by_the_weights):
                torch.manual_seed(1)
                model = make()
                silence(model, flow[name], unit)
                outputs.append(model(inputs))
            torch.testing.assert_close(outputs[0], outputs[1])


def test_layers_report_the_axis_of_their_units():
    inputs, model = torch.randn(3, 1, 6, 6), Tokens()
    for flow in (trace_units(model, inputs), trace_call(model, lambda inner: inner(inputs))):
        assert_layers_of_tokens(flow)


def assert_layers_of_tokens(flow):
    found = [(each.name, each.units, each.weight, each.axis, each.bias) for each in flow.layers]
    assert found == [
        ("conv", 4, "conv.weight", 0, "conv.bias"),
        ("W1", 6, "W1", 1, "b1"),
        ("W2", 5, "W2", 1, None),
        ("over_time", 3, "over_time.weight", 0, "over_time.bias"),
        ("back", 4, "back.weight", 1, "back.bias"),
        ("head", 2, "head.weight", 0, "head.bias"),
    ]
    assert [each.is_output for each in flow.layers] == [False] * 5 + [True]
    with pytest.raises(KeyError, match=r"no layer 'convv'.*Did you mean 'conv'"):
        flow["convv"]


def test_a_channel_feeds_all_its_positions_after_a_flatten():
    flow = trace_units(Cnn(), torch.randn(3, 1, 10, 10))
    (reader,) = flow["conv2"].readers
    # 10 pixels, convolved 8, pooled 4, padded 5, convolved 3: channel c feeds columns 9 c to 9 c + 8.
    assert reader.columns.tolist() == [list(range(9 * c, 9 * c + 9)) for c in range(5)]


def test_chain_of_all_layers_that_keep_neurons_separate():
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Dropout2d(),
        nn.Flatten(), nn.Linear(27, 7), nn.LayerNorm(7), nn.Tanh(), nn.Linear(7, 2),
    )  # fmt: skip
    assert pairs(model, torch.randn(4, 1, 8, 8)) == {("0", "6"), ("6", "9")}


class Mixing(nn.Sequential):
    def __init__(self, function):
        super().__init__(nn.Linear(3, 5), nn.Linear(5, 2))
        self.function = function

    def forward(self, x):
        return self[1](self.function(self[0](x)))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + 1,
        lambda x: torch.cat([x, x], 1)[:, :5],
        lambda x: x.softmax(1),
        lambda x: x.split(5, 1)[0],
        lambda x: x.clone().double().float() * x.shape[0],
        lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True)),
        lambda x: F.normalize(x, dim=1),
        lambda x: torch.where(x > 0, x, 0.1 * x),
        lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
        lambda x: torch.cat([x, x.new_zeros(4, 2)], 1)[:, :5],
        lambda x: torch.cat([x.relu(), (-x).relu()], 1)[:, :5],
    ],
)
def test_functions_that_treat_all_neurons_alike_are_followed(function):
    assert pairs(Mixing(function), torch.randn(4, 3)) == {("0", "1")}


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.sort(1)[0],
        lambda x: x.cumsum(1),
        lambda x: x @ torch.ones(5, 5),
        lambda x: x.sum(1, keepdim=True).expand(-1, 5),
        lambda x: x * torch.arange(5),
        lambda x: x.roll(1, 1) + x,
        lambda x: torch.cat([x[:, :2].relu(), x[:, 2:].tanh()], 1),
        lambda x: (x[:, :2].relu_(), x)[1],
        lambda x: torch.cat([F.layer_norm(x[:, :2], (2,)), x[:, 2:]], 1),
        lambda x: torch.cat([x[:, :2].roll(1, 0), x[:, 2:]], 1),
        lambda x: x.mT.reshape(4, 5),
    ],
)
def test_functions_that_mix_neurons_are_not_followed(function):
    model, inputs = Mixing(function), torch.randn(4, 3)
    assert pairs(model, inputs) == set()
    layer = trace_units(model, inputs)["0"]
    assert layer.not_followed or layer.unequal


def test_groups_heads_and_loops_have_no_exchangeable_neurons():
    grouped = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 2, 1))
    assert pairs(grouped, torch.randn(2, 2, 5, 5)) == set()
    assert trace_units(grouped, torch.randn(2, 2, 5, 5))["0"].readers[0].groups == 2
    normed = nn.Sequential(nn.Conv2d(2, 4, 1), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1))
    assert pairs(normed, torch.randn(2, 2, 5, 5)) == set()
    layer = nn.Linear(3, 3)
    loop = nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(3, 1))
    assert pairs(loop, torch.randn(4, 3)) == set()
    read_by_lstm = nn.Sequential(nn.Linear(3, 4), nn.LSTM(4, 2))
    assert "recurrent" in trace_units(read_by_lstm, torch.randn(5, 2, 3))["0"].not_followed


def test_joined_units_are_reported_one_by_one():
    class Reversed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.c(self.a(x) * self.b(x).flip(-1))

    flow = trace_units(Reversed(), torch.randn(5, 3))
    assert {name: units.tolist() for name, units in flow["a"].joined.items()} == {"b": [3, 2, 1, 0]}
    assert flow["b"].readers[0].columns.tolist() == [[3], [2], [1], [0]]


def test_gates_of_one_layer_meet_each_other():
    model = nn.Sequential(nn.Linear(3, 8), nn.GLU(), nn.Linear(4, 2))
    layer = trace_units(model, torch.randn(5, 3))["0"]
    assert layer.readers[0].columns.tolist() == [[0], [1], [2], [3]] * 2
    assert "meet each other" in layer.unequal


@pytest.mark.parametrize(
    "kind",
    [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm,
     nn.utils.parametrizations.orthogonal],
)  # fmt: skip
def test_parametrized_weights_belong_to_their_layer(kind):
    model = nn.Sequential(kind(nn.Linear(5, 5)), nn.ReLU(), kind(nn.Linear(5, 5)), nn.Linear(5, 2))
    assert pairs(model, torch.randn(4, 5)) == {("0", "2"), ("2", "3")}
    assert (
        next(layer.weight for layer in trace_units(model, torch.randn(4, 5)).layers) == "0.weight"
    )


def test_low_rank_adapters_are_functions_of_the_weight():
    class Adapted(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
            self.up, self.down = nn.Parameter(torch.ones(4, 2)), nn.Parameter(torch.ones(2, 3))

        def forward(self, x):
            weight = self.first.weight + self.up @ self.down
            return self.last(F.relu(F.linear(x, weight, self.first.bias)))

    assert ("first", "last") in pairs(Adapted(), torch.randn(4, 3))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_result_does_not_depend_on_autograd(context):
    with context():
        found = pairs(Cnn(), torch.randn(3, 1, 10, 10))
    assert found == {("conv1", "conv2"), ("conv2", "fc1"), ("fc1", "policy"), ("fc1", "value")}


def test_half_precision_copies_of_the_weights_are_recognised():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))

    class Autocast(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return self.model(x)

    assert pairs(Autocast(), torch.randn(4, 3)) == {("model.0", "model.2")}


def test_nothing_is_left_behind():
    model = nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.TransformerEncoderLayer(4, 2)
    )
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inputs, fast = torch.randn(4, 3), torch.backends.mha.get_fastpath_enabled()
    state = torch.get_rng_state()
    trace_units(model, inputs)
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert torch._C._len_torch_dispatch_stack() == 0


@pytest.mark.parametrize("function", [lambda x: F.layer_norm(x, (3,)), lambda x: x.softmax(-1)])
def test_functions_that_treat_the_neurons_of_a_head_alike_are_reported(function):
    model = nn.Sequential(nn.Linear(3, 6), nn.Unflatten(1, (2, 3)), nn.Linear(6, 2))
    model[1].register_forward_hook(lambda _module, _args, output: function(output).flatten(1))
    flow = trace_units(model, torch.randn(4, 3))
    assert "equal within a group only" in flow["0"].unequal


@pytest.mark.parametrize("name", ["a", "b"])
def test_layers_that_one_matrix_reads_side_by_side_keep_their_own_units(name):
    torch.manual_seed(0)
    model, inputs = Beside(), torch.randn(4, 3)
    layer = trace_units(model, inputs)[name]
    assert layer.unequal is None
    before = model(inputs)
    with torch.no_grad():
        swap(getattr(model, name).weight, 0)
        swap(getattr(model, name).bias, 0)
        start = int(layer.readers[0].columns[0])
        swap(model.c.weight[:, start : start + 2], 1)
    torch.testing.assert_close(model(inputs), before)


class Beside(nn.Module):
    """Two layers and the inputs, in one concatenation."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(7, 2)

    def forward(self, x):
        return self.c(torch.cat([F.relu(self.a(x)), x, F.relu(self.b(x))], 1))


def swap(tensor, axis):
    tensor.copy_(tensor.flip(axis))


def standardised(weight):
    mean, std = weight.mean(1, keepdim=True), weight.std(1, keepdim=True)
    return (weight - mean) / std


def normalised_as_timm_does(weight):
    flat = weight.reshape(1, len(weight), -1)
    return F.batch_norm(flat, None, None, training=True).reshape_as(weight)


@pytest.mark.parametrize("function", [standardised, normalised_as_timm_does, F.normalize])
def test_a_weight_computed_from_a_weight_is_that_weight(function):
    class Standardised(nn.Linear):
        def forward(self, x):
            return F.linear(x, function(self.weight), self.bias)

    model = nn.Sequential(
        Standardised(3, 5), nn.ReLU(), Standardised(5, 4), nn.ReLU(), nn.Linear(4, 2)
    )
    flow = trace_units(model, torch.randn(4, 3))
    assert [layer.name for layer in flow.layers] == ["0", "2", "4"]
    for name, reader in (("0", "2"), ("2", "4")):
        assert [each.weight for each in flow[name].readers] == [f"{reader}.weight"]
        assert flow[name].not_followed is None
        assert flow[name].unequal is None
