"""Fresh references: equal on the first task, without effect on their run, and continued to the byte."""

import hashlib
import io
import json
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import pytest
import torch
from curve_runs import Killed, content, train
from torch import nn

from plasticity.agents.networks import CNN, MLP
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.agents.supervised.single import Classifier
from plasticity.mitigations import L2Init, Mitigation, ReDo, SeededMethod, Shift, Syre
from plasticity.mitigations.dropout import Dropout
from plasticity.mitigations.layer_norm import LayerNorm
from plasticity.network_spec import NetworkSpec
from plasticity.random_state import random_state
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.config.run_config import SupervisedRunConfig, SupervisedTracking
from plasticity.scripts.run.references import share_done
from plasticity.scripts.run.supervised_experiment import (
    SupervisedExperiment,
    initial_network,
    supervised_stream,
)
from plasticity.seeds import child_seed
from plasticity.tasks import load_dataset
from plasticity.tasks.streams.permuted_images import PermutedImagesConfig
from plasticity.tasks.streams.random_labels import RandomLabelsConfig

TINY = SupervisedRunConfig(
    benchmark="permuted-digits",
    stream=PermutedImagesConfig(dataset="digits", num_tasks=3),
    network=MLP(hidden=(8,)),
    agent=ClassifierConfig("adam", 0.03, batch_size=256),
    tracking=SupervisedTracking(probe_size=32, metrics=("churn",), reference_every=2),
)
STEPS = 6  # of a task
FORMS = [False, True]  # stacked or not


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True, kw_only=True)
class Zeros(Mitigation):
    """Weights that are 0 after every boundary between two tasks: nothing is learned from there on."""

    name: ClassVar[str] = "zeros"

    def boundary(self, context):
        for each in context.parameters.values():
            each.zero_()


@cache
def digits():
    return load_dataset("digits")


def experiment(changes=None, stacked=False):
    config = with_values(TINY, changes or {})
    configs = [config, with_values(config, {"seed": config.seed + 1})] if stacked else [config]
    return SupervisedExperiment(configs, stacked=stacked, data=digits())


def rows_of(experiment, should_stop=lambda: False):
    rows = [[] for _ in experiment.configs]
    while not all(map(experiment.is_finished, range(len(rows)))):
        found = experiment.next_rows(should_stop)
        for run, row in found.items():
            rows[run].append(row)
        if not found:
            break
    return rows


def after(calls):
    steps = iter(range(calls))
    return lambda: next(steps, None) is None


def without(row):
    return {
        name: value
        for name, value in row.items()
        if not name.startswith("reference_") and name != "plasticity_gap"
    }


METHODS = [
    (),
    (LayerNorm(), Syre(strength=0.01, sigma=0.5)),
    (Dropout(probability=0.3), L2Init(strength=0.01)),
    (Shift(sigma=0.3), ReDo(every=4, tau=0.5)),
    (Zeros(),),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: "+".join(m.name for m in method))
@pytest.mark.parametrize("stacked", FORMS)
def test_a_fresh_network_equals_its_run_on_the_first_task_and_changes_nothing(method, stacked):
    rows = rows_of(experiment({"method": method}, stacked))
    plain = rows_of(experiment({"method": method, "tracking.reference_every": None}, stacked))
    for own, expected in zip(rows, plain, strict=True):
        first, second, third = own
        assert first["plasticity_gap"] == 0.0
        for name in ("test_accuracy", "online_accuracy", "train_accuracy"):
            assert first[f"reference_{name}"] == first[name]
        assert without(second) == second
        gap = third["reference_test_accuracy"] - third["test_accuracy"]
        assert third["plasticity_gap"] == gap
        assert [without(row) for row in own] == expected


