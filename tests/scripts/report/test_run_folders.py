"""Reader of run folders: complete, cut off and broken ones."""

import json
import re
from pathlib import Path

import pytest

from plasticity.scripts.report.axis import axis_of
from plasticity.scripts.report.run_folders import find_runs, read_run

CONFIG = {
    "benchmark": "permuted-digits",
    "method": {"syre": {}},
    "seed": 1,
    "stream": {"num_tasks": 3},
}


def row(task, **values):
    return json.dumps({"task": task, "test_accuracy": 0.5, "diverged": False, **values})


def write(path, lines, **changes):
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    (path / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return path


def test_a_finished_run(tmp_path):
    rows = [row(0), row(1, **{"effective_rank/fc1": 7.5}), row(2)]
    run = read_run(write(tmp_path / "seed_1", rows))
    assert (run.benchmark, run.method, run.seed) == ("permuted-digits", "syre", 1)
    assert run.metrics == ("test_accuracy", "effective_rank/fc1")
    assert run.value("effective_rank/fc1", 1) == 7.5
    assert run.value("effective_rank/fc1", 0) is None
    assert run.value("test_accuracy", 3) is None
    assert (run.finished, run.diverged_at, run.half_written) == (True, None, False)


def test_layers_keep_the_order_of_the_rows(tmp_path):
    values = {"dead_fraction/conv2": 0, "dead_fraction/conv1": 0, "dead_fraction/a": 0}
    run = read_run(write(tmp_path, [row(0, **values)]))
    assert run.metrics == ("test_accuracy", *values)


def test_a_run_that_lacks_tasks_is_unfinished(tmp_path):
    assert not read_run(write(tmp_path, [row(0), row(1)])).finished


def test_a_run_without_a_row_is_unfinished(tmp_path):
    run = read_run(write(tmp_path, []))
    assert (run.rows, run.finished) == ((), False)
    (tmp_path / "metrics.jsonl").unlink()
    run = read_run(tmp_path)
    assert (run.rows, run.finished) == ((), False)


def test_a_diverged_run_is_finished_and_has_no_later_values(tmp_path):
    run = read_run(
        write(tmp_path, [row(0), row(1, train_loss=None, diverged=True)], stream={"num_tasks": 9})
    )
    assert (run.diverged_at, run.finished) == (1, True)
    assert run.value("test_accuracy", 0) == 0.5
    assert run.value("test_accuracy", 1) is None


@pytest.mark.parametrize("number", ["null", "NaN", "Infinity"])
def test_values_that_are_not_finite_are_none(tmp_path, number):
    run = read_run(write(tmp_path, [f'{{"task": 0, "train_loss": {number}}}']))
    assert run.value("train_loss", 0) is None


@pytest.mark.parametrize("keep", range(1, len(row(2)) - 1))
def test_an_incomplete_last_line_is_left_out(tmp_path, keep):
    path = write(tmp_path, [row(0), row(1)])
    with (path / "metrics.jsonl").open("a") as file:
        file.write(row(2)[:keep])
    run = read_run(path)
    assert len(run.rows) == 2
    assert run.half_written


def test_a_last_line_cut_within_a_character_is_incomplete(tmp_path):
    path = write(tmp_path, [row(0)])
    with (path / "metrics.jsonl").open("ab") as file:
        file.write('{"task": 1, "naïve'.encode()[:-3])
    assert read_run(path).half_written


def test_a_complete_last_line_without_its_newline_counts(tmp_path):
    path = write(tmp_path, [row(0)])
    file = path / "metrics.jsonl"
    file.write_text(file.read_text().rstrip("\n"))
    assert len(read_run(path).rows) == 1


def test_rows_with_steps_have_steps_as_positions(tmp_path):
    rows = [row(0, step=100), row(0, step=200), row(1, step=300)]
    ant = {"benchmark": "slippery-ant"}
    run = read_run(write(tmp_path, rows, **ant, stream={"num_steps": 300}))
    assert run.axis.keys == ("task", "step")
    assert list(run.by_position) == [100, 200, 300]
    assert run.metrics == ("test_accuracy",)
    assert run.finished
    assert not read_run(write(tmp_path, rows, **ant, stream={"num_steps": 400})).finished


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ('{"task": 1, "test', "line 2, is not JSON"),
        ("[1, 2]", "line 2: expected a JSON object, not [1, 2]"),
        ('{"test_accuracy": 1}', "line 2: 'task' must be an integer of at least 0, not None"),
        ('{"task": true}', "line 2: 'task' must be an integer of at least 0, not True"),
        ('{"task": -1}', "line 2: 'task' must be an integer of at least 0, not -1"),
        ('{"task": 1, "note": "x"}', "line 2: 'note' must be a number or null, not 'x'"),
        ('{"task": 0}', "line 2: task 0 comes after task 0"),
    ],
)
def test_a_broken_line_in_the_middle_is_named(tmp_path, broken, message):
    path = write(tmp_path, [row(0), broken, row(2)])
    with pytest.raises(ValueError, match=re.escape(f"{path / 'metrics.jsonl'}, {message}")):
        read_run(path)


