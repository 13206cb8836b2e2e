"""Conversion: converted models are those built from a specification, and refusals name a layer."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

import plasticity
from plasticity import convert, trace_units
from plasticity.agents.networks import CNN, MLP
from plasticity.mitigations import (
    CReLU,
    Dropout,
    FourierFeatures,
    Hyperspherical,
    LayerNorm,
    LeakyReLU,
    RandomizedLeakyReLU,
    ReDo,
    SigmaAsymmetric,
)
from plasticity.mitigations.attach import attach

IMAGES = torch.rand(5, 1, 9, 9, generator=torch.Generator().manual_seed(0))
CONFIGS = {"mlp": MLP(hidden=(8, 6)), "cnn": CNN(channels=(4, 6), hidden=(8,))}


def plain(kind):
    """Return an ordinary model of torch's modules with the layers of our network."""
    torch.manual_seed(0)
    if kind == "mlp":
        layers = [nn.Flatten(), nn.Linear(81, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(6, 3))
    first, second = (nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in ((1, 4), (4, 6)))
    dense = nn.Flatten(), nn.Linear(54, 8), nn.Tanh(), nn.Linear(8, 3)
    return nn.Sequential(first, nn.ReLU(inplace=True), second, nn.ReLU(), *dense)


METHODS = [
    (LeakyReLU(slope=0.2),),
    (RandomizedLeakyReLU(),),
    (CReLU(),),
    (CReLU(keep_units=True), Dropout(probability=0.3)),
    (FourierFeatures(),),
    (LayerNorm(), FourierFeatures(keep_units=True)),
    (LayerNorm(epsilon=1e-3), SigmaAsymmetric()),
]


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: "+".join(m.name for m in method))
def test_it_is_the_function_of_a_network_built_from_the_specification(kind, method):
    """With the same weights and seeds, parameter for parameter."""
    model = plain(kind)
    converted = convert(model, *method, inputs=IMAGES[:1], seed=4)
    built = CONFIGS[kind].make((1, 9, 9), 3, method)
    # ours has the normalization within the layer: by shape, weights come in the same order
    own, expected = (
        [each for each in found.state_dict().values() if each.dim()] for found in (converted, built)
    )
    assert [each.shape for each in own] == [each.shape for each in expected]
    for one, other in zip(own, expected, strict=True):
        other.copy_(one)
    torch.testing.assert_close(converted.eval()(IMAGES), built.eval()(IMAGES))


def test_the_model_stays_and_layers_that_fit_keep_their_weights():
    model = plain("cnn").eval()
    before = copy.deepcopy(model.state_dict())
    converted = convert(model, LayerNorm(), Dropout(), inputs=(IMAGES[:1],))
    assert converted[0].weight is not model[0].weight
    assert torch.equal(converted[0].weight, model[0].weight)
    assert type(model[1]) is nn.ReLU
    assert not converted[1].training
    torch.testing.assert_close(model.state_dict(), before)
    sums = functional.conv2d(IMAGES, model[0].weight, model[0].bias, 2, 1)
    expected = functional.layer_norm(sums, sums.shape[1:]).relu()
    torch.testing.assert_close(converted[1](converted[0](IMAGES)), expected)
    # the activations stay those of the model: the dense layer's is tanh
    dense = converted[5](converted[4](converted[3](converted[2](expected))))
    torch.testing.assert_close(converted[6](dense), functional.layer_norm(dense, (8,)).tanh())


def test_new_weights_are_drawn_as_torch_draws_them_from_the_seed():
    model = nn.Sequential(nn.Linear(4, 800), nn.ReLU(), nn.Linear(800, 3)).double()
    state = torch.get_rng_state()
    one, other, third = (
        convert(model, CReLU(keep_units=True), inputs=torch.ones(1, 4).double(), seed=seed)
        for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one[2].weight, other[2].weight)
    assert not torch.equal(one[2].weight, third[2].weight)
    assert one[2].weight.dtype == torch.float64
    # uniform within 1 / sqrt(1600), whose deviation is 1 / sqrt(3 * 1600)
    assert one[2].weight.abs().max() <= 1 / 40
    assert one[2].weight.std().item() == pytest.approx(1 / 4800**0.5, rel=0.02)
    assert torch.equal(one[0].weight, model[0].weight)
    assert (one[2].in_features, repr(one[2])) == (
        1600,
        "Linear(in_features=1600, out_features=3, bias=True)",
    )


