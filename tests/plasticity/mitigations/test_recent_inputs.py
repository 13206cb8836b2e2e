import pytest
import torch
from networks_in_training import adam, context_of, images, marker, single, stacked

from plasticity.mitigations.recent_inputs import (
    draw_recent_inputs,
    recent_inputs,
    remember_inputs,
    room_for_inputs,
)


def context_with_room(count, runs=None):
    if runs is None:
        context = context_of(single(marker(), adam(marker()), images()))
    else:
        context = context_of(
            stacked([marker(run) for run in range(runs)], images())[0], *range(runs)
        )
    context._progress.example = torch.zeros(2)
    context.state = recent_inputs(context, count)
    return context


def remember(context, *numbers):
    """Remember inputs (n, n) for these numbers n, and n + 100 of the second network."""
    inputs = torch.tensor(numbers, dtype=torch.float32).view(-1, 1).expand(-1, 2)
    shift = 100 * torch.arange(*context.lead).view(-1, 1, 1) if context.lead else 0
    context._progress.inputs = inputs + shift
    context._progress.step += 1
    remember_inputs(context)


@pytest.mark.parametrize("runs", [None, 2])
def test_the_oldest_are_forgotten_first(runs):
    context = context_with_room(5, runs)
    expected = [
        ((1, 2, 3), [1, 2, 3, 1, 2]),  # repeated
        ((4, 5, 6), [4, 5, 6, 1, 2]),
        ((7, 8, 9), [9, 5, 6, 7, 8]),  # the sixth place is the first
        (
            range(10, 17),
            [16, 12, 13, 14, 15],
        ),  # the last ones of more than fit, from the second place
        ((17,), [16, 17, 13, 14, 15]),
    ]
    for given, found in expected:
        remember(context, *given)
        recent = context.state["recent"]
        first = recent if runs is None else recent[0]
        assert first[:, 0].tolist() == found
        assert torch.equal(first[:, 0], first[:, 1])
        if runs:
            assert torch.equal(recent[1], recent[0] + 100)


def test_draws_are_those_of_each_networks_generator():
    context = context_with_room(5, 2)
    remember(context, 1, 2, 3, 4, 5)
    out = torch.empty(2, 300, 2)
    draw_recent_inputs(context, out)
    assert torch.equal(out[..., 0], out[..., 1])
    for own, numbers in zip(out[..., 0], ([1, 2, 3, 4, 5], [101, 102, 103, 104, 105]), strict=True):
        assert own.unique().tolist() == numbers
        assert (torch.bincount(own.long() % 100) > 30)[1:].all()
    assert not torch.equal(out[0], out[1] - 100)
    alone = context_with_room(5)  # with the generator of the first
    remember(alone, 1, 2, 3, 4, 5)
    own = torch.empty(300, 2)
    draw_recent_inputs(alone, own)
    assert torch.equal(own, out[0])


def test_inputs_of_any_shape_and_dtype():
    context = context_of(single(marker(), adam(marker()), images()))
    context._progress.example = torch.zeros((), dtype=torch.int64)  # a class
    context.state = recent_inputs(context, 3)
    context._progress.inputs, context._progress.step = torch.tensor([4, 5]), 1
    remember_inputs(context)
    assert context.state["recent"].tolist() == [4, 5, 4]
    out = room_for_inputs(context, 2)
    draw_recent_inputs(context, out)
    assert set(out.tolist()) <= {4, 5}


def test_inputs_of_another_shape_are_refused():
    context = context_with_room(3)
    remember(context, 1)
    context._progress.inputs = context.inputs.repeat_interleave(2, -1)
    with pytest.raises(ValueError, match=r"pad them all to one length"):
        remember_inputs(context)
