import math
from collections import OrderedDict

import pytest
import torch
from torch import nn

from plasticity.symmetry.distances import (
    attention_heads,
    permutation_distance,
    rotation_eigenvalues,
    sign_flip_distance,
)
from plasticity.symmetry.report import symmetry_distances, symmetry_report


class Activated(nn.Linear):
    """A layer that applies its activation itself."""

    def forward(self, features):
        return torch.relu(super().forward(features))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def convolutional_network():
    # 8 × 8 images: 4 × 4 after the pooling, 2 × 2 after the second convolution.
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


IMAGES = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_layers_are_paired_with_their_readers():
    model = convolutional_network()
    distances = symmetry_distances(model, inputs=IMAGES)
    assert distances.left_out == {}
    assert distances.joined == {}
    assert list(distances) == ["conv1", "conv2", "fc1"]
    expected = {
        "conv1": permutation_distance(model.conv1.weight, model.conv2.weight, model.conv1.bias),
        "conv2": permutation_distance(model.conv2.weight, model.fc1.weight),
        "fc1": permutation_distance(model.fc1.weight, model.fc2.weight, model.fc1.bias),
    }
    for name, distance in distances.items():
        torch.testing.assert_close(distance, expected[name])
    assert [len(distance) for distance in distances.values()] == [2, 4, 5]


def test_named_pairs_give_the_same_distances():
    model = convolutional_network()
    distances = symmetry_distances(model, pairs=[("fc1", "fc2"), ("conv2", "fc1")])
    everything = symmetry_distances(model, inputs=IMAGES)
    assert list(distances) == ["conv2", "fc1"]
    for name, distance in distances.items():
        torch.testing.assert_close(distance, everything[name])


def test_report_counts_copied_neurons():
    model = convolutional_network()
    with torch.no_grad():
        model.conv2.weight[4] = model.conv2.weight[1]
        # Channel c of 2 × 2 positions is read by columns 4 c to 4 c + 3.
        model.fc1.weight[:, 16:20] = model.fc1.weight[:, 4:8]
        model.fc1.weight[2] = 0
        model.fc1.bias[2] = 0
        model.fc2.weight[:, 2] = 0
    report = symmetry_report(model, threshold=1e-3, inputs=IMAGES)
    assert {name: degree.item() for name, degree in report.items()} == {
        "conv1": 0,
        "conv2": 1,
        "fc1": 0,
    }
    assert all(degree.dtype == torch.int64 for degree in report.values())
    # A neuron at zero is a symmetric state of the rescaling, not of the permutation.
    rescaled = symmetry_report(model, 1e-3, inputs=IMAGES, symmetry="rescaling")
    assert [degree.item() for degree in rescaled.values()] == [0, 0, 1]
    flipped = symmetry_distances(model, inputs=IMAGES, symmetry="sign-flip")["fc1"]
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


def test_the_weights_of_several_readers_form_one_vector():
    model = nn.ModuleDict(
        {"trunk": nn.Linear(3, 4), "policy": nn.Linear(4, 2), "value": nn.Linear(4, 1)}
    )
    pairs = [("trunk", "policy"), ("trunk", "value")]
    outgoing = torch.cat([model["policy"].weight, model["value"].weight])
    expected = permutation_distance(model["trunk"].weight, outgoing, model["trunk"].bias)
    distances = symmetry_distances(model, pairs=pairs)
    assert list(distances) == ["trunk"]
    torch.testing.assert_close(distances["trunk"], expected)
    # A dictionary of modules does not say in which order they run.
    with pytest.raises(ValueError, match=r"modules of ModuleDict do not show which.*inputs="):
        symmetry_distances(model)


def test_transformer_pairs_lie_inside_a_block():
    block = nn.TransformerEncoderLayer(8, 2, dim_feedforward=5, batch_first=True)
    model = nn.Sequential(
        nn.Embedding(7, 8), nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
    )
    tokens = torch.randint(7, (2, 5))
    distances = symmetry_distances(model, inputs=tokens)
    names = [f"1.layers.{index}.{part}" for index in (0, 1) for part in ("self_attn", "linear1")]
    assert list(distances) == names
    attention = model[1].layers[1].self_attn
    expected = rotation_eigenvalues(*attention_heads(attention))
    torch.testing.assert_close(distances[names[2]], expected)
    assert distances[names[2]].shape == (2, 4)
    assert distances[names[1]].shape == (4,)


