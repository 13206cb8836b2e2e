"""Learning with backpropagation written out, against the general path through autograd."""

import io
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from made_up_mitigations import ALL

from plasticity.agents.networks import CNN, MLP
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.agents.supervised.single import Classifier
from plasticity.mitigations import (
    MITIGATIONS,
    PLAIN_METHOD,
    L2Init,
    Mitigation,
    SeededMethod,
    Syre,
    WeightDecay,
)
from plasticity.tasks.streams.base import TaskSpec

NETWORK = MLP(hidden=(8, 6))
SYRE = SeededMethod((Syre(strength=0.01, sigma=0.5),), anchor_seed=3)
METHODS = {
    "none": PLAIN_METHOD,
    "weight-decay": SeededMethod((WeightDecay(strength=0.01),)),
    "small weight-decay": SeededMethod((WeightDecay(strength=1e-6),)),
    "syre": SYRE,
    "small syre": SeededMethod((Syre(strength=1e-5, sigma=0.5),), anchor_seed=3),
    "l2-init": SeededMethod((L2Init(strength=0.01),)),
}


class Blobs:
    """Task of 50 training and 21 test images in two classes, bright and dark."""

    num_test = 21

    def __init__(self, index=0, active=None, classes=2, num_train=50):
        self.index, self.num_train = index, num_train
        self.spec = TaskSpec(input_shape=(1, 8, 8), output_size=classes, active=active)
        generator = torch.Generator().manual_seed(index)
        bright = torch.arange(71) % 2
        self.labels = torch.tensor(active or (0, 1))[bright]
        noise = torch.rand(71, 1, 8, 8, generator=generator)
        self.images = 0.5 * noise + 0.5 * bright.view(-1, 1, 1, 1)

    def train_batch(self, indices):
        return self.images[indices], self.labels[indices]

    def test_batches(self, batch_size):
        yield from zip(
            self.images[50:].split(batch_size), self.labels[50:].split(batch_size), strict=True
        )


def weights(classifier):
    return torch.cat([each.detach().reshape(-1) for each in classifier.network.parameters()])


def saved(classifier):
    file = io.BytesIO()
    torch.save(classifier.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def load(classifier, state):
    classifier.load_state_dict(state)
    return classifier


def after(steps):
    """Return a `should_stop` that is true after this many steps."""
    calls = iter([*[False] * steps, True])
    return lambda: next(calls)


def make(method=PLAIN_METHOD, *, general=False, network=NETWORK, seed=0, **settings):
    torch.manual_seed(seed)
    built = network.make((1, 8, 8), 2, method.mitigations)
    config = ClassifierConfig(**{"learning_rate": 0.05, "batch_size": 1, **settings})
    classifier = Classifier(built, config, method, data_order_seed=9)
    if general:
        classifier._dense = None
    return classifier


def train_both(method=PLAIN_METHOD, tasks=2, **settings):
    """Return a classifier that learned as it chooses, another in the general way, and their rows."""
    found = []
    for general in (False, True):
        classifier = make(method, general=general, **settings)
        rows = []
        for index in range(tasks):
            task = Blobs(index)
            classifier.train(task)
            rows += classifier.finish(task)
        found.append((classifier, rows))
    (ours, mine), (theirs, wanted) = found
    assert ours._is_dense
    assert not theirs._is_dense
    return ours, theirs, mine, wanted


def assert_same(ours, theirs, mine, wanted):
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-4, atol=1e-5)
    for one, other in zip(mine, wanted, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
def test_steps_at_once_equal_the_general_path(method):
    ours, *rest = train_both(method)
    assert ours._dense._at_once
    assert all(each.grad is None for each in ours.network.parameters())  # never stored
    assert_same(ours, *rest)


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_activations_other_than_relu(activation):
    found = train_both(network=MLP(hidden=(8, 6), activation=activation))
    assert found[0]._dense._at_once
    assert_same(*found)


@pytest.mark.parametrize("method", [PLAIN_METHOD, SYRE], ids=["none", "syre"])
@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 16},  # 50 examples: the last batch has 2
        {"momentum": 0.9, "learning_rate": 0.01},
        {"momentum": 0.9, "batch_size": 7},
        {"optimizer": "adam", "learning_rate": 0.003, "batch_size": 8},
        {"optimizer": "adamw", "learning_rate": 0.003, "batch_size": 8},
        {"loss": "squared-error", "batch_size": 16},
        {"epochs_per_task": 2, "batch_size": 16},
    ],
    ids=str,
)
def test_stored_gradients_equal_the_general_path(method, settings):
    found = train_both(method, **settings)
    assert not found[0]._dense._at_once
    assert_same(*found)


