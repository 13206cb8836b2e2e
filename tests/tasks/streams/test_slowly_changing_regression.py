"""Slowly-changing regression: bits that flip, targets by hand, whole runs with numbers to predict."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity.tasks.streams.base import stack
from plasticity.tasks.streams.slowly_changing_regression import (
    SlowlyChangingRegression,
    SlowlyChangingRegressionConfig,
    target_outputs,
)


def stream_of(seed=3, num_tasks=20, **settings):
    config = SlowlyChangingRegressionConfig(num_tasks=num_tasks, **{"num_examples": 64, **settings})
    return SlowlyChangingRegression(config, seed)


def test_targets_by_hand():
    # 2 inputs, beta 0.7: thresholds 0.7 * 3 - S. First unit: S = (2 - 2 + 1) / 2 = 0.5, threshold 1.6; its
    # sum is x + y + 1: it fires where one is set. Second: S = (2 - 0 - 1) / 2 = 0.5, threshold 1.6; its sum
    # is x - y - 1: never.
    # Third: S = (2 + 2 - 1) / 2 = 1.5, threshold 0.6; its sum, -x - y - 1, is below.
    # Fourth: S = (2 + 2 + 1) / 2 = 2.5, threshold -0.4; 1 - x - y: it fires unless both are set.
    weights = torch.tensor([[1, 1], [1, -1], [-1, -1], [-1, -1]])
    biases, outputs = torch.tensor([1, -1, -1, 1]), torch.tensor([1, 1, -1, -1])
    bits = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    found = target_outputs(bits, weights, biases, outputs, beta=0.7)
    assert found.tolist() == [-1, 0, 0, 1]


def test_targets_are_those_of_an_independent_loop():
    stream = stream_of(target_units=7, slow_bits=4, random_bits=2)
    weights, biases, outputs = (each.numpy() for each in stream._target)
    assert {-1, 1} == set(weights.ravel()) == set(outputs) == set(biases)
    task = stream[5]
    for bits, target in zip(task.inputs.numpy(), task.targets[:, 0].tolist(), strict=True):
        expected = 0
        for unit in range(7):
            s = (6 - weights[unit].sum() + biases[unit]) / 2
            total = sum(w * x for w, x in zip(weights[unit], bits, strict=True)) + biases[unit]
            expected += outputs[unit] * (total > 0.7 * 7 - s)
        assert target == expected


def test_one_bit_flips_from_task_to_task():
    stream = stream_of(num_tasks=400)
    slow = torch.stack([stream.slow_bits(task) for task in range(400)])
    changes = (slow[1:] != slow[:-1]).sum(1)
    assert changes.tolist() == [1] * 399
    flips = (slow[1:] != slow[:-1]).sum(0)
    # 399 flips of 15 bits: 26.6 each, standard deviation 5
    assert flips.min() > 26.6 - 4.5 * 5
    assert flips.max() < 26.6 + 4.5 * 5
    for task in (0, 7):
        inputs = stream[task].inputs
        assert torch.equal(inputs[:, :15], slow[task].float().expand(64, -1))


def test_all_bits_are_drawn_anew():
    stream = stream_of(num_tasks=200, flips="all")
    slow = torch.stack([stream.slow_bits(task) for task in range(200)]).double()
    changed = (slow[1:] != slow[:-1]).double().mean().item()
    assert changed == pytest.approx(0.5, abs=5 * 0.5 / (199 * 15) ** 0.5)


def test_the_other_bits_are_random():
    stream = stream_of(num_examples=4000)
    fast = stream[2].inputs[:, 15:]
    assert fast.mean().item() == pytest.approx(0.5, abs=5 * 0.5 / 20_000**0.5)
    assert not torch.equal(fast, stream[3].inputs[:, 15:])
    codes = (fast.long() * 2 ** torch.arange(5)).sum(1)
    assert len(set(codes.tolist())) == 32


@given(st.integers(0, 2**80), st.integers(0, 60), st.sampled_from(["one", "all"]))
@settings(max_examples=25, deadline=None)
def test_a_task_is_a_pure_function_of_seed_and_index(seed, index, flips):
    first = stream_of(seed, 61, flips=flips)
    for task in (3, 0):
        _ = first[task]
    second = stream_of(seed, 99, flips=flips)
    for name in ("inputs", "targets"):
        assert torch.equal(getattr(first[index], name), getattr(second[index], name))


def test_stacked_batches_are_those_of_each():
    streams = [stream_of(seed) for seed in range(3)]
    stacked = stack(streams)[4]
    assert stacked.spec == streams[0][4].spec
    indices = torch.tensor([[0, 3], [5, 5], [63, 1]])
    inputs, targets = stacked.train_batch(indices)
    for run, stream in enumerate(streams):
        own = stream[4].train_batch(indices[run])
        assert torch.equal(inputs[run], own[0])
        assert torch.equal(targets[run], own[1])
    assert (inputs.shape, targets.shape) == ((3, 2, 20), (3, 2, 1))
    assert list(stacked.test_batches(5)) == []


def test_the_target_needs_more_than_its_learner_can_have():
    """A linear model leaves an error within a task of random bits only where units fire by themselves."""
    stream = stream_of(num_examples=2000)
    task = stream[0]
    inputs = np.column_stack([task.inputs.numpy(), np.ones(2000)])
    targets = task.targets.numpy()
    left = np.linalg.lstsq(inputs, targets, rcond=None)[0]
    assert ((inputs @ left - targets) ** 2).mean() > 0.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flips": "on"}, "Unknown flips 'on'. Did you mean 'one'"),
        ({"num_examples": 0}, "num_examples"),
        ({"slow_bits": 0}, "slow_bits"),
        ({"random_bits": -1}, "random_bits"),
        ({"target_units": 0}, "target_units"),
        ({"beta": float("nan")}, "beta"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        SlowlyChangingRegressionConfig(num_tasks=1, **settings)


def test_a_batch_size_below_1_is_refused():
    with pytest.raises(ValueError, match="batch_size"):
        stream_of()[0].test_batches(0)
