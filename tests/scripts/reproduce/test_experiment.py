"""Base class of figures' experiments: rows, exact resume, stacked runs, divergence."""

import json

import pytest
import torch
import walk_figure

from plasticity.scripts.config.nested import with_values
from plasticity.scripts.run.folder import RunFolder
from plasticity.scripts.run.runner import Runner


def never():
    return False


def after(calls):
    """A should_stop that is False so many times, and then True."""
    count = iter(range(10**6))
    return lambda: next(count) >= calls


def train(path, should_stop=never, seeds=(0,), changes=None):
    """Train runs together; return whether they finished."""
    config = with_values(walk_figure.WalkFigure.config, changes or {})
    folders = [RunFolder(path / str(seed), with_values(config, {"seed": seed})) for seed in seeds]
    opened = [folder.__enter__() for folder in folders]
    try:
        return Runner(opened).execute(should_stop)
    finally:
        for folder in opened:
            folder.__exit__(None, None, None)


def rows(path, seed=0):
    return [json.loads(line) for line in (path / f"{seed}/metrics.jsonl").read_text().splitlines()]


def content(path, seed=0):
    return (path / f"{seed}/metrics.jsonl").read_bytes()


def test_rows_of_a_run(tmp_path):
    assert train(tmp_path, changes={"stream.drift": 2.0, "stream.noise": 0.0})
    # 2 per step, a row every 3 steps, 6 steps.
    assert rows(tmp_path) == [
        {"step": 3, "place": 6.0, "nothing": None, "diverged": False},
        {"step": 6, "place": 12.0, "nothing": None, "diverged": False},
    ]


@pytest.mark.parametrize("calls", range(6))
def test_a_run_stopped_anywhere_continues_exactly(tmp_path, calls):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(whole)
    assert not train(parts, after(calls))  # also between two rows
    assert train(parts)
    assert content(parts) == content(whole)


def test_an_extended_run_is_one_of_the_larger_length(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(whole, changes={"stream.num_steps": 12})
    train(parts)
    train(parts, changes={"stream.num_steps": 12})
    assert content(parts) == content(whole)


def test_a_run_ends_with_the_row_at_or_past_its_length(tmp_path):
    config = with_values(walk_figure.WalkFigure.config, {"stream.num_steps": 7})
    assert config.length == 9  # rows at 3, 6, 9
    train(tmp_path, changes={"stream.num_steps": 7})
    assert [row["step"] for row in rows(tmp_path)] == [3, 6, 9]


def test_stacked_runs_are_those_of_their_seeds(tmp_path):
    alone, stacked = tmp_path / "alone", tmp_path / "stacked"
    for seed in (4, 5):
        train(alone, seeds=[seed])
    assert not train(stacked, after(4), seeds=[4, 5])
    assert train(stacked, seeds=[4, 5])
    for seed in (4, 5):
        assert content(stacked, seed) == content(alone, seed)
    assert content(stacked, 4) != content(stacked, 5)


def test_a_number_that_is_not_finite_ends_the_run(tmp_path):
    train(tmp_path, changes={"stream.drift": 1e308})  # overflows at the second step
    assert rows(tmp_path) == [{"step": 3, "place": None, "nothing": None, "diverged": True}]
    assert train(tmp_path, changes={"stream.drift": 1e308})  # and stays ended


def test_rehearsal_measures(tmp_path):
    experiment = walk_figure.Walks([walk_figure.WalkFigure.config], stacked=False)
    experiment.rehearse()
    assert torch.isfinite(experiment.place).all()
    assert experiment.place != 0
