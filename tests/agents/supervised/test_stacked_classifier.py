"""Many classifiers at once against each alone by `Classifier`."""

import io
import math
import threading

import pytest
import torch
from torch import nn

from plasticity.agents.networks.image import ImageNetwork, NetworkConfig
from plasticity.agents.supervised.classifier import Classifier, ClassifierConfig
from plasticity.agents.supervised.stacked_classifier import StackedClassifier
from plasticity.agents.supervised.stacked_data_orders import StackedDataOrders
from plasticity.optim.settings import RegularizerSettings
from plasticity.seeds import child_seed
from plasticity.tasks.datasets.images import ImageDataset
from plasticity.tasks.streams.permuted_images import PermutedImages
from plasticity.tasks.streams.stacked_permuted_images import PermutedImagesGroup

REGULARIZERS = [
    RegularizerSettings("syre", 0.05, 0.5, anchor_seed=3),
    RegularizerSettings(),
    RegularizerSettings("l2-init", 0.1),
    RegularizerSettings("weight-decay", 0.02),
]
SEEDS = [11, 12, 11, 14]


class InDouble:
    """A task or a group of them, with its images in float64."""

    def __init__(self, tasks):
        self.tasks = tasks
        self.index, self.num_train = tasks.index, tasks.num_train

    def train_batch(self, indices):
        images, labels = self.tasks.train_batch(indices)
        return images.double(), labels

    def test_batches(self, batch_size):
        return ((images.double(), labels) for images, labels in self.tasks.test_batches(batch_size))


def streams(count=4, device="cpu", train=50):
    generator = torch.Generator().manual_seed(0)

    def split(size):
        labels = torch.randint(0, 3, (size,), generator=generator)
        images = torch.randint(0, 150, (size, 8, 8), generator=generator) + 50 * labels.view(
            -1, 1, 1
        )
        return images.to(torch.uint8), labels

    data = ImageDataset("random", *split(train), *split(21), num_classes=3).to(device)
    return [PermutedImages(data, 4, seed, device) for seed in range(count)]


def network(seed, dtype=torch.float64, **settings):
    torch.manual_seed(seed)
    # tanh: of a dead ReLU's weights the gradient is 0, and l2-init's pull at its anchor is then 0 or
    # rounding, which Adam makes a step of either way.
    settings = {"activation": "tanh", "channels": (2, 3), "hidden": (12,), **settings}
    return ImageNetwork((1, 8, 8), 3, NetworkConfig(**settings)).to(dtype)


def config(**settings):
    settings = {"batch_size": 16, "learning_rate": 0.05, "train_evaluation_size": 30, **settings}
    return ClassifierConfig(**settings)


def together(configuration=None, count=4, dtype=torch.float64, device="cpu", **settings):
    return StackedClassifier(
        [network(seed, dtype, **settings) for seed in range(count)],
        configuration or config(),
        REGULARIZERS[:count],
        data_order_seeds=SEEDS[:count],
        device=device,
    )


def alone(index, configuration=None, dtype=torch.float64, **settings):
    return Classifier(
        network(index, dtype, **settings),
        configuration or config(),
        REGULARIZERS[index],
        data_order_seed=SEEDS[index],
    )


def require_equal_weights(replicas, index, classifier, rtol=1e-9, atol=1e-9):
    found = replicas.networks.state_dict(index)
    for name, expected in classifier.network.state_dict().items():
        torch.testing.assert_close(found[name], expected, rtol=rtol, atol=atol)


