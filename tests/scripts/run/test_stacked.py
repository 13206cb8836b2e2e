"""Stacked runs: each folder is as if its run were alone, whatever happens to the others."""

import json
import shutil
from contextlib import ExitStack
from typing import ClassVar

import pytest

from plasticity.scripts.config.nested import with_values
from plasticity.scripts.config.run_config import SupervisedRunConfig
from plasticity.scripts.run import atomic_files
from plasticity.scripts.run.folder import RunError, RunFolder, is_finished
from plasticity.scripts.run.stacked import StackedRuns
from plasticity.tasks.streams.permuted_images import PermutedImagesConfig

CONFIG = SupervisedRunConfig(
    benchmark="permuted-digits", stream=PermutedImagesConfig(dataset="digits", num_tasks=4)
)
LONGER = {"stream.num_tasks": 6}
STEPS = 4  # of a task
DIVERGING_SEED = 13


class Counting:
    """Stacked experiment with tasks of four steps, in each of which a run computes its next number."""

    made: ClassVar = []

    def __init__(self, configs):
        self.configs = configs
        self.values = [each.seed for each in configs]
        self.steps = [0] * len(configs)
        self.ended = [False] * len(configs)
        self.closed = False
        Counting.made.append(self)

    @property
    def progress(self):
        return max(self.steps) / STEPS  # one that diverged stays behind

    def is_finished(self, index):
        return self.ended[index] or self.steps[index] >= STEPS * self.configs[index].length

    def has_diverged(self, index):
        return self.ended[index]

    def next_rows(self, should_stop):
        live = [index for index, ended in enumerate(self.ended) if not ended]
        assert len({self.steps[index] for index in live}) == 1, "not at the same step"
        while not should_stop():
            for index in live:
                self.values[index] = (self.values[index] * 1103515245 + 12345) % 2**31
                self.steps[index] += 1
            if self.steps[live[0]] % STEPS == 0:
                return {index: self.row(index) for index in live}
        return {}

    def row(self, index):
        task = self.steps[index] // STEPS - 1
        self.ended[index] = self.configs[index].seed == DIVERGING_SEED and task == 1
        return {"task": task, "value": self.values[index], "diverged": self.ended[index]}

    def take_episodes(self, index):
        return []

    def state_dicts(self, indices):
        return [
            {"value": self.values[p], "step": self.steps[p], "diverged": self.ended[p]}
            for p in indices
        ]

    def load_state_dict(self, index, state):
        self.values[index], self.steps[index] = state["value"], state["step"]

    def close(self):
        self.closed = True

    @staticmethod
    def progress_of(state):
        return state["step"] / STEPS

    @staticmethod
    def is_finished_at(state, config):
        return state["diverged"] or state["step"] >= STEPS * config.length


@pytest.fixture(autouse=True)
def made():
    Counting.made.clear()
    yield Counting.made
    assert all(each.closed for each in Counting.made)


def after(calls):
    count = 0

    def should_stop():
        nonlocal count
        count += 1
        return count > calls

    return should_stop


def never():
    return False


def train(paths, configs, should_stop=never, ends=None):
    with ExitStack() as opened:
        folders = [
            opened.enter_context(RunFolder(path, config.to_json()))
            for path, config in zip(paths, configs, strict=True)
        ]
        ends = {} if ends is None else ends
        return StackedRuns(folders, configs, Counting, on_end=ends.__setitem__).execute(should_stop)


def runs(out, seeds, changes=None):
    return (
        [out / str(seed) for seed in seeds],
        [with_values(CONFIG, {"seed": seed, **(changes or {})}) for seed in seeds],
    )


def rows(path, name="metrics"):
    return [json.loads(line) for line in (path / f"{name}.jsonl").read_text().splitlines()]


def content(path):
    return (path / "metrics.jsonl").read_bytes()


@pytest.fixture
def alone(tmp_path):
    """Function that returns the rows of a run trained alone."""

    def content_of(seed, changes=None):
        path = tmp_path / "alone" / str(seed)
        train([path], [with_values(CONFIG, {"seed": seed, **(changes or {})})])
        return content(path)

    return content_of


def test_each_folder_is_that_of_its_run_alone(tmp_path, alone, made):
    paths, configs = runs(tmp_path, range(11))  # more than are written in parallel
    ends = {}
    assert train(paths, configs, ends=ends)
    assert ends == dict.fromkeys(range(11), False)
    assert len(made) == 1
    for seed, path in enumerate(paths):
        assert content(path) == alone(seed)
        assert is_finished(path, CONFIG.length)
        for timing in rows(path, "timings"):
            assert timing["stacked"] == 11
            assert timing["seconds"] * timing["tasks_per_second"] == pytest.approx(1.0)


@pytest.mark.parametrize("calls", [0, 1, 4, 6, 15])
def test_stopped_and_continued_stacked_alone_or_in_another_group(tmp_path, alone, calls):
    paths, configs = runs(tmp_path, (1, 2, 3))
    assert not train(paths, configs, after(calls))
    assert train(paths[:1], configs[:1])
    assert train(paths[:0:-1], configs[:0:-1])
    for seed, path in zip((1, 2, 3), paths, strict=True):
        assert content(path) == alone(seed)


