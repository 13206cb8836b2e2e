"""Whole runs of permuted-digits, tiny, in this process: single, stacked, and one form against the other."""

import json
import math
from dataclasses import dataclass, replace
from functools import cache
from itertools import count

import pytest
import torch
from curve_runs import Killed, content, train

from plasticity.agents.networks import CNN, MLP
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.metrics.hessian import hessian_rank
from plasticity.metrics.registry import DEFAULT_METRICS, METRICS
from plasticity.mitigations import L2Init, Shift, Syre, WeightDecay, method_name
from plasticity.scripts.config.benchmarks import BENCHMARKS
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.config.run_config import SupervisedRunConfig, SupervisedTracking
from plasticity.scripts.run.supervised_experiment import SupervisedExperiment, supervised_stream
from plasticity.tasks import TaskSpec, load_dataset
from plasticity.tasks.streams.images import (
    ImageStreamConfig,
    SelectedImages,
    SelectedImagesStream,
)
from plasticity.tasks.streams.permuted_images import PermutedImagesConfig

TINY = SupervisedRunConfig(
    benchmark="permuted-digits",
    stream=PermutedImagesConfig(dataset="digits", num_tasks=3),
    network=CNN(channels=(4, 4), hidden=(8,)),
    agent=ClassifierConfig(learning_rate=0.05, momentum=0.9, batch_size=64),
    tracking=SupervisedTracking(probe_size=32),
)
UNLABELLED = tuple(name for name, metric in METRICS.items() if metric.kind != "loss")
SHORT = {"stream.num_tasks": 1}
FORMS = [False, True]  # stacked or not


@cache
def digits():
    return load_dataset("digits")


def experiment(changes=None, stacked=False, dataset=True):
    """Return the experiment of one run, or stacked with that of another seed."""
    config = with_values(TINY, changes or {})
    configs = [config, with_values(config, {"seed": config.seed + 1})] if stacked else [config]
    return SupervisedExperiment(configs, stacked=stacked, data=digits() if dataset else None)


def rows_of(experiment, should_stop=lambda: False):
    """Return the rows of each run until all are finished."""
    rows = [[] for _ in experiment.configs]
    while not all(map(experiment.is_finished, range(len(rows)))):
        found = experiment.next_rows(should_stop)
        for run, row in found.items():
            rows[run].append(row)
        if not found:
            break
    return rows


def finish(experiment):
    """Return the rows of the first run."""
    return rows_of(experiment)[0]


def states_of(experiment):
    return experiment.state_dicts(range(len(experiment.configs)))


def weights(experiment):
    return states_of(experiment)[0]["classifier"]["network"]


def after(calls):
    """Return a `should_stop` that is true after this many steps."""
    steps = iter(range(calls))
    return lambda: next(steps, None) is None


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
        changes = {"method": method, "tracking.metrics": UNLABELLED, **SHORT}
        row = finish(experiment(changes))[0]
        families = {name.split("/")[0] for name in row if "/" in name}
        assert families == set(UNLABELLED)
        assert {name.split("/")[1] for name in row if "/" in name} == {
            "conv1",
            "conv2",
            "fc1",
            "fc2",
            "total",
            *("value", "argmax"),  # of churn
        }


def test_tracking_does_not_change_the_weights():
    tracked = experiment({"tracking.metrics": UNLABELLED})
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


@pytest.mark.parametrize("steps", [0, 1, 19, 23, 29])  # a task has 23
@pytest.mark.parametrize(
    ("changes", "stacked"),
    [
        ({"method": (Syre(strength=0.01, sigma=0.5),)}, False),
        ({"method": (Syre(strength=0.01, sigma=0.5, anisotropy=0.1),)}, True),
        (
            {
                "method": (L2Init(strength=0.01),),
                "tracking.metrics": ("update_norm", "gradient_norm"),
            },
            False,
        ),
        ({"method": (L2Init(strength=0.01),), "tracking.metrics": ("update_norm",)}, True),
        ({"agent": ClassifierConfig("adam", 0.003, batch_size=64)}, False),
        ({"agent": ClassifierConfig("adam", 0.003, batch_size=64)}, True),
        ({"method": (Shift(sigma=0.3),), "tracking.metrics": ("update_norm",)}, False),
    ],
)
def test_continued_from_anywhere_to_the_byte(changes, stacked, steps, tmp_path):
    changes = {"stream.num_tasks": 2, **changes}
    whole, first, second = (experiment(changes, stacked) for _ in range(3))
    expected = rows_of(whole)
    rows = rows_of(first, after(steps))
    assert not first.is_finished(0)
    torch.save(states_of(first), tmp_path / "states")
    for run, state in enumerate(torch.load(tmp_path / "states", weights_only=True)):
        assert SupervisedExperiment.progress_of(state) == pytest.approx(steps / 23)
        assert not SupervisedExperiment.is_finished_at(state, first.configs[run])
        second.load_state_dict(run, state)
    assert second.progress == first.progress == pytest.approx(steps / 23)
    rest = rows_of(second)
    assert [text(a + b) for a, b in zip(rows, rest, strict=True)] == [text(a) for a in expected]
    assert equal(weights(second), weights(whole))


