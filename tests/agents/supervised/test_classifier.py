"""The classifier compared with an explicit training loop."""

import gc
import io
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn

from plasticity.agents.networks.image import ImageNetwork, NetworkConfig
from plasticity.agents.supervised.classifier import Classifier, ClassifierConfig
from plasticity.optim.settings import RegularizerSettings
from plasticity.seeds import child_seed

SYRE = RegularizerSettings("syre", 0.01, 0.5, anchor_seed=3)


class Blobs:
    """Task of 50 training and 21 test images in two classes, bright and dark."""

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


CNN = NetworkConfig()


def make(config=None, regularizer=SYRE, seed=5, network=CNN, device="cpu"):
    torch.manual_seed(seed)
    network = ImageNetwork((1, 8, 8), 2, network)
    config = config or ClassifierConfig(learning_rate=0.05, batch_size=16)
    return Classifier(network, config, regularizer, data_order_seed=9, device=device)


def weights(classifier):
    return torch.cat([p.detach().reshape(-1) for p in classifier.network.parameters()])


def test_equals_an_explicit_loop():
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


def test_stopped_and_continued_equals_uninterrupted():
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


def test_data_order_depends_only_on_task_and_epoch():
    first, second = make(), make(regularizer=RegularizerSettings())
    assert torch.equal(first._epoch_data_order(Blobs(2), 1), second._epoch_data_order(Blobs(2), 1))
    assert not torch.equal(
        first._epoch_data_order(Blobs(2), 1), first._epoch_data_order(Blobs(2), 0)
    )
    assert not torch.equal(
        first._epoch_data_order(Blobs(2), 1), first._epoch_data_order(Blobs(3), 1)
    )


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


def test_divergence_is_reported():
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
        (
            {"momentum": 0.9, "optimizer": "adam"},
            ValueError,
            "applies to sgd only, not to adam: set it to 0",
        ),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1: 0"),
        ({"epochs_per_task": 1.5}, TypeError, "epochs_per_task must be an integer"),
        ({"precision": "bf61"}, ValueError, "Unknown precision 'bf61'. Did you mean 'bf16'"),
        ({"precision": 16}, ValueError, "Unknown precision 16"),
        ({"compile": "yes"}, TypeError, "compile must be True or False, not 'yes'"),
    ],
)
def test_wrong_settings(settings, error, message):
    with pytest.raises(error, match=message):
        ClassifierConfig(**settings)


# ---- compiled ---------------------------------------------------------------------------------------

OPTIMIZERS = [
    {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9},
    {"optimizer": "adam", "learning_rate": 0.003},
]


