import pytest
import torch
from networks_in_training import Training
from torch import nn
from torch.nn import functional

from plasticity.mitigations import DASH
from plasticity.mitigations.attach import attach


def shrunk(weight, direction, dash, *, layer=None):
    """Return a weight after a boundary whose data have this descent direction."""
    layer = nn.Linear(len(weight[0]), len(weight), bias=False) if layer is None else layer
    layer.weight.data = torch.tensor(weight)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    inputs = torch.ones(1, *layer.weight.shape[1:])
    attached = attach(layer, optimizer, dash, inputs=inputs)
    # outputs whose sum has the gradient -direction: one example for each input of a unit
    directions = torch.tensor(direction)
    batches = [(torch.eye(len(weight[0])), -directions.T)]
    attached.boundary(1, batches, lambda outputs, targets: (outputs * targets).sum())
    return layer.weight


@pytest.mark.parametrize(
    ("direction", "floor", "expected"),
    [
        ([1.0, 1.0], 0.1, 0.5**0.5),  # the cosine of 45 degrees
        ([3.0, 0.0], 0.1, 1.0),
        ([-1.0, 0.0], 0.1, 0.1),
        ([0.0, 1.0], 0.25, 0.25),
        ([0.0, 0.0], 0.25, 0.25),
        ([-1.0, 0.0], 1.0, 1.0),
    ],
)
def test_a_unit_shrinks_by_its_angle_to_the_descent_direction(direction, floor, expected):
    found = shrunk([[1.0, 0.0], [0.0, 2.0]], [direction, [0.0, 1.0]], DASH(floor=floor))
    torch.testing.assert_close(found, torch.tensor([[expected, 0.0], [0.0, 2.0]]))


def test_gradients_are_averaged_over_batches():
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, 0.0]])
    attached = attach(
        layer,
        torch.optim.SGD(layer.parameters(), lr=0.1),
        DASH(alpha=0.25, floor=0.0),
        inputs=torch.ones(1, 2),
    )
    batches = [(torch.tensor([[-1.0, 0.0]]), None), (torch.tensor([[0.0, -1.0]]), None)]
    attached.boundary(1, batches, lambda outputs, _: outputs.sum())
    # 0.25 (1, 0), then 0.75 * 0.25 (1, 0) + 0.25 (0, 1): a cosine of 0.75 / sqrt(0.75^2 + 1)
    torch.testing.assert_close(layer.weight, torch.tensor([[0.6, 0.0]]))


def test_biases_are_one_vector_and_kernels_each_one():
    network = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(3, 2))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    inputs, labels = torch.randn(5, 2, 2, 2), torch.tensor([0, 1, 0, 1, 1])
    attached = attach(network, optimizer, DASH(alpha=1.0, floor=0.05), inputs=inputs)
    before = {name: each.detach().clone() for name, each in network.named_parameters()}
    functional.cross_entropy(network(inputs), labels).backward()
    descent = {name: -each.grad for name, each in network.named_parameters()}
    attached.boundary(1, [(inputs, labels)])  # cross-entropy, unless another loss is given
    for name, each in network.named_parameters():
        own, other = before[name], descent[name]
        own, other = (one.reshape(6, 4) if name == "0.weight" else one for one in (own, other))
        cosine = (own * other).sum(-1) / (own.norm(dim=-1) * other.norm(dim=-1))
        expected = own * cosine.clamp(0.05, 1).unsqueeze(-1)
        torch.testing.assert_close(each, expected.view(each.shape))


def test_statistics_normalizations_and_gradients_stay():
    run = Training((DASH(),)).train(5)
    before = run.everything()
    gradients = {name: each.grad.clone() for name, each in run.networks.named_parameters()}
    run.hooks.boundary(1, [0], run.task_batches)
    for name, each in run.everything().items():
        if name.split(".")[0] in ("norm", "scale") and "/" not in name:
            assert torch.equal(each, before[name]), name
        elif "/" in name:
            assert not each.any()
        else:
            assert not torch.equal(each, before[name]), name
    for name, each in run.networks.named_parameters():
        assert torch.equal(each.grad, gradients[name])


def test_without_data_there_is_an_error():
    layer = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    attached = attach(layer, optimizer, DASH(), inputs=torch.ones(1, 2))
    with pytest.raises(RuntimeError, match="no batches of the task that begins"):
        attached.boundary(1)


@pytest.mark.parametrize(
    ("field", "value"), [("alpha", 0.0), ("alpha", 1.1), ("floor", 2), ("restart_optimizer", 1)]
)
def test_a_wrong_setting_is_refused(field, value):
    with pytest.raises((ValueError, TypeError), match=field):
        DASH(**{field: value})


def test_all_forms_agree(trains_alike):
    trains_alike((DASH(),), (DASH(alpha=0.9, floor=0.5),))


@pytest.mark.parametrize("loss", ["cross-entropy", "squared-error"])
def test_stacked_as_alone(stacked_as_alone, loss):
    stacked_as_alone((DASH(),), (DASH(alpha=0.9, floor=0.5),), **{"agent.loss": loss})


def test_data_that_were_read_before_are_an_error():
    network = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    attached = attach(network, optimizer, DASH(), inputs=torch.ones(1, 2))
    before = network.weight.detach().clone()
    with pytest.raises(ValueError, match="no batch of the task that begins"):
        attached.boundary(1, iter(()), nn.functional.mse_loss)
    assert torch.equal(network.weight, before)
