"""Tests of `capture`: the activations it finds, their names, and that it leaves nothing behind."""

import contextlib
import copy
import dataclasses
import pickle
from collections import namedtuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from plasticity.metrics.activations import unit_matrix
from plasticity.metrics.capture import capture
from plasticity.metrics.layer_names import ACTIVATION_MODULES, FUNCTIONAL_ACTIVATIONS


class Mixed(nn.Module):
    """Network of functional and module activations, one of each used twice."""

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
    """Layer that applies its activation itself."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


class Applies(nn.Module):
    """Module that calls a function in its forward pass."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def hooks_of(model: nn.Module) -> list[object]:
    """Return all hooks of a module and its submodules."""
    kinds = [key for key in vars(model) if "hook" in key]
    assert kinds
    return [
        vars(module)[kind] for module in model.modules() for kind in kinds if vars(module)[kind]
    ]


def modes() -> int:
    return torch._C._len_torch_function_stack()


def test_mixed_activations_are_named_and_ordered_as_they_ran(x):
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
def test_every_spelling_is_captured(name, function, x):
    model = Applies(function)
    with capture(model) as activations:
        output = model(x.clone())
    assert list(activations) == [name]
    assert torch.equal(activations[name], output)


@pytest.mark.parametrize("module", [nn.Softmax(-1), nn.LayerNorm(4), nn.GLU(), nn.Linear(4, 4)])
def test_other_modules_are_left_out(module, x):
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


def test_each_forward_pass_starts_over(x):
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


def test_only_calls_of_the_model_are_captured(x):
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


def test_recursive_calls_continue_the_count(x):
    class Twice(nn.Module):
        def forward(self, x, depth=1):
            x = F.relu(x)
            return self(x - 1, depth - 1) if depth else x

    model = Twice()
    with capture(model) as activations:
        model(x)
    assert list(activations) == ["relu", "relu#2"]


def test_layer_names_are_the_keys(x):
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
def test_unknown_layer_is_rejected_at_entry(layers, message):
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
def test_layer_that_never_ran_is_rejected_at_exit(layer, x):
    model = Mixed()
    message = f"'{layer}' did not run inside the block. Ran: .*'act#2'"
    with pytest.raises(ValueError, match=message), capture(model, ["relu", layer]):
        model(x)
    assert hooks_of(model) == []


@pytest.mark.parametrize("layers", [None, ["fc1"]])
@pytest.mark.parametrize(
    "run",
    [
        lambda model, x: None,
        lambda model, x: model.act(x),  # a part of the model
        lambda model, x: model.forward(x),
        lambda model, x: copy.deepcopy(model)(x),
        lambda model, x: torch.no_grad()(model.forward)(x),
    ],
)
def test_a_model_that_was_not_called_is_rejected_at_exit(layers, run, x):
    model = Mixed()
    with pytest.raises(ValueError, match=r"Mixed was not called"), capture(model, layers):
        run(model, x)
    assert hooks_of(model) == []


def test_a_policy_method_that_bypasses_its_call_is_rejected_at_exit(x):
    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 2), nn.Tanh())

        def predict(self, x):
            return self.net(x)

    policy = Policy()
    with pytest.raises(ValueError, match=r"Policy was not called.*\.predict"), capture(policy):
        policy.predict(x)
    with capture(policy.net) as activations:
        policy.predict(x)
    assert list(activations) == ["1"]


def test_another_exception_is_not_replaced_if_the_model_was_not_called(x):
    with pytest.raises(KeyError, match="mine"), capture(Mixed()):
        raise KeyError("mine")


def test_a_called_model_without_activations_is_not_an_error(x):
    model = nn.Linear(4, 2)
    with capture(model) as activations:
        model(x)
    assert activations == {}


def test_a_failed_call_counts_as_a_call(x):
    model = Mixed()
    with capture(model) as activations, contextlib.suppress(RuntimeError):
        model(x[:, :2])
    assert activations == {}


