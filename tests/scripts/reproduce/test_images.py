"""Images of figures: what the settings do to them, and the batches of an epoch."""

import math

import pytest
import torch
from torch import nn

from plasticity.scripts.reproduce.images import (
    Epochs,
    ImageData,
    ImageExperiment,
    ImageFigureConfig,
)
from plasticity.scripts.reproduce.network_experiment import NetworkTraining
from plasticity.tasks.datasets.images import load_dataset


def test_the_inputs_are_scaled_parts_of_the_dataset():
    given = ImageData(dataset="digits", num_train=6, num_test=4, input_scale=0.5, batch_size=2)
    found, data = given.load(), load_dataset("digits")
    assert found.train_inputs.shape == (6, 1, 8, 8)
    # digits have pixels from 0 to 16
    assert torch.equal(found.train_inputs[:, 0], data.train_images[:6] / 32.0)
    assert torch.equal(found.test_inputs[:, 0], data.test_images[:4] / 32.0)
    assert torch.equal(found.train_labels, data.train_labels[:6])
    assert torch.equal(found.test_labels, data.test_labels[:4])
    assert found.num_classes == 10
    every = ImageData(dataset="digits").load()
    assert len(every.train_inputs) == len(data.train_images)
    assert len(every.test_inputs) == len(data.test_images)


def test_squares_of_pixels_are_averaged():
    found = ImageData(dataset="digits", num_train=1, pool=4, batch_size=1).load().train_inputs
    pixels = load_dataset("digits").train_images[0] / 16.0
    corners = [pixels[i : i + 4, j : j + 4].mean().item() for i in (0, 4) for j in (0, 4)]
    assert found.shape == (1, 1, 2, 2)
    assert found.flatten().tolist() == pytest.approx(corners)


def test_an_epoch_has_each_example_once_and_is_a_function_of_the_step():
    def generator(name):
        return torch.Generator().manual_seed(int(name.removeprefix("epoch/")) + 5)

    epochs = Epochs(generator, num_train=7, batch_size=3)
    steps = [epochs.rows(step).tolist() for step in range(4)]
    for first, second in (steps[:2], steps[2:]):
        assert len({*first, *second}) == 6  # two batches of three; the seventh is left out
    assert steps[:2] != steps[2:]
    anew = Epochs(generator, num_train=7, batch_size=3)
    assert [anew.rows(step).tolist() for step in (3, 0, 2, 1)] == [steps[i] for i in (3, 0, 2, 1)]


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="pool must be at least 1"):
        ImageData(pool=0)
    with pytest.raises(ValueError, match="input_scale"):
        ImageData(input_scale=-1.0)
    with pytest.raises(TypeError, match="dataset must be a name"):
        ImageData(dataset=3)
    with pytest.raises(ValueError, match="num_test=5000 is more than the"):
        ImageData(dataset="digits", num_test=5000).load()
    with pytest.raises(ValueError, match="batch_size=9 is more than the 8"):
        ImageData(dataset="digits", num_train=8, batch_size=9).load()


# ---- the experiment ---------------------------------------------------------------------------------


class Constant(ImageExperiment):
    """Linear classifier of digits without weights: its outputs are biases."""

    def make_network(self):
        assert self.data.num_classes == 10
        output = nn.Linear(64, 10)
        nn.init.zeros_(output.weight)
        output.bias.data = torch.arange(10.0)
        return nn.Sequential(nn.Flatten(), output)

    def measure(self, run):
        return {"accuracy": self.accuracy(self.data.train_inputs, self.data.train_labels)}


def classifier(**training):
    stream = ImageData(dataset="digits", num_train=20, batch_size=5)
    agent = NetworkTraining(**training)
    config = ImageFigureConfig(benchmark="b", stream=stream, agent=agent)
    return Constant([config], stacked=False)


def test_the_loss_is_the_cross_entropy_of_the_batch():
    experiment = classifier()
    labels = experiment.data.train_labels[experiment.epochs.rows(0)].tolist()
    partition = math.log(sum(math.exp(bias) for bias in range(10)))
    expected = sum(partition - label for label in labels) / 5
    assert experiment.loss().item() == pytest.approx(expected, rel=1e-6)


def test_the_accuracy_is_the_share_of_the_largest_output():
    experiment = classifier()
    nines = (experiment.data.train_labels == 9).float().mean().item()
    assert experiment.measure(0)["accuracy"] == pytest.approx(nines)
    assert nines > 0


def test_it_continues_exactly_in_the_middle_of_an_epoch():
    whole, first, second = (classifier(optimizer="sgd", learning_rate=0.1) for _ in range(3))

    def walk(experiment, steps):
        for _ in range(steps):
            experiment.step()
            experiment.steps += 1

    walk(whole, 7)
    walk(first, 3)
    second.load_state_dict(0, first.state_dicts([0])[0])
    walk(second, 4)
    assert torch.equal(second.network[1].weight, whole.network[1].weight)
    assert bool((whole.network[1].weight != 0).any())


def test_images_that_are_missing_are_reported_before_any_run(tmp_path):
    missing = ImageFigureConfig(benchmark="b", stream=ImageData(data_dir=str(tmp_path)))
    with pytest.raises(ValueError, match="expected the four files"):
        Constant.require_runnable([missing])
    digits = ImageFigureConfig(benchmark="b", stream=ImageData(dataset="digits"))
    Constant.require_runnable([digits])
    assert Constant.modules(digits) == ("sklearn.datasets",)
    assert Constant.modules(missing) == ()