@pytest.mark.parametrize("method", [(), (Zeros(),)])
def test_a_later_reference_is_a_classifier_that_has_learned_nothing_else(method):
    (_, _, row) = rows_of(experiment({"method": method}))[0]
    config = with_values(TINY, {"method": method})
    task = supervised_stream(config, digits())[2]
    alone = Classifier(
        initial_network(config, task.spec),
        config.agent,
        SeededMethod((), child_seed(0, "anchor"), child_seed(0, "mitigations")),
        data_order_seed=child_seed(0, "order"),
    )
    alone.train(task)
    (expected,) = alone.finish(task)
    for name in ("test_accuracy", "online_accuracy", "train_accuracy"):
        assert row[f"reference_{name}"] == expected[name]
    if method:  # the run itself stands still, at one class of ten
        assert row["plasticity_gap"] > 0.2


def fingerprint(experiment):
    """Return a hash of weights, optimizer, mitigations and all generators."""
    states = [
        state["classifier"] for state in experiment.state_dicts(range(len(experiment.configs)))
    ]
    kept = io.BytesIO()
    torch.save([states, random_state()], kept)
    return hashlib.sha256(kept.getvalue()).hexdigest()


@pytest.mark.parametrize("stacked", FORMS)
def test_weights_optimizer_and_generators_are_as_they_were(stacked):
    running = experiment({"method": (L2Init(strength=0.01), ReDo(every=4))}, stacked)
    torch.manual_seed(11)
    for task in range(2):
        before = fingerprint(running)
        assert running._references.train(
            running._tasks[0 if task == 0 else 2], running._live, lambda: False
        )
        assert running._references._results[0]
        assert fingerprint(running) == before
        running._references._results = [{} for _ in running.configs]
        running.next_rows(lambda: False)


@pytest.mark.parametrize(
    ("steps", "stacked"),
    [
        *((steps, False) for steps in (0, 2, STEPS, STEPS + 2, 3 * STEPS, 3 * STEPS + 2)),
        *((steps, True) for steps in (2, STEPS + 2, 3 * STEPS + 2)),
    ],
)
def test_continued_from_anywhere_to_the_byte(steps, stacked, tmp_path):
    changes = {"method": (Dropout(probability=0.3), ReDo(every=4, tau=0.5))}
    whole, first, second = (experiment(changes, stacked) for _ in range(3))
    expected = rows_of(whole)
    begun = rows_of(first, after(steps))
    states = first.state_dicts(range(len(first.configs)))
    torch.save(states, tmp_path / "states")
    for run, state in enumerate(torch.load(tmp_path / "states", weights_only=True)):
        assert SupervisedExperiment.progress_of(state) == first.progress
        second.load_state_dict(run, state)
    assert second.progress == first.progress
    again = second.state_dicts(range(len(first.configs)))  # saved once more before it continues
    assert [each["reference"] is None for each in again] == [
        each["reference"] is None for each in states
    ]
    rest = rows_of(second)
    joined = [a + b for a, b in zip(begun, rest, strict=True)]
    assert json.dumps(joined) == json.dumps(expected)


def test_progress_counts_both_networks():
    running = experiment({"stream.num_tasks": 2})
    made = []
    rows = rows_of(running, lambda: made.append(running.progress) or False)
    assert len(rows[0]) == 2
    assert made[: 2 * STEPS] == pytest.approx([step / STEPS / 2 for step in range(2 * STEPS)])
    assert made[2 * STEPS :] == pytest.approx([1 + step / STEPS for step in range(STEPS)])
    assert running.progress == 2.0


def test_the_share_of_a_task():
    assert share_done(None, 0.25) == 0.25
    training = {"step": 3, "task_steps": 4}
    assert share_done({"training": training, "results": {}}, 0.0) == 0.375
    assert share_done({"training": None, "results": {"test_accuracy": 1.0}}, 0.5) == 0.75


