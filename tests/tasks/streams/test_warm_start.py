"""Warm starts: a part, then everything, with equal updates."""

import pytest
import torch

from plasticity.agents.networks import MLP
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.agents.supervised.single import Classifier
from plasticity.tasks.datasets.images import load_dataset
from plasticity.tasks.streams.base import stack
from plasticity.tasks.streams.warm_start import WarmStart, WarmStartConfig

DIGITS = load_dataset("digits")


def test_a_part_comes_first_and_then_everything():
    stream = WarmStart(DIGITS, 3, seed=1, share=0.25)
    first, second, third = stream
    assert first.num_train == 360  # a quarter of 1442, rounded
    assert sorted(second.train_rows.tolist()) == list(range(1442))
    assert torch.equal(second.train_rows, third.train_rows)
    assert set(first.train_rows.tolist()) < set(second.train_rows.tolist())
    assert [task.spec.passes for task in stream] == [4, 1, 1]
    assert [stream.describe(k)["examples"] for k in range(3)] == [360, 1442, 1442]
    assert not torch.equal(first.train_rows, WarmStart(DIGITS, 1, 2, share=0.25)[0].train_rows)


def test_without_equal_updates_all_tasks_have_as_many_passes():
    assert WarmStart(DIGITS, 2, seed=1, equal_updates=False)[0].spec.passes == 1


@pytest.mark.parametrize("equal", [True, False])
def test_a_learner_makes_as_many_passes_more(equal):
    stream = WarmStart(DIGITS, 2, seed=1, share=0.25, equal_updates=equal)
    network = MLP(hidden=(4,)).make((1, 8, 8), 10)
    classifier = Classifier(
        network, ClassifierConfig(batch_size=60, epochs_per_task=2), data_order_seed=0
    )
    steps = []
    for task in stream:
        calls = iter(range(10**6))
        assert classifier.train(task, lambda calls=calls: next(calls) < 0)
        steps.append(next(calls))
        row = classifier.finish(task)[0]
        assert 0 <= row["online_accuracy"] <= 1
    # 360 examples: 6 steps a pass; 1442: 25
    assert steps == [2 * 6 * (4 if equal else 1), 2 * 25]


def test_stacked_tasks_are_those_of_each_seed():
    streams = [WarmStart(DIGITS, 2, seed) for seed in (0, 1)]
    assert stack(streams)[0].spec.passes == 10
    indices = torch.tensor([[3, 100], [0, 0]])
    found = stack(streams)[0].train_batch(indices)
    for position, stream in enumerate(streams):
        for one, all_ in zip(stream[0].train_batch(indices[position]), found, strict=True):
            assert torch.equal(all_[position], one)


@pytest.mark.parametrize("share", [0.0, 1.5, float("nan")])
def test_wrong_settings(share):
    with pytest.raises(ValueError, match="share must be"):
        WarmStartConfig(dataset="digits", share=share)
