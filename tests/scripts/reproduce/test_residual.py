"""ResNets of figures: the schedule, the augmentation, and the measured fit."""

import math

import pytest
import torch
from torch import nn

from plasticity.scripts.config.nested import with_values
from plasticity.scripts.reproduce.residual import (
    ColourImages,
    ResNetExperiment,
    ResNetFigureConfig,
    ResNetTraining,
)

TINY = {
    "stream.dataset": "digits",
    "stream.num_train": 40,
    "stream.num_test": 30,
    "stream.batch_size": 20,
    "agent.width": 2,
    "agent.anneal_steps": 4,
}


class Fits(ResNetExperiment):
    def measure(self, run):
        return self.fit()


def made(**changes):
    config = ResNetFigureConfig(benchmark="resnets")
    values = TINY | {name.replace("__", "."): value for name, value in changes.items()}
    return Fits([with_values(config, values)], stacked=False)


def test_the_learning_rate_follows_half_a_cosine():
    experiment, rates = made(), []
    for steps in (0, 1, 2, 3, 4, 9):
        experiment.steps = steps
        experiment.step()
        rates.append(experiment.optimizer.param_groups[0]["lr"])
    # 0.1 (1 + cos(π s / 4)) / 2
    quarter = 0.1 * (1 + math.sqrt(0.5)) / 2
    assert rates == pytest.approx([0.1, quarter, 0.05, 0.1 - quarter, 0.0, 0.0])


def test_the_fit_is_that_of_all_images(monkeypatch):
    monkeypatch.setattr("plasticity.scripts.reproduce.residual.EVALUATED_AT_ONCE", 7)
    experiment = made()
    experiment.network.eval()
    found, data = experiment.measure(0), experiment.data
    with torch.no_grad():
        train, test = experiment.network(data.train_inputs), experiment.network(data.test_inputs)
    loss = nn.functional.cross_entropy(train, data.train_labels).item()
    assert found["loss"] == pytest.approx(loss)
    right = int((test.argmax(1) == data.test_labels).sum())
    assert found["test_accuracy"] == pytest.approx(right / 30)
    right = int((train.argmax(1) == data.train_labels).sum())
    assert found["train_accuracy"] == pytest.approx(right / 40)


def test_augmented_images_are_shifted_and_a_function_of_the_step():
    seen = []
    plain, augmented = made(), made(stream__augment=True)
    for experiment in (plain, augmented):
        experiment.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        experiment.loss()
        experiment.loss()
    images, again, shifted, shifted_again = seen
    assert torch.equal(images, again)
    assert torch.equal(shifted, shifted_again)
    assert not torch.equal(shifted, images)
    assert shifted.shape == images.shape
    augmented.steps = 1
    augmented.loss()
    assert not torch.equal(seen[-1], shifted)


def test_wrong_settings_are_refused():
    with pytest.raises(TypeError, match="augment must be True or False, not 1"):
        ColourImages(augment=1)
    with pytest.raises(ValueError, match="anneal_steps must be at least 1"):
        ResNetTraining(anneal_steps=0)
    with pytest.raises(ValueError, match="width must be at least 1"):
        ResNetTraining(width=0)
