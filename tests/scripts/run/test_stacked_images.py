"""Stacked image runs against the same runs one by one."""

import json
import math
from functools import cache

import pytest
import torch

from plasticity.agents.networks.image import NetworkConfig
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.metrics.registry import METRICS
from plasticity.mitigations import L2Init, Syre, WeightDecay
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.config.run_config import SupervisedRunConfig, SupervisedTracking
from plasticity.scripts.run.image_experiment import ImageExperiment
from plasticity.scripts.run.stacked_images import StackedImages
from plasticity.tasks import load_dataset
from plasticity.tasks.streams.permuted_images import PermutedImagesConfig

TINY = SupervisedRunConfig(
    benchmark="permuted-digits",
    stream=PermutedImagesConfig(dataset="digits", num_tasks=2),
    network=NetworkConfig(channels=(4,), hidden=(8,)),
    agent=ClassifierConfig(learning_rate=0.05, momentum=0.9, batch_size=128),
    tracking=SupervisedTracking(metrics=tuple(METRICS), probe_size=32),
)
STEPS = 12  # of a task: 1442 examples, 128 at a time
RUNS = (
    TINY,
    with_values(TINY, {"seed": 1}),
    with_values(TINY, {"method": (Syre(strength=0.01, sigma=0.5, anisotropy=0.1),)}),
    with_values(TINY, {"method": (L2Init(strength=0.01),)}),
    with_values(TINY, {"method": (WeightDecay(strength=0.01),), "seed": 7}),
)
EXPLODING = with_values(TINY, {"method": (WeightDecay(strength=1e20),)})


@cache
def digits():
    return load_dataset("digits")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def never():
    return False


def after(calls):
    steps = iter(range(calls))
    return lambda: next(steps, None) is None


def alone(config, should_stop=never, state=None):
    """Return the rows of the ordinary experiment, and its state."""
    experiment = ImageExperiment(config, digits())
    if state is not None:
        experiment.load_state_dict(state)
    rows = []
    while not experiment.finished and (row := experiment.next_row(should_stop)):
        rows.append(row)
    return rows, experiment.state_dict()


def stacked(configs, should_stop=never, states=None):
    """Return the rows of each run, and their states."""
    experiment = StackedImages(configs, digits())
    for index, state in enumerate(states or []):
        experiment.load_state_dict(index, state)
    rows = [[] for _ in configs]
    while not all(map(experiment.is_finished, range(len(configs)))):
        found = experiment.next_rows(should_stop)
        for index, row in found.items():
            rows[index].append(row)
        if not found:
            break
    return rows, experiment.state_dicts(range(len(configs)))


def text(rows):
    return "\n".join(map(json.dumps, rows))


def assert_near(rows, expected, rel=1e-4):
    assert len(rows) == len(expected)
    for row, other in zip(rows, expected, strict=True):
        assert list(row) == list(other)
        for name, value in other.items():
            assert row[name] == pytest.approx(value, rel=rel, abs=1e-6), name


@cache
def rows_alone():
    return [alone(config)[0] for config in RUNS]


@cache
def rows_stacked():
    return stacked(RUNS)[0]


def test_rows_are_those_of_each_run_alone():
    for rows, expected in zip(rows_stacked(), rows_alone(), strict=True):
        assert_near(rows, expected)
    assert len({text(rows) for rows in rows_stacked()}) == len(RUNS)  # no two are one run


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_with_adam(optimizer):
    configs = [
        with_values(
            each,
            {"stream.num_tasks": 1, "agent": ClassifierConfig(optimizer, 0.003, batch_size=128)},
        )
        for each in RUNS[1:3]
    ]
    for rows, config in zip(stacked(configs)[0], configs, strict=True):
        assert_near(rows, alone(config)[0], rel=1e-3)


@pytest.mark.parametrize("steps", [0, 5, STEPS, STEPS + 1])
def test_continued_stacked_to_the_byte(steps, tmp_path):
    begun, states = stacked(RUNS, after(steps))
    torch.save(states, tmp_path / "states")
    states = torch.load(tmp_path / "states", weights_only=True)
    rest, _ = stacked(RUNS, states=states)
    assert [text(a + b) for a, b in zip(begun, rest, strict=True)] == list(
        map(text, rows_stacked())
    )
    made = [StackedImages.progress_of(state) for state in states]
    assert made == [steps / STEPS] * len(RUNS)
    assert not any(
        StackedImages.is_finished_at(state, config)
        for state, config in zip(states, RUNS, strict=True)
    )


