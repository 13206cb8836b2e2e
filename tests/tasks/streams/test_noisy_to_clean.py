"""Labels that are noisy at first: how many, which, and when they are clean."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity.tasks.datasets.images import load_dataset
from plasticity.tasks.streams.base import stack
from plasticity.tasks.streams.noisy_to_clean import NoisyToClean, NoisyToCleanConfig

DIGITS = load_dataset("digits")


def test_the_noise_declines_to_none():
    stream = NoisyToClean(DIGITS, 7, seed=1)
    noise = [stream.describe(k)["noise"] for k in range(7)]
    assert noise == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0, 0.0, 0.0])
    for task, share in zip(stream, noise, strict=True):
        wrong = (task.train_labels != DIGITS.train_labels).double().mean().item()
        # a label that is drawn anew is the true one in a tenth of the cases
        assert wrong == pytest.approx(0.9 * share, abs=5 * (0.25 / 1442) ** 0.5 if share else 0)
        labels = torch.cat([labels for _, labels in task.test_batches(100)])
        assert torch.equal(labels, DIGITS.test_labels)


def test_all_labels_can_be_noise():
    labels = NoisyToClean(DIGITS, 1, seed=1, noise=1.0)[0].train_labels
    counts = torch.bincount(labels, minlength=10)
    # 144 each, standard deviation 11.4
    assert (counts - 144.2).abs().max() < 57
    clean = NoisyToClean(DIGITS, 1, seed=1, noise=0.0)[0].train_labels
    assert torch.equal(clean, DIGITS.train_labels)


@given(st.integers(0, 2**80), st.integers(0, 6), st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_a_task_is_a_pure_function_of_seed_and_index(seed, index, longer):
    stream = NoisyToClean(DIGITS, index + 1, seed)
    other = NoisyToClean(DIGITS, index + 1 + longer, seed)
    assert torch.equal(stream[index].train_labels, other[index].train_labels)


def test_noise_is_drawn_anew_for_each_phase():
    first, second = NoisyToClean(DIGITS, 2, seed=1, phases=100)
    assert (first.train_labels != second.train_labels).double().mean() > 0.5


def test_stacked_tasks_are_those_of_each_seed():
    streams = [NoisyToClean(DIGITS, 3, seed) for seed in (0, 1)]
    indices = torch.tensor([[3, 400], [0, 0]])
    found = stack(streams)[1].train_batch(indices)
    for position, stream in enumerate(streams):
        for one, all_ in zip(stream[1].train_batch(indices[position]), found, strict=True):
            assert torch.equal(all_[position], one)


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"noise": 1.1}, "noise must be at most 1"), ({"phases": 1}, "phases must be at least 2")],
)
def test_wrong_settings(changed, message):
    with pytest.raises(ValueError, match=message):
        NoisyToCleanConfig(dataset="digits", num_tasks=2, **changed)