def test_update_norm_is_that_of_the_task():
    tracked = experiment({"tracking.metrics": ("update_norm",), "stream.num_tasks": 2})
    snapshots = [{name: value.clone() for name, value in weights(tracked).items()}]
    rows = []
    for _ in range(2):
        rows.append(tracked.next_rows(lambda: False)[0])
        snapshots.append({name: value.clone() for name, value in weights(tracked).items()})
    for row, before, after in zip(rows, snapshots[:-1], snapshots[1:], strict=True):
        square = sum((after[name] - before[name]).double().square().sum() for name in after)
        assert row["update_norm/total"] == pytest.approx(math.sqrt(square), rel=1e-5)


@pytest.mark.parametrize("method", [(), (WeightDecay(strength=0.01),)], ids=method_name)
def test_churn_is_that_of_the_last_step_on_the_probe(method):
    changes = {"tracking.metrics": ("churn",), "method": method, **SHORT}
    running = experiment(changes)
    network = running._trainer.network
    probe = next(iter(running._tasks[0].test_batches(32)))[0]

    def outputs():
        with torch.no_grad():
            return network(probe)

    assert running.next_rows(after(22)) == {}  # a task has 23 steps
    earlier = outputs()
    row = running.next_rows(lambda: False)[0]
    later = outputs()
    assert row["churn/value"] == pytest.approx((later - earlier).square().mean().item(), rel=1e-4)
    moved = (later.argmax(1) != earlier.argmax(1)).float().mean().item()
    assert row["churn/argmax"] == pytest.approx(moved)
    assert row["churn/value"] > 0


def test_the_hessian_is_that_of_the_task_loss_on_the_probe_stacked_or_not():
    changes = {
        **{"network": MLP(hidden=(4,)), "tracking.metrics": ("hessian_rank",), **SHORT},
        **{"tracking.probe_size": 16, "stream": UntestedConfig(dataset="digits", num_tasks=1)},
    }
    configs = [with_values(TINY, {**changes, "seed": seed}) for seed in range(2)]
    together = stacked_rows(configs)[0]
    for config, (row,) in zip(configs, together, strict=True):
        single = SupervisedExperiment([config], stacked=False, data=digits())
        (expected,) = rows_of(single)[0]
        inputs, labels = single._tasks[0].train_batch(torch.arange(16))
        inactive = [c for c in range(10) if c not in single._tasks[0].spec.active]

        def loss(network, inputs=inputs, labels=labels, inactive=inactive):
            logits = network(inputs)
            logits[:, inactive] = -torch.inf
            return torch.nn.functional.cross_entropy(logits, labels)

        own = hessian_rank(single._trainer.network.eval(), loss).item()
        assert expected["hessian_rank"] == pytest.approx(own)
        assert row["hessian_rank"] == pytest.approx(own, abs=0.01)
        assert 0 < own < 1


@pytest.mark.parametrize("stacked", FORMS)
@pytest.mark.parametrize("metrics", [(), DEFAULT_METRICS])
def test_a_loss_that_becomes_nan_ends_the_run(metrics, stacked):
    agent = ClassifierConfig(learning_rate=1e20, batch_size=64)
    diverging = experiment({"tracking.metrics": metrics, "agent": agent}, stacked)
    runs = range(len(diverging.configs))
    for rows in rows_of(diverging):
        assert [row["diverged"] for row in rows] == [True]
        assert not any("/" in name for name in rows[0])
    assert all(map(diverging.has_diverged, runs))
    again = experiment(stacked=stacked)
    for run, state in enumerate(states_of(diverging)):
        assert SupervisedExperiment.is_finished_at(state, diverging.configs[run])
        again.load_state_dict(run, state)
    assert all(map(again.is_finished, runs))


