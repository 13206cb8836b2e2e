"""Tests of unit axes against the layer's own output: column k of the matrix holds the output of unit k."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plasticity.metrics.capture import capture
from plasticity.units import trace_units


class Applies(nn.Module):
    """A layer and a function of its output."""

    def __init__(self, layer, function):
        super().__init__()
        self.layer = layer
        self.function = function

    def forward(self, x):
        return F.relu(self.function(self.layer(x)))


def rows_of(matrix: Tensor) -> set[tuple[float, ...]]:
    return {tuple(row) for row in matrix.tolist()}


LINEAR = lambda: nn.Linear(6, 32)  # noqa: E731
CONV = lambda: nn.Conv2d(3, 16, 3)  # noqa: E731
SEQUENCE, IMAGES = (5, 7, 6), (5, 3, 6, 6)


# Each moves the entries of the layer's output and changes none of them, so the rows of the matrix are those
# of the layer's output, units last, in some order.
MOVES = {
    "heads": (LINEAR, SEQUENCE, lambda q: q.view(5, 7, 4, 8).transpose(1, 2)),
    "heads merged with the batch": (
        LINEAR, SEQUENCE, lambda q: q.view(5, 7, 4, 8).transpose(1, 2).reshape(20, 7, 8)),
    "heads first": (LINEAR, SEQUENCE, lambda q: q.unflatten(-1, (4, 8)).permute(2, 0, 1, 3)),
    "merged rows": (LINEAR, SEQUENCE, lambda q: q.reshape(-1, 32)),
    "mT": (LINEAR, SEQUENCE, lambda q: q.mT),
    "movedim": (LINEAR, SEQUENCE, lambda q: q.movedim(-1, 0)),
    "permute": (LINEAR, SEQUENCE, lambda q: q.permute(2, 1, 0).contiguous()),
    "split and cat": (LINEAR, SEQUENCE, lambda q: torch.cat(q.split(8, -1)[::-1], -1)),
    "index": (LINEAR, SEQUENCE, lambda q: q[..., torch.arange(31, -1, -1)]),
    "flip": (LINEAR, SEQUENCE, lambda q: q.flip(-1).roll(3, 1)),
    "stack": (LINEAR, SEQUENCE, lambda q: torch.stack(q.unbind(1), -1)),
    "flatten all": (LINEAR, SEQUENCE, lambda q: q.flatten(1)),
    "flatten positions": (CONV, IMAGES, lambda q: q.flatten(2)),
    "flatten map": (CONV, IMAGES, lambda q: q.flatten(1)),
    "channels last": (CONV, IMAGES, lambda q: q.permute(0, 2, 3, 1)),
    "tokens": (CONV, IMAGES, lambda q: q.flatten(2).transpose(1, 2)),
    "memory format": (CONV, IMAGES, lambda q: q.contiguous(memory_format=torch.channels_last)),
    "grouped": (lambda: nn.Conv2d(3, 6, 3, groups=3), IMAGES, lambda q: q.flatten(2).mT),
    "transposed": (lambda: nn.ConvTranspose2d(3, 5, 2), IMAGES, lambda q: q.flatten(2)),
    "one dimension": (lambda: nn.Conv1d(7, 4, 3), SEQUENCE, lambda q: q),
    "three dimensions": (lambda: nn.Conv3d(1, 4, 2), (2, 1, 3, 3, 3), lambda q: q.movedim(1, 2)),
    "embedding": (lambda: nn.Linear(6, 1), SEQUENCE, lambda q: q),
}  # fmt: skip


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("case", MOVES)
def test_units_keep_their_columns_wherever_they_are_moved(case, context):
    make, shape, function = MOVES[case]
    torch.manual_seed(0)
    model, inputs = Applies(make(), function), torch.randn(shape)
    with context(), capture(model) as activations:
        model(inputs)
    found = activations.units("relu")
    output = F.relu(model.layer(inputs)).detach()
    if not isinstance(model.layer, nn.Linear):
        output = output.movedim(1, -1)
    expected = output.flatten(0, -2)
    assert found.shape == expected.shape
    # the order of the columns does not matter, their entries do
    order = torch.argsort(found.double().sum(0)), torch.argsort(expected.double().sum(0))
    assert rows_of(found[:, order[0]]) == rows_of(expected[:, order[1]])


class Query(nn.Module):
    def __init__(self):
        super().__init__()
        self.query = nn.Linear(6, 32)

    def forward(self, x):
        batch, length, _ = x.shape
        return F.elu(self.query(x).view(batch, length, 4, 8).transpose(1, 2)) + 1


def test_units_of_heads_are_heads_times_their_width():
    model, inputs = Query(), torch.randn(10, 32, 6)
    with capture(model) as activations:
        model(inputs)
    assert activations["elu"].shape == (10, 4, 32, 8)
    features = activations.units("elu")
    assert features.shape == (320, 32)
    expected = F.elu(model.query(inputs)).detach().flatten(0, 1)
    assert torch.equal(features, expected)


class Matrix(nn.Module):
    def __init__(self, product):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 11))
        self.register_buffer("fixed", torch.randn(6, 11))
        self.product = product

    def forward(self, x):
        return F.relu(self.product(x, self))


@pytest.mark.parametrize(
    ("product", "shape"),
    [
        (lambda x, m: x @ m.weight, (4, 6)),
        (lambda x, m: x @ m.weight, (2, 4, 6)),
        (lambda x, m: x @ m.weight, (2, 3, 4, 6)),
        (lambda x, m: x @ m.fixed, (2, 4, 6)),
        (lambda x, m: torch.matmul(x, m.weight), (2, 4, 6)),
        (lambda x, m: torch.einsum("bld,dk->blk", x, m.weight), (2, 4, 6)),
        (lambda x, m: torch.einsum("bld,dk->bkl", x, m.weight), (2, 4, 6)),
        (lambda x, m: torch.tensordot(x, m.weight, 1), (2, 4, 6)),
        (lambda x, m: m.weight.T @ x.mT, (2, 4, 6)),
        (lambda x, m: torch.addmm(torch.ones(11), x, m.weight), (4, 6)),
        (lambda x, m: x @ (m.weight * 2).double().float(), (2, 4, 6)),
    ],
)
@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_columns_of_a_bare_matrix_are_units(product, shape, context):
    model = Matrix(product)
    with context(), capture(model) as activations:
        model(torch.randn(shape))
    samples = math.prod(shape[:-1])
    assert activations.units("relu").shape == (samples, 11)


class Between(nn.Module):
    """A sequence model with a function between its layers and an activation."""

    def __init__(self, function, layer=None, other=None):
        super().__init__()
        self.first = layer if layer is not None else nn.Linear(6, 8)
        self.second = other if other is not None else nn.Linear(6, 8)
        self.function = function

    def forward(self, x):
        return F.relu(self.function(self.first(x), self.second(x)))


def attention(query, value):
    return F.scaled_dot_product_attention(
        *(each.unflatten(-1, (2, 4)).transpose(1, 2) for each in (query, query, value))
    )


@pytest.mark.parametrize(
    ("function", "units"),
    [
        (lambda a, b: a + b, 8),
        (lambda a, b: a.mT + b.mT, 8),
        (lambda a, b: a * b.sigmoid(), 8),
        (lambda a, b: F.glu(a.mT, 1), 4),
        (lambda a, b: torch.cat([a, b], -1).mT, 16),
        (lambda a, b: torch.cat([a.mT, b.mT], 2), 16),
        (attention, 8),
        (lambda a, b: (a @ b.mT).softmax(-1) @ b, 8),
        (lambda a, b: F.layer_norm(a, (8,)).mT.softmax(1), 8),
        (lambda a, b: a.mT * torch.rsqrt(a.mT.pow(2).mean(1, keepdim=True) + 1), 8),
        (lambda a, b: F.normalize(a, dim=-1).mT, 8),
        (lambda a, b: F.pad(a.mT, (1, 1)), 8),
        (lambda a, b: F.pad(a.mT, (1, 1), mode="reflect"), 8),
        (lambda a, b: F.max_pool1d(a.mT, 2), 8),
        (lambda a, b: F.interpolate(a.mT, scale_factor=2), 8),
        (lambda a, b: F.instance_norm(a.mT), 8),
        (lambda a, b: F.group_norm(a.mT, 2), 8),
        (lambda a, b: a.mT.masked_fill(a.mT > 0, 0.5), 8),
        (lambda a, b: torch.where(a.mT > 0, a.mT, torch.zeros(())), 8),
        (lambda a, b: a.mT.cumsum(2).to(torch.float64), 8),
        (lambda a, b: a.mean(1)[:, :, None], 8),
        (lambda a, b: F.unfold(a.mT[:, :, :, None], (1, 1)), 8),
        (lambda a, b: F.dropout(a.mT, 0.5), 8),
        (lambda a, b: F.alpha_dropout(a.mT, 0.5, training=True), 8),
    ],
)
def test_units_pass_through(function, units):
    torch.manual_seed(0)
    model = Between(function)
    with capture(model) as activations:
        model(torch.randn(5, 7, 6))
    assert activations.units("relu").shape[1] == units


def test_pixel_shuffle_distributes_channels_over_pixels():
    # 16 channels become 4 of 2 × 2 pixels each: an image of 4 channels shows all 16 units.
    model = Applies(nn.Conv2d(3, 16, 3), lambda q: F.pixel_shuffle(q, 2))
    images = torch.randn(IMAGES)
    with capture(model) as activations:
        model(images)
    expected = F.relu(model.layer(images)).detach().movedim(1, -1).flatten(0, 2)
    assert activations.units("relu").shape == expected.shape
    assert rows_of(activations.units("relu").sort(1)[0]) == rows_of(expected.sort(1)[0])


def test_recurrent_layers_have_their_units_last():
    for kind in (nn.LSTM, nn.GRU, nn.RNN):
        model = Applies(nn.Identity(), lambda q: q)
        model.layer = First(kind(6, 5, batch_first=True, bidirectional=True))
        with capture(model) as activations:
            model(torch.randn(SEQUENCE))
        assert activations.units("relu").shape == (35, 10)


class First(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)[0].mT


def test_linear_maps_over_time_have_their_own_units():
    """Token mixing as in an MLP-Mixer: its units take the axis of the positions."""
    mixing = nn.Linear(7, 9)
    model = Between(lambda a, b: mixing(a.mT).mT)
    model.mixing = mixing
    with capture(model) as activations:
        model(torch.randn(5, 7, 6))
    assert activations["relu"].shape == (5, 9, 8)
    assert activations.units("relu").shape == (40, 9)


def test_experts_with_separate_weights_have_separate_units():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 6, 5))

        def forward(self, x):
            return F.relu(torch.einsum("bd,edk->bek", x, self.weight))

    model = Experts()
    with capture(model) as activations:
        model(torch.randn(4, 6))
    assert activations.units("relu").shape == (4, 15)


def test_exchanged_parameters_are_followed():
    """`torch.func.functional_call` gives the model tensors other than those it owns."""
    model = Matrix(lambda x, m: (x @ m.weight).mT)
    other = {"weight": torch.randn(6, 11)}
    with capture(model) as activations:
        torch.func.functional_call(model, other, (torch.randn(2, 4, 6),))
    assert activations.units("relu").shape == (8, 11)


class TwoOutputs(nn.Module):
    """CReLU: relu(z) beside relu(-z), of a convolution and of a dense layer."""

    def __init__(self, channels, units):
        super().__init__()
        self.conv, self.both = nn.Conv2d(1, channels, 2), nn.Identity()
        self.fc, self.both_dense = nn.Linear(2 * channels * 4, units), nn.Identity()
        self.head = nn.Linear(2 * units, 2)

    def forward(self, images):
        sums = self.conv(images)
        features = self.both(torch.cat([sums.relu(), (-sums).relu()], 1)).flatten(1)
        sums = self.fc(features)
        return self.head(self.both_dense(torch.cat([sums.relu(), (-sums).relu()], 1)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("units", [1, 2])
def test_a_unit_may_have_two_outputs(channels, units):
    model, images = TwoOutputs(channels, units), torch.randn(5, 1, 3, 3)
    flow = trace_units(model, images)
    # Channel c of 2 x 2 positions: columns 4 c to 4 c + 3, and the same after all channels.
    first = [
        [4 * c + n + 4 * channels * k for k in range(2) for n in range(4)] for c in range(channels)
    ]
    assert flow["conv"].readers[0].columns.tolist() == first
    assert flow["fc"].readers[0].columns.tolist() == [[i, i + units] for i in range(units)]
    for layer in flow.layers:
        assert (layer.not_followed, layer.unequal, dict(layer.joined)) == (None, None, {}), layer
    with capture(model, ["both", "both_dense"]) as activations:
        model(images)
    # Each output is a column: the two are no positions of one feature.
    maps = activations["both"].permute(0, 2, 3, 1).reshape(-1, 2 * channels)
    assert torch.equal(activations.units("both"), maps)
    assert torch.equal(activations.units("both_dense"), activations["both_dense"])
