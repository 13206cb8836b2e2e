"""Plasticity injection: what stays at the injection, what is frozen, and where a head ends."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional

from plasticity.mitigations import (
    Dropout,
    L2Init,
    PlasticityInjection,
    ReDo,
    Syre,
    WeightDecay,
    WFix,
)
from plasticity.mitigations.attach import attach
from plasticity.mitigations.dropout import SeededDropout

HEAD = ("2", "4")
"""Linear layers in the head of `network`."""


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)
    ).double()


def take_steps(model, optimizer, steps, seed=0):
    draws = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        inputs = torch.randn(20, 4, generator=draws, dtype=torch.float64)
        optimizer.zero_grad()
        torch.sin(model(inputs) + inputs[:, :1]).square().mean().backward()
        optimizer.step()


def injected(*others, base=torch.optim.AdamW, steps=10, **settings):
    """Return a model right after an injection, its optimizer, the model as before, and the handle."""
    model = network()
    optimizer = base(model.parameters(), lr=0.01, **settings)
    attached = attach(model, optimizer, PlasticityInjection(), *others)
    take_steps(model, optimizer, steps)
    before = network()
    before.load_state_dict({name: model.state_dict()[name] for name in before.state_dict()})
    attached.boundary(1)
    return model, optimizer, before, attached


def copies(model, kind):
    head = getattr(model[4].injection, kind)
    return {
        f"{name}.{own}": each
        for name in HEAD
        for own, each in head[0 if name == "2" else 2].named_buffers()
    }


def test_outputs_and_gradients_before_the_head_stay():
    model, _, before, _ = injected()
    inputs = torch.randn(50, 4, dtype=torch.float64)
    for each in (model, before):
        each.zero_grad()
        each(inputs).square().sum().backward()
    torch.testing.assert_close(model(inputs), before(inputs))
    torch.testing.assert_close(model[0].weight.grad, before[0].weight.grad)
    assert not torch.allclose(model[2].weight.grad, before[2].weight.grad)


def test_the_head_is_frozen_and_drawn_anew():
    model, optimizer, before, _ = injected()
    for name, each in copies(model, "frozen").items():
        assert torch.equal(each, before.get_parameter(name))
    for name, each in copies(model, "start").items():
        assert torch.equal(each, model.get_parameter(name))
        assert (each != before.get_parameter(name)).all()
    for place, layer in enumerate(model):
        if isinstance(layer, nn.Linear):
            state = optimizer.state[layer.weight]
            assert state["step"] == 10
            assert (state["exp_avg"] == 0).all() == (place > 0)
            assert (state["exp_avg_sq"] == 0).all() == (place > 0)
    assert sum(each.numel() for each in model.parameters()) == sum(
        each.numel() for each in network().parameters()
    )


@pytest.mark.parametrize(
    ("base", "settings"),
    [
        (torch.optim.AdamW, {"weight_decay": 0.5}),
        (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.5}),
    ],
)
def test_decay_and_momentum_move_only_the_new_head(base, settings):
    model, optimizer, *_ = injected(base=base, **settings)
    frozen = {
        kind: {n: e.clone() for n, e in copies(model, kind).items()} for kind in ("frozen", "start")
    }
    trained = {name: each.detach().clone() for name, each in model.named_parameters()}
    take_steps(model, optimizer, 20)
    for kind, before in frozen.items():
        for name, each in copies(model, kind).items():
            assert torch.equal(each, before[name])
    assert all((each != trained[name]).any() for name, each in model.named_parameters())


def test_outputs_are_the_sum_of_three_heads():
    model, optimizer, _, _ = injected()
    take_steps(model, optimizer, 5)
    inputs = torch.randn(7, 4, dtype=torch.float64)
    features = torch.tanh(model[0](inputs))

    def head(weights):
        hidden = functional.linear(features, weights["2.weight"], weights["2.bias"]).relu()
        return functional.linear(hidden, weights["4.weight"], weights["4.bias"])

    frozen, start = copies(model, "frozen"), copies(model, "start")
    expected = head(frozen) + head(dict(model.named_parameters())) - head(start)
    torch.testing.assert_close(model(inputs), expected)


@pytest.mark.parametrize("others", [(), (WeightDecay(strength=0.1),), (Syre(),)])
def test_training_is_as_without_before_the_injection(others):
    found = []
    for mitigations in (others, (PlasticityInjection(), *others)):
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        if mitigations:
            attach(model, optimizer, *mitigations)
        take_steps(model, optimizer, 20)
        found.append([each.detach() for each in model.parameters()])
    for own, plain in zip(*found, strict=True):
        assert torch.equal(own, plain)


def test_it_happens_once():
    model, optimizer, _, attached = injected()
    take_steps(model, optimizer, 5)
    before = copy.deepcopy(model.state_dict())
    attached.boundary(2)
    for name, each in model.state_dict().items():
        assert torch.equal(each, before[name])


def test_a_task_or_a_step_decides_when():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    attached = attach(model, optimizer, PlasticityInjection(task=3))
    for task in (1, 2, 4):  # of which the third is passed over
        attached.boundary(task)
        assert model[4].injection.is_used == (task == 4)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    attached = attach(model, optimizer, PlasticityInjection(step=3))
    attached.boundary(5)
    for step in range(1, 5):
        take_steps(model, optimizer, 1)
        assert model[4].injection.is_used == (step >= 3)


def test_a_dropout_in_the_head_drops_the_same_entries_of_all_three():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), SeededDropout(0.5), nn.Linear(6, 3))
    Dropout(probability=0.5).initial_weights(model, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attached = attach(model, optimizer, PlasticityInjection())
    inputs = torch.randn(5, 4)
    model(inputs).square().sum().backward()
    optimizer.step()
    passes = model[2].passes.clone()
    before = model(inputs)
    assert not torch.equal(model(inputs), before)  # with other noise
    model[2].passes.copy_(passes)
    attached.boundary(1)
    torch.testing.assert_close(model(inputs), before)


def test_copies_and_pickles_follow_their_own_weights():
    model, *_, attached = injected()
    attached.detach()
    inputs = torch.randn(5, 4, dtype=torch.float64)
    for own in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        expected = own(inputs)
        with torch.no_grad():
            model[2].weight.add_(1.0)
        torch.testing.assert_close(own(inputs), expected)
        with torch.no_grad():
            own[4].injection.frozen[2].bias.add_(1.0)
        torch.testing.assert_close(own(inputs), expected + 1)


class Functional(nn.Module):
    """Three layers, with an activation between two of them that is no module."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, inputs):
        return self.fc3(torch.relu(self.fc2(self.fc1(inputs))))


