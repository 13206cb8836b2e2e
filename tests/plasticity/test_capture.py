"""Capture: what is seen, under which name, and that nothing stays behind."""

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from plasticity.capture import (
    ACTIVATION_MODULES,
    FUNCTIONAL_ACTIVATIONS,
    capture,
    unit_matrix,
)


class Mixed(nn.Module):
    """Functional and module activations, one of each twice."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(4, 6)
        self.act = nn.Tanh()
        self.fc2 = nn.Linear(6, 6)
        self.fc3 = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc1(x))
        x = self.act(self.fc2(x))
        x = self.act(self.fc2(x))
        return self.fc3(torch.relu(x))


class DenseLayer(nn.Linear):
    """A layer that applies its activation itself."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


class Applies(nn.Module):
    """Calls a function in its forward."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def hooks_of(model: nn.Module) -> list[object]:
    """Everything that a hook can leave in a module."""
    kinds = [key for key in vars(model) if "hook" in key]
    assert kinds
    return [
        vars(module)[kind] for module in model.modules() for kind in kinds if vars(module)[kind]
    ]


def modes() -> int:
    return torch._C._len_torch_function_stack()


def test_mixture_is_named_and_ordered_as_it_ran(x):
    model = Mixed()
    with capture(model) as activations:
        model(x)
    first = model.fc1(x).clamp(min=0)
    second = model.fc2(first).tanh()
    third = model.fc2(second).tanh()
    expected = {"relu": first, "act": second, "act#2": third, "relu#2": third.clamp(min=0)}
    assert list(activations) == list(expected)
    for name, value in expected.items():
        assert torch.equal(activations[name], value.detach()), name
        assert not activations[name].requires_grad


def test_activation_inside_a_layer_is_functional(x):
    model = nn.Sequential(DenseLayer(4, 6), DenseLayer(6, 3))
    with capture(model) as activations:
        model(x)
    assert list(activations) == ["relu", "relu#2"]
    with capture(model, ["1", "relu"]) as activations:
        model(x)
    assert list(activations) == ["relu", "1"]
    assert torch.equal(activations["1"], model(x))


@pytest.mark.parametrize("kind", ACTIVATION_MODULES)
def test_module_counts_once(kind, x):
    module = kind(0.1, 0.2) if kind is nn.Threshold else kind()
    model = nn.Sequential(nn.Linear(4, 3), module).eval()
    with capture(model) as activations:
        output = model(x)
    assert list(activations) == ["1"]
    assert torch.equal(activations["1"], output.detach())


@pytest.mark.parametrize("name", FUNCTIONAL_ACTIVATIONS)
def test_functional_is_named_after_its_function(name, x):
    arguments = {"prelu": (torch.tensor([0.2]),), "threshold": (0.1, 0.2)}.get(name, ())
    model = Applies(lambda x: getattr(F, name)(x, *arguments))
    with capture(model) as activations:
        output = model(x)
    assert list(activations) == [name]
    assert torch.equal(activations[name], output)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("relu", torch.relu),
        ("relu", torch.relu_),
        ("relu", Tensor.relu),
        ("relu", Tensor.relu_),
        ("relu", F.relu_),
        ("relu", torch.ops.aten.relu),
        ("relu", torch.ops.aten.relu.default),
        ("relu", lambda x: F.relu(x, inplace=True)),
        ("tanh", torch.tanh),
        ("tanh", Tensor.tanh_),
        ("sigmoid", torch.sigmoid),
        ("sigmoid", torch.special.expit),
        ("sigmoid", Tensor.sigmoid_),
        ("selu", torch.selu_),
        ("elu", lambda x: F.elu(x, 0.5, True)),
        ("leaky_relu", lambda x: F.leaky_relu_(x, 0.1)),
        ("gelu", lambda x: F.gelu(x, approximate="tanh")),
        ("threshold", lambda x: F.threshold_(x, 0.1, 0.2)),
    ],
)
def test_every_spelling_is_seen(name, function, x):
    model = Applies(function)
    with capture(model) as activations:
        output = model(x.clone())
    assert list(activations) == [name]
    assert torch.equal(activations[name], output)


@pytest.mark.parametrize("module", [nn.Softmax(-1), nn.LayerNorm(4), nn.GLU(), nn.Linear(4, 4)])
def test_what_is_no_elementwise_activation_is_left_out(module, x):
    model = nn.Sequential(module)
    with capture(model) as activations:
        model(x)
    assert activations == {}


def test_subclass_of_an_activation_is_a_module(x):
    class Shifted(nn.ReLU):
        def forward(self, x):
            return F.relu(super().forward(x) - 0.1)

    model = nn.Sequential(Shifted())
    with capture(model) as activations:
        output = model(x)
    assert list(activations) == ["0"]
    assert torch.equal(activations["0"], output)


def test_model_that_is_an_activation_is_functional(x):
    model = nn.ReLU()
    with capture(model) as activations:
        model(x)
    assert list(activations) == ["relu"]


def test_module_named_like_a_function_shares_the_count(x):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x):
            return F.relu(self.relu(x) - 1)

    model = Model()
    with capture(model) as activations:
        model(x)
    assert list(activations) == ["relu", "relu#2"]
    assert torch.equal(activations["relu"], x.clamp(min=0))
    assert torch.equal(activations["relu#2"], (x - 1).clamp(min=0))


def test_shared_module_has_its_first_name(x):
    act = nn.ReLU()
    model = nn.Sequential(nn.Linear(4, 4), act, nn.Linear(4, 4), act)
    with capture(model) as activations:
        model(x)
    assert list(activations) == ["1", "1#2"]
    with capture(model, ["1#2"]) as activations:
        output = model(x)
    assert list(activations) == ["1#2"]
    assert torch.equal(activations["1#2"], output)
    with pytest.raises(ValueError, match=r"'3' is the same module as '1'"), capture(model, ["3"]):
        pass


def test_each_forward_starts_over(x):
    class Branches(nn.Module):
        def forward(self, x, deep):
            return F.relu(torch.tanh(F.relu(x))) if deep else torch.sigmoid(F.relu(x))

    model = Branches()
    with capture(model) as activations:
        model(x, True)
        assert list(activations) == ["relu", "tanh", "relu#2"]
        model(-x, False)
    assert list(activations) == ["relu", "sigmoid"]
    assert torch.equal(activations["relu"], (-x).clamp(min=0))


def test_only_the_model_is_seen(x):
    model, other = Mixed(), Mixed()
    with capture(model) as activations:
        F.relu(x)
        other(x)
        model.act(x)
        assert activations == {}
        model(x)
        F.relu(x)
        other(x)
    assert list(activations) == ["relu", "act", "act#2", "relu#2"]


def test_recursive_model_counts_on(x):
    class Twice(nn.Module):
        def forward(self, x, depth=1):
            x = F.relu(x)
            return self(x - 1, depth - 1) if depth else x

    model = Twice()
    with capture(model) as activations:
        model(x)
    assert list(activations) == ["relu", "relu#2"]


def test_layers_by_name_are_the_keys(x):
    model = Mixed()
    with capture(model, ["relu#2", "fc3", "fc1"]) as activations:
        output = model(x)
    assert list(activations) == ["fc1", "relu#2", "fc3"]
    assert torch.equal(activations["fc1"], model.fc1(x))
    assert torch.equal(activations["fc3"], output)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["fc1", "fc1_"], r"no layer 'fc1_'\. Did you mean 'fc1'\? Known: 'fc1', 'act', 'fc2', 'fc3', "),
        (["reluu"], r"no layer 'reluu'\. Did you mean 'relu'\?"),
        (["relu#1"], "no layer 'relu#1'"),
        (["relu#02"], "no layer 'relu#02'"),
        (["relu#two"], "no layer 'relu#two'"),
        ([""], "no layer ''"),
        ([], "layers is empty"),
    ],
)  # fmt: skip
def test_unknown_layer_is_refused_at_entry(layers, message):
    model = Mixed()
    entered = False
    with pytest.raises(ValueError, match=message), capture(model, layers):
        entered = True
    assert not entered
    assert hooks_of(model) == []


def test_layers_must_not_be_one_string():
    with pytest.raises(TypeError, match=r"use \['fc1'\]"), capture(Mixed(), "fc1"):
        pass


@pytest.mark.parametrize("layer", ["relu#3", "gelu", "fc1#2"])
def test_layer_that_never_ran_is_refused_at_exit(layer, x):
    model = Mixed()
    message = f"'{layer}' did not run inside the block. Ran: .*'act#2'"
    with pytest.raises(ValueError, match=message), capture(model, ["relu", layer]):
        model(x)
    assert hooks_of(model) == []


def test_layer_without_a_forward_pass_is_refused_at_exit():
    with pytest.raises(ValueError, match="none; was the model called"), capture(Mixed(), ["fc1"]):
        pass


def test_layer_that_ran_in_an_earlier_pass_is_no_error(x):
    class Branches(nn.Module):
        def forward(self, x, deep):
            return F.relu(x) if deep else torch.tanh(x)

    model = Branches()
    with capture(model, ["relu"]) as activations:
        model(x, True)
        model(x, False)
    assert activations == {}


def test_recurrent_output_is_refused_by_name():
    model = nn.Sequential(nn.LSTM(4, 3))
    with pytest.raises(TypeError, match="'0' gives a tuple, not a tensor"), capture(model, ["0"]):
        model(torch.zeros(2, 5, 4))
    assert hooks_of(model) == []


def test_exception_leaves_nothing_behind(x):
    model = Mixed()
    before = modes()
    with pytest.raises(KeyError, match="mine"), capture(model, ["gelu"]):  # noqa: PT012
        model(x)
        assert hooks_of(model)
        assert modes() == before + 1
        raise KeyError("mine")
    assert hooks_of(model) == []
    assert modes() == before


def test_failed_forward_leaves_no_trace_in_the_next(x):
    class Fragile(nn.Tanh):
        def forward(self, x):
            if x.shape[1] == 3:
                raise RuntimeError("three columns")
            return super().forward(x)

    model = nn.Sequential(Fragile(), Applies(F.relu))
    with capture(model) as activations:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="three columns"):
                model(x[:, :3])
        F.relu(x)
        assert activations == {}
        model(x)
    assert list(activations) == ["0", "relu"]


def test_activation_that_fails_and_is_caught_does_not_hide_functions(x):
    class Failing(nn.Tanh):
        def forward(self, x):
            raise RuntimeError("no tanh")

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = Failing()

        def forward(self, x):
            try:
                return self.act(x)
            except RuntimeError:
                return F.relu(x)

    model = Model()
    with capture(model) as activations:
        model(x)
    assert list(activations) == ["relu"]


@pytest.mark.parametrize(
    "damage",
    [
        nn.ReLU(inplace=True),
        nn.Dropout(0.5, inplace=True),
        Applies(lambda x: x.mul_(0)),
        Applies(lambda x: x.view(-1).zero_()),
        Applies(lambda x: x.__setitem__(slice(None), 0.0)),
    ],
)
@pytest.mark.parametrize("grad", [True, False])
def test_later_work_in_place_does_not_reach_the_capture(damage, grad, x):
    model = nn.Sequential(nn.Linear(4, 6), nn.Hardtanh(-0.3, 0.3), damage)
    with torch.set_grad_enabled(grad):
        linear = model[0](x).detach()
        with capture(model, ["0", "1"]) as activations:
            model(x)
    assert torch.equal(activations["0"], linear)
    assert torch.equal(activations["1"], linear.clamp(-0.3, 0.3))


def test_gradients_are_those_without_a_capture(x):
    model = Mixed()
    model(x).square().sum().backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    with capture(model):
        model(x).square().sum().backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_nested_captures_see_the_same(x):
    model = Mixed()
    with capture(model) as outer:
        with capture(model, ["fc1", "relu#2"]) as inner:
            model(x)
        assert list(outer) == ["relu", "act", "act#2", "relu#2"]
        model(2 * x)
    assert list(inner) == ["fc1", "relu#2"]
    assert torch.equal(inner["fc1"], model.fc1(x))
    assert torch.equal(outer["relu"], model.fc1(2 * x).clamp(min=0))
    assert hooks_of(model) == []


def test_transformer_layer_shows_its_activation():
    # In evaluation mode torch takes a fused path, which shows nothing, unless somebody looks.
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    tokens = torch.randn(3, 5, 8)
    with torch.no_grad(), capture(model) as activations:
        model(tokens)
    assert list(activations) == ["relu"]
    assert activations["relu"].shape == (3, 5, 16)
    assert activations.units("relu").shape == (15, 16)


def compiled_whole(model):
    return torch.compile(model, backend="eager")


def compiled_in_place(model):
    model.compile(backend="eager")
    return model


def compiled_part(model):
    return nn.Sequential(torch.compile(model, backend="eager"))


@pytest.mark.parametrize(
    ("compiled", "prefix"), [(compiled_whole, ""), (compiled_in_place, ""), (compiled_part, "0.")]
)
@pytest.mark.parametrize("called_before", [True, False])
def test_compiled_model_is_seen(compiled, prefix, called_before, x):
    raw = Mixed()
    model = compiled(raw)
    if called_before:
        model(x)
    with capture(model) as activations:
        output = model(x)
    assert list(activations) == ["relu", f"{prefix}act", f"{prefix}act#2", "relu#2"]
    assert torch.equal(raw.fc3(activations["relu#2"]), output)
    with capture(model, [f"{prefix}fc1"]) as activations:
        model(x)
    assert torch.equal(activations[f"{prefix}fc1"], raw.fc1(x))
    torch._dynamo.reset()


def test_compiled_model_is_not_compiled_again(x):
    counter = CompileCounter()
    model = torch.compile(Mixed(), backend=counter)
    model(x)
    before = counter.frame_count
    assert before > 0
    with capture(model) as activations:
        model(x)
    model(x)
    assert len(activations) == 4
    assert counter.frame_count == before
    torch._dynamo.reset()


def test_model_copies_as_before(x):
    model = Mixed()
    fresh = pickle.dumps(model)
    with capture(model):
        model(x)
    assert pickle.dumps(model) == fresh
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), model(x))
        with capture(twin) as activations:
            twin(x)
        assert list(activations) == ["relu", "act", "act#2", "relu#2"]


def test_unit_matrix_of_a_convolution_map_by_hand():
    # Two samples of two channels of 1 × 2 pixels. A row per sample and pixel, a column per channel.
    maps = torch.tensor([[[[1, 2]], [[3, 4]]], [[[5, 6]], [[7, 8]]]])
    assert unit_matrix(maps).tolist() == [[1, 3], [2, 4], [5, 7], [6, 8]]
    # The same numbers, were the last axis the units.
    assert unit_matrix(maps, channels_last=True).tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]


def test_unit_matrix_of_a_sequence_by_hand():
    # One sample, two positions, three units.
    sequence = torch.tensor([[[1, 2, 3], [4, 5, 6]]])
    assert unit_matrix(sequence).tolist() == [[1, 2, 3], [4, 5, 6]]
    # One sample, two channels, length three.
    assert unit_matrix(sequence, channels_last=False).tolist() == [[1, 4], [2, 5], [3, 6]]


@given(
    shape=st.lists(st.integers(1, 4), min_size=2, max_size=5),
    channels_last=st.sampled_from([True, False, None]),
)
def test_unit_matrix_keeps_each_unit_in_its_column(shape, channels_last):
    values = np.arange(np.prod(shape)).reshape(shape)
    last = channels_last if channels_last is not None else len(shape) == 3
    axis = len(shape) - 1 if last or len(shape) == 2 else 1
    matrix = unit_matrix(torch.from_numpy(values), channels_last).numpy()
    assert matrix.shape == (values.size // shape[axis], shape[axis])
    for unit in range(shape[axis]):
        assert (matrix[:, unit] == values.take(unit, axis).reshape(-1)).all()


@pytest.mark.parametrize("shape", [(), (3,), (1, 1, 1, 1, 1, 1)])
def test_unit_matrix_refuses_what_has_no_units(shape):
    with pytest.raises(ValueError, match="cannot be split into samples and units"):
        unit_matrix(torch.zeros(shape))


def test_units_names_the_layer():
    model = Applies(lambda x: F.relu(x.sum(1)))
    with capture(model) as activations:
        model(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"layer 'relu': an activation of shape \(3,\)"):
        activations.units("relu")


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3, padding=1)

    def forward(self, x):
        return F.relu(torch.cat([x[:, :, :2], self.conv(x)], 2)) + 1


@pytest.mark.parametrize(
    ("model", "shape", "units"),
    [
        (nn.Sequential(nn.Conv1d(4, 6, 3), nn.ReLU()), (2, 4, 9), [6]),
        (nn.Sequential(nn.Conv1d(4, 6, 3), Applies(F.relu_)), (2, 4, 9), [6]),
        (nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.1), nn.ReLU(), nn.MaxPool1d(2), nn.Tanh()),
         (2, 4, 9), [4, 4]),
        (nn.Sequential(Residual()), (2, 4, 9), [4]),
        (nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU()), (2, 4, 9, 9), [6]),
        (nn.Sequential(nn.Conv3d(4, 6, 3), nn.ReLU()), (2, 4, 5, 5, 5), [6]),
        (nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.LayerNorm(6), nn.GELU()), (2, 9, 4), [6, 6]),
        # A convolution over time, then a linear layer over its channels.
        (nn.Sequential(nn.Conv1d(4, 6, 2), nn.ReLU(), Applies(lambda x: x.mT), nn.Tanh(),
                       nn.Linear(6, 5), nn.ELU()), (2, 4, 9), [6, 6, 5]),
        # Channels moved last, a linear layer over them, and back: the block of ConvNeXt.
        (nn.Sequential(nn.Conv2d(4, 6, 3), Applies(lambda x: x.permute(0, 2, 3, 1)),
                       nn.Linear(6, 5), nn.GELU(), Applies(lambda x: x.permute(0, 3, 1, 2)), nn.ReLU()),
         (2, 4, 9, 9), [5, 5]),
        (nn.Sequential(nn.Conv2d(4, 6, 3), nn.Flatten(), nn.ReLU()), (2, 4, 9, 9), [294]),
    ],
)  # fmt: skip
def test_units_are_found_from_what_made_them(model, shape, units):
    with capture(model) as activations:
        model(torch.randn(shape))
    assert [activations.units(name).shape[1] for name in activations] == units
    for name in activations:
        assert activations.units(name).numel() == activations[name].numel()


def test_units_of_a_named_layer_are_found_too():
    model = nn.Sequential(nn.Conv1d(4, 6, 3), nn.ReLU())
    sequences = torch.randn(2, 4, 9)
    with capture(model, ["0"]) as activations:
        model(sequences)
    maps = model[0](sequences).detach()
    for channel in range(6):
        assert torch.equal(activations.units("0")[:, channel], maps[:, channel].reshape(-1))
