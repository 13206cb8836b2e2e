"""Comparison of stacked networks with the same networks run one by one."""

import copy
import pickle

import pytest
import torch
from torch import nn

from plasticity import StackedNetworks, clip_stacked_gradients_, stacked_gradient_norms
from plasticity.agents.networks import NETWORKS
from plasticity.optim.shifted_model import ShiftedModel


class WithOddParts(nn.Module):
    """Network with a scalar parameter, a tied weight and a normalisation with running statistics."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(()))
        self.first = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, inputs):
        return self.scale * self.second(torch.tanh(self.norm(self.first(inputs))))


def image_network(architecture="cnn", **settings):
    network = NETWORKS[architecture](**settings)
    return network.build(network.spec((1, 8, 8), 3))


MAKERS = {
    "cnn": (image_network, (1, 8, 8)),
    "max-pool": (lambda: image_network(downsampling="max-pool", activation="tanh"), (1, 8, 8)),
    "mlp": (lambda: image_network(architecture="mlp", activation="gelu"), (1, 8, 8)),
    "odd": (WithOddParts, (3,)),
}


def networks(kind, count=3):
    torch.manual_seed(0)
    return [MAKERS[kind][0]().double() for _ in range(count)]


@pytest.mark.parametrize("convolution", ["grouped", "products"])
@pytest.mark.parametrize("kind", MAKERS)
def test_outputs_gradients_and_buffers_equal_those_of_each_network_alone(kind, convolution):
    alone = networks(kind)
    stack = StackedNetworks(alone, convolution=convolution)
    for _ in range(2):
        inputs = torch.randn(3, 5, *MAKERS[kind][1], dtype=torch.float64)
        outputs = stack(inputs)
        for stacked in stack.parameters.values():
            stacked.grad = None
        outputs.square().sum().backward()
        for i, network in enumerate(alone):
            expected = network(inputs[i])
            torch.testing.assert_close(outputs[i], expected, rtol=1e-12, atol=1e-12)
            network.zero_grad()
            expected.square().sum().backward()
            for name, parameter in network.named_parameters():
                found = stack.parameters[name].grad[i]
                torch.testing.assert_close(found, parameter.grad, rtol=1e-10, atol=1e-12)
            for name, buffer in network.named_buffers():
                torch.testing.assert_close(stack.buffers[name][i], buffer)


def test_evaluation_mode_equals_that_of_each_network_alone():
    alone = networks("odd")
    stack = StackedNetworks(alone)
    stack.train(False)
    inputs = torch.randn(3, 5, 3, dtype=torch.float64)
    before = {name: buffer.clone() for name, buffer in stack.buffers.items()}
    outputs = stack(inputs)
    for i, network in enumerate(alone):
        torch.testing.assert_close(outputs[i], network.eval()(inputs[i]))
    for name, buffer in stack.buffers.items():
        assert torch.equal(buffer, before[name])


def test_stacked_shifted_models_keep_their_own_anchors():
    anchors = [{"fc1.bias": torch.randn(64, dtype=torch.float64)} for _ in range(3)]
    alone = [ShiftedModel(n, a) for n, a in zip(networks("mlp"), anchors, strict=True)]
    inputs = torch.randn(3, 2, 1, 8, 8, dtype=torch.float64)
    outputs = StackedNetworks(alone)(inputs)
    for i, network in enumerate(alone):
        torch.testing.assert_close(outputs[i], network(inputs[i]))


@pytest.mark.parametrize("kind", MAKERS)
def test_networks_are_loaded_into_and_read_from_the_stack(kind):
    alone = networks(kind)
    stack = StackedNetworks(alone)
    state, expected = stack.state_dict(1), alone[1].state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], expected[name]) for name in state)
    assert all(state[name].stride() == expected[name].stride() for name in state)
    other = networks(kind, count=5)[4]
    stack.load_state_dict(1, other.state_dict())
    inputs = torch.randn(4, *MAKERS[kind][1], dtype=torch.float64)
    made = stack.network(1).eval()
    assert torch.equal(made(inputs), other.eval()(inputs))
    assert torch.equal(stack.network(0).eval()(inputs), alone[0].eval()(inputs))
    next(made.parameters()).data.add_(1)  # a copy: the stack does not change
    assert torch.equal(stack.network(1).eval()(inputs), other(inputs))


def test_a_diverged_network_does_not_affect_the_others():
    alone = networks("cnn")
    broken = copy.deepcopy(alone)
    broken[1].conv1.weight.data.fill_(float("nan"))
    inputs = torch.randn(3, 5, 1, 8, 8, dtype=torch.float64)
    gradients = []
    for each in (alone, broken):
        stack = StackedNetworks(each)
        stack(inputs).square().mean((1, 2)).sum().backward()
        gradients.append({n: p.grad for n, p in stack.parameters.items()})
    for name, whole in gradients[0].items():
        assert torch.equal(gradients[1][name][[0, 2]], whole[[0, 2]])
    assert gradients[1]["conv1.weight"][1].isnan().all()


def gradients_of(norms):
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3), (4,), (2, 2, 2), ()]
    found = [torch.randn(len(norms), *s, generator=generator, dtype=torch.float64) for s in shapes]
    sizes = torch.stack([g.reshape(len(norms), -1).square().sum(1) for g in found]).sum(0).sqrt()
    for gradient in found:
        gradient.mul_((torch.tensor(norms) / sizes).view(-1, *[1] * (gradient.dim() - 1)))
    return found


def test_norms_and_clipping_equal_torchs_for_each_network():
    norms = [0.1, 0.5, 3.0, 0.0]
    gradients = gradients_of(norms)
    alone = [[nn.Parameter(g[i].clone()) for g in gradients] for i in range(4)]
    for parameters in alone:
        for parameter in parameters:
            parameter.grad = parameter.detach().clone()
    found = stacked_gradient_norms(gradients)
    torch.testing.assert_close(found, torch.tensor(norms, dtype=torch.float64))
    assert torch.equal(clip_stacked_gradients_(gradients, 0.5), found)
    for i, parameters in enumerate(alone):
        nn.utils.clip_grad_norm_(parameters, 0.5)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            torch.testing.assert_close(gradient[i], parameter.grad, rtol=1e-12, atol=1e-14)


def test_clipping_with_a_nan_in_one_network_does_not_affect_the_others():
    gradients = gradients_of([2.0, 2.0])
    gradients[0][0, 0, 0] = float("nan")
    before = [gradient[1].clone() for gradient in gradients]
    norms = clip_stacked_gradients_(gradients, 1.0)
    assert norms[0].isnan()
    for gradient, old in zip(gradients, before, strict=True):
        torch.testing.assert_close(gradient[1], old / 2, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (list, "at least one network"),
        (lambda: [nn.Linear(2, 3), nn.Linear(3, 3)], r"networks\[1\] .* 'weight' differs"),
        (lambda: [nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3, stride=2)], "a layer's settings differ"),
        (
            lambda: [nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))],
            "'1' is a dropout layer with p=0.5",
        ),
        (lambda: [nn.LazyLinear(2)], "'weight' is lazy"),
        (
            lambda: [nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double())],
            "stacked networks need a single one",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_networks_that_cannot_be_stacked_are_rejected(make, message):
    with pytest.raises(ValueError, match=message):
        StackedNetworks(make())


def test_copies_and_unpickled_stacks_are_independent():
    stack = StackedNetworks(networks("odd"))
    inputs = torch.randn(3, 5, 3, dtype=torch.float64)
    stack(inputs)
    for other in (copy.deepcopy(stack), pickle.loads(pickle.dumps(stack))):
        stack.train()
        other.train(False)
        assert stack.template.training
        statistics = {name: buffer.clone() for name, buffer in other.buffers.items()}
        other(inputs)
        for name, buffer in other.buffers.items():
            assert torch.equal(buffer, statistics[name])


def test_networks_may_come_from_an_iterator():
    assert StackedNetworks(iter(networks("mlp"))).num_stacked == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            nn.Sequential(nn.Linear(2, 2)),
            "a list of networks, not one Sequential: make one network for each run",
        ),
        ([nn.Linear(2, 2), 3], r"networks\[1\] must be an nn.Module, not 3"),
    ],
)
def test_anything_but_a_list_of_networks_is_rejected(given, message):
    with pytest.raises(TypeError, match=message):
        StackedNetworks(given)


def test_parameters_in_the_order_of_an_optimizer():
    alone = networks("odd")
    stack = StackedNetworks(alone)
    parameters = list(alone[1].parameters())[::-1]
    optimizer = torch.optim.SGD([{"params": parameters[:2]}, {"params": parameters[2:]}], lr=1)
    found = stack.in_order_of(optimizer, alone[1])
    assert [id(each) for each in found] == [id(p) for p in stack.parameters.values()][::-1]
    with pytest.raises(ValueError, match=r"Parameter 0 .* shape \(3,\), is not one of the"):
        stack.in_order_of(optimizer, alone[0])


def test_invalid_arguments_are_rejected():
    with pytest.raises(ValueError, match=r"Unknown convolution 'group'. Did you mean 'grouped'"):
        StackedNetworks(networks("mlp"), convolution="group")
    with pytest.raises(ValueError, match="Unknown convolution 3"):
        StackedNetworks(networks("mlp"), convolution=3)
    stack = StackedNetworks(networks("mlp"))
    for shape in ((), (5, 1, 8, 8)):
        with pytest.raises(
            ValueError, match=r"do not fit 3 stacked networks: pass one batch per .*expand"
        ):
            stack(torch.zeros(shape, dtype=torch.float64))
    with pytest.raises(IndexError, match=r"Index 3 is out of range: .* indices 0 to 2"):
        stack.network(3)
    with pytest.raises(IndexError, match="Index -1 is out of range"):
        stack.state_dict(-1)
    with pytest.raises(ValueError, match="max_norm must be above 0"):
        clip_stacked_gradients_([torch.ones(2, 2)], 0.0)
    with pytest.raises(ValueError, match="no gradient"):
        stacked_gradient_norms([])


def hooks_of(module):
    return [hook for each in module.modules() for hook in each._forward_pre_hooks.values()]


@pytest.mark.parametrize("always", [False, True])
def test_inputs_of_layers_are_those_of_each_network_alone(always):
    alone = networks("cnn")
    stacked = StackedNetworks(alone)
    layers = ["conv2", "fc2"]
    if always:
        stacked.always_record(layers)
        stacked.always_record(layers)  # again changes nothing
    inputs = torch.randn(3, 4, 1, 8, 8, dtype=torch.float64)
    outputs, found = stacked.with_inputs_of(layers, inputs)
    assert found.keys() == set(layers)
    for index, network in enumerate(alone):
        expected = {}
        for name in layers:
            network.get_submodule(name).register_forward_pre_hook(
                lambda _module, given, name=name, expected=expected: expected.update(
                    {name: given[0]}
                )
            )
        torch.testing.assert_close(outputs[index], network(inputs[index]))
        for name in layers:
            torch.testing.assert_close(found[name][index], expected[name])
    # they have the graph of the pass
    found["fc2"].square().sum().backward()
    assert (stacked.parameters["fc1.weight"].grad != 0).any()
    assert stacked.parameters["fc2.weight"].grad is None
    assert len(hooks_of(stacked.template)) == (2 if always else 0)
    # copies record nothing, and can be pickled
    made = stacked.network(1)
    assert hooks_of(made) == []
    pickle.loads(pickle.dumps(made))
    assert stacked.with_inputs_of([], inputs)[1].keys() == (set(layers) if always else set())


def test_a_part_shares_the_memory():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.first = nn.BatchNorm1d(3), nn.Linear(3, 2)
            self.firsts = nn.Linear(3, 2)  # whose name begins alike

        def forward(self, inputs):
            return self.first(inputs) + self.firsts(self.norm(inputs))

    stacked = StackedNetworks([Both() for _ in range(2)])
    part = stacked.part("first")
    assert part.parameters.keys() == {"weight", "bias"}
    assert part.parameters["weight"] is stacked.parameters["first.weight"]
    assert stacked.part("norm").buffers["running_mean"] is stacked.buffers["norm.running_mean"]
    inputs = torch.randn(2, 4, 3)
    expected = torch.baddbmm(
        stacked.parameters["first.bias"].unsqueeze(1), inputs, stacked.parameters["first.weight"].mT
    )
    torch.testing.assert_close(part(inputs), expected)
    with pytest.raises(AttributeError, match="third"):
        stacked.part("third")
