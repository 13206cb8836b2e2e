"""Runner: each folder is as if its run were alone, whatever happens to it or to the others."""

import os
import shutil

import pytest
from curve_runs import (
    DIVERGING_SEED,
    CurveConfig,
    Killed,
    Points,
    after,
    content,
    curves,
    never,
    rows,
    run,
    train,
)

from plasticity.scripts.run import atomic_files
from plasticity.scripts.run.atomic_files import RunError
from plasticity.scripts.run.saved_run import is_finished, progress_made, saved_config

LONGER = {"stream.num_points": 6}
SHORTER = {"stream.num_points": 3}
ALONE_OR_STACKED = pytest.mark.parametrize("seeds", [(1,), (1, 2, 3)], ids=["alone", "stacked"])


@pytest.fixture(autouse=True)
def made():
    Points.made.clear()
    yield Points.made
    assert all(each.closed for each in Points.made)


@pytest.fixture
def alone(tmp_path):
    """Function that returns the rows of a run trained alone, without interruption."""

    def content_of(seed, changes=None):
        path = tmp_path / "alone" / str(seed)
        train([(path, config) for _, config in curves(path, [seed], changes)])
        return content(path)

    return content_of


def assert_as_alone(runs, alone, changes=None):
    for path, config in runs:
        assert content(path) == alone(config.seed, changes), path


@pytest.mark.parametrize("seeds", [(1,), range(11)])  # more than are written in parallel
def test_each_folder_is_that_of_its_run_alone(tmp_path, alone, made, seeds):
    runs, ends = curves(tmp_path, seeds), {}
    assert train(runs, ends=ends)
    assert ends == dict.fromkeys(range(len(seeds)), False)
    (experiment,) = made
    assert experiment.stacked == (len(seeds) > 1)
    assert_as_alone(runs, alone)
    for path, config in runs:
        assert is_finished(path, config)
        assert [row["point"] for row in rows(path)] == [0, 1, 2, 3]
        assert rows(path)[0]["bad"] is None  # JSON has no NaN
        assert not {"seconds", "points_per_second"} & set(rows(path)[0])
        timings = rows(path, "timings")
        assert [timing["point"] for timing in timings] == [0, 1, 2, 3]
        for timing in timings:
            assert timing.get("stacked") == (len(seeds) if len(seeds) > 1 else None)
            assert timing["seconds"] * timing["points_per_second"] == pytest.approx(1.0)


# A checkpoint holds the states of the global generators, from which these runs draw.
@pytest.mark.parametrize("calls", [0, 1, 4, 6, 15])
def test_a_run_that_draws_is_stopped_and_continued_to_the_byte(tmp_path, calls):
    assert run(tmp_path / "whole")
    assert not run(tmp_path / "stopped", after(calls))
    assert (tmp_path / "stopped" / "checkpoint.pt").exists()
    assert run(tmp_path / "stopped")
    assert content(tmp_path / "stopped") == content(tmp_path / "whole")


@pytest.mark.parametrize("calls", [0, 1, 4, 6, 15])
def test_stopped_and_continued_stacked_alone_or_in_another_group(tmp_path, alone, calls):
    runs = curves(tmp_path, (1, 2, 3))
    assert not train(runs, after(calls))
    assert all(progress_made(path, config) == calls / 4 for path, config in runs)
    assert train(runs[:1])
    assert train(runs[:0:-1])
    assert_as_alone(runs, alone)


