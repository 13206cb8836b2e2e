"""Stacked classifiers compared with separate `Classifier`s."""

import io
import math

import pytest
import torch
from torch import nn

from plasticity.agents.networks import NETWORKS
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.agents.supervised.single import Classifier
from plasticity.agents.supervised.stacked import StackedClassifier
from plasticity.mitigations import PLAIN_METHOD, L2Init, SeededMethod, Syre, WeightDecay
from plasticity.tasks.datasets.images import ImageDataset
from plasticity.tasks.streams.base import stack
from plasticity.tasks.streams.permuted_images import PermutedImages

REGULARIZERS = [
    SeededMethod((Syre(strength=0.05, sigma=0.5),), anchor_seed=3),
    PLAIN_METHOD,
    SeededMethod((L2Init(strength=0.1),)),
    SeededMethod((WeightDecay(strength=0.02),)),
]
SEEDS = [11, 12, 11, 14]


class InDouble:
    """Task or group of tasks with images in float64."""

    def __init__(self, tasks):
        self.tasks = tasks
        self.index, self.spec, self.num_train = tasks.index, tasks.spec, tasks.num_train

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


def network(seed, dtype=torch.float64, architecture="cnn", **settings):
    torch.manual_seed(seed)
    # tanh, because the weights of a dead ReLU have gradient 0: l2-init's pull at its anchor is then 0 or a
    # rounding error, and Adam turns even the latter into a full step.
    sizes = {"channels": (2, 3)} if architecture == "cnn" else {}
    settings = {"activation": "tanh", "hidden": (12,), **sizes, **settings}
    network = NETWORKS[architecture](**settings)
    return network.build(network.spec((1, 8, 8), 3)).to(dtype)


def config(**settings):
    settings = {"batch_size": 16, "learning_rate": 0.05, "train_evaluation_size": 30, **settings}
    return ClassifierConfig(**settings)


def stacked(configuration=None, count=4, dtype=torch.float64, device="cpu", **settings):
    return StackedClassifier(
        [network(seed, dtype, **settings) for seed in range(count)],
        configuration or config(),
        REGULARIZERS[:count],
        data_order_seeds=SEEDS[:count],
        device=device,
    )


def separate(index, configuration=None, dtype=torch.float64, **settings):
    return Classifier(
        network(index, dtype, **settings),
        configuration or config(),
        REGULARIZERS[index],
        data_order_seed=SEEDS[index],
    )


def require_equal_weights(many, index, classifier, rtol=1e-9, atol=1e-9):
    found = many.networks.state_dict(index)
    for name, expected in classifier.network.state_dict().items():
        torch.testing.assert_close(found[name], expected, rtol=rtol, atol=atol)


CONFIGS = {
    "sgd": config(momentum=0.9, epochs_per_task=2),
    "adam": config(optimizer="adam", learning_rate=0.003, epochs_per_task=2),
    "adamw": config(optimizer="adamw", learning_rate=0.003, loss="squared-error"),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("architecture", ["cnn", "mlp"])
def test_whole_tasks_equal_separate_classifiers(name, architecture):
    """Two tasks with smaller last batches agree in all results, in float64."""
    many = stacked(CONFIGS[name], architecture=architecture)
    singles = [separate(i, CONFIGS[name], architecture=architecture) for i in range(4)]
    each = streams()
    for task in (0, 1):
        group = InDouble(stack(each)[task])
        assert many.train(group)
        rows = many.finish(group)
        for i, classifier in enumerate(singles):
            own = InDouble(each[i][task])
            classifier.train(own)
            (expected,) = classifier.finish(own)
            require_equal_weights(many, i, classifier)
            assert list(rows[i]) == list(expected)
            assert rows[i] == pytest.approx(expected, rel=1e-9, abs=1e-12)
            assert rows[i]["diverged"] is False


def test_one_step_in_float32():
    many = stacked(dtype=torch.float32)
    each = streams()
    group = stack(each)[1]
    stops = iter([False, True])
    assert many.train(group, lambda: next(stops)) is False
    for i in range(4):
        classifier = separate(i, dtype=torch.float32)
        classifier.train(each[i][1], iter([False, True]).__next__)
        require_equal_weights(many, i, classifier, rtol=1e-6, atol=1e-7)


def test_running_statistics_are_learned_and_then_used():
    def normalized(seed):
        torch.manual_seed(seed)
        layers = [nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)]
        return nn.Sequential(*layers).double()

    each = streams(2)
    group = InDouble(stack(each)[1])
    many = StackedClassifier(
        [normalized(i) for i in range(2)], config(), REGULARIZERS[:2], data_order_seeds=SEEDS[:2]
    )
    many.train(group)
    rows = many.finish(group)
    for i in range(2):
        single = Classifier(normalized(i), config(), REGULARIZERS[i], data_order_seed=SEEDS[i])
        own = InDouble(each[i][1])
        single.train(own)
        assert rows[i] == pytest.approx(single.finish(own)[0], rel=1e-9)
        require_equal_weights(many, i, single)
    many.train(InDouble(stack(each)[2]))  # in training mode again
    assert many.state_dict(0)["network"]["2.num_batches_tracked"] == 8