@pytest.mark.parametrize("stacked", FORMS)
@pytest.mark.parametrize("metrics", [(), ("effective_rank",), ("weight_norm",)])
def test_features_that_overflow_under_a_finite_loss_end_the_run(metrics, stacked):
    mlp = MLP(hidden=(2, 2))
    overflowing = experiment({"network": mlp, "tracking.metrics": metrics}, stacked)
    trainer = overflowing._trainer
    last = len(overflowing.configs) - 1

    def train(task, should_stop):
        with torch.no_grad():
            first, second = (trainer.parameters[f"fc{layer}.weight"] for layer in (1, 2))
            if stacked:
                first, second = first[last], second[last]
            first.fill_(3e38)  # an image's pixels add up to more than 2: infinity
            second.fill_(-1)  # minus infinity, of which ReLU makes 0: finite logits
        return True

    trainer.train = train
    rows = overflowing.next_rows(lambda: False)
    assert math.isfinite(rows[last]["train_loss"])
    assert rows[last]["diverged"] is True
    assert not any("/" in name for name in rows[last])
    assert overflowing.is_finished(last)
    if stacked:
        assert rows[0]["diverged"] is False
        assert any("/" in name for name in rows[0]) == bool(metrics)


@pytest.mark.parametrize("stacked", FORMS)
def test_a_batch_or_a_probe_larger_than_the_data_is_refused(stacked):
    # 1797 digits: 1442 to train on, 355 to test on
    experiment({"tracking.probe_size": 355, "agent": ClassifierConfig(batch_size=1442)}, stacked)
    with pytest.raises(ValueError, match=r"--batch-size 1443 is larger than the 1442 training"):
        experiment({"agent": ClassifierConfig(batch_size=1443)}, stacked)
    with pytest.raises(ValueError, match=r"--probe-size 356 is larger than the 355 test"):
        experiment({"tracking.probe_size": 356}, stacked)


class Untested(SelectedImagesStream):
    """Even digits, then odd ones, or the reverse, by the seed; there is no test set."""

    def make_task(self, index):
        own = (self.dataset.train_labels + self.seed) % 2 == index % 2
        rows = own.nonzero().flatten()[:600]
        classes = tuple(label for label in range(10) if (label + self.seed) % 2 == index % 2)
        spec = TaskSpec(input_shape=(1, 8, 8), output_size=10, active=classes)
        labels = self.dataset.train_labels[rows]
        return SelectedImages(index, spec, self.dataset, rows, labels, rows[:0])


@dataclass(frozen=True, kw_only=True)
class UntestedConfig(ImageStreamConfig):
    def make(self, data, seed):
        return Untested(data, self.num_tasks, seed)


def test_a_stream_of_ones_own_without_tests_and_with_other_classes_in_each_run():
    stream = UntestedConfig(dataset="digits", num_tasks=2)
    config = replace(TINY, stream=stream)
    configs = [with_values(config, {"seed": seed}) for seed in range(4)]
    streams = [supervised_stream(each, digits()) for each in configs]
    assert len({each[0].spec.active for each in streams}) == 2  # even digits and odd ones
    together = stacked_rows(configs)[0]
    for each, rows, own in zip(configs, together, streams, strict=True):
        single = SupervisedExperiment([each], stacked=False, data=digits())
        expected = rows_of(single)[0]
        assert_near(rows, expected)
        assert "test_accuracy" not in expected[0]
        # the first 32 training images: the metrics of the last row are of the trained network on them
        probe = own[1].train_batch(torch.arange(32))[0]
        found = single._trainer.measure(probe, ("dead_fraction",), single._layers, [0])[0]
        for name, value in found.items():
            assert expected[-1][name] == value


def test_a_probe_of_training_examples_is_no_larger_than_their_set():
    config = replace(TINY, stream=UntestedConfig(dataset="digits", num_tasks=2))
    with pytest.raises(ValueError, match=r"--probe-size 601 is larger than the 600 training exam"):
        SupervisedExperiment.require_runnable([with_values(config, {"tracking.probe_size": 601})])


@pytest.mark.parametrize("stacked", FORMS)
def test_the_data_are_loaded_by_name(stacked):
    loaded = experiment(SHORT, stacked, dataset=False)
    assert text(finish(loaded)) == text(finish(experiment(SHORT, stacked)))