@ALONE_OR_STACKED
@pytest.mark.parametrize("row", range(4))
@pytest.mark.parametrize("moment", ["row", "timing", "event", "before renaming", "after renaming"])
def test_killed_at_any_moment_of_a_row_gives_the_same_bytes(
    tmp_path, alone, monkeypatch, seeds, moment, row
):
    """Kill while the first folder is written; the others may have a row more."""
    runs = curves(tmp_path, seeds, kind=CurveConfig)
    victim, config = runs[0]
    append, replace = atomic_files.append, os.replace
    count = {"append": 0, "replace": 0}

    def kill_in_append(file, content):
        if victim in file.parents:
            count["append"] += 1
            at = 3 * row + ["row", "timing", "event"].index(moment) + 1
            if count["append"] == at:
                append(file, content[: len(content) // 2])  # torn in the middle
                raise Killed
        append(file, content)

    def kill_at_replace(source, target):
        count["replace"] += target == victim / "checkpoint.pt"
        if target != victim / "checkpoint.pt" or count["replace"] != row + 1:
            return replace(source, target)
        if moment == "after renaming":
            replace(source, target)
        else:  # SIGKILL cleans up nothing
            monkeypatch.setattr(type(target), "unlink", lambda *_, **__: None)
        raise Killed

    if "renaming" in moment:
        monkeypatch.setattr(os, "replace", kill_at_replace)
    else:
        monkeypatch.setattr(atomic_files, "append", kill_in_append)
    with pytest.raises(Killed):
        train(runs)
    monkeypatch.undo()
    assert (victim / "checkpoint.pt.tmp").exists() == (moment == "before renaming")
    assert is_finished(victim, config) == (row == 3 and moment == "after renaming")
    assert train(runs)
    assert_as_alone(runs, alone)
    assert is_finished(victim, config)


def test_runs_that_are_behind_catch_up_first(tmp_path, alone, made):
    runs = curves(tmp_path, (1, 2, 3, 4))
    assert not train(runs[1:3], after(6))  # in the middle of point 1
    assert not train(runs[3:], after(12))  # at the end of point 2
    made.clear()
    assert train(runs)
    # 1 alone up to where 2 and 3 are; these three up to where 4 is; all to the end
    assert [len(each.configs) for each in made] == [2, 3, 4]  # 1 is stacked with a copy of itself
    assert all(each.stacked for each in made)
    assert [made[0].steps, made[1].steps, made[2].steps] == [[6] * 2, [12] * 3, [16] * 4]
    assert [each.get("stacked") for each in rows(runs[0][0], "timings")] == [1, 3, 3, 4]
    assert_as_alone(runs, alone)


@pytest.mark.parametrize(
    ("in_group", "width", "stacked", "trained"),
    [
        (False, 3, False, 1),
        (True, 3, True, 2),  # with a copy of itself: it rounds as beside the others of its group
        (False, 1, True, 1),  # it has no ordinary backend
    ],
)
def test_a_single_run_is_stacked_where_it_must_be(
    tmp_path, made, in_group, width, stacked, trained
):
    assert train(curves(tmp_path, [1], {"width": width}), in_group=in_group)
    assert [(each.stacked, len(each.configs)) for each in made] == [(stacked, trained)]
    (timing, *_) = rows(tmp_path / "1", "timings")
    assert timing.get("stacked") == (1 if stacked else None)


def test_rows_of_one_run_at_a_time(tmp_path, alone, monkeypatch):
    """A copy's row comes by itself, too, and is no sign of a stop."""
    waiting, together = {}, Points.next_rows

    def next_rows(experiment, should_stop):
        waiting.update({} if waiting else together(experiment, should_stop))
        first = min(waiting, default=None)
        return {} if first is None else {first: waiting.pop(first)}

    runs = curves(tmp_path, [1])
    expected = alone(1)
    monkeypatch.setattr(Points, "next_rows", next_rows)
    assert train(runs, in_group=True)
    assert content(runs[0][0]) == expected


def test_a_stop_while_runs_catch_up_is_a_stop(tmp_path, alone):
    runs = curves(tmp_path, (1, 2))
    assert not train(runs[1:], after(9))
    assert not train(runs, after(3))
    assert not (tmp_path / "1" / "metrics.jsonl").exists()
    assert len(rows(tmp_path / "2")) == 2
    assert train(runs)
    assert_as_alone(runs, alone)


@pytest.mark.parametrize("seeds", [(1,), (1, 2)])
def test_extended_is_as_if_it_had_been_longer_from_the_start(tmp_path, alone, seeds):
    assert train(curves(tmp_path, (1,)))
    runs = curves(tmp_path, seeds, LONGER)
    assert train(runs)
    assert_as_alone(runs, alone, LONGER)
    for path, config in runs:
        assert saved_config(path)["stream"]["num_points"] == 6
        assert is_finished(path, config)


@ALONE_OR_STACKED
def test_a_shorter_run_in_the_folder_of_a_longer_one_changes_nothing(tmp_path, made, seeds):
    train(curves(tmp_path, seeds))
    made.clear()
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    before = {file: file.read_bytes() for file in files}
    shorter, ends = curves(tmp_path, seeds, SHORTER), {}
    assert all(is_finished(path, config) for path, config in shorter)
    assert train(shorter, ends=ends)
    assert ends == dict.fromkeys(range(len(seeds)), False)
    assert made == []
    assert {file: file.read_bytes() for file in files} == before


@pytest.mark.parametrize("seeds", [(DIVERGING_SEED,), (DIVERGING_SEED, 1, 2)])
def test_one_that_diverges_ends_and_the_others_go_on(tmp_path, alone, seeds):
    runs, ends = curves(tmp_path, seeds), {}
    expected = {run: run == 0 for run in range(len(seeds))}
    assert train(runs, ends=ends)
    assert ends == expected
    assert [row["diverged"] for row in rows(tmp_path / str(DIVERGING_SEED))] == [False, True]
    assert all(is_finished(path, config) for path, config in runs)
    assert_as_alone(runs, alone)
    ends.clear()
    assert train(runs, ends=ends)  # nothing is left to do
    assert ends == expected


@pytest.mark.parametrize("file", ["checkpoint.pt", "metrics.jsonl", "timings.jsonl"])
def test_a_folder_that_fails_is_named_and_nothing_is_lost(tmp_path, alone, monkeypatch, file):
    runs, failing_path, written = curves(tmp_path, range(4)), tmp_path / "2", 0

    def failing(function):
        def write(target, content):
            nonlocal written
            if target == failing_path / file:
                written += 1
                if written == 3:
                    raise OSError(28, "No space left on device")
            function(target, content)

        return write

    with monkeypatch.context() as patch:
        patch.setattr(atomic_files, "append", failing(atomic_files.append))
        patch.setattr(atomic_files, "write_whole", failing(atomic_files.write_whole))
        with pytest.raises(RunError, match=rf"Cannot write to {failing_path} .*free some space"):
            train(runs)
    assert [len(rows(tmp_path / name)) for name in "013"] == [3, 3, 3]
    assert train(runs)
    assert_as_alone(runs, alone)


@ALONE_OR_STACKED
def test_a_checkpoint_that_cannot_be_read_is_named(tmp_path, seeds):
    runs = curves(tmp_path, seeds)
    assert not train(runs, after(5))
    file = runs[-1][0] / "checkpoint.pt"
    file.write_bytes(b"nothing")
    with pytest.raises(RunError, match=rf"{file} cannot be read"):
        train(runs)


def test_killed_between_two_folders(tmp_path, alone):
    """Restore older folders of some runs, so that others have a row more."""
    runs = curves(tmp_path, (1, 2, 3))
    assert not train(runs, after(6))
    for path, _ in runs[1:]:
        shutil.copytree(path, tmp_path / "before" / path.name)
    assert not train(runs, after(4))
    for path, _ in runs[1:]:
        shutil.rmtree(path)
        shutil.copytree(tmp_path / "before" / path.name, path)
    assert train(runs)
    assert_as_alone(runs, alone)


def test_progress_is_reported_for_the_runs_that_train(tmp_path):
    runs, reported = curves(tmp_path, (1, 2)), []
    assert not train(runs[1:], after(5), on_progress=lambda made: reported.append(made()))
    assert reported == [{0: step / 4} for step in (0, 1, 2, 3, 4, 5)]
    reported.clear()
    assert train(runs, never, on_progress=lambda made: reported.append(made()))
    assert reported[0] == {0: 0.0}
    assert {0: 1.5, 1: 1.5} in reported
    assert all(each.keys() == {0, 1} for each in reported if each[0] > 1.5)