def test_report_of_attention_counts_by_head():
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(6, 2)})
    initial = symmetry_distances(model, pairs=[])
    with torch.no_grad():
        # Head 1 has rows 3 to 5 of W_Q and of W_K, which starts at row 6.
        model["attention"].in_proj_weight[4] = 0
        model["attention"].in_proj_weight[6 + 4] = 0
    assert symmetry_report(model, 1e-6, pairs=[])["attention"].tolist() == [0, 1]
    relative = symmetry_report(model, 0.1, reference=initial, pairs=[])
    assert relative["attention"].tolist() == [0, 1]
    # An eigenvalue equal to the threshold counts.
    largest = symmetry_distances(model, pairs=[])["attention"].max().item()
    assert symmetry_report(model, largest, pairs=[])["attention"].tolist() == [3, 3]


def test_nothing_is_left_behind():
    model = convolutional_network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    report = symmetry_report(model, 0.1, inputs=IMAGES)
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
        (
            nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 2)),
            r"'1' does not read the neurons of '0'.*pairs=\[",
        ),
        (nn.Sequential(nn.Linear(3, 4), nn.LSTM(4, 4)), r"layer '1', LSTM.*inputs=.*pairs=\["),
        (nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Conv2d(4, 2, 3)), "'0' has 2 groups"),
        (nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, groups=4)), "'1' has 4 groups"),
        (shared(), "'0' and '2' are the same module"),
        (nn.Sequential(nn.Linear(3, 4), nn.ReLU()), "no hidden neurons to measure"),
    ],
)
def test_models_without_a_known_order_are_rejected(model, message):
    with pytest.raises(ValueError, match=message):
        symmetry_distances(model)


def test_pairs_can_be_named_for_a_model_without_a_known_order():
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
        ({"pairs": [("fc1", "relu")]}, ValueError, "'relu', which is not a weight layer"),
        ({"pairs": []}, ValueError, "no hidden neurons to measure"),
        ({"symmetry": "sign-flips"}, ValueError, "Did you mean 'sign-flip'"),
        ({"pairs": [("fc1", "fc2")], "inputs": IMAGES}, ValueError, "got both inputs and pairs"),
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
def test_errors_name_the_bad_argument(arguments, error, message):
    settings = {"threshold": 0.1, **arguments}
    if "pairs" not in settings:
        settings["inputs"] = IMAGES
    with pytest.raises(error, match=message):
        symmetry_report(convolutional_network(), **settings)


def test_non_modules_are_rejected():
    with pytest.raises(TypeError, match="Module"):
        symmetry_distances([nn.Linear(2, 2)])


class Added(nn.Module):
    """c(relu(a(x)) + relu(b(x)))"""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 5)
        self.b = nn.Linear(3, 5)
        self.c = nn.Linear(5, 2)

    def forward(self, x):
        return self.c(torch.relu(self.a(x)) + torch.relu(self.b(x)))

    def rows(self, names="abc"):
        """The weights that an exchange of two neurons exchanges, one row per neuron."""
        every = {
            "a": [self.a.weight, self.a.bias],
            "b": [self.b.weight, self.b.bias],
            "c": [self.c.weight.T],
        }
        return [tensor for name in names for tensor in every[name]]


INPUTS = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))


def exchange(tensors, first, second):
    with torch.no_grad():
        for tensor in tensors:
            tensor[[first, second]] = tensor[[second, first]].clone()


def test_added_layers_are_exchanged_jointly_or_not_at_all():
    model = Added()
    before = model(INPUTS)
    exchange(model.rows("ac"), 1, 3)
    assert not torch.allclose(
        model(INPUTS), before, atol=1e-3
    )  # not a symmetry: b's row was not exchanged
    exchange(model.rows("b"), 1, 3)
    torch.testing.assert_close(model(INPUTS), before)  # a, b and c jointly are one


def test_added_layers_are_measured_as_one():
    model = Added()
    distances = symmetry_distances(model, inputs=INPUTS)
    assert list(distances) == ["a", "b", "a+b"]
    assert distances.joined == {"a+b": ("a", "b")}
    assert distances.left_out == {}
    for name in "ab":
        layer = model.get_submodule(name)
        alone = permutation_distance(layer.weight, model.c.weight, layer.bias)
        torch.testing.assert_close(distances[name], alone)
    incoming = torch.cat(
        [model.a.weight, model.a.bias[:, None], model.b.weight, model.b.bias[:, None]], 1
    )
    expected = permutation_distance(incoming, model.c.weight)
    torch.testing.assert_close(distances["a+b"], expected)