@pytest.mark.parametrize("stacked", FORMS)
def test_runs_that_are_killed_write_the_same_bytes(stacked, tmp_path):
    configs = [with_values(TINY, {"seed": seed}) for seed in range(1 + stacked)]
    whole, killed = ([(tmp_path / o / str(c.seed), c) for c in configs] for o in ("one", "other"))
    assert train(whole)

    def kill():
        if steps():
            raise Killed

    steps = after(STEPS + 4)
    with pytest.raises(Killed):
        train(killed, kill)
    while not train(killed, after(5)):
        pass
    for (path, _), (expected, _) in zip(killed, whole, strict=True):
        assert content(path) == content(expected)


class Drawing(nn.Module):
    """Network whose dropout draws from the generator of the process."""

    hidden_layers = ("hidden",)

    def __init__(self):
        super().__init__()
        self.hidden, self.drop, self.out = nn.Linear(64, 8), nn.Dropout(0.4), nn.Linear(8, 10)

    def forward(self, images):
        return self.out(self.drop(self.hidden(images.flatten(1)).relu()))


@dataclass(frozen=True, kw_only=True)
class DrawingConfig(MLP):
    def build(self, spec: NetworkSpec) -> nn.Module:
        return Drawing()


def test_layers_that_draw_from_the_process_do_not_share_the_draws(tmp_path):
    changes = {"network": DrawingConfig()}
    (rows,) = rows_of(experiment(changes))
    (plain,) = rows_of(experiment({**changes, "tracking.reference_every": None}))
    assert [without(row) for row in rows] == plain
    assert rows[0]["plasticity_gap"] == 0.0
    config = with_values(TINY, changes)
    whole, stopped = (tmp_path / name for name in ("whole", "stopped"))
    assert train([(whole, config)])
    while not train([(stopped, config)], after(5)):
        torch.manual_seed(3)  # another process
    assert content(stopped) == content(whole)


def test_a_task_without_tests_is_compared_online():
    stream = RandomLabelsConfig(dataset="digits", num_tasks=3, num_examples=300)
    running = SupervisedExperiment(
        [with_values(TINY, {"stream": stream, "agent.epochs_per_task": 2})], stacked=False
    )
    (rows,) = rows_of(running)
    assert rows[0]["plasticity_gap"] == 0.0
    assert "reference_test_accuracy" not in rows[2]
    expected = rows[2]["reference_online_accuracy"] - rows[2]["online_accuracy"]
    assert rows[2]["plasticity_gap"] == expected


@pytest.mark.parametrize("stacked", FORMS)
def test_a_run_that_diverged_has_no_further_reference_and_disturbs_no_other(stacked):
    exploding = with_values(TINY, {"agent": ClassifierConfig(learning_rate=1e20, batch_size=256)})
    running = SupervisedExperiment([exploding] * (1 + stacked), stacked=stacked, data=digits())
    for rows in rows_of(running):
        assert [row["diverged"] for row in rows] == [True]
        assert rows[0]["reference_test_accuracy"] == rows[0]["test_accuracy"]


def test_one_of_two_stacked_runs_diverges():
    running = experiment({}, stacked=True)
    expected = rows_of(experiment({}, stacked=True))[0]
    first = running.next_rows(lambda: False)
    running._diverged[1] = True
    running._trainer.freeze(1)
    rest = rows_of(running)
    assert json.dumps([first[0], *rest[0]]) == json.dumps(expected)
    assert rest[1] == []


@pytest.mark.parametrize("stacked", FORMS)
def test_a_rehearsal_trains_a_fresh_network_too(stacked):
    rehearsed = experiment({"network": CNN(channels=(4,), hidden=(8,))}, stacked)
    rehearsed.rehearse()
    assert rehearsed._references.state_dict(0) is not None


def test_a_number_that_is_not_a_number_of_tasks_is_refused():
    with pytest.raises(ValueError, match="reference_every must be at least 1: 0"):
        SupervisedTracking(reference_every=0)
    with pytest.raises(TypeError, match="reference_every"):
        SupervisedTracking(reference_every=2.5)