def test_runs_that_are_behind_catch_up_first(tmp_path, alone, made):
    paths, configs = runs(tmp_path, (1, 2, 3, 4))
    assert not train(paths[1:3], configs[1:3], after(6))  # in the middle of task 1
    assert not train(paths[3:], configs[3:], after(12))  # at the end of task 2
    made.clear()
    assert train(paths, configs)
    # 1 alone up to where 2 and 3 are; these three up to where 4 is; all to the end
    assert [len(each.configs) for each in made] == [2, 3, 4]  # 1 is stacked with a copy of itself
    assert [made[0].steps, made[1].steps, made[2].steps] == [[6] * 2, [12] * 3, [16] * 4]
    for seed, path in zip((1, 2, 3, 4), paths, strict=True):
        assert content(path) == alone(seed)


def test_a_stop_while_runs_catch_up_is_a_stop(tmp_path, alone):
    paths, configs = runs(tmp_path, (1, 2))
    assert not train(paths[1:], configs[1:], after(9))
    assert not train(paths, configs, after(3))
    assert not (paths[0] / "metrics.jsonl").exists()
    assert len(rows(paths[1])) == 2
    assert train(paths, configs)
    assert [content(path) for path in paths] == [alone(1), alone(2)]


def test_longer_runs_extend_finished_ones(tmp_path, alone):
    paths, configs = runs(tmp_path, (1, 2))
    assert train(paths[:1], configs[:1])
    paths, configs = runs(tmp_path, (1, 2), LONGER)
    assert train(paths, configs)
    assert content(paths[0]) == alone(1, LONGER)
    assert content(paths[1]) == alone(2, LONGER)


def test_one_that_diverges_ends_and_the_others_go_on(tmp_path, alone):
    paths, configs = runs(tmp_path, (1, DIVERGING_SEED, 2))
    ends = {}
    assert train(paths, configs, ends=ends)
    assert ends == {0: False, 1: True, 2: False}
    assert [row["diverged"] for row in rows(paths[1])] == [False, True]
    assert is_finished(paths[1], CONFIG.length)
    assert [content(path) for path in paths] == [alone(1), alone(DIVERGING_SEED), alone(2)]
    ends.clear()
    assert train(paths, configs, ends=ends)  # nothing is left to do
    assert ends == {0: False, 1: True, 2: False}


@pytest.mark.parametrize("file", ["checkpoint.pt", "metrics.jsonl", "timings.jsonl"])
def test_a_folder_that_fails_is_named_and_nothing_is_lost(tmp_path, alone, monkeypatch, file):
    paths, configs = runs(tmp_path, range(4))
    written = 0

    def failing(function):
        def write(target, content):
            nonlocal written
            if target.name == file and target.parent == paths[2]:
                written += 1
                if written == 3:
                    raise OSError(28, "No space left on device")
            function(target, content)

        return write

    with monkeypatch.context() as patch:
        patch.setattr(atomic_files, "append", failing(atomic_files.append))
        patch.setattr(atomic_files, "write_whole", failing(atomic_files.write_whole))
        with pytest.raises(RunError, match=rf"Cannot write to {paths[2]} .*free some space"):
            train(paths, configs)
    assert [len(rows(path)) for path in (paths[0], paths[1], paths[3])] == [3, 3, 3]
    assert train(paths, configs)
    for seed, path in enumerate(paths):
        assert content(path) == alone(seed)


def test_a_checkpoint_that_cannot_be_read_is_named(tmp_path):
    paths, configs = runs(tmp_path, (1, 2))
    assert not train(paths, configs, after(5))
    (paths[1] / "checkpoint.pt").write_bytes(b"nothing")
    with pytest.raises(RunError, match=rf"{paths[1]}/checkpoint.pt cannot be read"):
        train(paths, configs)


def test_killed_between_two_folders(tmp_path, alone):
    """Restore older folders of some runs, so that others have a row more."""
    paths, configs = runs(tmp_path, (1, 2, 3))
    assert not train(paths, configs, after(6))
    for path in paths[1:]:
        shutil.copytree(path, tmp_path / "before" / path.name)
    assert not train(paths, configs, after(4))
    for path in paths[1:]:
        shutil.rmtree(path)
        shutil.copytree(tmp_path / "before" / path.name, path)
    assert train(paths, configs)
    assert [content(path) for path in paths] == [alone(1), alone(2), alone(3)]


def test_progress_is_reported_for_the_runs_that_train(tmp_path):
    paths, configs = runs(tmp_path, (1, 2))
    assert not train(paths[1:], configs[1:], after(5))
    reported = []
    with ExitStack() as opened:
        folders = [
            opened.enter_context(RunFolder(path, config.to_json()))
            for path, config in zip(paths, configs, strict=True)
        ]
        StackedRuns(
            folders, configs, Counting, on_progress=lambda made: reported.append(made())
        ).execute(never)
    assert reported[0] == {0: 0.0}
    assert {0: 1.5, 1: 1.5} in reported
    assert all(each.keys() == {0, 1} for each in reported if each[0] > 1.5)