def test_a_model_whose_layers_are_not_in_a_row_is_refused():
    model = Functional()
    attach(model, torch.optim.SGD(model.parameters(), lr=0.1), PlasticityInjection())
    with pytest.raises(ValueError, match=r"The layers \['fc2', 'fc3'\] are no head"):
        model(torch.randn(2, 4))
    model = Functional()
    PlasticityInjection(outputs=("fc2",)).initial_weights(model, 0)
    assert model(torch.randn(2, 4)).shape == (2, 3)
    assert model.fc2.injection.frozen.fc1.weight.shape == (6, 4)


def test_too_few_layers_are_refused():
    with pytest.raises(ValueError, match="layers=4, but there are 3 linear layers"):
        PlasticityInjection(layers=4).initial_weights(network(), 0)
    with pytest.raises(ValueError, match="Conv2d has no linear layer inside"):
        PlasticityInjection().initial_weights(nn.Conv2d(1, 2, 3), 0)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="w-fix and plasticity-injection both set the fixed"):
        attach(model, optimizer, WFix(), PlasticityInjection())


@pytest.mark.parametrize(
    ("field", "value"), [("layers", 0), ("task", 0), ("step", 0), ("outputs", "fc2")]
)
def test_a_wrong_setting_is_refused(field, value):
    with pytest.raises((ValueError, TypeError), match=field):
        PlasticityInjection(**{field: value})


def test_stacked_as_alone(stacked_as_alone):
    stacked_as_alone((PlasticityInjection(),), (PlasticityInjection(),))


def test_an_agent_stacked_as_alone(ppo_stacked_as_alone):
    method = (PlasticityInjection(step=5),)
    ppo_stacked_as_alone(method, method)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("step", [None, 5])
def test_a_run_continues_exactly(continues_exactly, stacked, step):
    continues_exactly((PlasticityInjection(step=step), L2Init()), stacked=stacked)


def test_units_before_the_head_are_reset_with_all_that_read_them():
    model, optimizer, _, attached = injected()
    attached.detach()
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 0.0, 0.0  # a silent unit before the head
        model[2].bias[3] = -100.0  # and one in it
    inputs = torch.randn(30, 4, dtype=torch.float64)
    frozen = {name: each.clone() for name, each in copies(model, "frozen").items()}
    before = model(inputs)
    optimizer.param_groups[0]["lr"] = 0.0
    handle = attach(model, optimizer, ReDo(every=1, tau=0.0))
    model(inputs).square().sum().backward()
    optimizer.step()
    assert handle.take_counts() == {"reset_units/0": 1, "reset_units/2": 1}
    torch.testing.assert_close(model(inputs), before)
    found = copies(model, "frozen")
    assert (found["2.weight"] == 0).all(0).tolist() == [False, True, *[False] * 4]
    assert torch.equal(found["4.weight"], frozen["4.weight"])


def test_a_reset_and_an_injection_in_a_run_continue_exactly(continues_exactly):
    continues_exactly((PlasticityInjection(), ReDo(every=5, tau=0.9)), stacked=True)


def test_an_agent_continues_exactly(ppo_continues_exactly):
    ppo_continues_exactly((PlasticityInjection(step=10),))