@pytest.mark.parametrize("stacked", FORMS)
def test_progress_counts_the_steps(stacked):
    running = experiment(SHORT, stacked)
    calls = count()
    made = []
    running.next_rows(lambda: made.append(running.progress) or next(calls) == 7)
    assert made == [step / 23 for step in range(8)]
    assert running.take_episodes(0) == []
    running.close()


@pytest.mark.parametrize("stacked", FORMS)
def test_a_rehearsal_measures(stacked):
    rehearsed = experiment(stacked=stacked)
    rehearsed.rehearse()
    assert rehearsed.progress == 0


# ---- stacked runs against single ones --------------------------------------------------------------

MANY = with_values(
    TINY,
    {
        "stream.num_tasks": 2,
        "network": CNN(channels=(4,), hidden=(8,)),
        "agent.batch_size": 128,
        "tracking.metrics": UNLABELLED,
    },
)
STEPS = 12  # of a task: 1442 examples, 128 at a time
RUNS = (
    MANY,
    with_values(MANY, {"seed": 1}),
    with_values(MANY, {"method": (Syre(strength=0.01, sigma=0.5, anisotropy=0.1),)}),
    with_values(MANY, {"method": (L2Init(strength=0.01),)}),
    with_values(MANY, {"method": (WeightDecay(strength=0.01),), "seed": 7}),
)
EXPLODING = with_values(MANY, {"method": (WeightDecay(strength=1e20),)})


def alone(config, should_stop=lambda: False, state=None):
    """Return the rows of a single run, and its state."""
    single = SupervisedExperiment([config], stacked=False, data=digits())
    if state is not None:
        single.load_state_dict(0, state)
    return rows_of(single, should_stop)[0], states_of(single)[0]


def stacked_rows(configs, should_stop=lambda: False, begun=()):
    """Return the rows of stacked runs, and their states."""
    many = SupervisedExperiment(configs, stacked=True, data=digits())
    for run, state in enumerate(begun):
        many.load_state_dict(run, state)
    return rows_of(many, should_stop), states_of(many)


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
def all_stacked():
    return stacked_rows(RUNS)[0]


def test_rows_are_those_of_each_run_alone():
    for rows, expected in zip(all_stacked(), rows_alone(), strict=True):
        assert_near(rows, expected)
    assert len({text(rows) for rows in all_stacked()}) == len(RUNS)  # no two are one run


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_with_adam(optimizer):
    configs = [
        with_values(
            each,
            {"stream.num_tasks": 1, "agent": ClassifierConfig(optimizer, 0.003, batch_size=128)},
        )
        for each in RUNS[1:3]
    ]
    for rows, config in zip(stacked_rows(configs)[0], configs, strict=True):
        assert_near(rows, alone(config)[0], rel=1e-3)


def test_degrees_of_symmetry_are_those_of_each_run_alone():
    changes = {"tracking.metrics": ("degree_of_symmetry",), **SHORT}
    configs = [with_values(TINY, {**changes, "seed": seed}) for seed in range(2)]

    def rows_with_identical_neurons(configs, stacked):
        found = SupervisedExperiment(configs, stacked=stacked, data=digits())
        incoming, bias, outgoing = (
            found._trainer.parameters[name] for name in ("fc1.weight", "fc1.bias", "fc2.weight")
        )
        with torch.no_grad():  # three of the eight, which stay identical: two pairs
            incoming[..., 1:3, :] = incoming[..., :1, :]
            bias[..., 1:3] = bias[..., :1]
            outgoing[..., 1:3] = outgoing[..., :1]
        return [rows[0] for rows in rows_of(found)]

    stacked = rows_with_identical_neurons(configs, True)
    for row, config in zip(stacked, configs, strict=True):
        assert_near([row], rows_with_identical_neurons([config], False))
        degrees = {name.split("/")[1]: row[name] for name in row if name.startswith("degree")}
        assert degrees == {"conv1": 0, "conv2": 0, "fc1": 2}


def test_other_stacked_runs_change_no_bit():
    """Train in smaller groups, as runs that were killed do to catch up."""
    for part in (RUNS[:2], RUNS[2:]):
        indices = [RUNS.index(config) for config in part]
        assert [text(rows) for rows in stacked_rows(part)[0]] == [
            text(all_stacked()[index]) for index in indices
        ]