def test_each_classifier_has_its_own_learning_rate_and_momentum():
    configs = [config(learning_rate=0.02 * (i + 1), momentum=0.2 * i) for i in range(4)]
    many = stacked(configs)
    each = streams()
    group = InDouble(stack(each)[0])
    many.train(group)
    for i, own in enumerate(configs):
        classifier = separate(i, own)
        classifier.train(InDouble(each[i][0]))
        require_equal_weights(many, i, classifier)


def saved(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_checkpoint_continues_separately_and_stacked(name):
    """After a stop at the second of four steps, every way to continue gives the same numbers."""
    configuration = CONFIGS[name]
    each = streams()
    group = InDouble(stack(each)[2])

    def begun(classifier, tasks):
        stops = iter([False, False, True])
        assert classifier.train(tasks, lambda: next(stops)) is False
        return classifier

    straight = stacked(configuration)
    assert straight.train(group)
    rows = straight.finish(group)

    stopped = begun(stacked(configuration), group)
    resumed = stacked(configuration, count=4)
    for i in range(4):
        resumed.load_state_dict(saved(stopped.state_dict(i)), i)
    assert resumed.task_progress == stopped.task_progress == 2 / resumed._task_steps
    assert resumed.train(group)
    assert resumed.finish(group) == rows  # bit for bit: the state is complete

    mixed = stacked(configuration)
    for i in range(4):
        own = InDouble(each[i][2])
        single = separate(i, configuration)
        single.load_state_dict(saved(stopped.state_dict(i)))
        assert single.train(own)
        assert single.finish(own)[0] == pytest.approx(rows[i], rel=1e-9)
        begun_separately = begun(separate(i, configuration), own)
        assert begun_separately.state_dict()["pending"]
        mixed.load_state_dict(saved(begun_separately.state_dict()), i)
    assert mixed.train(group)
    for found, expected in zip(mixed.finish(group), rows, strict=True):
        assert found == pytest.approx(expected, rel=1e-9)


def test_stacked_and_separate_states_have_the_same_format():
    many, single = stacked(CONFIGS["adam"]), separate(0, CONFIGS["adam"])
    each = streams()
    many.train(InDouble(stack(each)[0]))
    single.train(InDouble(each[0][0]))
    single.finish(InDouble(each[0][0]))
    many.finish(InDouble(stack(each)[0]))
    found, expected = many.state_dict(0), single.state_dict()
    assert found.keys() == expected.keys()
    assert found["optimizer"]["param_groups"] == expected["optimizer"]["param_groups"]
    for part in ("step", "task_steps", "pending", "online_correct", "loss_sum"):
        assert found[part] == expected[part]
        assert type(found[part]) is type(expected[part])


def test_a_diverging_classifier_is_reported_and_does_not_affect_the_others():
    rates = [0.05, 1e200, 0.05]
    each = streams(3)
    group = InDouble(stack(each)[0])
    with_it = stacked([config(learning_rate=r) for r in rates], count=3, activation="relu")
    without = stacked(count=3, activation="relu")
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
        many.train(InDouble(stack(each)[1]))
    assert math.isnan(next(iter(frozen["network"].values())).sum())
    after = with_it.state_dict(1)["network"]
    for name, weights in frozen["network"].items():
        torch.testing.assert_close(after[name], weights, rtol=0, atol=0, equal_nan=True)
    state = without.networks.state_dict(2)
    assert all(torch.equal(w, state[n]) for n, w in with_it.networks.state_dict(2).items())


def test_classifiers_at_different_steps_are_rejected():
    many = stacked(count=3)
    group = InDouble(stack(streams(3))[0])
    begun = stacked(count=3)
    stops = iter([False, True])
    begun.train(group, lambda: next(stops))
    many.load_state_dict(begun.state_dict(1), 1)
    with pytest.raises(
        ValueError, match=r"different steps .*{0: 0, 1: 1, 2: 0} \(classifier: step\).*load states"
    ):
        many.train(group)
    many.freeze(1)  # a frozen one may be at any step
    assert many.train(group)


def test_bf16_agrees_with_float32_approximately():
    group = stack(streams(2))[0]
    plain, switched = (
        stacked(config(**more), count=2, dtype=torch.float32, architecture="mlp")
        for more in ({}, {"precision": "bf16"})
    )
    for many in (plain, switched):
        many.train(group)
    for name, expected in plain.networks.parameters.items():
        found = switched.networks.parameters[name]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
    assert not torch.equal(found, expected)


def test_convolutions_under_bf16_are_bf16():
    given = torch.full((2, 1, 1, 8, 8), 1 + 2**-10)  # bfloat16 rounds this to 1
    many = stacked(config(precision="bf16"), count=2, dtype=torch.float32, channels=(2, 3))
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        found, rounded = many.networks(given), many.networks(given.bfloat16().float())
    assert torch.equal(found, rounded)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="at least one network"):
        StackedClassifier([], config(), [], data_order_seeds=[])
    networks = [network(seed) for seed in range(2)]
    with pytest.raises(ValueError, match="1 methods were given for 2 networks"):
        StackedClassifier(networks, config(), REGULARIZERS[:1], data_order_seeds=[1, 2])
    with pytest.raises(ValueError, match="3 data_order_seeds were given for 2"):
        StackedClassifier(networks, config(), REGULARIZERS[:2], data_order_seeds=[1, 2, 3])
    with pytest.raises(ValueError, match="1 configurations were given for 2 networks: give"):
        StackedClassifier(networks, [config()], REGULARIZERS[:2], data_order_seeds=[1, 2])
    with pytest.raises(ValueError, match=r"config\[1\] .* learning_rate and momentum only"):
        StackedClassifier(
            networks, [config(), config(batch_size=5)], REGULARIZERS[:2], data_order_seeds=[1, 2]
        )
    many = stacked(count=2)
    with pytest.raises(ValueError, match="batch_size=16 is larger than the task's 9"):
        many.train(stack(streams(2, train=9))[0])
    with pytest.raises(IndexError, match="is out of range"):
        many.freeze(2)
    with pytest.raises(IndexError, match="is out of range"):
        many.load_state_dict(many.state_dict(0), 2)
    with pytest.raises(RuntimeError, match="Missing key"):
        many.load_state_dict({**many.state_dict(0), "network": nn.Linear(1, 1).state_dict()}, 0)


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


@needs_cuda
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_cuda_agrees_with_the_cpu(name, compiled):
    configuration = CONFIGS[name]
    switched = ClassifierConfig(**{**vars(configuration), "compile": compiled})
    reference, many = stacked(configuration), stacked(switched, device="cuda")
    for task in (0, 1):
        reference.train(InDouble(stack(streams())[task]))
        many.train(InDouble(stack(streams(device="cuda"))[task]))
        if task == 0:
            reference.freeze(1)
            many.freeze(1)
    for layer, expected in reference.networks.parameters.items():
        found = many.networks.parameters[layer].cpu()
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)
