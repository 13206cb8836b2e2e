"""Training in both forms, of one network and of two stacked ones."""

import copy
import gc
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn
from trained_blobs import (
    BLOBS,
    DEFAULT,
    FORMS,
    Blobs,
    after,
    load,
    make,
    saved,
    task_of,
    weights,
)

from plasticity.agents.networks import CNN, MLP
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.agents.supervised.single import Classifier
from plasticity.agents.supervised.stacked import StackedClassifier
from plasticity.mitigations import PLAIN_METHOD
from plasticity.tasks.streams.base import StackedTask


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_stopped_and_continued_equals_uninterrupted(form, precision):
    config = ClassifierConfig(learning_rate=0.05, batch_size=16, precision=precision)
    straight, stopped = (make(form, config, keep_start=True) for _ in range(2))
    task = task_of(form)
    straight.train(task)
    assert stopped.train(task, after(2)) is False
    assert stopped.task_progress == 2 / 4
    resumed = load(make(form, config, seed=6, keep_start=True), saved(stopped))
    assert resumed.train(task) is True
    assert straight.finish(task) == resumed.finish(task)
    assert torch.equal(weights(straight), weights(resumed))
    assert resumed.task_progress == 0
    probe, _ = next(task.test_batches(5))
    indices = range(straight.num_networks)
    measured = [
        each.measure(probe, ["update_norm"], ["fc1"], indices) for each in (straight, resumed)
    ]
    assert measured[0] == measured[1]
    assert list(measured[0]) == list(indices)


@pytest.mark.parametrize("form", FORMS)
def test_should_stop_is_called_before_every_step(form):
    trainer = make(form)
    calls = []
    trainer.train(task_of(form), lambda: calls.append(trainer.task_progress) or False)
    assert calls[1:] == [1 / 4, 2 / 4, 3 / 4]
    assert trainer.task_progress == 1


@pytest.mark.parametrize("form", FORMS)
def test_a_frozen_network_stays(form):
    trainer = make(form)
    for index in range(trainer.num_networks):
        trainer.freeze(index)
    before = weights(trainer)
    assert trainer.train(task_of(form))
    assert torch.equal(weights(trainer), before)
    with pytest.raises(IndexError, match=r"Index 2 is out of range"):
        trainer.freeze(2)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize(
    ("loss", "precision"),
    [("cross-entropy", "float32"), ("squared-error", "float32"), ("cross-entropy", "bf16")],
)
def test_learns(form, optimizer, loss, precision):
    rate = {"sgd": 0.1, "adam": 0.003, "adamw": 0.003}[optimizer]
    config = ClassifierConfig(
        optimizer=optimizer,
        learning_rate=rate,
        batch_size=10,
        epochs_per_task=20,
        loss=loss,
        precision=precision,
    )
    trainer, task = make(form, config), task_of(form)
    trainer.train(task)
    assert min(row["test_accuracy"] for row in trainer.finish(task)) > 0.95  # chance is about 0.5


@pytest.mark.parametrize("form", FORMS)
def test_divergence_is_reported(form):
    trainer = make(form, ClassifierConfig(learning_rate=1e30, batch_size=16))
    task = task_of(form)
    trainer.train(task)
    assert {row["diverged"] for row in trainer.finish(task)} == {True}


@pytest.mark.parametrize("form", FORMS)
def test_batch_larger_than_the_data(form):
    with pytest.raises(ValueError, match="batch_size=51 is larger than the task's 50"):
        make(form, ClassifierConfig(batch_size=51)).train(task_of(form))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_memory_is_freed_immediately(form, precision):
    """Running out of memory on a GPU does not trigger garbage collection."""
    trainer = make(form, ClassifierConfig(batch_size=16, precision=precision))
    trainer.train(task_of(form), after(1))
    weight = weakref.ref(next(iter(trainer.parameters.values())))
    gc.disable()
    try:
        del trainer
        assert weight() is None
    finally:
        gc.enable()


# ---- what a task requests ---------------------------------------------------------------------------


