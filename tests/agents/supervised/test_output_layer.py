"""Output layer: found by its units, and zeroed when a task begins."""

import pytest
import torch
from torch import nn
from trained_blobs import FORMS, after, load, make, saved, task_of, weights

from plasticity.agents.networks import CNN, MLP, VGG, ResNet
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.agents.supervised.output_layer import output_parameters
from plasticity.mitigations import SeededMethod, ShrinkPerturb

ZEROED = ClassifierConfig(learning_rate=0.05, batch_size=16, momentum=0.9, output_layer="zeroed")


@pytest.mark.parametrize(
    ("network", "layer"),
    [(CNN(), "fc2"), (MLP(), "fc2"), (VGG(channels=(4,)), "fc2"), (ResNet(width=2), "output")],
)
def test_the_last_layer_is_found(network, layer):
    made = network.make((1, 8, 8), 3)
    state = {name: each.clone() for name, each in made.state_dict().items()}
    assert output_parameters(made, torch.rand(2, 1, 8, 8)) == (f"{layer}.weight", f"{layer}.bias")
    assert made.training
    assert all(torch.equal(each, state[name]) for name, each in made.state_dict().items())


def test_a_network_whose_outputs_cannot_be_followed():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, inputs):
            return self.layer(inputs).cumsum(1)

    with pytest.raises(ValueError, match="cannot be told which layer makes the model's output"):
        output_parameters(Odd(), torch.rand(2, 3))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("index", [0, 3])
def test_the_output_layer_is_zero_when_a_task_begins_and_nothing_else(form, index):
    trainer = make(form, ZEROED)
    before = {name: each.detach().clone() for name, each in trainer.parameters.items()}
    trainer.train(task_of(form, index), after(0))
    for name, each in trainer.parameters.items():
        expected = torch.zeros_like(each) if name.startswith("fc2") else before[name]
        assert torch.equal(each, expected), name


@pytest.mark.parametrize("form", FORMS)
def test_it_is_zeroed_once_a_task_after_all_mitigations_and_momentum_stays(form):
    noisy = SeededMethod((ShrinkPerturb(restart_optimizer=False),), noise_seed=3)
    trainer = make(form, ZEROED, noisy)
    trainer.train(task_of(form))
    trainer.finish(task_of(form))
    optimizer = trainer.optimizer

    def momentum():
        states = [optimizer.state_dict()] if form == "single" else [optimizer.state_dict(0)]
        return [each["momentum_buffer"].clone() for each in states[0]["state"].values()]

    kept = momentum()
    trainer.train(task_of(form, 1), after(0))
    assert not any(trainer.parameters[f"fc2.{name}"].any() for name in ("weight", "bias"))
    assert all(torch.equal(*pair) for pair in zip(momentum(), kept, strict=True))
    trainer.train(task_of(form, 1), after(2))  # continued: not zeroed again
    assert trainer.parameters["fc2.weight"].any()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("steps", [0, 1])
def test_stopped_and_continued_equals_uninterrupted(form, steps):
    straight, stopped = (make(form, ZEROED) for _ in range(2))
    for trainer in (straight, stopped):
        trainer.train(task_of(form))
        trainer.finish(task_of(form))
    task = task_of(form, 1)
    straight.train(task)
    assert stopped.train(task, after(steps)) is False
    resumed = load(make(form, ZEROED, seed=6), saved(stopped))
    resumed.train(task)
    assert straight.finish(task) == resumed.finish(task)
    assert torch.equal(weights(straight), weights(resumed))


def test_a_frozen_network_stays():
    trainer = make("stacked", ZEROED)
    trainer.freeze(0)
    trainer.train(task_of("stacked"), after(0))
    head = trainer.parameters["fc2.weight"]
    assert head[0].any()
    assert not head[1].any()