def test_a_loss_without_a_written_gradient_is_differentiated():
    found = train_both(loss="squared-error")
    assert found[0]._dense._at_once
    assert_same(*found)


@pytest.mark.parametrize("batch_size", [1, 16])
def test_inactive_classes_take_no_part(batch_size):
    both = []
    for general in (False, True):
        torch.manual_seed(0)
        network = NETWORK.make((1, 8, 8), 4)
        config = ClassifierConfig(learning_rate=0.05, batch_size=batch_size)
        classifier = Classifier(network, config, data_order_seed=9)
        if general:
            classifier._dense = None
        before = network.fc3.weight.detach().clone()
        task = Blobs(active=(1, 3), classes=4)
        classifier.train(task)
        classifier.finish(task)
        after_it = network.fc3.weight.detach()
        assert torch.equal(after_it[[0, 2]], before[[0, 2]])
        both.append(weights(classifier))
    torch.testing.assert_close(*both, rtol=1e-4, atol=1e-5)


# ---- mitigations ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Reader(Mitigation):
    """Sums of the gradients and inputs that a hook finds."""

    name: ClassVar[str] = "reader"
    seen: ClassVar[list[float]] = []

    def after_step(self, context):
        self.seen.append(float(sum(each.abs().sum() for each in context.gradients.values())))


@dataclass(frozen=True, kw_only=True)
class Blind(Reader):
    """The same, but it says that it reads no gradients."""

    name: ClassVar[str] = "blind"
    reads_gradients: ClassVar[bool] = False


@pytest.mark.parametrize("decay", [(), (Syre(strength=0.01, sigma=0.5),)], ids=["none", "syre"])
def test_a_mitigation_that_reads_gradients_finds_those_of_the_loss(decay):
    found = []
    for general in (False, True):
        Reader.seen.clear()
        classifier = make(
            SeededMethod((*decay, Reader()), anchor_seed=3), general=general, batch_size=16
        )
        classifier.train(Blobs())
        found.append(list(Reader.seen))
    assert len(found[0]) == 4
    assert min(found[0]) > 0
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_one_that_reads_none_leaves_them_out():
    Blind.seen.clear()
    classifier = make(SeededMethod((Blind(),)))
    classifier.train(Blobs())
    assert classifier._dense._at_once
    assert Blind.seen == [0.0] * 50
    reading = make(SeededMethod((Reader(),)))
    reading.train(Blobs())
    assert not reading._dense._at_once


@pytest.mark.parametrize("name", list(MITIGATIONS))
@pytest.mark.parametrize("batch_size", [1, 16])
def test_every_mitigation_learns_as_on_the_general_path(name, batch_size):
    method = SeededMethod((MITIGATIONS[name](),), anchor_seed=3, noise_seed=5)
    found = []
    for general in (False, True):
        classifier = make(method, general=general, batch_size=batch_size, learning_rate=0.01)
        for index in range(2):
            task = Blobs(index, num_train=20)
            classifier.train(task)
            classifier.finish(task)
        found.append(weights(classifier))
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["cbp", "redo", "snr", "weight-noise", "layer-reset"])
def test_these_read_no_gradients(name):
    classifier = make(SeededMethod((MITIGATIONS[name](),)))
    classifier.train(Blobs(), after(3))
    assert classifier._dense._at_once


def test_a_penalty_on_features_takes_the_general_path():
    for mitigation in ALL:
        classifier = make(SeededMethod((mitigation,)))
        assert (classifier._dense is None) == mitigation.penalizes_features


# ---- stops and changes ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
@pytest.mark.parametrize("settings", [{}, {"batch_size": 3, "momentum": 0.9}], ids=str)
def test_stopped_and_continued_equals_uninterrupted(method, settings):
    straight, stopped = make(method, **settings), make(method, **settings)
    task = Blobs()
    straight.train(task)
    assert stopped.train(task, after(11)) is False
    resumed = load(make(method, seed=1, **settings), saved(stopped))
    assert resumed.train(task)
    assert straight.finish(task) == resumed.finish(task)
    assert torch.equal(weights(straight), weights(resumed))


