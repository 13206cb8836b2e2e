"""Small run of the comparison: both train, results are kept, and the interval is Welch's."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

EXAMPLE = Path(__file__).parents[2] / "examples" / "ppo_against_sb3.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("ppo_against_sb3", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["ppo_against_sb3"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["ppo_against_sb3"]


@pytest.mark.parametrize("trainer", ["ours", "stable-baselines3"])
def test_both_count_the_same_steps(example, trainer):
    episodes = example.TRAINERS[trainer]("CartPole-v1", 0, 512)
    steps = [step for step, _ in episodes]
    assert steps == sorted(steps)
    assert steps[-1] <= 512
    # a return is an episode's length, so they sum to all steps except those of the 8 unfinished episodes
    assert 512 - 8 * 100 < sum(found for _, found in episodes) <= 512
    assert all(step % 8 == 0 for step in steps)
    returns = example.mean_returns(trainer, "CartPole-v1", 0, 512)
    assert returns["whole"] == pytest.approx(np.mean([found for _, found in episodes]))
    late = [found for step, found in episodes if step > 0.8 * 512]
    assert returns["final"] == pytest.approx(np.mean(late))


def test_the_interval_is_welchs(example):
    random = np.random.default_rng(0)
    ours, theirs = random.normal(0, 1, 6), random.normal(1, 3, 9)
    expected = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    assert example.welch_interval(ours, theirs) == pytest.approx((expected.low, expected.high))
    # one is constant: the interval of the other alone, mean 2, standard error sqrt(1 / 3), 2 degrees
    low, high = example.welch_interval(np.array([1.0, 2.0, 3.0]), np.zeros(5))
    assert (low, high) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-4)
    assert example.welch_interval(np.full(3, 500.0), np.full(3, 500.0)) == (0.0, 0.0)


def test_command_continues(example, tmp_path, monkeypatch, capsys):
    path = tmp_path / "results.jsonl"
    rows = [
        f'{{"env": "Pendulum-v1", "steps": 4096, "trainer": "{trainer}", "seed": {seed},'
        f' "returns": {{"final": {-200.0 - seed}, "whole": -300.0}}}}\n'
        for trainer in example.TRAINERS
        for seed in (0, 1, 2)
    ]
    path.write_text("".join(rows))
    command = ["x", "Pendulum-v1", "--seeds", "2", "--steps", "4096", "--out", str(path)]
    monkeypatch.setattr(sys, "argv", command)
    example.main()
    printed = capsys.readouterr().out
    # nothing was run; the mean of seeds 0 and 1 is -200.5
    assert path.read_text() == "".join(rows)
    assert printed.count("mean   -200.50") == 2
    assert "-300.00" in printed