class Restricted(nn.Module):
    """Network with the logits of some classes only."""

    def __init__(self, network, classes):
        super().__init__()
        self.network, self.classes = network, list(classes)

    def forward(self, images):
        return self.network(images)[:, self.classes]


@pytest.mark.parametrize(
    ("form", "classes_of"),
    [
        ("single", [((1, 3),), (None,), ((0, 4),)]),
        ("stacked", [((1, 3), (1, 3)), (None, None), ((0, 4), (0, 4))]),
        ("stacked", [((1, 3), (0, 2, 4)), (None, (1, 2)), ((0, 4), None), (None, None)]),
    ],
)
@pytest.mark.parametrize("loss", ["cross-entropy", "squared-error"])
def test_inactive_classes_take_no_part(form, classes_of, loss):
    """Tasks of some of 5 classes, which may differ in a stack: as networks restricted to their logits."""
    config = ClassifierConfig(learning_rate=0.05, batch_size=16, loss=loss, momentum=0.9)
    plain = PLAIN_METHOD
    trainer = make(form, config, plain, classes=5)
    for index, actives in enumerate(classes_of):
        states = saved(trainer)
        specs = [replace(BLOBS, output_size=5, active=active) for active in actives]
        tasks = [Blobs(index, seed=position, spec=each) for position, each in enumerate(specs)]
        task = tasks[0] if form == "single" else StackedTask(tuple(tasks))
        trainer.train(task)
        rows = trainer.finish(task)
        assert len(rows) == len(states)
        for position, (row, state) in enumerate(zip(rows, states, strict=True)):
            network = make("single", config, classes=5).network
            network.load_state_dict(state["network"])
            spec = specs[position]
            chosen = spec.active or range(5)
            own = Classifier(
                Restricted(network, chosen), config, plain, data_order_seed=9 + position
            )
            own.optimizer.load_state_dict(state["optimizer"])
            blobs = Blobs(index, seed=position, spec=spec)
            blobs.spec = replace(spec, output_size=len(chosen), active=None)
            blobs.labels = torch.tensor([list(chosen).index(label) for label in blobs.labels])
            own.train(blobs)
            assert row == pytest.approx(own.finish(blobs)[0], rel=1e-5)
            found = trainer.state_dict(position)["network"]
            for name, expected in network.state_dict().items():
                torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("loss", ["cross-entropy", "squared-error"])
@pytest.mark.parametrize("example", [49, 70])  # the last of the training and of the test set
def test_a_label_outside_the_active_classes_is_refused(form, loss, example):
    task = task_of(form, 2, spec=replace(BLOBS, output_size=5, active=(1, 3), loss=loss))
    (task if form == "single" else task.tasks[1]).labels[example] = 4
    trainer = make(form, classes=5)
    before = weights(trainer)
    with pytest.raises(
        ValueError, match=r"Task 2 has labels .* active classes \(1, 3\): name them"
    ):
        trainer.train(task)
    assert torch.equal(weights(trainer), before)


def test_a_label_outside_the_active_classes_of_its_own_run_is_refused():
    specs = [replace(BLOBS, output_size=5, active=active) for active in ((1, 3), (0, 4))]
    tasks = tuple(Blobs(seed=seed, spec=spec) for seed, spec in enumerate(specs))
    make("stacked", classes=5).train(StackedTask(tasks))
    tasks[1].labels[7] = 1  # active in the other run
    with pytest.raises(ValueError, match=r"active classes \(\(1, 3\), \(0, 4\)\)"):
        make("stacked", classes=5).train(StackedTask(tasks))


class Untested(Blobs):
    num_test = 0

    def test_batches(self, batch_size):
        return iter(())


