"""Whole runs of a method, tiny: of a classifier, alone and stacked, and of PPO."""

import copy
import json
import sys
from pathlib import Path

import pytest
import torch

from plasticity.agents.networks import CNN
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.config.run_config import (
    ControlRunConfig,
    ControlTracking,
    SupervisedRunConfig,
    SupervisedTracking,
)
from plasticity.scripts.run.experiment import experiment_class
from plasticity.tasks.control.ant.config import SlipperyAntConfig
from plasticity.tasks.streams.permuted_images import PermutedImagesConfig

sys.path.append(str(Path(__file__).parent))

DIGITS = SupervisedRunConfig(
    benchmark="permuted-digits",
    stream=PermutedImagesConfig(dataset="digits", num_tasks=2),
    # tanh, where a method keeps it: single and stacked runs round differently, and a ReLU at 0 would jump
    network=CNN(channels=(4, 4), hidden=(8,), activation="tanh"),
    agent=ClassifierConfig(learning_rate=0.05, momentum=0.9, batch_size=100),
    tracking=SupervisedTracking(probe_size=32, metrics=("effective_rank", "weight_norm")),
)
ANT = ControlRunConfig(
    benchmark="slippery-ant",
    stream=SlipperyAntConfig(engine="bullet", num_steps=256, change_every=200, num_envs=2),
    agent=PPOConfig(rollout_steps=64, epochs=2, minibatch_size=16, hidden=(8, 8)),
    tracking=ControlTracking(metrics=("effective_rank", "weight_norm"), measure_every=128),
)


def start(configs, *, stacked):
    return experiment_class(configs[0])(configs, stacked=stacked)


def finish(experiment):
    """Return the rows of each run until all are finished."""
    rows = [[] for _ in experiment.configs]
    while not all(map(experiment.is_finished, range(len(rows)))):
        for run, row in experiment.next_rows(lambda: False).items():
            rows[run].append(row)
    return rows


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def stacked_as_alone():
    """Function that checks that methods with networks of one shape train the same stacked as alone."""

    def check(*methods):
        configs = [
            with_values(DIGITS, {"method": method, "seed": seed})
            for seed, method in enumerate(methods)
        ]
        stacked = start(configs, stacked=True)
        rows, states = finish(stacked), stacked.state_dicts(range(len(configs)))
        for config, run_rows, state in zip(configs, rows, states, strict=True):
            alone = start([config], stacked=False)
            for row, expected in zip(run_rows, finish(alone)[0], strict=True):
                assert row.keys() == expected.keys()
                assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-3)
            (expected,) = alone.state_dicts([0])
            torch.testing.assert_close(
                state["classifier"]["network"],
                expected["classifier"]["network"],
                rtol=1e-3,
                atol=1e-4,
            )

    return check


@pytest.fixture
def continues_exactly():
    """Function that checks that a run which stops halfway through a task continues to the same bytes."""

    def check(method, *, stacked=False):
        configs = [
            with_values(DIGITS, {"method": method, "seed": seed}) for seed in range(1 + stacked)
        ]
        whole = finish(start(configs, stacked=stacked))
        first, steps = start(configs, stacked=stacked), iter(range(7))
        assert first.next_rows(lambda: next(steps, None) is None) == {}
        second = start(configs, stacked=stacked)
        for run, state in enumerate(first.state_dicts(range(len(configs)))):
            second.load_state_dict(run, state)
        assert json.dumps(finish(second)) == json.dumps(whole)

    return check


@pytest.fixture
def ppo_continues_exactly():
    """Function that returns the rows of an agent's run, which continues to the same bytes from its middle."""
    pytest.importorskip("pybullet")

    def check(method, **changes):
        config = with_values(ANT, {"method": method, "stream.cores": 2, **changes})
        whole = start([config], stacked=False)
        rows = [whole.next_rows(lambda: False)[0]]
        state = copy.deepcopy(whole.state_dicts([0])[0])  # which shares memory with the run
        rows += finish(whole)[0]
        whole.close()
        second = start([config], stacked=False)
        second.load_state_dict(0, state)
        assert json.dumps(finish(second)[0]) == json.dumps(rows[1:])
        second.close()
        return rows

    return check