CONFIGS = {
    "sgd": config(momentum=0.9, epochs_per_task=2),
    "adam": config(optimizer="adam", learning_rate=0.003, epochs_per_task=2),
    "adamw": config(optimizer="adamw", learning_rate=0.003, loss="squared-error"),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("architecture", ["cnn", "mlp"])
def test_whole_tasks_equal_each_alone(name, architecture):
    """Two tasks, ragged last batches and all figures, in float64."""
    many = together(CONFIGS[name], architecture=architecture)
    singles = [alone(i, CONFIGS[name], architecture=architecture) for i in range(4)]
    each = streams()
    for task in (0, 1):
        group = InDouble(PermutedImagesGroup(each)[task])
        assert many.train(group)
        rows = many.finish(group)
        for i, classifier in enumerate(singles):
            own = InDouble(each[i][task])
            classifier.train(own)
            expected = classifier.finish(own)
            require_equal_weights(many, i, classifier)
            assert list(rows[i]) == list(expected)
            assert rows[i] == pytest.approx(expected, rel=1e-9, abs=1e-12)
            assert rows[i]["diverged"] is False


def test_one_step_in_float32():
    many = together(dtype=torch.float32)
    each = streams()
    group = PermutedImagesGroup(each)[1]
    stops = iter([False, True])
    assert many.train(group, lambda: next(stops)) is False
    for i in range(4):
        classifier = alone(i, dtype=torch.float32)
        classifier.train(each[i][1], iter([False, True]).__next__)
        require_equal_weights(many, i, classifier, rtol=1e-6, atol=1e-7)


def test_running_statistics_are_learnt_and_then_used():
    def normalised(seed):
        torch.manual_seed(seed)
        layers = [nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)]
        return nn.Sequential(*layers).double()

    each = streams(2)
    group = InDouble(PermutedImagesGroup(each)[1])
    many = StackedClassifier(
        [normalised(i) for i in range(2)], config(), REGULARIZERS[:2], data_order_seeds=SEEDS[:2]
    )
    many.train(group)
    rows = many.finish(group)
    for i in range(2):
        single = Classifier(normalised(i), config(), REGULARIZERS[i], data_order_seed=SEEDS[i])
        own = InDouble(each[i][1])
        single.train(own)
        assert rows[i] == pytest.approx(single.finish(own), rel=1e-9)
        require_equal_weights(many, i, single)
    many.train(InDouble(PermutedImagesGroup(each)[2]))  # in training mode again
    assert many.state_dict(0)["network"]["2.num_batches_tracked"] == 8


def test_learning_rates_and_momenta_of_each():
    configs = [config(learning_rate=0.02 * (i + 1), momentum=0.2 * i) for i in range(4)]
    many = together(configs)
    each = streams()
    group = InDouble(PermutedImagesGroup(each)[0])
    many.train(group)
    for i, own in enumerate(configs):
        classifier = alone(i, own)
        classifier.train(InDouble(each[i][0]))
        require_equal_weights(many, i, classifier)


