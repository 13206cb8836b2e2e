"""Inputs of the latest training steps, in a mitigation's state."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity.initialization import Uniform
from plasticity.mitigations.context import Context


def room_for_inputs(context: Context, count: int) -> Tensor:
    """Return memory for inputs; needs `reads_example`. Shape: (..., count, *input_shape)."""
    example = context.example
    return example.new_zeros(*context.lead, count, *example.shape)


def recent_inputs(context: Context, count: int) -> dict[str, Tensor]:
    """Return the part of a state that holds recent inputs; needs `reads_example`.

    Args:
        context: The networks.
        count: Number of inputs.

    Returns:
        "recent", (..., count, *input_shape), and the place of the next one, "place", (...).
    """
    recent = room_for_inputs(context, count)
    place = torch.zeros(context.lead, dtype=torch.int64, device=recent.device)
    return {"recent": recent, "place": place}


def remember_inputs(context: Context) -> None:
    """Put the inputs of the step in the place of the oldest ones, after every step.

    After the first one, they are repeated until no room is left.

    Raises:
        ValueError: if their shape is not that of earlier ones.
    """
    recent, place = context.state["recent"], context.state["place"]
    inputs, batch_axis = context.inputs, len(context.lead)
    count = recent.shape[batch_axis]
    sizes, expected = (tuple(each.shape[batch_axis + 1 :]) for each in (inputs, recent))
    if sizes != expected:
        raise ValueError(
            f"An input of the shape {sizes} came after one of {expected}, and a mitigation that remembers"
            " inputs needs equal ones: pad them all to one length, or leave the mitigation out."
        )
    if context.step == 1:
        order = torch.arange(count, device=recent.device) % inputs.shape[batch_axis]
        recent.copy_(inputs.index_select(batch_axis, order))
        return
    latest = inputs.narrow(batch_axis, *_last(inputs.shape[batch_axis], count))
    shift = torch.arange(latest.shape[batch_axis], device=recent.device)
    places = (place.unsqueeze(-1) + shift) % count
    _rows(recent, batch_axis).scatter_(
        -2, _along(places, recent, batch_axis), _rows(latest.contiguous(), batch_axis)
    )
    place.add_(len(shift)).remainder_(count)


def draw_recent_inputs(context: Context, out: Tensor) -> None:
    """Fill a tensor with recent inputs at random, each network by its generator.

    Args:
        context: The networks.
        out: Shape: (..., any number, *input_shape).
    """
    recent, batch_axis = context.state["recent"], len(context.lead)
    count = recent.shape[batch_axis]
    uniform = torch.empty(out.shape[: batch_axis + 1], device=out.device)
    shares = context.draw(Uniform(1.0), uniform).abs()
    places = (shares * count).long().clamp(max=count - 1)
    torch.gather(
        _rows(recent, batch_axis),
        -2,
        _along(places, recent, batch_axis),
        out=_rows(out, batch_axis),
    )


def _last(have: int, most: int) -> tuple[int, int]:
    """Return the start and the length of the last entries of an axis, at most so many."""
    length = min(have, most)
    return have - length, length


def _rows(inputs: Tensor, batch_axis: int) -> Tensor:
    """Return inputs as rows. Shape: (..., count, *input_shape) to (..., count, entries)."""
    return inputs.view(*inputs.shape[: batch_axis + 1], -1)


def _along(places: Tensor, inputs: Tensor, batch_axis: int) -> Tensor:
    """Return places of rows for each of their entries. Shape: (..., n) to (..., n, entries)."""
    entries = inputs.shape[batch_axis + 1 :].numel()
    return places.unsqueeze(-1).expand(*places.shape, entries)
