"""The trainer against a loop written out by hand."""

import io

import pytest
import torch
from torch import nn

from plasticity.agents.classifier import Classifier, ClassifierConfig
from plasticity.agents.networks import ImageNetwork, NetworkConfig
from plasticity.seeds import child_seed
from plasticity.settings import RegularizerSettings

SYRE = RegularizerSettings("syre", 0.01, 0.5, anchor_seed=3)


class Blobs:
    """A task of 50 training and 21 test images, two classes, bright or dark."""

    num_train = 50

    def __init__(self, index=0):
        self.index = index
        generator = torch.Generator().manual_seed(index)
        self.labels = torch.arange(71) % 2
        noise = torch.rand(71, 1, 8, 8, generator=generator)
        self.images = 0.5 * noise + 0.5 * self.labels.view(-1, 1, 1, 1)

    def train_batch(self, indices):
        return self.images[indices], self.labels[indices]

    def test_batches(self, batch_size):
        yield from zip(
            self.images[50:].split(batch_size), self.labels[50:].split(batch_size), strict=True
        )


def make(config=None, regularizer=SYRE, seed=5):
    torch.manual_seed(seed)
    network = ImageNetwork((1, 8, 8), 2, NetworkConfig())
    config = config or ClassifierConfig(learning_rate=0.05, batch_size=16)
    return Classifier(network, config, regularizer, order_seed=9)


def weights(classifier):
    return torch.cat([p.detach().reshape(-1) for p in classifier.network.parameters()])


def test_equals_a_loop_by_hand():
    config = ClassifierConfig(
        learning_rate=0.05, momentum=0.9, batch_size=16, epochs_per_task=2, train_evaluation_size=30
    )
    classifier, twin = make(config), make(config)
    task = Blobs(index=4)
    assert classifier.train(task)
    row = classifier.finish(task)

    network = twin.network
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    anchors = [twin.optimizer.anchor(p) for p in network.parameters()]
    correct, loss_sum = 0, 0.0
    for epoch in range(2):
        generator = torch.Generator().manual_seed(child_seed(9, f"4/{epoch}"))
        order = torch.randperm(50, generator=generator)
        for indices in (order[:16], order[16:32], order[32:48], order[48:]):
            images, labels = task.train_batch(indices)
            logits = network(images)
            loss = nn.functional.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            for p, anchor in zip(network.parameters(), anchors, strict=True):
                p.grad += 0.01 * (p.detach() - anchor)
            optimizer.step()
            correct += int((logits.argmax(1) == labels).sum())
            loss_sum += loss.item() * len(labels)
    torch.testing.assert_close(weights(classifier), weights(twin))

    def accuracy(images, labels):
        return (network(images).argmax(1) == labels).double().mean().item()

    assert row["online_accuracy"] == pytest.approx(correct / 100)
    assert row["train_loss"] == pytest.approx(loss_sum / 100, rel=1e-5)
    assert row["train_accuracy"] == pytest.approx(accuracy(task.images[:30], task.labels[:30]))
    assert row["test_accuracy"] == pytest.approx(accuracy(task.images[50:], task.labels[50:]))
    assert row["diverged"] is False


def test_stopped_and_continued_equals_straight():
    straight, stopped = make(), make()
    task = Blobs()
    straight.train(task)
    calls = iter([False, False, True])
    assert stopped.train(task, lambda: next(calls)) is False
    assert stopped.task_progress == 2 / 4
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    file.seek(0)
    resumed = make(seed=6)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.train(task) is True
    assert straight.finish(task) == resumed.finish(task)
    assert torch.equal(weights(straight), weights(resumed))
    assert resumed.task_progress == 0


def test_order_depends_on_task_and_epoch_only():
    first, second = make(), make(regularizer=RegularizerSettings())
    assert torch.equal(first._epoch_order(Blobs(2), 1), second._epoch_order(Blobs(2), 1))
    assert not torch.equal(first._epoch_order(Blobs(2), 1), first._epoch_order(Blobs(2), 0))
    assert not torch.equal(first._epoch_order(Blobs(2), 1), first._epoch_order(Blobs(3), 1))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("loss", ["cross-entropy", "squared-error"])
def test_learns(optimizer, loss):
    rate = {"sgd": 0.1, "adam": 0.003, "adamw": 0.003}[optimizer]
    config = ClassifierConfig(
        optimizer=optimizer, learning_rate=rate, batch_size=10, epochs_per_task=20, loss=loss
    )
    classifier = make(config)
    task = Blobs()
    classifier.train(task)
    assert classifier.finish(task)["test_accuracy"] > 0.95  # chance is about 0.5


def test_divergence_is_marked():
    classifier = make(ClassifierConfig(learning_rate=1e30, batch_size=16))
    task = Blobs()
    classifier.train(task)
    assert classifier.finish(task)["diverged"] is True


def test_batch_larger_than_the_data():
    with pytest.raises(ValueError, match="batch_size=51 is larger than the task's 50"):
        make(ClassifierConfig(batch_size=51)).train(Blobs())


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"optimizer": "sgdd"}, ValueError, "Did you mean 'sgd'"),
        ({"loss": "cross-entrophy"}, ValueError, "Did you mean 'cross-entropy'"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be above 0"),
        ({"learning_rate": -0.1}, ValueError, "learning_rate must be a finite number"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate .* nan"),
        ({"momentum": 1.0}, ValueError, "momentum must be .* below 1"),
        ({"momentum": 0.9, "optimizer": "adam"}, ValueError, "belongs to sgd"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1: 0"),
        ({"epochs_per_task": 1.5}, TypeError, "epochs_per_task must be an integer"),
    ],
)
def test_wrong_settings(settings, error, message):
    with pytest.raises(error, match=message):
        ClassifierConfig(**settings)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_loop_never_waits_for_the_device():
    torch.manual_seed(5)
    network = ImageNetwork((1, 8, 8), 2, NetworkConfig())
    classifier = Classifier(
        network, ClassifierConfig(batch_size=16), SYRE, order_seed=9, device="cuda"
    )
    task = Blobs()
    task.images, task.labels = task.images.cuda(), task.labels.cuda()
    classifier.train(task)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for indices in torch.arange(50, device="cuda").split(16):
            classifier._train_step(*task.train_batch(indices))
    finally:
        torch.cuda.set_sync_debug_mode("default")
