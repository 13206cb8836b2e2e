"""Whole runs of permuted-digits, tiny, in this process."""

import json
import math
from dataclasses import replace
from functools import cache

import pytest
import torch

from plasticity.agents.networks.image import NetworkConfig
from plasticity.agents.supervised.classifier import ClassifierConfig
from plasticity.metrics.registry import DEFAULT_METRICS, METRICS
from plasticity.scripts.config.run_config import ImageRunConfig
from plasticity.scripts.run.image_experiment import ImageExperiment
from plasticity.tasks import load_dataset

TINY = ImageRunConfig(
    benchmark="permuted-digits",
    method="none",
    seed=0,
    dataset="digits",
    num_tasks=3,
    probe_size=32,
    network=NetworkConfig(channels=(4, 4), hidden=(8,)),
    classifier=ClassifierConfig(learning_rate=0.05, momentum=0.9, batch_size=64),
)


@cache
def digits():
    return load_dataset("digits")


def experiment(**changes):
    return ImageExperiment(replace(TINY, **changes), digits())


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
    for method in ("none", "shift"):
        row = finish(experiment(method=method, sigma=0.5, metrics=tuple(METRICS), num_tasks=1))[0]
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
    tracked, untracked = experiment(metrics=tuple(METRICS)), experiment(metrics=())
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
        ({"method": "none"}, {"method": "weight-decay", "strength": 0.0}),
        ({"method": "none"}, {"method": "syre", "strength": 0.0, "sigma": 0.5}),
        ({"method": "none"}, {"method": "l2-init", "strength": 0.0}),
        (
            {"method": "weight-decay", "strength": 0.01},
            {"method": "syre", "strength": 0.01, "sigma": 0.0},
        ),
        ({"method": "none"}, {"method": "shift", "sigma": 0.0}),
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_controls_are_equal_bit_for_bit_over_a_whole_run(one, other):
    first, second = experiment(**one), experiment(**other)
    assert text(finish(first)) == text(finish(second))
    unprefixed = {
        name.removeprefix("model."): value
        for name, value in weights(second).items()
        if not name.startswith("anchor:")
    }
    assert equal(weights(first), unprefixed)


def test_methods_do_differ():
    texts = {
        text(finish(experiment(method=method, strength=0.01, sigma=0.5, num_tasks=2)))
        for method in ("none", "weight-decay", "syre", "l2-init", "shift")
    }
    assert len(texts) == 5
    assert text(finish(experiment(seed=1))) != text(finish(experiment(seed=0)))


def test_a_longer_run_begins_as_a_shorter_one():
    longer = experiment(num_tasks=4)
    assert text(finish(longer)[:3]) == text(finish(experiment()))
    assert longer.progress == 4


@pytest.mark.parametrize("calls", [1, 2, 20, 30])
@pytest.mark.parametrize(
    "changes",
    [
        {"method": "syre", "strength": 0.01, "sigma": 0.5},
        {"method": "l2-init", "strength": 0.01, "metrics": ("update_norm", "gradient_norm")},
        {"classifier": ClassifierConfig("adam", 0.003, batch_size=100)},
        {"method": "shift", "sigma": 0.3, "metrics": ("update_norm",)},
    ],
    ids=["syre", "l2-init", "adam", "shift"],
)
def test_continued_from_the_middle_of_a_task(changes, calls, tmp_path):
    whole = experiment(num_tasks=2, **changes)
    expected = text(finish(whole))
    count = iter(range(1, 10**6))
    first = experiment(num_tasks=2, **changes)
    rows = finish(first, lambda: next(count) >= calls)
    assert not first.finished
    torch.save(first.state_dict(), tmp_path / "state")
    second = experiment(num_tasks=2, **changes)
    second.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert second.progress == first.progress
    assert text(rows + finish(second)) == expected
    assert equal(weights(second), weights(whole))


def test_update_norm_is_that_of_the_task():
    tracked = experiment(metrics=("update_norm",), num_tasks=2)
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
    diverging = experiment(
        metrics=metrics, classifier=ClassifierConfig(learning_rate=1e20, batch_size=64)
    )
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
    overflowing = experiment(network=mlp, metrics=metrics)
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
    experiment(probe_size=355, classifier=ClassifierConfig(batch_size=1442))
    with pytest.raises(ValueError, match=r"--batch-size 1443 is larger than the 1442 training"):
        experiment(classifier=ClassifierConfig(batch_size=1443))
    with pytest.raises(ValueError, match=r"--probe-size 356 is larger than the 355 test"):
        experiment(probe_size=356)


def test_the_data_are_loaded_by_name():
    loaded = ImageExperiment(replace(TINY, num_tasks=1))
    assert text(finish(loaded)) == text(finish(experiment(num_tasks=1)))
