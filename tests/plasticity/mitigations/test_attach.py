"""Mitigations in plain loops: as in our trainer, continued exactly, with frozen and new weights."""

import copy
import io
import logging
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from plain_loops import Extra, make_batch, make_model, train
from torch import nn

from plasticity.agents.networks import MLP
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.agents.supervised.single import Classifier
from plasticity.initialization import Constant
from plasticity.mitigations import (
    Mitigation,
    ReDo,
    SeededMethod,
    Shift,
    Syre,
    WeightDecay,
)
from plasticity.mitigations.attach import attach
from plasticity.network_spec import NetworkSpec
from plasticity.optim import regularized
from plasticity.seeds import child_seed
from plasticity.tasks.streams.permuted_images import PermutedImagesConfig


@dataclass(frozen=True, kw_only=True)
class Watch(Mitigation):
    """Record of what a mitigation sees at each step; it never acts."""

    name: ClassVar[str] = "watch"
    claims: ClassVar[str] = "nothing"
    reads_units: ClassVar[bool] = True
    seen: list

    def after_step(self, context):
        self.seen.append({name: context.features(name).detach() for name in context.units})


@dataclass(frozen=True, kw_only=True)
class Churn(Mitigation):
    """Penalty that runs the model itself."""

    name: ClassVar[str] = "churn"
    claims: ClassVar[str] = "the churn"

    def penalty(self, context):
        return context.forward(context.inputs).square().mean()


def assert_equal(model, other):
    for name, each in model.state_dict().items():
        assert torch.equal(each, other.state_dict()[name]), name


def test_plain_loop_gives_the_weights_of_our_trainer(digits_task):
    spec = NetworkSpec(input_shape=(1, 8, 8), output_size=10)
    torch.manual_seed(0)
    network = MLP(hidden=(12, 12)).build(spec)
    mitigations = ReDo(every=3, tau=0.3), Syre(strength=1e-2, sigma=0.5)
    method = SeededMethod(mitigations, child_seed(0, "anchor"), child_seed(0, "mitigations"))
    config = ClassifierConfig(learning_rate=0.1, momentum=0.9, batch_size=32)
    classifier = Classifier(copy.deepcopy(network), config, method, data_order_seed=3)
    classifier.train(digits_task)
    (row,) = classifier.finish(digits_task)
    resets = {name: number for name, number in row.items() if name.startswith("reset_units/")}
    assert sum(resets.values()) > 5

    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    attached = attach(network, optimizer, *mitigations, seed=0)
    order = classifier._data_orders.get(0, 0, digits_task.num_train)
    for indices in order.split(32):
        images, labels = digits_task.train_batch(indices)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    assert attached.take_counts() == resets
    torch.testing.assert_close(
        network.state_dict(), classifier.network.state_dict(), rtol=1e-4, atol=1e-5
    )


@pytest.fixture
def digits_task():
    config = PermutedImagesConfig(dataset="digits", num_tasks=1)
    return config.make(config.load("cpu"), 0)[0]


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam])
def test_mitigation_that_never_fires_leaves_the_trajectory(make):
    plain, watched = make_model(), make_model()
    train(plain, make(plain.parameters(), lr=0.01), range(6))
    optimizer = make(watched.parameters(), lr=0.01)
    seen = []
    attached = attach(watched, optimizer, Watch(seen=seen), ReDo(every=1000))
    train(watched, optimizer, range(6), attached.penalty)
    assert len(seen) == 6
    assert list(seen[0]) == ["0", "2"]
    assert seen[0]["0"].shape == (8, 16)
    assert_equal(watched, plain)