def test_layer_that_ran_in_an_earlier_pass_is_not_an_error(x):
    class Branches(nn.Module):
        def forward(self, x, deep):
            return F.relu(x) if deep else torch.tanh(x)

    model = Branches()
    with capture(model, ["relu"]) as activations:
        model(x, True)
        model(x, False)
    assert activations == {}


@dataclasses.dataclass
class Encoded:
    last_hidden_state: Tensor
    extra: dict[str, object]


class Parts(nn.Module):
    """Module that returns a tensor in each container that modules use."""

    def forward(self, x):
        named = namedtuple("Named", "first rest")
        return {
            "plain": x,
            "nested": [x + 1, (x + 2, {"deep": x + 3})],
            "record": Encoded(x + 4, {"mask": x + 5}),
            "named": named(x + 6, None),
            "count": 3,
        }


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Parts()
        self.lstm = nn.LSTM(4, 3, num_layers=2, batch_first=True)

    def forward(self, x):
        self.encoder(x)
        self.encoder(x + 10)
        outputs, (hidden, cell) = self.lstm(x[:, None])
        return outputs, hidden, cell


@pytest.mark.parametrize(
    ("name", "offset"),
    [
        ("encoder.plain", 0),
        ("encoder.nested[0]", 1),
        ("encoder.nested[1][0]", 2),
        ("encoder.nested[-1][1].deep", 3),
        ("encoder.record.last_hidden_state", 4),
        ("encoder.record.extra.mask", 5),
        ("encoder.named.first", 6),
        ("encoder.named[0]", 6),
        ("encoder#2.nested[0]", 11),
    ],
)
def test_parts_of_an_output_are_named_by_their_path(name, offset, x):
    model = Outer()
    with capture(model, [name]) as activations:
        model(x)
    assert list(activations) == [name]
    assert torch.equal(activations[name], x + 10 + 1 if offset == 11 else x + offset)


def test_parts_of_an_lstm(x):
    model = Outer()
    with capture(model, ["lstm[1][0]", "lstm[0]", "lstm[1][1]"]) as activations:
        outputs, hidden, cell = model(x)
    assert list(activations) == ["lstm[1][0]", "lstm[0]", "lstm[1][1]"]
    assert torch.equal(activations["lstm[0]"], outputs)
    assert torch.equal(activations["lstm[1][0]"], hidden)
    assert torch.equal(activations["lstm[1][1]"], cell)
    assert not activations["lstm[0]"].requires_grad


def test_the_fields_of_a_packed_sequence():
    model = nn.Sequential(nn.GRU(4, 3))
    packed = nn.utils.rnn.pack_sequence([torch.ones(3, 4), torch.ones(2, 4)])
    with capture(model, ["0[0].data"]) as activations:
        outputs, _ = model(packed)
    assert torch.equal(activations["0[0].data"], outputs.data)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "lstm",
            TypeError,
            r"'lstm' is of type tuple, not a tensor.*'lstm\[0\]', 'lstm\[1\]\[0\]'",
        ),
        ("lstm[1]", TypeError, r"'lstm\[1\]' is of type tuple, not a tensor.*'lstm\[1\]\[1\]'"),
        ("lstm[2]", ValueError, r"no 'lstm\[2\]'.*'lstm\[0\]'"),
        ("lstm.hidden", ValueError, r"no 'lstm\.hidden'.*'lstm\[0\]'"),
        ("encoder.last", ValueError, r"no 'encoder\.last'.*'encoder\.plain'"),
        ("encoder.plain[0][0][0]", ValueError, r"no 'encoder\.plain\[0\]\[0\]\[0\]'"),
        ("encoder.count", TypeError, r"'encoder\.count' is of type int, not a tensor"),
        ("encoder#3.plain", ValueError, r"'encoder#3\.plain' did not run.*'encoder#2'"),
        ("lstn[0]", ValueError, r"no layer 'lstn\[0\]'.*'lstm'"),
        ("relu[0]", ValueError, r"no layer 'relu\[0\]'"),
        ("encoder.11", ValueError, r"no layer 'encoder\.11'.*Did you mean 'encoder'"),
        ("encoder.lastt", ValueError, r"no 'encoder\.lastt'.*Did you mean 'encoder'"),
        ("lstm[x]", ValueError, r"no layer 'lstm\[x\]'"),
    ],
)
def test_output_that_is_not_a_tensor_is_rejected_and_its_parts_are_named(name, error, message, x):
    model = Outer()
    with pytest.raises(error, match=message), capture(model, [name]):
        model(x)
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