def test_begun_stacked_and_continued_alone_and_the_reverse():
    begun, states = stacked_rows(RUNS, after(STEPS + 3))
    for index, config in enumerate(RUNS):
        rest, _ = alone(config, state=states[index])
        assert_near(begun[index] + rest, rows_alone()[index])
    begun, states = zip(*(alone(config, after(STEPS + 3)) for config in RUNS), strict=True)
    rest, last = stacked_rows(RUNS, begun=states)
    for index, config in enumerate(RUNS):
        assert_near(begun[index] + rest[index], rows_alone()[index])
        assert SupervisedExperiment.is_finished_at(last[index], config)
        assert alone(config, state=last[index])[0] == []


def test_one_that_diverges_ends_and_disturbs_no_other():
    configs = (RUNS[0], EXPLODING, RUNS[2])
    rows, states = stacked_rows(configs)
    (expected,), _ = alone(EXPLODING)
    assert [list(row) for row in rows[1]] == [list(expected)]
    assert rows[1][0]["diverged"] is True
    assert [text(rows[index]) for index in (0, 2)] == [
        text(all_stacked()[index]) for index in (0, 2)
    ]
    assert SupervisedExperiment.is_finished_at(states[1], EXPLODING)
    assert alone(EXPLODING, state=states[1])[0] == []


def test_runs_at_different_tasks_are_refused():
    _, states = stacked_rows(RUNS[:2], after(STEPS + 1))
    many = SupervisedExperiment(RUNS[:2], stacked=True, data=digits())
    many.load_state_dict(0, states[0])
    with pytest.raises(ValueError, match=r"at the tasks \[0, 1\]"):
        many.next_rows(lambda: False)


# ---- every benchmark -------------------------------------------------------------------------------

STREAMS = {
    # of permuted images, those that draw some for each task are a kind of their own
    (type(each.config.stream), getattr(each.config.stream, "num_examples", None) is None): name
    for name, each in BENCHMARKS.items()
    if isinstance(each.config, SupervisedRunConfig)
    and isinstance(each.config.stream, ImageStreamConfig)
}.values()  # one of each kind


def small(name):
    """Return configurations of two runs of a benchmark, on the digits, with little to do."""
    settings = {
        **{"stream.dataset": "digits", "stream.num_tasks": 3, "network": TINY.network},
        **{"agent.epochs_per_task": 2, "agent.batch_size": 64},
        **{"tracking.probe_size": 32, "tracking.metrics": ("effective_rank", "update_norm")},
        "method": (Syre(strength=0.01, sigma=0.5),),
    }
    if BENCHMARKS[name].config.agent.learning_rate_drops:
        settings["agent.learning_rate_drops"] = (1,)
    if hasattr(BENCHMARKS[name].config.stream, "classes_per_task"):
        settings["stream.classes_per_task"] = 2
    if getattr(BENCHMARKS[name].config.stream, "num_examples", None) is not None:
        settings["stream.num_examples"] = 1000  # of the 1442 that there are
    config = with_values(BENCHMARKS[name].config, settings)
    return [config, with_values(config, {"seed": 1})]


@pytest.mark.parametrize("name", STREAMS)
def test_stacked_runs_of_every_benchmark_are_those_alone(name):
    configs = small(name)
    together = stacked_rows(configs)[0]
    for rows, config in zip(together, configs, strict=True):
        assert_near(rows, alone(config)[0], rel=1e-3)
        assert [row["task"] for row in rows] == [0, 1, 2]
    assert together[0] != together[1]


@pytest.mark.parametrize("stacked", FORMS)
@pytest.mark.parametrize("name", STREAMS)
def test_every_benchmark_is_continued_to_the_byte(name, stacked, tmp_path):
    configs = small(name)[: 1 + stacked]
    whole, killed = ([(tmp_path / o / str(c.seed), c) for c in configs] for o in ("one", "other"))
    assert train(whole)

    def kill_after(calls):
        steps = after(calls)

        def kill():
            if steps():
                raise Killed

        return kill

    with pytest.raises(Killed):
        train(killed, kill_after(8))
    stops = 1
    while not train(killed, after(11)):
        stops += 1
    assert stops > 2
    for (path, _), (expected, _) in zip(killed, whole, strict=True):
        assert content(path) == content(expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_cuda_rows_are_those_of_the_cpu():
    configs = [with_values(each, {"device": "cuda", "stream.num_tasks": 1}) for each in RUNS]
    for rows, expected in zip(stacked_rows(configs)[0], rows_alone(), strict=True):
        assert_near(rows, expected[:1], rel=1e-2)
