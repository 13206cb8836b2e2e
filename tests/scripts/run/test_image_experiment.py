"""Whole runs of permuted-digits, tiny, in this process."""

import json
import math
from functools import cache

import pytest
import torch

from plasticity.agents.networks.image import NetworkConfig
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.metrics.registry import DEFAULT_METRICS, METRICS
from plasticity.mitigations import L2Init, Shift, Syre, WeightDecay, method_name
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.config.run_config import SupervisedRunConfig, SupervisedTracking
from plasticity.scripts.run.image_experiment import ImageExperiment
from plasticity.tasks import load_dataset
from plasticity.tasks.streams.permuted_images import PermutedImagesConfig

TINY = SupervisedRunConfig(
    benchmark="permuted-digits",
    stream=PermutedImagesConfig(dataset="digits", num_tasks=3),
    network=NetworkConfig(channels=(4, 4), hidden=(8,)),
    agent=ClassifierConfig(learning_rate=0.05, momentum=0.9, batch_size=64),
    tracking=SupervisedTracking(probe_size=32),
)
SHORT = {"stream.num_tasks": 1}


@cache
def digits():
    return load_dataset("digits")


def experiment(changes=None):
    return ImageExperiment(with_values(TINY, changes or {}), digits())


def finish(experiment, should_stop=lambda: False):
    rows = []
    while not experiment.finished:
        row = experiment.next_row(should_stop)
        if row is None:
            break
        rows.append(row)
    return rows


def weights(experiment):
    return experiment.state_dict()["classifier"]["network"]


def equal(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def text(rows):
    return "\n".join(map(json.dumps, rows))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_rows_have_the_keys_of_the_specification_layers_in_order():
    rows = finish(experiment())
    assert [row["task"] for row in rows] == [0, 1, 2]
    leading = [
        "task",
        "test_accuracy",
        "train_accuracy",
        "online_accuracy",
        "train_loss",
        "diverged",
    ]
    expected = list(leading)
    for metric in DEFAULT_METRICS:
        layers = ["conv1", "conv2", "fc1"]  # fc2 gives the logits: no features, but weights
        if metric == "weight_norm":
            layers += ["fc2", "total"]
        expected += [f"{metric}/{layer}" for layer in layers]
    assert [list(row) for row in rows] == [expected] * 3
    assert all(row["diverged"] is False for row in rows)
    assert not any("second" in name or "time" in name for name in rows[0])


def test_every_metric_can_be_asked_for_with_every_method():
    for method in ((), (Shift(sigma=0.5),)):
        changes = {"method": method, "tracking.metrics": tuple(METRICS), **SHORT}
        row = finish(experiment(changes))[0]
        families = {name.split("/")[0] for name in row if "/" in name}
        assert families == set(METRICS)
        assert {name.split("/")[1] for name in row if "/" in name} == {
            "conv1",
            "conv2",
            "fc1",
            "fc2",
            "total",
        }


def test_tracking_does_not_change_the_weights():
    tracked = experiment({"tracking.metrics": tuple(METRICS)})
    untracked = experiment({"tracking.metrics": ()})
    finish(tracked)
    rows = finish(untracked)
    assert equal(weights(tracked), weights(untracked))
    assert not any("/" in name for name in rows[-1])


def test_the_state_of_the_process_does_not_matter():
    first = text(finish(experiment()))
    torch.manual_seed(1234)
    torch.rand(7)
    assert text(finish(experiment())) == first


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((), (WeightDecay(strength=0.0),)),
        ((), (Syre(strength=0.0, sigma=0.5),)),
        ((), (L2Init(strength=0.0),)),
        ((WeightDecay(strength=0.01),), (Syre(strength=0.01, sigma=0.0),)),
        ((), (Shift(sigma=0.0),)),
    ],
    ids=method_name,
)
def test_controls_are_equal_bit_for_bit_over_a_whole_run(one, other):
    first, second = experiment({"method": one}), experiment({"method": other})
    assert text(finish(first)) == text(finish(second))
    unprefixed = {
        name.removeprefix("model."): value
        for name, value in weights(second).items()
        if not name.startswith("anchor:")
    }
    assert equal(weights(first), unprefixed)


def test_methods_do_differ():
    texts = {
        text(finish(experiment({"method": method, "stream.num_tasks": 2})))
        for method in (
            (),
            (WeightDecay(strength=0.01),),
            (Syre(strength=0.01, sigma=0.5),),
            (L2Init(strength=0.01),),
            (Shift(sigma=0.5),),
        )
    }
    assert len(texts) == 5
    assert text(finish(experiment({"seed": 1}))) != text(finish(experiment({"seed": 0})))


