"""Figure continual-mnist: its runs are those of the benchmark, and the verdict on made-up results."""

import pytest

from plasticity.scripts.config.benchmarks import BENCHMARKS
from plasticity.scripts.config.nested import flattened, with_values
from plasticity.scripts.config.options import default_options
from plasticity.scripts.report.run_folders import Run
from plasticity.scripts.reproduce.continual_mnist import ACCURACY, RANK, SYMMETRY
from plasticity.scripts.reproduce.figure import FIGURES
from plasticity.scripts.reproduce.results import Results
from plasticity.scripts.reproduce.verdict import HOLDS, NOT_SEEN, PARTLY, Verdict
from plasticity.scripts.run.supervised_experiment import SupervisedExperiment
from plasticity.tasks import load_dataset

FIGURE = FIGURES["continual-mnist"]
NUM_TASKS = 10


def as_claimed(method, task):
    """Values as the paper has them: a rank that falls to a third, and an accuracy to 96 %."""
    falls = method == "weight-decay"
    rank = 30.0 * (1 - task / 13) if falls else 30.0 - task / 3
    accuracy = 0.94 - 0.004 * task if falls else 0.94 - 0.01 * (task > 0)
    return {RANK: rank, ACCURACY: accuracy, SYMMETRY: 5.0 * task * falls, "dead_fraction/fc1": 0.1}


def results(values):
    arms = []
    for arm in FIGURE.arms("small"):
        runs = []
        for seed in range(3):
            rows = []
            for task in range(NUM_TASKS):
                row = {k: v * (1 + 1e-4 * seed) for k, v in values(arm.method, task).items()}
                rows.append({"task": float(task), **row, "diverged": 0.0})
            config = {"benchmark": "continual-mnist", "method": {}, "seed": seed}
            runs.append(Run(None, config, tuple(rows), half_written=False))
        arms.append((arm, runs))
    return Results(arms)


def verdict(values):
    found = results(values)
    return Verdict(FIGURE.requirements(found), FIGURE.claims(found))


def test_the_runs_are_those_of_the_benchmark():
    own, other = (
        flattened(default_options(name).config.to_json())
        for name in ("continual-mnist", "permuted-mnist")
    )
    changed = {path for path in own if own[path] != other[path]}
    assert changed == {
        "benchmark",
        "stream.num_tasks",
        "agent.train_evaluation_size",
        "tracking.metrics",
    }
    decay, syre = (BENCHMARKS["continual-mnist"].mitigation(n) for n in ("weight-decay", "syre"))
    assert decay.strength == syre.strength == 0.01
    assert syre.sigma == 1.0


def test_a_row_has_what_the_figure_shows():
    tiny = {"stream.dataset": "digits", "stream.num_tasks": 1, "tracking.probe_size": 32}
    config = with_values(FIGURE.config, tiny)
    experiment = SupervisedExperiment([config], stacked=False, data=load_dataset("digits"))
    row = experiment.next_rows(lambda: False)[0]
    assert {RANK, ACCURACY, SYMMETRY, "dead_fraction/fc1"} <= row.keys()


def test_it_holds_if_all_is_as_claimed():
    found = verdict(as_claimed)
    assert found.outcome == HOLDS
    assert len(found.claims) == 5


@pytest.mark.parametrize(
    ("failed", "method", "metric", "value"),
    [
        ([0], "weight-decay", RANK, lambda task: 30.0 - task),  # to 22
        ([1], "syre", RANK, lambda task: 30.0 - 1.5 * task),  # to 18
        ([2, 4], "weight-decay", ACCURACY, lambda task: 0.94 - 0.01 * (task > 0)),  # as syre
        ([3], "syre", ACCURACY, lambda task: 0.96 - 0.003 * task),  # to 0.936, 2.2 % below task 1
        ([4], "weight-decay", ACCURACY, lambda task: 0.98 - 0.004 * task),  # from higher up
    ],
)
def test_it_does_not_hold_if_a_part_is_otherwise(failed, method, metric, value):
    def values(arm, task):
        return as_claimed(arm, task) | ({metric: value(task)} if arm == method else {})

    found = verdict(values)
    assert found.outcome == PARTLY
    assert [index for index, each in enumerate(found.claims) if not each.passed] == failed


def test_a_plain_arm_that_has_not_learnt_means_nothing():
    def values(arm, task):
        return as_claimed(arm, task) | {ACCURACY: 0.85}

    assert verdict(values).outcome == NOT_SEEN


def test_the_sentence_and_the_panels():
    found = results(as_claimed)
    # Tasks 7, 8 and 9: 30 · (1 - 8 / 13) on average.
    assert "weight-decay: rank 30.0 [30.0, 30.0] to 11.5 [11.5, 11.5]" in FIGURE.sentence(found)
    assert "symmetric pairs 0.0 [0.0, 0.0] to 40.0" in FIGURE.sentence(found)
    (accuracy, rank), (symmetry, _) = FIGURE.panels(found)
    assert [line.label for line in accuracy.lines] == ["none", "weight-decay", "syre"]
    assert rank.lines[2].positions.tolist() == list(range(NUM_TASKS))
    assert symmetry.lines[1].mean[:3].tolist() == pytest.approx([0, 5, 10], abs=0.01)
    drawn = FIGURE.draw(found, "caption")
    assert drawn.axes[-1].get_xlabel() == "task"