@pytest.mark.parametrize(("names", "degree", "stays"), [("abc", 1, True), ("ac", 0, False)])
def test_training_keeps_only_jointly_identical_neurons_of_added_layers(names, degree, stays):
    model = Added()
    with torch.no_grad():
        for tensor in model.rows(names):
            tensor[2] = tensor[0].clone()
    report = symmetry_report(model, 1e-3, inputs=INPUTS)
    assert report["a+b"].item() == degree
    # a's identical neurons are found whatever b does.
    assert report["a"].item() == symmetry_report(model, 1e-3, pairs=[("a", "c")])["a"].item() == 1
    assert report["b"].item() == degree
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        (model(INPUTS) - INPUTS[:, :2].exp()).square().mean().backward()
        optimizer.step()
    apart = (model.a.weight[2] - model.a.weight[0]).norm().item()
    assert (apart < 1e-6) == stays


class Attention(nn.Module):
    """Attention as in BERT: query, key and value are defined in sequence, and none reads another."""

    def __init__(self):
        super().__init__()
        self.query = nn.Linear(8, 8)
        self.key = nn.Linear(8, 8)
        self.value = nn.Linear(8, 8)
        self.dense = nn.Linear(8, 8)
        self.intermediate = nn.Linear(8, 6)
        self.output = nn.Linear(6, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        query, key, value = (
            each(x).unflatten(-1, (2, 4)).transpose(1, 2)
            for each in (self.query, self.key, self.value)
        )
        weights = (query @ key.mT / 2).softmax(-1)
        x = self.norm(x + self.dense((weights @ value).transpose(1, 2).flatten(2)))
        return self.norm(x + self.output(nn.functional.gelu(self.intermediate(x))))


def test_query_key_and_value_are_not_pairs():
    report = symmetry_report(Attention(), 1e-3, inputs=torch.randn(2, 5, 8))
    assert list(report) == ["intermediate"]
    assert set(report.left_out) == {"query", "key", "value", "dense", "output"}
    for name in ("query", "key"):
        assert "multiplied with another layer's" in report.left_out[name]
    assert "within a head only" in report.left_out["value"]
    assert all("pairs=" in reason or "output" in reason for reason in report.left_out.values())


def test_dictionaries_are_passed_as_keywords_where_the_model_names_them():
    class Keywords(Added):
        def forward(self, *, observations, scale):
            return super().forward(observations) * scale

    model = Keywords()
    found = symmetry_distances(model, inputs={"observations": INPUTS, "scale": torch.tensor(2.0)})
    torch.testing.assert_close(found["a+b"], symmetry_distances_of_added(model))

    class Dictionary(Added):
        def forward(self, observations):
            return super().forward(observations["x"])

    assert list(symmetry_distances(Dictionary(), inputs={"x": INPUTS})) == ["a", "b", "a+b"]


def symmetry_distances_of_added(model):
    rows = model.rows("ab")
    incoming = torch.cat([rows[0], rows[1][:, None], rows[2], rows[3][:, None]], 1)
    return permutation_distance(incoming, model.c.weight)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("by_hand", [True, False])
@pytest.mark.parametrize(("name", "part"), [("0", "weight"), ("0", "bias"), ("2", "weight")])
def test_weights_that_are_not_finite_are_rejected_by_layer_name(value, by_hand, name, part):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        getattr(model.get_submodule(name), part).view(-1)[1] = value
    for arguments in ({"pairs": [("0", "2")]} if by_hand else {"inputs": INPUTS}, {}):
        with pytest.raises(
            ValueError, match=rf"layer '{name}' has weights that are NaN or infinite"
        ):
            symmetry_report(model, 0.1, **arguments)


def test_attention_that_is_not_finite_is_rejected_by_name():
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(6, 2)})
    with torch.no_grad():
        model["attention"].in_proj_weight[8, 1] = math.nan
    with pytest.raises(ValueError, match="layer 'attention' has weights that are NaN"):
        symmetry_report(model, 0.1, pairs=[])


class Odd(nn.Module):
    """A network with one layer for each reason to leave a layer out."""

    def __init__(self):
        super().__init__()
        self.measured = nn.Linear(3, 4)
        self.sorted = nn.Linear(4, 4)
        self.shifted = nn.Linear(4, 4)
        self.unread = nn.Linear(4, 4)
        self.idle = nn.Linear(4, 4)
        self.looped = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)
        self.register_buffer("mask", torch.tensor([1.0, 0.0, 1.0, 1.0]))

    def forward(self, x):
        x = torch.relu(self.measured(x))
        self.unread(x)
        x = self.sorted(x).sort(-1)[0]
        x = self.shifted(x) * self.mask
        return self.head(self.looped(self.looped(x).tanh()).tanh())