def test_continual_backprop_continues_exactly():
    method = SeededMethod(
        (MITIGATIONS["cbp"](replacement_rate=0.02, maturity_threshold=3),), noise_seed=2
    )
    straight, stopped = make(method), make(method)
    straight.train(Blobs())
    stopped.train(Blobs(), after(23))
    resumed = load(make(method, seed=1), saved(stopped))
    resumed.train(Blobs())
    rows = straight.finish(Blobs())
    assert rows == resumed.finish(Blobs())
    assert sum(each for name, each in rows[0].items() if name.startswith("reset_units")) > 0
    assert torch.equal(weights(straight), weights(resumed))


def test_a_state_goes_between_the_two_paths():
    ours, theirs = make(SYRE), make(SYRE, general=True)
    ours.train(Blobs(), after(20))
    theirs.train(Blobs(), after(20))
    for source, target in ((ours, make(SYRE, general=True)), (theirs, make(SYRE))):
        load(target, saved(source)).train(Blobs())
        source.train(Blobs())
        torch.testing.assert_close(weights(source), weights(target), rtol=1e-4, atol=1e-5)
        assert source.finish(Blobs())[0] == pytest.approx(target.finish(Blobs())[0], rel=1e-4)


def test_a_file_holds_the_weights_once():
    plain, moved = make(general=True), make()
    sizes = []
    for each in (plain, moved):
        each.train(Blobs(), after(32))
        file = io.BytesIO()
        torch.save(each.network.state_dict(), file)
        sizes.append(file.getbuffer().nbytes)
    assert sizes[1] < sizes[0] + 2000  # bytes


def test_a_changed_network_or_optimizer_is_noticed_at_the_next_task():
    classifier = make()
    classifier.train(Blobs())
    classifier.finish(Blobs())
    assert classifier._dense._at_once
    classifier.optimizer.param_groups[0]["momentum"] = 0.5
    classifier.train(Blobs(1))
    classifier.finish(Blobs(1))
    assert classifier._is_dense
    assert not classifier._dense._at_once
    assert all("momentum_buffer" in each for each in classifier.optimizer.state.values())
    calls = []
    classifier.network.fc1.register_forward_hook(lambda *_: calls.append(1))
    classifier.train(Blobs(2))
    assert not classifier._is_dense
    assert len(calls) == 50


def test_parameters_that_were_moved_are_followed():
    classifier, other = make(), make()
    for each in (classifier, other):
        each.train(Blobs())
        each.finish(Blobs())
    with torch.no_grad():
        for each in classifier.network.parameters():
            each.data = each.detach().clone()
    for each in (classifier, other):
        each.train(Blobs(1))
    assert torch.equal(weights(classifier), weights(other))


@pytest.mark.parametrize(
    ("network", "settings"),
    [(CNN(), {}), (NETWORK, {"precision": "bf16"})],
    ids=["convolutions", "bf16"],
)
def test_others_take_the_general_path(network, settings):
    classifier = make(network=network, **settings)
    classifier.train(Blobs(), after(2))
    assert not classifier._is_dense


def test_made_up_mitigations_agree():
    for mitigation in ALL:
        method = SeededMethod((mitigation,), noise_seed=1)
        found = []
        for general in (False, True):
            classifier = make(method, general=general, batch_size=8)
            classifier.train(Blobs())
            found.append(weights(classifier))
        torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("general", [False, True])
def test_moments_of_a_dead_unit_do_not_decay_to_denormals(general):
    """Between two examples that use a unit, a CPU would be ten times slower on them."""
    classifier = make(optimizer="adam", learning_rate=1e-4, general=general)
    classifier.train(Blobs(), after(5))
    with torch.no_grad():
        classifier.network.fc1.weight[0] = 0
        classifier.network.fc1.bias[0] = -1
    for _ in range(25):  # 0.9^1250 = 1e-57
        classifier.train(Blobs())
        classifier.finish(Blobs())
    moment = classifier.optimizer.state[classifier.network.fc1.weight]["exp_avg"]
    assert not moment[0].any()
    assert moment[1:].any()
