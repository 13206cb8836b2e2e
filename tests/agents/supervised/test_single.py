"""The training of one network against explicit loops and sums."""

import pytest
import torch
from torch import nn

from plasticity.agents.networks import CNN, MLP
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.agents.supervised.single import Classifier
from plasticity.mitigations import SeededMethod, Syre
from plasticity.seeds import child_seed
from plasticity.tasks.streams.base import TaskSpec

SYRE = SeededMethod((Syre(strength=0.01, sigma=0.5),), anchor_seed=3)


class Blobs:
    """Task of 50 training and 21 test images in two classes, bright and dark."""

    num_train = 50
    spec = TaskSpec(input_shape=(1, 8, 8), output_size=2)

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


def make(config=None, network=None):
    torch.manual_seed(5)
    network = network or CNN()
    network = network.build(network.spec((1, 8, 8), 2))
    config = config or ClassifierConfig(learning_rate=0.05, batch_size=16)
    return Classifier(network, config, SYRE, data_order_seed=9)


def weights(classifier):
    return torch.cat([p.detach().reshape(-1) for p in classifier.network.parameters()])


def test_equals_an_explicit_loop():
    config = ClassifierConfig(
        learning_rate=0.05, momentum=0.9, batch_size=16, epochs_per_task=2, train_evaluation_size=30
    )
    classifier, twin = make(config), make(config)
    task = Blobs(index=4)
    assert classifier.train(task)
    (row,) = classifier.finish(task)

    network = twin.network
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    anchors = [twin.optimizer.anchor(p) for p in network.parameters()]
    correct, loss_sum = 0, 0.0
    for epoch in range(2):
        generator = torch.Generator().manual_seed(child_seed(9, f"4/{epoch}"))
        data_order = torch.randperm(50, generator=generator)
        for indices in (data_order[:16], data_order[16:32], data_order[32:48], data_order[48:]):
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


# ---- bfloat16 ---------------------------------------------------------------------------------------

BF16 = ClassifierConfig(learning_rate=0.05, batch_size=16, precision="bf16")


def test_a_bf16_step_computed_by_hand():
    """Products of rounded factors are summed in float32 and rounded; the decay is in float32."""
    network = MLP(hidden=(3,))
    classifier, twin = (make(BF16, network=network) for _ in range(2))
    images, labels = Blobs().train_batch(torch.arange(16))
    classifier._train_step(images, labels)

    def rounded(tensor):
        return tensor.to(torch.bfloat16).float()

    fc1, fc2 = twin.network.fc1, twin.network.fc2
    inputs = rounded(images.flatten(1))
    sums = rounded(inputs @ rounded(fc1.weight).T + rounded(fc1.bias))
    logits = rounded(rounded(sums.relu()) @ rounded(fc2.weight).T + rounded(fc2.bias))
    loss = nn.functional.cross_entropy(logits, labels)
    gradients = torch.autograd.grad(loss, list(twin.network.parameters()))
    for parameter, trained, gradient in zip(
        twin.network.parameters(), classifier.network.parameters(), gradients, strict=True
    ):
        assert trained.dtype == torch.float32
        decay = 0.01 * (parameter - twin.optimizer.anchor(parameter))
        # Rounded gradients have 8 bits; the bound scales with the largest gradient.
        bound = 0.05 * gradient.abs().max().item() * 2**-6
        torch.testing.assert_close(
            trained, parameter - 0.05 * (gradient + decay), rtol=0, atol=bound
        )
    assert not torch.equal(weights(classifier), _one_step_in_float32(network, images, labels))


def _one_step_in_float32(network, images, labels):
    classifier = make(network=network)
    classifier._train_step(images, labels)
    return weights(classifier)


def test_bf16_measures_in_float32():
    classifier, plain = make(BF16), make()
    task = Blobs()
    classifier.train(task)
    plain.network.load_state_dict(classifier.network.state_dict())
    plain.train(Blobs(), lambda: True)
    (found,), (expected,) = classifier.finish(task), plain.finish(task)
    assert found["test_accuracy"] == expected["test_accuracy"]
    assert found["train_accuracy"] == expected["train_accuracy"]
    images, labels = task.train_batch(torch.arange(50))
    in_bf16, in_float32 = classifier._forward(images, labels)[1], plain._forward(images, labels)[1]
    assert in_bf16.dtype == torch.float32
    assert not torch.equal(in_bf16, in_float32)
    torch.testing.assert_close(in_bf16, in_float32, rtol=0, atol=0.05)
