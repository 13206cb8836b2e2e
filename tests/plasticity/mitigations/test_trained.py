import copy

import pytest
import torch
from networks_in_training import adam, images, marker, single, stacked, step
from torch import nn
from torch.func import functional_call

from plasticity.mitigations.dropout import SeededDropout
from plasticity.mitigations.optimizer_views import optimizer_moments
from plasticity.optim.regularizers import regularized


def test_moments_are_the_optimizers_own_by_name():
    model = marker()
    optimizer = adam(model)
    weight = model.fc.weight
    assert optimizer_moments(optimizer, weight) == {}  # before the first step
    step(model, optimizer, images())
    found = optimizer_moments(optimizer, weight)
    assert found.keys() == {"exp_avg", "exp_avg_sq"}  # and no count of steps
    assert found["exp_avg"] is optimizer.state[weight]["exp_avg"]
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    step(model, sgd, images())
    assert optimizer_moments(sgd, weight).keys() == {"momentum_buffer"}


def test_the_count_of_steps_is_no_moment_even_of_a_single_number():
    number = torch.nn.Parameter(torch.ones(()))
    optimizer = torch.optim.Adam([number])
    number.square().backward()
    optimizer.step()
    assert optimizer_moments(optimizer, number).keys() == {"exp_avg", "exp_avg_sq"}


def test_the_anchor_of_a_decay_is_no_moment():
    model = marker()
    optimizer = regularized(torch.optim.SGD)(
        model.parameters(), lr=0.1, momentum=0.9, regularizer="l2-init", strength=0.1
    )
    step(model, optimizer, images())
    before = optimizer.anchor(model.fc.weight).clone()
    for moment in optimizer_moments(optimizer, model.fc.weight).values():
        moment.zero_()
    assert torch.equal(optimizer.anchor(model.fc.weight), before)
    assert (before != 0).any()


def test_one_of_several_networks_is_a_view_of_their_memory():
    models = [marker(seed) for seed in range(3)]
    networks, run, optimizer = stacked(models, images())
    step(run, optimizer, images().expand(3, *images().shape))
    own = networks.of_run(1)
    assert own.lead == ()
    moments = own.optimizer.moments("fc.weight")
    assert moments.keys() == {"exp_avg", "exp_avg_sq"}
    with torch.no_grad():
        own.parameters["fc.weight"].fill_(7.0)
        moments["exp_avg"].fill_(8.0)
    weight = networks.parameters["fc.weight"]
    assert (weight[1] == 7).all()
    assert (weight[[0, 2]] != 7).all()
    assert (networks.optimizer.moments("fc.weight")["exp_avg"][1] == 8).all()
    assert (networks.optimizer.moments("fc.weight")["exp_avg"][[0, 2]] != 8).all()


def test_forward_with_other_parameters():
    models = [marker(seed) for seed in range(2)]
    networks, _, _ = stacked(models, images())
    batches = torch.stack([images(seed=1), images(seed=2)])
    found = networks.forward(batches)
    for model, batch, own in zip(models, batches, found, strict=True):
        torch.testing.assert_close(own, model(batch))
    others = {"head.bias": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}
    found = networks.forward(batches, others)
    alone = single(models[0], adam(models[0]), images())
    for index, model in enumerate(models):
        own = {**dict(model.named_parameters()), "head.bias": others["head.bias"][index]}
        torch.testing.assert_close(found[index], functional_call(model, own, (batches[index],)))
    first = {"head.bias": others["head.bias"][0]}
    torch.testing.assert_close(alone.forward(batches[0], first), found[0])


def test_units_are_found_once_and_without_a_trace():
    model = marker()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    random = torch.get_rng_state()
    networks = single(model, adam(model), images())
    units = dict(networks.units)
    networks.find_units(torch.empty(0))  # which could not be run
    assert networks.units == units
    assert list(units) == ["conv", "fc"]
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(each, model.state_dict()[name]) for name, each in before.items())
    assert model.training


class Residual(nn.Module):
    """Two linear layers whose outputs are added, with or without an inner one whose outputs are not."""

    def __init__(self, *, inner):
        super().__init__()
        self.stem, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
        self.inner = nn.Linear(4, 5) if inner else nn.Identity()
        self.out = nn.Linear(5 if inner else 4, 4)

    def forward(self, inputs):
        start = self.stem(inputs).relu()
        return self.head(start + self.out(self.inner(start).relu()))


def test_layers_whose_units_are_added_to_others_are_left_alone():
    model = Residual(inner=True)
    assert list(single(model, adam(model), torch.ones(2, 3)).units) == ["inner"]
    model = Residual(inner=False)
    with pytest.raises(ValueError, match="'stem' cannot be reset one by one"):
        single(model, adam(model), torch.ones(2, 3))


@pytest.mark.parametrize("count", [1, 3])
def test_a_further_pass_leaves_dropout_and_running_statistics_as_they_are(count):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), SeededDropout(0.5), nn.Linear(4, 2))
    inputs = torch.randn(6, 3)
    buffers = {name: each.clone() for name, each in model.named_buffers()}
    random = torch.get_rng_state()
    if count == 1:
        networks = single(model, adam(model), inputs)
    else:
        networks, _, _ = stacked([model] * count, inputs)
        inputs = inputs.expand(count, -1, -1)
    outputs = networks.forward(inputs)
    assert networks.module.training
    assert all(each.training for each in networks.module.modules())
    for name, each in networks.buffers.items():
        assert torch.equal(each, buffers[name].expand(each.shape)), name
    assert torch.equal(torch.get_rng_state(), random)
    expected = copy.deepcopy(model).eval()(inputs.view(-1, 6, 3)[0])
    torch.testing.assert_close(outputs, expected.expand(outputs.shape))
    shift = buffers["1.running_mean"] + torch.ones((*networks.lead, 4))
    others = networks.forward(inputs, {"1.running_mean": shift})
    assert not torch.allclose(others, outputs)