def test_every_layer_that_is_left_out_is_listed_with_the_reason():
    report = symmetry_report(Odd(), 1e-3, inputs=INPUTS)
    assert list(report) == ["measured"]
    reasons = {
        "sorted": "goes through sort, which is not followed",
        "shifted": "combined with data that differ between units, in mul",
        "unread": "no weight reads it",
        "idle": "did not run",
        "looped": "reads itself",
    }
    assert set(report.left_out) == set(reasons)
    for name, reason in reasons.items():
        assert reason in report.left_out[name], name


def test_the_error_gives_the_reasons_if_nothing_can_be_measured():
    class Sorting(nn.Sequential):
        def forward(self, x):
            return self[1](self[0](x).sort(-1)[0])

    with pytest.raises(
        ValueError, match=r"no hidden neurons to measure \('0': its output goes through sort"
    ):
        symmetry_distances(Sorting(nn.Linear(3, 4), nn.Linear(4, 2)), inputs=INPUTS)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(3, 5)

    def forward(self, x):
        return nn.functional.linear(torch.tanh(self.encoder(x)), self.encoder.weight.T)


def test_a_transposed_decoder_shares_its_neurons_vectors():
    model = Tied()
    before = model(INPUTS)
    exchange([model.encoder.weight, model.encoder.bias], 0, 3)
    torch.testing.assert_close(model(INPUTS), before)
    expected = permutation_distance(model.encoder.weight, torch.zeros(1, 5), model.encoder.bias)
    torch.testing.assert_close(symmetry_distances(model, inputs=INPUTS)["encoder"], expected)


class Shared(nn.Module):
    """A network with one head on two layers, or with one matrix used twice."""

    def __init__(self, form):
        super().__init__()
        self.form = form
        self.a = nn.Linear(4, 4, bias=False)
        self.b = nn.Linear(4, 4, bias=False)
        self.head = nn.Linear(4, 4, bias=False)
        if form == "tied":
            self.head.weight = self.a.weight

    def forward(self, x):
        hidden = torch.tanh(self.a(x))
        if self.form == "one head":
            return self.head(hidden) * self.head(torch.tanh(self.b(x)))
        if self.form == "inputs too":
            return self.head(hidden) + self.head(x)
        return self.head(hidden)


@pytest.mark.parametrize("form", ["one head", "inputs too", "tied"])
def test_weights_that_are_used_elsewhere_give_no_symmetry(form):
    model, inputs = Shared(form), torch.randn(6, 4)
    before = model(inputs)
    exchange([model.a.weight, model.head.weight.T], 0, 3)
    assert not torch.allclose(model(inputs), before, atol=1e-4)
    with pytest.raises(ValueError, match=r"'a': (other layers also use|one matrix is)"):
        symmetry_distances(model, inputs=inputs)


def test_residual_stream_is_one_layer():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(1, 4, 3, padding=1)
            self.up = nn.ModuleList(nn.Conv2d(4, 6, 3, padding=1) for _ in range(2))
            self.down = nn.ModuleList(nn.Conv2d(6, 4, 3, padding=1, bias=False) for _ in range(2))
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            x = self.stem(x)
            for up, down in zip(self.up, self.down, strict=True):
                x = x + down(torch.relu(up(x)))
            return self.head(x.mean((2, 3)))

    model = Residual()
    report = symmetry_distances(model, inputs=IMAGES)
    joint = "stem+down.0+down.1"
    assert set(report) == {"stem", "up.0", "up.1", "down.0", "down.1", joint}
    assert report.joined == {joint: ("stem", "down.0", "down.1")}
    before = model(IMAGES)
    stream = [model.stem.weight, model.stem.bias, *(each.weight for each in model.down)]
    stream += [each.weight.transpose(0, 1) for each in model.up] + [model.head.weight.T]
    exchange(stream, 0, 2)
    torch.testing.assert_close(model(IMAGES), before)
    rows = torch.cat([each.reshape(4, -1) for each in stream], 1)
    torch.testing.assert_close(report[joint], permutation_distance(rows, torch.zeros(1, 4)))


def test_inputs_are_passed_as_keywords_to_a_forward_that_takes_any():
    class Any(nn.Sequential):
        def forward(self, **inputs):
            return super().forward(inputs["pixels"])

    model = Any(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    assert list(symmetry_report(model, 0.1, inputs={"pixels": torch.randn(5, 3)})) == ["0"]


@pytest.mark.parametrize("name", ["1.weight", "3.bias"])
def test_weights_that_are_not_measured_must_be_finite_too(name):
    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model.get_parameter(name)[0] = math.nan
    with pytest.raises(ValueError, match=f"layer '{name[0]}' has weights that are NaN"):
        symmetry_report(model, 1e-3, inputs=INPUTS)
