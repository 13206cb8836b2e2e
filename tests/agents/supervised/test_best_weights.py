"""Best weights: kept by hand, alone and stacked, and in a training that is stopped and continued."""

import pytest
import torch
from torch import nn
from trained_blobs import FORMS, Blobs, after, load, make, saved, weights

from plasticity.agents.execution.single import SingleNetwork
from plasticity.agents.networks import VGG
from plasticity.agents.supervised.best_weights import BestWeights
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.stacking.networks import StackedNetworks
from plasticity.tasks.streams.base import StackedTask

SETTINGS = {"learning_rate": 0.5, "batch_size": 16, "epochs_per_task": 5, "keep_best": True}
NETWORK = VGG(channels=(4,), convolutions=1, hidden=(8,), batch_norm=True)


class Validated(Blobs):
    """Blobs, of which the first test images, with labels that disagree, are for validation."""

    num_validation = 9

    def validation_batches(self, batch_size):
        labels = (self.labels[50:59] + torch.arange(9) % 3 // 2) % 2
        yield from zip(self.images[50:59].split(batch_size), labels.split(batch_size), strict=True)


def task_of(form, index=0):
    if form == "single":
        return Validated(index)
    return StackedTask((Validated(index), Validated(index, seed=1)))


def linear(values):
    network = nn.Linear(1, 1)
    with torch.no_grad():
        network.weight.fill_(values)
    return network


def test_each_network_keeps_its_own_best_and_of_equals_the_first():
    networks = StackedNetworks([linear(0.0), linear(0.0)])
    best = BestWeights(networks, (2,))
    (weight,) = (each for name, each in networks.parameters.items() if name == "weight")
    accuracies = [(0.5, 0.9), (0.7, 0.9), (0.7, 0.2), (0.6, 0.95)]
    for number, each in enumerate(accuracies):
        with torch.no_grad():
            weight.fill_(number)
        best.offer(torch.tensor(each))
    best.restore([0])
    assert weight.flatten().tolist() == [1.0, 3.0]
    with torch.no_grad():
        weight.fill_(7.0)
    best.restore([0, 1])
    assert weight.flatten().tolist() == [1.0, 3.0]
    best.forget()
    with torch.no_grad():
        weight.fill_(9.0)
    best.restore([0, 1])  # nothing is kept
    assert weight.flatten().tolist() == [9.0, 9.0]


def test_states_fit_one_network_and_stacked_ones():
    network = linear(2.0)
    alone = BestWeights(SingleNetwork(network), ())
    assert alone.state_dict(0) is None
    alone.offer(torch.tensor(0.25))
    networks = StackedNetworks([linear(0.0), linear(5.0)])
    stacked = BestWeights(networks, (2,))
    stacked.load_state_dict(alone.state_dict(0), 1)
    stacked.load_state_dict(None, 0)
    stacked.restore([0, 1])
    assert networks.parameters["weight"].flatten().tolist() == [0.0, 2.0]
    stacked.offer(torch.tensor([0.1, 0.25]))  # no better than what was loaded
    with torch.no_grad():
        networks.parameters["weight"].fill_(8.0)
    stacked.restore([0, 1])
    assert networks.parameters["weight"].flatten().tolist() == [0.0, 2.0]
    stacked.load_state_dict(None, 1)  # forgotten for the second only
    with torch.no_grad():
        networks.parameters["weight"].fill_(8.0)
    stacked.restore([0, 1])
    assert networks.parameters["weight"].flatten().tolist() == [0.0, 8.0]


@pytest.mark.parametrize("form", FORMS)
def test_a_network_ends_as_after_its_best_epoch(form):
    trainer = make(form, ClassifierConfig(**SETTINGS), network=NETWORK)
    plain = make(form, ClassifierConfig(**{**SETTINGS, "keep_best": False}), network=NETWORK)
    task = task_of(form)
    found, states = [], []
    assert trainer.train(task)
    for epoch in range(1, 6):  # 50 examples: 4 steps in each
        plain.train(task, after(4))
        found.append(plain._evaluate(task.validation_batches(100))[0].view(-1).tolist())
        states.append([plain._networks.state_dict(i) for i in range(plain.num_networks)])
        states[-1] = [{k: v.clone() for k, v in each.items()} for each in states[-1]]
        assert plain.task_progress == epoch / 5
    accuracies = [list(each) for each in zip(*found, strict=True)]
    assert any(each.index(max(each)) < 4 for each in accuracies)  # the last epoch is not the best
    for index, own in enumerate(accuracies):
        expected = states[own.index(max(own))][index]
        for name, each in trainer._networks.state_dict(index).items():
            assert torch.equal(each, expected[name]), name


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("steps", [3, 4, 11, 19])
def test_stopped_and_continued_equals_uninterrupted(form, steps):
    config = ClassifierConfig(**SETTINGS)
    straight, stopped = (make(form, config, network=NETWORK) for _ in range(2))
    task = task_of(form)
    straight.train(task)
    assert stopped.train(task, after(steps)) is False
    resumed = load(make(form, config, seed=6, network=NETWORK), saved(stopped))
    assert resumed.train(task)
    assert resumed.finish(task) == straight.finish(task)
    for index in range(straight.num_networks):
        own, other = (each._networks.state_dict(index) for each in (straight, resumed))
        assert all(torch.equal(own[name], other[name]) for name in own)
    for each in (straight, resumed):  # the next task begins without a best one
        each.train(task_of(form, 1))
    assert torch.equal(weights(straight), weights(resumed))


def test_a_frozen_network_stays():
    trainer = make("stacked", ClassifierConfig(**SETTINGS), network=NETWORK)
    trainer.freeze(1)
    before = {name: each[1].clone() for name, each in trainer.parameters.items()}
    trainer.train(task_of("stacked"))
    for name, each in trainer.parameters.items():
        assert torch.equal(each[1], before[name])


def test_tasks_without_validation_are_refused():
    for task in (Blobs(), StackedTask((Validated(), Blobs()))):
        trainer = make(
            "single" if isinstance(task, Blobs) else "stacked", ClassifierConfig(**SETTINGS)
        )
        with pytest.raises(ValueError, match=r"--keep-best needs examples .* task 0 has none: set"):
            trainer.train(task)
