"""Tasks of bright and dark images, and trainings of one network and of two stacked ones."""

import io

import torch

from plasticity.agents.networks import CNN
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.agents.supervised.single import Classifier
from plasticity.agents.supervised.stacked import StackedClassifier
from plasticity.mitigations import SeededMethod, Syre
from plasticity.tasks.streams.base import StackedTask, TaskSpec

SYRE = SeededMethod((Syre(strength=0.01, sigma=0.5),), anchor_seed=3)
FORMS = ["single", "stacked"]
BLOBS = TaskSpec(input_shape=(1, 8, 8), output_size=2)


class Blobs:
    """Task of 50 training and 21 test images in two classes, bright and dark."""

    num_train, num_test = 50, 21

    def __init__(self, index=0, seed=0, spec=BLOBS, device="cpu"):
        self.index, self.spec = index, spec
        generator = torch.Generator().manual_seed(100 * index + seed)
        active = torch.tensor(spec.active or range(spec.output_size))
        bright = torch.arange(71) % len(active)
        noise = torch.rand(71, 1, 8, 8, generator=generator)
        self.labels = active[bright].to(device)
        self.images = (0.5 * noise + 0.5 * bright.view(-1, 1, 1, 1)).to(device)

    def train_batch(self, indices):
        return self.images[indices], self.labels[indices]

    def test_batches(self, batch_size):
        yield from zip(
            self.images[50:].split(batch_size), self.labels[50:].split(batch_size), strict=True
        )


DEFAULT = CNN()


def task_of(form, index=0, **settings):
    if form == "single":
        return Blobs(index, **settings)
    return StackedTask((Blobs(index, **settings), Blobs(index, seed=1, **settings)))


def make(form, config=None, method=SYRE, seed=5, network=DEFAULT, device="cpu", classes=2, **more):
    """Return the training of network `seed`, or of it and `seed` + 1."""

    def build(seed):
        torch.manual_seed(seed)
        return network.build(network.spec((1, 8, 8), classes))

    config = config or ClassifierConfig(learning_rate=0.05, batch_size=16)
    if form == "single":
        return Classifier(build(seed), config, method, data_order_seed=9, device=device, **more)
    return StackedClassifier(
        [build(seed), build(seed + 1)],
        config,
        [method] * 2,
        data_order_seeds=[9, 10],
        device=device,
        **more,
    )


def weights(trainer):
    return torch.cat([p.detach().reshape(-1) for p in trainer.parameters.values()])


def saved(trainer):
    file = io.BytesIO()
    torch.save([trainer.state_dict(index) for index in range(trainer.num_networks)], file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def load(trainer, states):
    for index, state in enumerate(states):
        trainer.load_state_dict(state, index)
    return trainer


def after(steps):
    """Return a `should_stop` that is true after this many steps."""
    calls = iter([*[False] * steps, True])
    return lambda: next(calls)