def saved(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_checkpoint_goes_on_alone_and_together(name):
    """Stopped in the second of four steps; every way of going on gives the same numbers."""
    configuration = CONFIGS[name]
    each = streams()
    group = InDouble(PermutedImagesGroup(each)[2])

    def begun(trainer, tasks):
        stops = iter([False, False, True])
        assert trainer.train(tasks, lambda: next(stops)) is False
        return trainer

    straight = together(configuration)
    assert straight.train(group)
    rows = straight.finish(group)

    stopped = begun(together(configuration), group)
    resumed = together(configuration, count=4)
    for i in range(4):
        resumed.load_state_dict(i, saved(stopped.state_dict(i)))
    assert resumed.task_progress == stopped.task_progress == 2 / resumed._task_steps
    assert resumed.train(group)
    assert resumed.finish(group) == rows  # to the bit: all of it is in the state

    mixed = together(configuration)
    for i in range(4):
        own = InDouble(each[i][2])
        single = alone(i, configuration)
        single.load_state_dict(saved(stopped.state_dict(i)))
        assert single.train(own)
        assert single.finish(own) == pytest.approx(rows[i], rel=1e-9)
        begun_alone = begun(alone(i, configuration), own)
        assert begun_alone.state_dict()["pending"]
        mixed.load_state_dict(i, saved(begun_alone.state_dict()))
    assert mixed.train(group)
    for found, expected in zip(mixed.finish(group), rows, strict=True):
        assert found == pytest.approx(expected, rel=1e-9)


def test_the_states_have_one_form():
    many, single = together(CONFIGS["adam"]), alone(0, CONFIGS["adam"])
    each = streams()
    many.train(InDouble(PermutedImagesGroup(each)[0]))
    single.train(InDouble(each[0][0]))
    single.finish(InDouble(each[0][0]))
    many.finish(InDouble(PermutedImagesGroup(each)[0]))
    found, expected = many.state_dict(0), single.state_dict()
    assert found.keys() == expected.keys()
    assert found["optimizer"]["param_groups"] == expected["optimizer"]["param_groups"]
    for part in ("step", "task_steps", "pending", "online_correct", "loss_sum"):
        assert found[part] == expected[part]
        assert type(found[part]) is type(expected[part])


def test_a_diverging_replica_is_marked_and_leaves_the_others():
    rates = [0.05, 1e200, 0.05]
    each = streams(3)
    group = InDouble(PermutedImagesGroup(each)[0])
    with_it = together([config(learning_rate=r) for r in rates], count=3, activation="relu")
    without = together(count=3, activation="relu")
    for many in (with_it, without):
        many.train(group)
    rows, expected = with_it.finish(group), without.finish(group)
    assert [row["diverged"] for row in rows] == [False, True, False]
    assert (rows[0], rows[2]) == (expected[0], expected[2])
    for i in (0, 2):
        state = without.networks.state_dict(i)
        assert all(torch.equal(w, state[n]) for n, w in with_it.networks.state_dict(i).items())

    with_it.freeze(1)
    frozen = saved(with_it.state_dict(1))
    for many in (with_it, without):
        many.train(InDouble(PermutedImagesGroup(each)[1]))
    assert math.isnan(next(iter(frozen["network"].values())).sum())
    after = with_it.state_dict(1)["network"]
    for name, weights in frozen["network"].items():
        torch.testing.assert_close(after[name], weights, rtol=0, atol=0, equal_nan=True)
    state = without.networks.state_dict(2)
    assert all(torch.equal(w, state[n]) for n, w in with_it.networks.state_dict(2).items())


def test_stop_is_asked_for_before_every_step():
    many = together(count=2)
    asked = []
    many.train(InDouble(PermutedImagesGroup(streams(2))[0]), lambda: asked.append(1) or False)
    assert len(asked) == 4
    assert many.task_progress == 1


def test_replicas_at_different_steps_are_refused():
    many = together(count=3)
    group = InDouble(PermutedImagesGroup(streams(3))[0])
    begun = together(count=3)
    stops = iter([False, True])
    begun.train(group, lambda: next(stops))
    many.load_state_dict(1, begun.state_dict(1))
    with pytest.raises(ValueError, match=r"different steps .*{0: 0, 1: 1, 2: 0}"):
        many.train(group)
    many.freeze(1)  # a frozen one may be anywhere
    assert many.train(group)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # torch's own use
@pytest.mark.parametrize("settings", [{"precision": "bf16"}, {"compile": True}])
def test_switches_of_the_configuration(settings):
    """bf16: about as float32. Compiled: float32 to rounding."""
    each = streams(2, train=48)  # one size of batch: every other is compiled anew
    group = PermutedImagesGroup(each)[0]
    plain, switched = (
        together(config(**more), count=2, dtype=torch.float32, architecture="mlp")
        for more in ({}, settings)
    )
    for many in (plain, switched):
        many.train(group)
    tolerance = 1e-5 if "compile" in settings else 0.05
    for name, expected in plain.networks.parameters.items():
        found = switched.networks.parameters[name]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    if "precision" in settings:
        assert not torch.equal(found, expected)


def test_convolutions_under_bf16_are_bf16():
    given = torch.full((2, 1, 1, 8, 8), 1 + 2**-10)  # bfloat16 has 1, and nothing as near to it
    many = together(config(precision="bf16"), count=2, dtype=torch.float32, channels=(2, 3))
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        found, rounded = many.networks(given), many.networks(given.bfloat16().float())
    assert torch.equal(found, rounded)


def test_a_thread_that_draws_takes_no_memory(monkeypatch):
    """A GPU's pinned memory, taken while another thread captures a graph, would break the capture."""
    orders = StackedDataOrders([3, 4], torch.device("cpu"))
    monkeypatch.setattr(orders, "_memory", lambda count, take=orders._memory: taken(take(count)))
    threads = []

    def taken(memory):
        threads.append(threading.current_thread())
        return memory

    orders.draw_ahead(0, 0, 40)
    orders.get(0, 0, 40)
    orders.get(0, 1, 40)
    assert threads == [threading.current_thread()] * 2


def test_orders_are_the_ordinary_ones_drawn_ahead_or_not():
    orders = StackedDataOrders([3, 4], torch.device("cpu"))

    def expected(task, epoch):
        rows = []
        for seed in (3, 4):
            generator = torch.Generator().manual_seed(child_seed(seed, f"{task}/{epoch}"))
            rows.append(torch.randperm(40, generator=generator))
        return torch.stack(rows)

    assert torch.equal(orders.get(0, 0, 40), expected(0, 0))
    orders.draw_ahead(0, 1, 40)
    orders.draw_ahead(0, 1, 40)
    assert torch.equal(orders.get(0, 1, 40), expected(0, 1))
    orders.draw_ahead(1, 0, 40)
    assert torch.equal(orders.get(2, 0, 40), expected(2, 0))  # another than was expected
    assert torch.equal(orders.get(1, 0, 40), expected(1, 0))


def test_bad_arguments():
    with pytest.raises(ValueError, match="at least one network"):
        StackedClassifier([], config(), [], data_order_seeds=[])
    networks = [network(seed) for seed in range(2)]
    with pytest.raises(ValueError, match="1 regularizers were given for 2 networks"):
        StackedClassifier(networks, config(), REGULARIZERS[:1], data_order_seeds=[1, 2])
    with pytest.raises(ValueError, match="3 data_order_seeds were given for 2"):
        StackedClassifier(networks, config(), REGULARIZERS[:2], data_order_seeds=[1, 2, 3])
    with pytest.raises(ValueError, match="1 configurations were given for 2"):
        StackedClassifier(networks, [config()], REGULARIZERS[:2], data_order_seeds=[1, 2])
    with pytest.raises(ValueError, match=r"config\[1\] .* learning_rate and momentum only"):
        StackedClassifier(
            networks, [config(), config(batch_size=5)], REGULARIZERS[:2], data_order_seeds=[1, 2]
        )
    many = together(count=2)
    with pytest.raises(ValueError, match="batch_size=16 is larger than the task's 9"):
        many.train(PermutedImagesGroup(streams(2, train=9))[0])
    with pytest.raises(IndexError, match="Index 2 is out of range"):
        many.freeze(2)
    with pytest.raises(IndexError, match="Index 2 is out of range"):
        many.load_state_dict(2, many.state_dict(0))
    with pytest.raises(RuntimeError, match="Missing key"):
        many.load_state_dict(0, {**many.state_dict(0), "network": nn.Linear(1, 1).state_dict()})


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


@needs_cuda
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_on_cuda_as_on_the_cpu(name, compiled):
    configuration = CONFIGS[name]
    switched = ClassifierConfig(**{**vars(configuration), "compile": compiled})
    reference, many = together(configuration), together(switched, device="cuda")
    for task in (0, 1):
        reference.train(InDouble(PermutedImagesGroup(streams())[task]))
        many.train(InDouble(PermutedImagesGroup(streams(device="cuda"))[task]))
        if task == 0:
            reference.freeze(1)
            many.freeze(1)
    for layer, expected in reference.networks.parameters.items():
        found = many.networks.parameters[layer].cpu()
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)


@needs_cuda
def test_the_loop_never_waits_for_the_device():
    many = together(dtype=torch.float32, device="cuda")
    group = PermutedImagesGroup(streams(device="cuda"))[1]
    many.train(group)
    many.finish(group)
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert many.train(group)
    finally:
        torch.cuda.set_sync_debug_mode("default")