def test_failed_forward_pass_does_not_affect_the_next(x):
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
def test_later_in_place_operations_do_not_change_the_capture(damage, grad, x):
    model = nn.Sequential(nn.Linear(4, 6), nn.Hardtanh(-0.3, 0.3), damage)
    with torch.set_grad_enabled(grad):
        linear = model[0](x).detach()
        with capture(model, ["0", "1"]) as activations:
            model(x)
    assert torch.equal(activations["0"], linear)
    assert torch.equal(activations["1"], linear.clamp(-0.3, 0.3))


def test_gradients_are_the_same_as_without_a_capture(x):
    model = Mixed()
    model(x).square().sum().backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    with capture(model):
        model(x).square().sum().backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_nested_captures_are_equal(x):
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


def test_activation_of_a_transformer_layer_is_captured():
    # In evaluation mode torch takes an opaque fused path, unless a capture turns it off.
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
def test_compiled_model_is_captured(compiled, prefix, called_before, x):
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
    # The same numbers if the last axis held the units.
    assert unit_matrix(maps, axis=-1).tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]


def test_unit_matrix_of_a_sequence_by_hand():
    # One sample, two positions, three units.
    sequence = torch.tensor([[[1, 2, 3], [4, 5, 6]]])
    assert unit_matrix(sequence).tolist() == [[1, 2, 3], [4, 5, 6]]
    # One sample, two channels, length three.
    assert unit_matrix(sequence, axis=1).tolist() == [[1, 4], [2, 5], [3, 6]]


@given(
    shape=st.lists(st.integers(1, 4), min_size=2, max_size=5),
    given_axis=st.sampled_from([None, 1, -1, 0, -2]),
)
def test_unit_matrix_keeps_each_unit_in_its_column(shape, given_axis):
    values = np.arange(np.prod(shape)).reshape(shape)
    guess = 2 if len(shape) == 3 else 1
    axis = guess if given_axis is None else given_axis % len(shape)
    matrix = unit_matrix(torch.from_numpy(values), given_axis).numpy()
    assert matrix.shape == (values.size // shape[axis], shape[axis])
    for unit in range(shape[axis]):
        assert (matrix[:, unit] == values.take(unit, axis).reshape(-1)).all()


@pytest.mark.parametrize("shape", [(), (3,), (1, 1, 1, 1, 1, 1)])
def test_unit_matrix_rejects_shapes_without_units(shape):
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
        (nn.Sequential(nn.Conv2d(4, 6, 3), nn.Flatten(), nn.ReLU()), (2, 4, 9, 9), [6]),
    ],
)  # fmt: skip
def test_units_are_found_from_the_operations_that_made_them(model, shape, units):
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