def test_features_are_the_inputs_of_the_reader_before_the_step():
    model, seen = make_model(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(model, optimizer, Watch(seen=seen))
    inputs, labels = make_batch(0)
    expected = model[:2](inputs)
    model.eval()
    model(make_batch(1)[0])
    model.train()
    with torch.no_grad():
        model(make_batch(2)[0])
    nn.functional.cross_entropy(model(inputs), labels).backward()
    model.eval()
    model(make_batch(3)[0])
    optimizer.step()
    assert torch.equal(seen[0]["0"], expected)


def test_all_forward_passes_of_a_step_count():
    model, seen = make_model(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(model, optimizer, Watch(seen=seen))
    first, second = make_batch(0)[0], make_batch(1)[0]
    expected = torch.cat([model[:2](first), model[:2](second)])
    (model(first).mean() + model(second).square().mean()).backward()
    optimizer.step()
    assert torch.equal(seen[0]["0"], expected)


def test_passes_that_a_mitigation_runs_itself_do_not_count():
    model, seen = make_model(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attached = attach(model, optimizer, Watch(seen=seen), Churn())
    train(model, optimizer, range(2), attached.penalty)
    assert [each["0"].shape for each in seen] == [(8, 16), (8, 16)]


def test_detach_restores_the_plain_loop():
    plain, own = make_model(), make_model()
    train(plain, torch.optim.Adam(plain.parameters()), range(5))
    optimizer = torch.optim.Adam(own.parameters())
    attached = attach(own, optimizer, ReDo(every=1, tau=10.0), Syre(strength=1.0, sigma=1.0))
    attached.detach()
    train(own, optimizer, range(5))
    assert_equal(own, plain)
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert not any(each._forward_pre_hooks for each in own.modules())


def test_state_loads_with_weights_only_and_continues_exactly():
    def make(seed):
        model = make_model(seed)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        method = ReDo(every=3, tau=0.5), Syre(strength=1e-2, sigma=0.5)
        return model, optimizer, attach(model, optimizer, *method, inputs=make_batch(0)[0])

    whole, optimizer, attached = make(0)
    train(whole, optimizer, range(4))
    file = io.BytesIO()
    parts = whole, optimizer, attached
    torch.save([each.state_dict() for each in parts], file)
    train(whole, optimizer, range(4, 10))
    counts = attached.take_counts()
    assert sum(counts.values()) > 0

    continued = make(1)  # other weights, whose spread is not the one to draw from
    file.seek(0)
    for each, state in zip(continued, torch.load(file, weights_only=True), strict=True):
        each.load_state_dict(state)
    train(*continued[:2], range(4, 10))
    assert_equal(continued[0], whole)
    assert continued[2].take_counts() == counts


def test_state_continues_a_loaded_model_without_changing_its_weights_again():
    """Weights are shifted once; the state comes with attach, after those of model and optimizer."""
    method = ReDo(every=3, tau=0.5), Shift(sigma=0.5)
    whole = make_model()
    optimizer = torch.optim.Adam(whole.parameters(), lr=0.01)
    attached = attach(whole, optimizer, *method, inputs=make_batch(0)[0])
    train(whole, optimizer, range(4))
    states = copy.deepcopy([each.state_dict() for each in (whole, optimizer, attached)])
    train(whole, optimizer, range(4, 10))

    model = make_model(1)
    own = torch.optim.Adam(model.parameters(), lr=0.01)
    model.load_state_dict(states[0])
    own.load_state_dict(states[1])
    again = attach(model, own, *method, inputs=make_batch(0)[0], state=states[2])
    train(model, own, range(4, 10))
    assert_equal(model, whole)
    assert again.take_counts() == attached.take_counts()


def test_state_that_does_not_fit_leaves_nothing_attached():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = attach(model, optimizer, ReDo()).state_dict()
    other = make_model()
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"belongs to the mitigations \['redo'\]"):
        attach(other, optimizer, Churn(), state=state)
    assert not optimizer._optimizer_step_pre_hooks
    with pytest.raises(ValueError, match=r"extra adds \['extra'\].*lacks"):
        attach(other, optimizer, Extra(), state=state)


def test_observed_inputs_and_dropped_passes():
    """A loop that calls layers tells the inputs, and drops a pass that no step follows."""
    model, seen = make_model(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attached = attach(model, optimizer, Watch(seen=seen), inputs=make_batch(0)[0])
    first, second = make_batch(0)[0], make_batch(1, size=3)[0]
    for batch in (first, second):
        attached.drop_passes()
        attached.observe(batch)
        outputs = batch
        for layer in model:
            outputs = layer(outputs)
    assert attached._hooks.progress.inputs is second
    expected = model[:2](second)
    outputs.mean().backward()
    optimizer.step()
    assert torch.equal(seen[0]["0"], expected)  # and not those of the first pass


def test_state_of_other_mitigations_is_refused():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = attach(model, optimizer, Syre(strength=1e-2)).state_dict()
    other = make_model()
    attached = attach(other, torch.optim.SGD(other.parameters(), lr=0.1), ReDo())
    with pytest.raises(
        ValueError, match=r"belongs to the mitigations \[\], but these are \['redo'\]"
    ):
        attached.load_state_dict(state)


def test_frozen_layers_are_left_alone_until_they_are_trained_again():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    attached = attach(model, optimizer, ReDo(every=1, tau=1e9))  # which resets every unit
    model[0].requires_grad_(False)
    before = copy.deepcopy(model[0].state_dict())
    train(model, optimizer, range(1))
    assert attached.take_counts() == {"reset_units/2": 12.0}
    for name, each in model[0].state_dict().items():
        assert torch.equal(each, before[name])
    model[0].requires_grad_(True)
    train(model, optimizer, range(1))
    assert attached.take_counts() == {"reset_units/0": 16.0, "reset_units/2": 12.0}


def test_layers_of_another_optimizer_are_left_alone(caplog):
    model = make_model()
    optimizer = torch.optim.SGD(model[2:].parameters(), lr=0.01)
    with caplog.at_level(logging.INFO, "plasticity"):
        attached = attach(model, optimizer, ReDo(every=1, tau=1e9), inputs=make_batch(0)[0])
    assert "Left alone, since not all of their weights are trained: ['0']" in caplog.text
    train(model, optimizer, range(1))
    assert attached.take_counts() == {"reset_units/2": 12.0}
    head = torch.optim.SGD(model[4:].parameters(), lr=0.01)
    with pytest.raises(ValueError, match=r"no hidden layer of which the optimizer trains all"):
        attach(model, head, ReDo(), inputs=make_batch(0)[0])


class TwoBranches(nn.Module):
    """Model that runs its second branch only when asked."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (
            nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)) for _ in range(2)
        )
        self.both = True

    def forward(self, inputs):
        outputs = self.first(inputs)
        return outputs + self.second(inputs) if self.both else outputs


def test_layer_that_did_not_run_is_left_alone():
    torch.manual_seed(0)
    model = TwoBranches()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    attached = attach(model, optimizer, ReDo(every=1, tau=1e9), inputs=make_batch(0)[0])
    model.both = False
    before = copy.deepcopy(model.second.state_dict())
    train(model, optimizer, range(1))
    assert attached.take_counts() == {"reset_units/first.0": 4.0}
    for name, each in model.second.state_dict().items():
        assert torch.equal(each, before[name])
    model.both = True
    train(model, optimizer, range(1))
    assert attached.take_counts() == {"reset_units/first.0": 4.0, "reset_units/second.0": 4.0}


def test_step_before_any_forward_pass():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(model, optimizer, ReDo())
    with pytest.raises(RuntimeError, match=r"give attach\(…, inputs=…\)"):
        optimizer.step()


def test_step_whose_passes_were_not_in_training_mode():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(model, optimizer, ReDo(every=2), inputs=make_batch(0)[0])
    model.eval()
    train(model, optimizer, range(1))  # no features needed
    with pytest.raises(RuntimeError, match=r"call model\.train\(\) before"):
        train(model, optimizer, range(1))


def test_groups_that_join_later_are_acted_on():
    model = make_model()
    optimizer = torch.optim.SGD(model[2:].parameters(), lr=0.1)
    method = ReDo(every=2, tau=1e9), WeightDecay(strength=0.5)
    attached = attach(model, optimizer, *method, inputs=make_batch(0)[0])
    optimizer.add_param_group({"params": model[0].parameters(), "lr": 0.01})
    inputs, labels = make_batch(0)
    nn.functional.cross_entropy(model(inputs), labels).backward()
    before, gradient = model[0].weight.detach().clone(), model[0].weight.grad.clone()
    optimizer.step()
    # weight - lr * (gradient + strength * weight), with the learning rate of its own group
    torch.testing.assert_close(model[0].weight, before - 0.01 * (gradient + 0.5 * before))
    train(model, optimizer, range(1))
    assert attached.take_counts() == {"reset_units/0": 16.0, "reset_units/2": 12.0}


def test_parameters_that_the_model_gets_later_are_named_in_a_warning():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(model, optimizer, ReDo())
    model.add_module("5", nn.Linear(3, 3))
    optimizer.add_param_group({"params": model[5].parameters()})
    with pytest.warns(UserWarning, match=r"\['5.weight', '5.bias'\] are newer"):
        train(model, optimizer, range(1))


def test_two_handles_on_one_optimizer():
    both, apart = make_model(), make_model()
    first = torch.optim.Adam(both.parameters(), lr=0.01)
    attach(both, first, ReDo(every=2, tau=0.5), Syre(strength=0.1, sigma=0.5), seed=3)
    second = torch.optim.Adam(apart.parameters(), lr=0.01)
    redo = attach(apart, second, ReDo(every=2, tau=0.5), seed=3)
    attach(apart, second, Syre(strength=0.1, sigma=0.5), seed=3)
    train(both, first, range(6))
    train(apart, second, range(6))
    assert_equal(apart, both)
    assert sum(redo.take_counts().values()) > 0
    with pytest.raises(ValueError, match="redo and redo both set which units are reset"):
        attach(apart, second, ReDo())
    with pytest.raises(ValueError, match="syre and weight-decay both set the decay"):
        attach(apart, second, WeightDecay())


def test_two_models_of_one_optimizer():
    actor, critic = make_model(0), make_model(1)
    optimizer = torch.optim.SGD([*actor.parameters(), *critic.parameters()], lr=0.01)
    handles = [attach(each, optimizer, ReDo(every=1, tau=1e9)) for each in (actor, critic)]
    inputs, labels = make_batch(0)
    (nn.functional.cross_entropy(actor(inputs), labels) + critic(inputs).mean()).backward()
    optimizer.step()
    assert [sum(each.take_counts().values()) for each in handles] == [28.0, 28.0]


def test_regularized_optimizer_takes_mitigations_that_are_no_decay():
    own, other = make_model(), make_model()
    settings = {"lr": 0.1, "regularizer": "weight-decay", "strength": 0.1}
    first = regularized(torch.optim.SGD)(own.parameters(), **settings)
    second = regularized(torch.optim.SGD)(other.parameters(), **settings)
    attached = attach(own, first, ReDo(every=4, tau=0.5))
    train(own, first, range(3))
    train(other, second, range(3))
    assert_equal(own, other)
    train(own, first, range(3, 4))
    assert sum(attached.take_counts().values()) > 0
    with pytest.raises(ValueError, match="is regularized already"):
        attach(other, second, Syre())


def test_shift_moves_the_weights_as_before_a_run():
    own, other = make_model(), make_model()
    attach(own, torch.optim.SGD(own.parameters(), lr=0.1), Shift(sigma=0.5), seed=4)
    Shift(sigma=0.5).initial_weights(other, child_seed(4, "anchor"))
    assert_equal(own, other)
    assert not torch.equal(own[0].weight, make_model()[0].weight)


def test_refused_attachment_leaves_everything_as_it_was():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(KeyError, match="no layer 'hidden'"):
        attach(
            model, optimizer, Shift(sigma=1.0), ReDo(), inputs=make_batch(0)[0], layers=["hidden"]
        )
    assert_equal(model, make_model())
    train(model, optimizer, range(2))  # no hook is left


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.inner, self.out = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, inputs):
        hidden = self.stem(inputs).relu()
        return self.head(hidden + self.out(self.inner(hidden).relu()))


class RawWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.weight = nn.Linear(5, 6), nn.Parameter(torch.randn(6, 3))

    def forward(self, inputs):
        return self.first(inputs).relu() @ self.weight


def test_residual_sum_names_the_layers_and_the_remedy():
    torch.manual_seed(0)
    model = Residual()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with pytest.raises(ValueError, match="Those that can") as fault:
        attach(model, optimizer, ReDo(), inputs=make_batch(0)[0])
    assert "'stem' cannot be reset one by one: its units are added to those of out" in str(
        fault.value
    )
    assert "layers=['inner']" in str(fault.value)
    attached = attach(
        model, optimizer, ReDo(every=1, tau=1e9), inputs=make_batch(0)[0], layers=["inner"]
    )
    train(model, optimizer, range(1))
    assert attached.take_counts() == {"reset_units/inner": 6.0}
    attached.detach()
    attached = attach(model, optimizer, ReDo(every=1, tau=1e9), readers={"inner": "out"})
    train(model, optimizer, range(1))
    assert attached.take_counts() == {"reset_units/inner": 6.0}
    assert torch.equal(model.out.weight, torch.zeros(6, 6))


def test_raw_parameter_as_reader_is_named():
    model = RawWeight()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with pytest.raises(
        ValueError, match=r"features of 'first' are read by 'weight', which is no module"
    ):
        attach(model, optimizer, ReDo(), inputs=make_batch(0)[0])


def test_units_that_are_reset_by_an_arithmetic_of_one_step():
    """Units 1 of three is silent: its weights are drawn anew, its readers' column and moments are 0."""
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
        model[0].bias.copy_(torch.tensor([0.0, -9.0, 0.0]))
        model[2].weight.fill_(1.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
    attached = attach(model, optimizer, ReDo(every=1, tau=0.0), initialize={"0.*": Constant(7.0)})
    model(torch.ones(4, 2)).sum().backward()
    optimizer.step()
    assert attached.take_counts() == {"reset_units/0": 1.0}
    assert model[0].weight.tolist() == [[1.0, 0.0], [7.0, 7.0], [1.0, 1.0]]
    assert model[0].bias.tolist() == [0.0, 0.0, 0.0]
    assert model[2].weight.tolist() == [[1.0, 0.0, 1.0]]
    moments = optimizer.state[model[2].weight]["exp_avg"]
    # gradient of the reader: the sum of 4 features of 1, 0, 2; Adam's first moment is a tenth of it
    torch.testing.assert_close(moments, torch.tensor([[0.4, 0.0, 0.8]]))
    assert optimizer.state[model[0].weight]["exp_avg"][1].tolist() == [0.0, 0.0]


def test_silent_layer_is_reset_in_half_precision():
    model = make_model()
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    attached = attach(model, optimizer, ReDo(every=1, tau=0.0))
    with torch.autocast("cpu", torch.float16):
        model(make_batch(0)[0]).float().mean().backward()
    optimizer.step()
    assert attached.take_counts()["reset_units/0"] == 16.0


def test_boundary_and_penalty():
    tasks = []

    @dataclass(frozen=True, kw_only=True)
    class Ends(Mitigation):
        name: ClassVar[str] = "ends"
        claims: ClassVar[str] = "ends"

        def boundary(self, context):
            tasks.append((context.task, context.step, [len(x) for x, _ in context.batches()]))

        def penalty(self, context):
            return 3 * context.parameters["0.weight"].square().sum()

    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    attached = attach(model, optimizer, Ends())
    expected = 3 * model[0].weight.square().sum()
    assert torch.equal(attached.penalty(), expected)
    train(model, optimizer, range(2), attached.penalty)
    attached.boundary(1, [make_batch(0), make_batch(1, size=3)])
    assert tasks == [(1, 2, [8, 3])]
    other = make_model()
    none = attach(other, torch.optim.SGD(other.parameters(), lr=0.01), WeightDecay())
    assert none.penalty() == 0