@pytest.mark.parametrize("form", FORMS)
def test_a_task_without_a_test_set_has_no_test_accuracy(form):
    found, expected = make(form), make(form)
    tasks = [[kind(seed=seed) for seed in range(2)] for kind in (Untested, Blobs)]
    own, other = (each[0] if form == "single" else StackedTask(tuple(each)) for each in tasks)
    found.train(own)
    expected.train(other)
    for row, tested in zip(found.finish(own), expected.finish(other), strict=True):
        assert next(iter(tested)) == "test_accuracy"
        del tested["test_accuracy"]
        assert row == tested
        assert list(row) == list(tested)


@pytest.mark.parametrize("form", FORMS)
def test_a_task_chooses_its_loss(form):
    asked = make(form)
    configured = make(form, replace(asked.config, loss="squared-error"))
    asked.train(task_of(form, spec=replace(BLOBS, loss="squared-error")))
    configured.train(task_of(form))
    assert torch.equal(weights(asked), weights(configured))
    for trainer in (asked, configured):  # the next task requests none
        trainer.train(task_of(form))
        trainer.finish(task_of(form))
        trainer.train(task_of(form, 1))
    assert not torch.equal(weights(asked), weights(configured))


@pytest.mark.filterwarnings(r"ignore:`torch\.jit:DeprecationWarning")
def test_a_step_compiled_on_a_cpu_serves_any_number_of_active_classes():
    """Compiled anew for each number, torch would refuse the ninth."""
    config = ClassifierConfig(batch_size=25, loss="squared-error", compile=True)
    network = MLP(hidden=(4,))
    trainer = make("single", config, PLAIN_METHOD, classes=12, network=network)
    for index in range(1, 12):
        spec = replace(BLOBS, output_size=12, active=tuple(range(index)))
        assert trainer.train(Blobs(index, spec=spec))
        trainer.finish(Blobs(index, spec=spec))


@pytest.mark.parametrize("form", FORMS)
def test_active_classes_change_under_a_captured_step(cuda_graphs_on_cpu, form):
    config = ClassifierConfig(learning_rate=0.05, batch_size=10, epochs_per_task=2)
    trainers = [make(form, replace(config, compile=c), classes=5) for c in (False, True)]
    of_each = [None, (1, 3), (0, 4), (0, 1, 2), None], [None, (1, 3), (2, 4), (3,), None]
    for index, actives in enumerate(zip(*of_each, strict=True)):
        specs = [replace(BLOBS, output_size=5, active=active) for active in actives]
        tasks = [Blobs(index, seed=seed, spec=spec) for seed, spec in enumerate(specs)]
        task = tasks[0] if form == "single" else StackedTask(tuple(tasks))
        for trainer in trainers:
            trainer.train(task)
        assert trainers[0].finish(task) == trainers[1].finish(task)
        assert torch.equal(*map(weights, trainers))
    assert len(cuda_graphs_on_cpu) == 3  # one for all sets of active classes


# ---- compiled ---------------------------------------------------------------------------------------

OPTIMIZERS = [
    {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9},
    {"optimizer": "adam", "learning_rate": 0.003},
]