def test_a_converted_model_trains_with_attached_mitigations_and_a_units_two_outputs_are_one():
    converted = convert(plain("cnn"), CReLU(), inputs=IMAGES[:1])
    flow = trace_units(converted, IMAGES)
    assert flow["5"].readers[0].columns.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert flow["2"].readers[0].columns.shape == (3, 18)
    optimizer = torch.optim.SGD(converted.parameters(), lr=0.1)
    attached = attach(converted, optimizer, ReDo(every=1, tau=1e9), inputs=IMAGES)
    converted(IMAGES).sum().backward()
    optimizer.step()
    assert (converted[7].weight == 0).all()
    assert attached.take_counts()["reset_units/5"] == 4


class Residual(nn.Module):
    """Two layers whose outputs are added."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.act1, self.act2 = nn.ReLU(), nn.ReLU()

    def forward(self, inputs):
        first = self.act1(self.fc1(inputs))
        return self.head(self.act2(first + self.fc2(first)))


class Functions(nn.Module):
    """Two layers, one with a function as its activation."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.act = nn.ReLU()

    def forward(self, inputs):
        return self.head(self.act(self.fc2(functional.relu(self.fc1(inputs)))))


class Shared(nn.Module):
    """Two layers with one activation module."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.act = nn.ReLU()

    def forward(self, inputs):
        return self.head(self.act(self.fc2(self.act(self.fc1(inputs)))))


class BeforeAndAfter(nn.Module):
    """Layer that is read before its activation, too."""

    def __init__(self):
        super().__init__()
        self.fc1, self.act, self.head = nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)
        self.other = nn.Linear(6, 2)

    def forward(self, inputs):
        sums = self.fc1(inputs)
        return self.head(self.act(sums)) + self.other(sums)


def test_activations_of_added_layers_are_converted_where_widths_stay():
    model, inputs = Residual(), torch.randn(5, 4)
    converted = convert(model, LeakyReLU(slope=0.5), inputs=inputs)
    first = functional.leaky_relu(model.fc1(inputs), 0.5)
    expected = model.head(functional.leaky_relu(first + model.fc2(first), 0.5))
    torch.testing.assert_close(converted(inputs), expected)


def test_named_layers_are_converted_alone():
    model, inputs = Functions(), torch.randn(5, 4)
    converted = convert(model, CReLU(), inputs=inputs, layers=["fc2"])
    assert (converted.fc1.out_features, converted.fc2.out_features) == (6, 3)
    with pytest.raises(KeyError, match="no layer 'fc3'"):
        convert(model, CReLU(), inputs=inputs, layers=["fc3"])


@pytest.mark.parametrize(
    ("model", "method", "error", "message"),
    [
        (Functions(), LeakyReLU(), ValueError, r"'fc1' cannot be converted.*layers=\['fc2'\]"),
        (Shared(), LeakyReLU(), ValueError, "'fc1' cannot be converted: no activation follows it"),
        (
            Residual(),
            CReLU(),
            ValueError,
            "'fc1' cannot .* 2 outputs.*: its units are added to .*fc2",
        ),
        (BeforeAndAfter(), CReLU(), ValueError, "does not give outputs of the shapes .*before and"),
        (
            nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)),
            LayerNorm(),
            ValueError,
            "'0' cannot be converted: its units have the normalization '1' already",
        ),
        (
            nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 2)),
            CReLU(),
            ValueError,
            "width 7 cannot be shared by 2",
        ),
        (Shared(), ReDo(), ValueError, "redo does not change networks: attach it"),
        (Shared(), Hyperspherical(), ValueError, "hyperspherical builds layers of its own"),
        (Shared(), plasticity.CReLU(), TypeError, "CReLU is not a mitigation: give the settings"),
    ],
)
def test_refusals_name_what_cannot_be_converted(model, method, error, message):
    with pytest.raises(error, match=message):
        convert(model, method, inputs=torch.randn(5, 4))


def test_two_activations_are_refused():
    with pytest.raises(ValueError, match="both set the activation"):
        convert(Shared(), CReLU(), LeakyReLU(), inputs=torch.randn(5, 4))
