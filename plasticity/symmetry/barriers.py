"""Loss along the line between two networks, and the barrier on it (Frankle et al., 2020)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from plasticity.checks import require_integer

_Measured = TypeVar("_Measured")

__all__ = ["along_line", "barrier", "interpolate"]


@torch.no_grad()
def interpolate(first: nn.Module, second: nn.Module, share: float) -> nn.Module:
    """Return a network on the line between two: ``(1 - share) first + share second``.

    Args:
        first: Network at 0, which is not changed. What is no floating-point number is taken from it.
        second: Network at 1, of the same architecture.
        share: Position on the line.

    Raises:
        RuntimeError: if the networks differ in form (torch's message).

    Examples:
        >>> first, second = nn.Linear(1, 1), nn.Linear(1, 1)
        >>> middle = interpolate(first, second, 0.5)
        >>> torch.allclose(middle.bias, (first.bias + second.bias) / 2)
        True
    """
    made = copy.deepcopy(first)
    made.load_state_dict(second.state_dict())  # refuses another form
    end = made.state_dict()
    between = {
        name: torch.lerp(start, end[name], share) if start.is_floating_point() else start
        for name, start in first.state_dict().items()
    }
    made.load_state_dict(between)
    return made


def along_line(
    first: nn.Module,
    second: nn.Module,
    measure: Callable[[nn.Module], _Measured],
    num_points: int = 11,
) -> list[_Measured]:
    """Return a measure of each of the networks on the line between two, both included, evenly spaced.

    Args:
        first: Network at the beginning.
        second: Network at the end, of the same architecture.
        measure: Function of a network, such as its loss or its outputs.
        num_points: Number of points, at least 2.

    Raises:
        ValueError: if there are fewer than 2 points.
        RuntimeError: if the networks differ in form.

    Examples:
        >>> first, second = nn.Linear(4, 1), nn.Linear(4, 1)
        >>> len(along_line(first, second, lambda network: network.weight.norm().item(), num_points=5))
        5
    """
    require_integer("num_points", num_points, minimum=2)
    shares = [index / (num_points - 1) for index in range(num_points)]
    return [measure(interpolate(first, second, share)) for share in shares]


def barrier(losses: Tensor) -> Tensor:
    """Return the largest excess of losses on a line over the straight line between those at its ends.

    It is at least 0, the excess at the ends (Frankle et al., 2020; Ainsworth et al., 2023, Definition 2.1).

    Args:
        losses: Losses at evenly spaced points, both ends included. Shape: (..., points).

    Returns:
        Shape: (...).

    Raises:
        ValueError: if there are fewer than 2 points.

    Examples:
        >>> barrier(torch.tensor([1.0, 4.0, 3.0])).item()  # 4 in the middle, where the straight line has 2
        2.0
    """
    if losses.dim() == 0 or losses.shape[-1] < 2:
        raise ValueError(f"A barrier needs the losses of at least 2 points: {tuple(losses.shape)}.")
    shares = torch.linspace(0, 1, losses.shape[-1], dtype=losses.dtype, device=losses.device)
    straight = torch.lerp(losses[..., :1], losses[..., -1:], shares)
    excess: Tensor = (losses - straight).max(dim=-1).values
    return excess