def test_a_longer_run_begins_as_a_shorter_one():
    longer = experiment({"stream.num_tasks": 4})
    assert text(finish(longer)[:3]) == text(finish(experiment()))
    assert longer.progress == 4


@pytest.mark.parametrize("calls", [1, 2, 20, 30])
@pytest.mark.parametrize(
    "changes",
    [
        {"method": (Syre(strength=0.01, sigma=0.5),)},
        {
            "method": (L2Init(strength=0.01),),
            "tracking.metrics": ("update_norm", "gradient_norm"),
        },
        {"agent": ClassifierConfig("adam", 0.003, batch_size=100)},
        {"method": (Shift(sigma=0.3),), "tracking.metrics": ("update_norm",)},
    ],
    ids=["syre", "l2-init", "adam", "shift"],
)
def test_continued_from_the_middle_of_a_task(changes, calls, tmp_path):
    changes = {"stream.num_tasks": 2, **changes}
    whole = experiment(changes)
    expected = text(finish(whole))
    count = iter(range(1, 10**6))
    first = experiment(changes)
    rows = finish(first, lambda: next(count) >= calls)
    assert not first.finished
    torch.save(first.state_dict(), tmp_path / "state")
    second = experiment(changes)
    second.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert second.progress == first.progress
    assert text(rows + finish(second)) == expected
    assert equal(weights(second), weights(whole))


def test_update_norm_is_that_of_the_task():
    tracked = experiment({"tracking.metrics": ("update_norm",), "stream.num_tasks": 2})
    snapshots = [{name: value.clone() for name, value in weights(tracked).items()}]
    rows = []
    for _ in range(2):
        rows.append(tracked.next_row(lambda: False))
        snapshots.append({name: value.clone() for name, value in weights(tracked).items()})
    for row, before, after in zip(rows, snapshots[:-1], snapshots[1:], strict=True):
        square = sum((after[name] - before[name]).double().square().sum() for name in after)
        assert row["update_norm/total"] == pytest.approx(math.sqrt(square), rel=1e-5)


@pytest.mark.parametrize("metrics", [(), DEFAULT_METRICS])
def test_a_loss_that_becomes_nan_ends_the_run(metrics):
    agent = ClassifierConfig(learning_rate=1e20, batch_size=64)
    diverging = experiment({"tracking.metrics": metrics, "agent": agent})
    rows = finish(diverging)
    assert [row["diverged"] for row in rows] == [True]
    assert diverging.diverged
    assert diverging.finished
    assert not any("/" in name for name in rows[0])
    again = experiment()
    again.load_state_dict(diverging.state_dict())
    assert again.finished


@pytest.mark.parametrize("metrics", [(), ("effective_rank",), ("weight_norm",)])
def test_features_that_overflow_under_a_finite_loss_end_the_run(metrics):
    mlp = NetworkConfig(architecture="mlp", hidden=(2, 2))
    overflowing = experiment({"network": mlp, "tracking.metrics": metrics})
    classifier = overflowing._classifier

    def train(task, should_stop):
        with torch.no_grad():
            network = classifier.network
            network.fc1.weight.fill_(3e38)  # an image's pixels add up to more than 2: infinity
            network.fc2.weight.fill_(-1)  # minus infinity, of which ReLU makes 0: finite logits
        return True

    classifier.train = train
    row = overflowing.next_row(lambda: False)
    assert math.isfinite(row["train_loss"])
    assert row["diverged"] is True
    assert overflowing.finished


def test_a_batch_or_a_probe_larger_than_the_data_is_refused():
    # 1797 digits: 1442 to train on, 355 to test on
    experiment({"tracking.probe_size": 355, "agent": ClassifierConfig(batch_size=1442)})
    with pytest.raises(ValueError, match=r"--batch-size 1443 is larger than the 1442 training"):
        experiment({"agent": ClassifierConfig(batch_size=1443)})
    with pytest.raises(ValueError, match=r"--probe-size 356 is larger than the 355 test"):
        experiment({"tracking.probe_size": 356})


def test_the_data_are_loaded_by_name():
    loaded = ImageExperiment(with_values(TINY, SHORT))
    assert text(finish(loaded)) == text(finish(experiment(SHORT)))