def test_a_row_without_the_step_of_the_others_is_named(tmp_path):
    path = write(tmp_path, [row(0, step=1), row(1)], benchmark="slippery-ant", stream={})
    with pytest.raises(
        ValueError, match="line 2: 'step' must be an integer of at least 0, not None"
    ):
        read_run(path)


def test_a_configuration_without_its_length_is_named(tmp_path):
    run = read_run(write(tmp_path, [row(0)], stream={}))
    with pytest.raises(
        ValueError, match=r"config\.json has stream\.num_tasks=None: expected the planned"
    ):
        _ = run.finished


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "lacks benchmark, method, seed"),
        ('{"benchmark": "b", "method": "m"}', "lacks seed"),
        ('{"benchmark": "b", "method": "m", "seed": "1"}', "seed must be an integer"),
        (
            '{"benchmark": "b", "method": "m", "seed": 1}',
            "method must be an object of mitigations, not 'm'",
        ),
    ],
)
def test_a_broken_configuration_is_named(tmp_path, content, message):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "config.json"))) as caught:
        find_runs(tmp_path)
    assert message in str(caught.value)


def test_runs_are_found_at_any_depth(tmp_path):
    deep = tmp_path / "strength_0.1_sigma_1" / "permuted-digits" / "syre"
    write(deep / "seed_2", [row(0)], seed=2)
    write(deep / "seed_1", [row(0)])
    assert [run.seed for run in find_runs(tmp_path)] == [1, 2]
    assert [run.seed for run in find_runs(deep / "seed_2")] == [2]


def test_an_empty_folder_says_what_was_looked_for_and_how_to_create_runs(tmp_path):
    with pytest.raises(ValueError, match=r"No runs in .*looked for a config\.json") as caught:
        find_runs(tmp_path)
    assert f"plasticity run permuted-digits --out {tmp_path}" in str(caught.value)


def test_a_path_that_is_not_a_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist: expected a folder of runs"):
        find_runs(tmp_path / "missing")
    Path(tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file: expected a folder of runs"):
        find_runs(tmp_path / "file")


def test_a_friction_change_past_the_end_does_not_finish_a_run(tmp_path):
    ant = {
        "benchmark": "slippery-ant",
        "stream": {"num_steps": 300},
        "tracking": {"measure_every": 200},
    }
    rows = [row(0, step=200), row(0, step=310, boundary=True)]
    assert not read_run(write(tmp_path, rows, **ant)).finished
    rows.append(row(1, step=400))
    assert read_run(write(tmp_path, rows, **ant)).finished


def test_the_axis_is_that_of_the_benchmark():
    images, ant = axis_of("permuted-digits"), axis_of("slippery-ant")
    assert (images.keys, images.length, images.is_dense) == (("task",), "stream.num_tasks", True)
    assert (ant.keys, ant.length, ant.is_dense) == (("task", "step"), "stream.num_steps", False)
    # Tasks are counted from 0, with a row at the end of each; the row at step 100 has 100 steps behind it.
    assert (images.done_at(4), ant.done_at(100)) == (5, 100)
    assert (images.done, ant.done) == ("rows of each", "steps of each")
    assert (images.probe, ant.probe) == ("the probe batch", "the latest steps")
    assert (images.span([0, 2, 4]), ant.span([500, 2000, 5000])) == ("tasks 0, 2, 4", "to 5 k")
    with pytest.raises(ValueError, match="permuted-digits"):
        axis_of("permuted-digit")


def test_a_task_may_be_described_by_a_text(tmp_path):
    games = ("asterix", "asterix", "seaquest")
    rows = [
        row(task, step=step, game=game, episode_return=1.5)
        for step, task, game in zip((10, 20, 30), (0, 0, 1), games, strict=True)
    ]
    changes = {"benchmark": "minatar-sequence", "stream": {"num_steps": 30}}
    run = read_run(write(tmp_path / "seed_1", rows, **changes))
    assert run.described("game") == {0: "asterix", 1: "seaquest"}
    assert run.metrics == ("test_accuracy", "episode_return")
    wrong = [row(0, step=10, game="asterix", episode_return="high")]
    with pytest.raises(ValueError, match="'episode_return' must be a number or null, not 'high'"):
        read_run(write(tmp_path / "seed_2", wrong, **changes))