def saved(classifier):
    file = io.BytesIO()
    torch.save(classifier.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def compare_with_eager(config, network=CNN, **tolerance):
    """Compare two tasks eagerly, compiled, and compiled with a stop halfway."""
    eager = make(replace(config, compile=False), network=network)
    straight, stopped = make(config, network=network), make(config, network=network)
    rows = []
    for task in (Blobs(0), Blobs(1)):
        for classifier in (eager, straight):
            classifier.train(task)
        calls = iter([*[False] * 5, True])
        assert stopped.train(task, lambda calls=calls: next(calls)) is False
        resumed = make(config, network=network, seed=6)
        resumed.load_state_dict(saved(stopped))
        resumed.train(task)
        rows = [classifier.finish(task) for classifier in (eager, straight, resumed)]
        assert rows[1] == rows[2]
        assert torch.equal(weights(straight), weights(resumed))
        stopped = resumed
    torch.testing.assert_close(weights(eager), weights(straight), **tolerance)
    torch.testing.assert_close(
        torch.tensor(list(rows[0].values())), torch.tensor(list(rows[1].values()))
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_captured_equals_eager_and_resumes(cuda_graphs_on_cpu, optimizer):
    config = ClassifierConfig(batch_size=16, epochs_per_task=5, compile=True, **optimizer)
    compare_with_eager(config, rtol=0, atol=0)
    assert len(cuda_graphs_on_cpu) >= 2


# The warning comes from torch importing its own compiler. The network is dense and all batches have one size,
# as torch's compiler takes seconds for each size, and three times that for convolutions.
@pytest.mark.filterwarnings(r"ignore:`torch\.jit:DeprecationWarning")
def test_compiled_on_a_cpu_agrees_and_resumes():
    config = ClassifierConfig(batch_size=10, epochs_per_task=2, compile=True, **OPTIMIZERS[1])
    compare_with_eager(config, NetworkConfig(architecture="mlp", hidden=(16,)))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_memory_is_freed_immediately(precision):
    """Running out of memory on a GPU does not trigger garbage collection."""
    classifier = make(ClassifierConfig(batch_size=16, precision=precision))
    classifier._train_step(*Blobs().train_batch(torch.arange(16)))
    weight = weakref.ref(next(classifier.network.parameters()))
    gc.disable()
    try:
        del classifier
        assert weight() is None
    finally:
        gc.enable()


# ---- bfloat16 ---------------------------------------------------------------------------------------


def bf16(**settings):
    return ClassifierConfig(learning_rate=0.05, batch_size=16, precision="bf16", **settings)


def test_a_bf16_step_computed_by_hand():
    """Products of rounded factors are summed in float32 and rounded; the decay is in float32."""
    network = NetworkConfig(architecture="mlp", hidden=(3,))
    classifier, twin = (make(bf16(), network=network) for _ in range(2))
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
    classifier, plain = make(bf16()), make()
    task = Blobs()
    classifier.train(task)
    plain.network.load_state_dict(classifier.network.state_dict())
    plain.train(Blobs(), lambda: True)
    found, expected = classifier.finish(task), plain.finish(task)
    assert found["test_accuracy"] == expected["test_accuracy"]
    assert found["train_accuracy"] == expected["train_accuracy"]
    images, labels = task.train_batch(torch.arange(50))
    in_bf16, in_float32 = classifier._forward(images, labels)[1], plain._forward(images, labels)[1]
    assert in_bf16.dtype == torch.float32
    assert not torch.equal(in_bf16, in_float32)
    torch.testing.assert_close(in_bf16, in_float32, rtol=0, atol=0.05)


def test_bf16_stopped_and_continued_equals_uninterrupted():
    straight, stopped = make(bf16()), make(bf16())
    task = Blobs()
    straight.train(task)
    calls = iter([False, False, True])
    assert stopped.train(task, lambda: next(calls)) is False
    resumed = make(bf16(), seed=6)
    resumed.load_state_dict(saved(stopped))
    resumed.train(task)
    assert straight.finish(task) == resumed.finish(task)
    assert torch.equal(weights(straight), weights(resumed))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_bf16_learns(optimizer):
    config = ClassifierConfig(batch_size=10, epochs_per_task=20, precision="bf16", **optimizer)
    classifier = make(config)
    task = Blobs()
    classifier.train(task)
    assert classifier.finish(task)["test_accuracy"] > 0.95  # chance is about 0.5


# ---- a GPU ------------------------------------------------------------------------------------------

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def on_device(task, device):
    task.images, task.labels = task.images.to(device), task.labels.to(device)
    return task


@needs_cuda
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("compiles", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_loop_never_waits_for_the_device(optimizer, compiles, precision):
    config = ClassifierConfig(
        batch_size=16, epochs_per_task=5, compile=compiles, precision=precision, **optimizer
    )
    classifier, task = make(config, device="cuda"), on_device(Blobs(), "cuda")
    classifier.train(task)  # everything is captured afterwards, including the smaller last batch
    torch.cuda.set_sync_debug_mode("error")
    try:
        for indices in torch.arange(50, device="cuda").split(16):
            classifier._train_step(*task.train_batch(indices))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_cuda
@pytest.mark.parametrize("compiles", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_continues_on_another_device(optimizer, compiles):
    config = ClassifierConfig(batch_size=16, epochs_per_task=4, compile=compiles, **optimizer)
    plain = replace(config, compile=False)
    straight = make(plain)
    straight.train(Blobs())
    for first, second in (("cpu", "cuda"), ("cuda", "cpu")):
        stopped, resumed = (
            make(config if device == "cuda" else plain, device=device, seed=seed)
            for device, seed in ((first, 5), (second, 6))
        )
        calls = iter([*[False] * 9, True])
        stopped.train(on_device(Blobs(), first), lambda calls=calls: next(calls))
        resumed.load_state_dict(saved(stopped))
        resumed.train(on_device(Blobs(), second))
        torch.testing.assert_close(weights(resumed).cpu(), weights(straight), rtol=1e-3, atol=1e-5)


@needs_cuda
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_captured_on_a_gpu_agrees_and_uses_channels_last(optimizer):
    config = ClassifierConfig(batch_size=16, epochs_per_task=4, **optimizer)
    eager, compiled = (
        make(replace(config, compile=compiles), device="cuda") for compiles in (False, True)
    )
    weight = compiled.network.conv2.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    task = on_device(Blobs(), "cuda")
    for classifier in (eager, compiled):
        classifier.train(task)
    torch.testing.assert_close(weights(eager), weights(compiled), rtol=1e-3, atol=1e-5)