class Sorted(nn.Module):
    """Network with a sort, which is not followed: after it, the unit of an entry is unknown."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 6)

    def forward(self, x):
        return F.relu(self.fc(x).mT.sort(1)[0])


def test_a_guessed_axis_is_warned_about_once_per_model_and_layer():
    model, sequences = Sorted(), torch.randn(2, 9, 4)
    message = r"axis of layer 'relu', of shape \(2, 6, 9\), is a guess: axis 2.*units=\{'relu': 2\}"
    for again in (False, True):
        with capture(model) as activations:
            model(sequences)
        if again:
            assert activations.units("relu").shape == (12, 9)  # a warning would be an error here
        else:
            with pytest.warns(UserWarning, match=message):
                activations.units("relu")


def test_the_axis_of_the_units_can_be_given():
    model, sequences = Sorted(), torch.randn(2, 9, 4)
    for axis in (1, -2):
        with capture(model, units={"relu": axis}) as activations:
            model(sequences)
        expected = activations["relu"].movedim(1, -1).reshape(18, 6)
        assert torch.equal(activations.units("relu"), expected)
    with capture(model, ["relu"], units={"relu": (1, 2)}) as activations:
        model(sequences)
    assert torch.equal(activations.units("relu"), activations["relu"].reshape(2, 54))


@pytest.mark.parametrize(
    ("units", "layers", "error", "message"),
    [
        ({"rellu": 1}, None, ValueError, r"no layer 'rellu'\. Did you mean 'relu'"),
        ({"relu": 1}, ["fc"], ValueError, r"units names 'relu', which layers does not.*'fc'"),
        ({"relu": 3}, None, ValueError, r"units=\{'relu': 3\}, for an output of shape \(2, 6, 9\)"),
        ({"relu": -4}, None, ValueError, r"units=\{'relu': -4\}"),
        ({"relu": (1, -2)}, None, ValueError, "names an axis twice"),
        ({"relu": ()}, None, ValueError, "or none"),
        ({"relu#2": 1}, None, ValueError, r"units names 'relu#2', which was not captured.*'relu'"),
        ({"fc": 1}, None, ValueError, r"units names 'fc', which was not captured"),
        ({"relu": "1"}, None, TypeError, r"units=\{'relu': '1'\}: expected an integer"),
        ({"relu": True}, None, TypeError, "expected an integer"),
        (["relu"], None, TypeError, "units must map names to axes"),
    ],
)
def test_impossible_axes_are_rejected_by_name(units, layers, error, message):
    model = Sorted()
    with pytest.raises(error, match=message), capture(model, layers, units=units):
        model(torch.randn(2, 9, 4))
    assert hooks_of(model) == []
    assert torch._C._len_torch_dispatch_stack() == 0


def test_an_empty_batch_is_not_an_error(x):
    model = Mixed()
    with capture(model) as activations:
        model(x[:0])
    assert activations["relu"].shape == (0, 6)


@pytest.mark.parametrize("in_dims", [0, 1])
def test_activations_inside_vmap_cover_all_samples(in_dims, x):
    torch.manual_seed(0)
    layer = nn.Linear(x.shape[1], 6)

    class Mapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, inputs):
            one = lambda sample: F.relu(self.layer(sample))  # noqa: E731
            return torch.vmap(one, in_dims=in_dims)(inputs.movedim(0, in_dims))

    with capture(model := Mapped()) as activations:
        output = model(x)
    assert torch.equal(activations["relu"], output)
    assert torch.equal(activations.units("relu"), output)


@pytest.mark.parametrize("part", ["0[0]", "0.T", "0[0].T"])
def test_rows_and_attributes_of_a_tensor_are_not_parts(part):
    model = nn.Sequential(nn.Linear(3, 4))
    with (
        pytest.raises(ValueError, match="of type Tensor, which has no parts"),
        capture(model, [part]),
    ):
        model(torch.randn(2, 3))


def test_layouts_of_an_earlier_capture_are_reused():
    """Heads: two axes hold the 32 units, which the shape alone does not show."""

    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.q = nn.Linear(6, 32)

        def forward(self, x):
            return F.relu(self.q(x).view(2, 5, 4, 8).transpose(1, 2))

    model, inputs = Heads(), torch.randn(2, 5, 6)
    with capture(model) as first:
        model(inputs)
    with capture(model, layouts=first.layouts) as again:
        model(inputs)
    assert again.units("relu").shape == (10, 32)
    assert torch.equal(again.units("relu"), first.units("relu"))
    assert again.origins == {}