def compare_with_eager(form, config, network=DEFAULT, **tolerance):
    """Compare two tasks eagerly, compiled, and compiled with a stop halfway."""
    eager = make(form, replace(config, compile=False), network=network)
    straight, stopped = (make(form, config, network=network) for _ in range(2))
    rows = []
    for task in (task_of(form, 0), task_of(form, 1)):
        for trainer in (eager, straight):
            trainer.train(task)
        assert stopped.train(task, after(5)) is False
        resumed = load(make(form, config, network=network, seed=6), saved(stopped))
        resumed.train(task)
        rows = [trainer.finish(task) for trainer in (eager, straight, resumed)]
        assert rows[1] == rows[2]
        assert torch.equal(weights(straight), weights(resumed))
        stopped = resumed
    torch.testing.assert_close(weights(eager), weights(straight), **tolerance)
    for one, other in zip(rows[0], rows[1], strict=True):
        assert one == pytest.approx(other, rel=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_captured_equals_eager_and_resumes(cuda_graphs_on_cpu, form, optimizer):
    config = ClassifierConfig(batch_size=16, epochs_per_task=5, compile=True, **optimizer)
    compare_with_eager(form, config, rtol=0, atol=0)
    assert len(cuda_graphs_on_cpu) >= 2


# The warning comes from torch importing its own compiler. The network is dense and all batches have one size,
# as torch's compiler takes seconds for each size, and three times that for convolutions.
@pytest.mark.filterwarnings(r"ignore:`torch\.jit:DeprecationWarning")
@pytest.mark.parametrize("form", FORMS)
def test_compiled_on_a_cpu_agrees_and_resumes(form):
    config = ClassifierConfig(batch_size=10, epochs_per_task=2, compile=True, **OPTIMIZERS[1])
    compare_with_eager(form, config, MLP(hidden=(16,)))


# ---- a GPU ------------------------------------------------------------------------------------------

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


@needs_cuda
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("compiles", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_loop_never_waits_for_the_device(form, optimizer, compiles, precision):
    config = ClassifierConfig(
        batch_size=16, epochs_per_task=5, compile=compiles, precision=precision, **optimizer
    )
    spec = replace(BLOBS, active=(0, 1))
    trainer, task = make(form, config, device="cuda"), task_of(form, device="cuda", spec=spec)
    trainer.train(task)  # everything is captured afterwards, including the smaller last batch
    trainer.finish(task)
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert trainer.train(task)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_cuda
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("compiles", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_continues_on_another_device(form, optimizer, compiles):
    config = ClassifierConfig(batch_size=16, epochs_per_task=4, compile=compiles, **optimizer)
    plain = replace(config, compile=False)
    straight = make(form, plain)
    straight.train(task_of(form))
    for first, second in (("cpu", "cuda"), ("cuda", "cpu")):
        stopped, resumed = (
            make(form, config if device == "cuda" else plain, device=device, seed=seed)
            for device, seed in ((first, 5), (second, 6))
        )
        stopped.train(task_of(form, device=first), after(9))
        load(resumed, saved(stopped)).train(task_of(form, device=second))
        torch.testing.assert_close(weights(resumed).cpu(), weights(straight), rtol=1e-3, atol=1e-5)


@needs_cuda
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_captured_on_a_gpu_agrees(form, optimizer):
    config = ClassifierConfig(batch_size=16, epochs_per_task=4, **optimizer)
    eager, compiled = (
        make(form, replace(config, compile=compiles), device="cuda") for compiles in (False, True)
    )
    for trainer in (eager, compiled):
        trainer.train(task_of(form, device="cuda"))
    torch.testing.assert_close(weights(eager), weights(compiled), rtol=1e-3, atol=1e-5)


@needs_cuda
def test_a_single_network_on_a_gpu_uses_channels_last():
    weight = make("single", device="cuda").network.conv2.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


# ---- epochs -----------------------------------------------------------------------------------------

DROPPING = {
    "learning_rate": 0.1,
    "batch_size": 25,
    "epochs_per_task": 4,
    "learning_rate_drops": (1, 3),
    "learning_rate_factor": 0.5,
}


def rates(trainer):
    """Return the learning rate of each network."""
    parameter = next(iter(trainer.parameters.values()))
    if isinstance(trainer, StackedClassifier):
        return trainer.optimizer.learning_rates(parameter).tolist()
    return [group["lr"] for group in trainer.optimizer.param_groups[:1]]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "muon"])
@pytest.mark.parametrize("form", FORMS)
def test_the_learning_rate_drops_within_each_task(form, optimizer):
    if (form, optimizer) == ("stacked", "muon"):
        pytest.skip("muon is not stacked")
    trainer = make(form, ClassifierConfig(optimizer, **DROPPING))
    found = []
    for index in (0, 1):
        trainer.train(task_of(form, index), lambda: found.append(rates(trainer)) or False)
        trainer.finish(task_of(form, index))
    # 50 examples, two steps in each epoch
    share = [1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25] * 2
    expected = [[0.1 * each] * trainer.num_networks for each in share]
    assert torch.tensor(found).allclose(torch.tensor(expected))
    if optimizer == "muon":
        every = [group["lr"] for part in trainer.optimizer.parts for group in part.param_groups]
        assert set(every) == {0.1 * 0.25}


def test_the_rates_of_stacked_networks_drop_from_their_own():
    configs = [ClassifierConfig(**{**DROPPING, "learning_rate": each}) for each in (0.1, 0.01)]
    networks = [DEFAULT.make((1, 8, 8), 2) for _ in configs]
    trainer = StackedClassifier(networks, configs, [PLAIN_METHOD] * 2, data_order_seeds=[0, 1])
    trainer.train(task_of("stacked"))
    assert rates(trainer) == pytest.approx([0.025, 0.0025])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_run_stopped_between_drops_continues_exactly(form, steps):
    config = ClassifierConfig(**DROPPING)
    straight, stopped = make(form, config), make(form, config)
    task = task_of(form)
    straight.train(task)
    stopped.train(task, after(steps))
    resumed = load(make(form, config, seed=6), saved(stopped))
    resumed.train(task)
    assert straight.finish(task) == resumed.finish(task)
    assert torch.equal(weights(straight), weights(resumed))


@pytest.mark.parametrize("network", [MLP(hidden=(6,)), CNN(channels=(2,), hidden=(4,))])
@pytest.mark.parametrize(("batch_size", "momentum"), [(1, 0.0), (25, 0.0), (25, 0.9)])
def test_every_way_to_take_a_step_follows_the_learning_rate(network, batch_size, momentum):
    """Against a plain loop; dense networks have steps of their own, also for batches of one."""
    settings = {**DROPPING, "batch_size": batch_size, "momentum": momentum, "learning_rate": 0.02}
    config = ClassifierConfig(**settings)
    trainer, task = make("single", config, PLAIN_METHOD, network=network), task_of("single")
    twin = copy.deepcopy(trainer.network)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.02, momentum=momentum)
    trainer.train(task)
    for epoch in range(4):
        optimizer.param_groups[0]["lr"] = 0.02 * config.learning_rate_share(epoch)
        for indices in torch.split(trainer._data_orders.get(0, epoch, 50), batch_size):
            images, labels = task.train_batch(indices)
            optimizer.zero_grad()
            nn.functional.cross_entropy(twin(images), labels).backward()
            optimizer.step()
    for own, other in zip(trainer.network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


def test_compiled_steps_follow_the_learning_rate():
    plain, compiled = (
        make("single", ClassifierConfig(**DROPPING, compile=each)) for each in (False, True)
    )
    for trainer in (plain, compiled):
        trainer.train(task_of("single"))
    torch.testing.assert_close(weights(compiled), weights(plain))


class Brightening(Blobs):
    """Blobs whose training images are brighter in later epochs."""

    shown = 0

    def in_epoch(self, epoch):
        task = copy.copy(self)
        task.shown = epoch
        return task

    def train_batch(self, indices):
        images, labels = super().train_batch(indices)
        return images + self.shown, labels


@pytest.mark.parametrize("form", FORMS)
def test_an_epoch_trains_on_its_own_examples_and_is_measured_on_those_of_the_task(form):
    task = Brightening() if form == "single" else StackedTask((Brightening(), Brightening(seed=1)))
    config = ClassifierConfig(batch_size=25, epochs_per_task=3, learning_rate=0.01)
    trainer, seen = make(form, config), []
    learn = trainer._learn_eagerly
    trainer._learn_eagerly = lambda images, labels: (
        seen.append(images.flatten(-3).mean((-2, -1)).flatten().tolist()) or learn(images, labels)
    )
    trainer.train(task)
    by_epoch = torch.tensor(seen).view(3, 2, -1).mean(1)
    torch.testing.assert_close(by_epoch[1:], by_epoch[:1] + torch.tensor([[1.0], [2.0]]))
    expected = trainer._evaluate(trainer._first_train_batches(task, 50))[0].flatten().tolist()
    found = [row["train_accuracy"] for row in trainer.finish(task)]
    assert found == expected