def test_other_stacked_runs_change_no_bit():
    """Train in smaller groups, as runs that were killed do to catch up."""
    for part in (RUNS[:2], RUNS[2:]):
        indices = [RUNS.index(config) for config in part]
        assert [text(rows) for rows in stacked(part)[0]] == [
            text(rows_stacked()[index]) for index in indices
        ]


def test_begun_stacked_and_continued_alone_and_the_reverse():
    begun, states = stacked(RUNS, after(STEPS + 3))
    for index, config in enumerate(RUNS):
        rest, _ = alone(config, state=states[index])
        assert_near(begun[index] + rest, rows_alone()[index])
    begun, states = zip(*(alone(config, after(STEPS + 3)) for config in RUNS), strict=True)
    rest, last = stacked(RUNS, states=states)
    for index, config in enumerate(RUNS):
        assert_near(begun[index] + rest[index], rows_alone()[index])
        assert StackedImages.is_finished_at(last[index], config)
        assert alone(config, state=last[index])[0] == []


def test_one_that_diverges_ends_and_disturbs_no_other():
    configs = (RUNS[0], EXPLODING, RUNS[2])
    rows, states = stacked(configs)
    (expected,), _ = alone(EXPLODING)
    assert [list(row) for row in rows[1]] == [list(expected)]
    assert rows[1][0]["diverged"] is True
    assert [text(rows[index]) for index in (0, 2)] == [
        text(rows_stacked()[index]) for index in (0, 2)
    ]
    assert StackedImages.is_finished_at(states[1], EXPLODING)
    assert alone(EXPLODING, state=states[1])[0] == []


def test_all_that_diverge_end():
    experiment = StackedImages([EXPLODING, with_values(EXPLODING, {"seed": 1})], digits())
    assert experiment.next_rows(never).keys() == {0, 1}
    assert [experiment.is_finished(index) for index in (0, 1)] == [True, True]
    assert [experiment.has_diverged(index) for index in (0, 1)] == [True, True]


@pytest.mark.parametrize("metrics", [(), ("effective_rank",)])
def test_features_that_overflow_under_a_finite_loss_end_a_run(metrics):
    mlp = NetworkConfig(architecture="mlp", hidden=(2, 2))
    changes = {"network": mlp, "tracking.metrics": metrics}
    configs = [with_values(TINY, {**changes, "seed": seed}) for seed in (0, 1)]
    experiment = StackedImages(configs, digits())
    classifier = experiment._classifier

    def train(tasks, should_stop):
        with torch.no_grad():
            # an image's pixels add up to more than 2: infinity, and of its negative ReLU makes 0
            classifier.networks.parameters["fc1.weight"][1].fill_(3e38)
            classifier.networks.parameters["fc2.weight"][1].fill_(-1)
        return True

    classifier.train = train
    rows = experiment.next_rows(never)
    assert math.isfinite(rows[1]["train_loss"])
    assert [rows[index]["diverged"] for index in (0, 1)] == [False, True]
    assert [any("/" in name for name in rows[index]) for index in (0, 1)] == [bool(metrics), False]


def test_progress_counts_the_steps():
    experiment = StackedImages(RUNS[:2], digits())
    made = []
    experiment.next_rows(lambda: made.append(experiment.progress) or len(made) == 8)
    assert made[1:] == [step / STEPS for step in range(1, 8)]
    assert experiment.take_episodes(0) == []
    experiment.close()


def test_runs_at_different_tasks_are_refused():
    _, states = stacked(RUNS[:2], after(STEPS + 1))
    experiment = StackedImages(RUNS[:2], digits())
    experiment.load_state_dict(0, states[0])
    with pytest.raises(ValueError, match=r"at the tasks \[0, 1\]"):
        experiment.next_rows(never)


def test_a_rehearsal_measures():
    experiment = StackedImages(RUNS[:2], digits())
    experiment.rehearse()
    assert experiment.progress == 0


def test_the_data_are_loaded_by_name():
    config = with_values(TINY, {"stream.num_tasks": 1, "tracking.metrics": ()})
    experiment = StackedImages([config, with_values(config, {"seed": 1})])
    assert experiment.next_rows(never)[0]["task"] == 0
    with pytest.raises(ValueError, match="--probe-size 400 is larger"):
        StackedImages([with_values(config, {"tracking.probe_size": 400})])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_cuda_rows_are_those_of_the_cpu():
    configs = [with_values(each, {"device": "cuda", "stream.num_tasks": 1}) for each in RUNS]
    for rows, expected in zip(stacked(configs)[0], rows_alone(), strict=True):
        assert_near(rows, expected[:1], rel=1e-2)
