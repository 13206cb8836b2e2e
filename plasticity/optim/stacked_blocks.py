"""What `StackedOptimizer` steps at once: blocks of stacked parameters, and the numbers of each replica."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from plasticity.optim.optimizer import RegularizedOptimizer
from plasticity.optim.targets import has_target, make_factors


class Numbers(NamedTuple):
    """What one parameter of one replica is stepped with."""

    rate: float
    first_weight: float
    """Adam's 1 - beta1, of the gradient; SGD's momentum, of the buffer."""
    second_weight: float
    """Adam's 1 - beta2."""
    first_logarithm: float
    """ln(beta1): 1 - beta1**step is -expm1(step * ln(beta1)), exact to rounding in any dtype."""
    second_logarithm: float
    epsilon: float
    coupled: float
    """Strength of a decay that joins the gradient."""
    decoupled: float
    """Strength of a decay apart from it, to be multiplied by the rate."""
    step: float


RATE, FIRST, SECOND, LOG_FIRST, LOG_SECOND, EPSILON, COUPLED, DECOUPLED, STEP = range(9)


@dataclass
class Block:
    """Parameters that lie side by side in memory and are stepped alike: one matrix, a row a replica."""

    places: list[int]
    """Of the parameters, in the optimizer's order."""
    columns: list[slice]
    """Of each of them, in the matrices below."""
    numbers: list[Numbers]
    """Of each replica, as last set from the host: their `step` is not counted on."""
    weights: Tensor
    """The parameters themselves. Shape: (R, width), as that of all that follow."""
    first: Tensor | None = None
    """Adam's first moment; SGD's momentum buffer."""
    second: Tensor | None = None
    """Adam's second moment."""
    anchors: Tensor | None = None
    """None while all are zero."""
    factors: Tensor | None = None
    """Syre's D (Eq. 7); None while all are one."""
    coupled: bool = False
    """Whether a decay joins the gradient in any replica."""
    decoupled: bool = False
    """Whether a decay is apart from it in any replica."""


def side_by_side(tensors: Sequence[Tensor]) -> Tensor:
    """Stacked tensors side by side. Shape of each: (R, *shape); of the result: (R, width)."""
    rows = [tensor.reshape(tensor.shape[0], -1) for tensor in tensors]
    return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)


def zeros_like_block(block: Block) -> Tensor:
    """Zeros for every parameter of a block. Shape: (R, width)."""
    return torch.zeros(block.weights.shape, dtype=block.weights.dtype, device=block.weights.device)


def with_row(
    matrix: Tensor | None,
    index: int,
    block: Block,
    parts: Sequence[Tensor | None],
    otherwise: float,
) -> Tensor | None:
    """Give one replica's row of a block's matrix new parts, one for each parameter.

    Args:
        matrix: Changed. None: it is made, if a part is there. Shape: (R, width).
        index: Of the replica.
        block: Whose matrix it is.
        parts: One for each parameter; None for a part of `otherwise`.
        otherwise: What stands where nothing else is known.

    Returns:
        The matrix, or None if there is still none.
    """
    if matrix is None:
        if all(part is None for part in parts):
            return None
        matrix = zeros_like_block(block).fill_(otherwise)
    for columns, part in zip(block.columns, parts, strict=True):
        if part is None:
            matrix[index, columns].fill_(otherwise)
        else:
            matrix[index, columns].copy_(part.reshape(-1))
    return matrix


def flat_parameters(optimizer: RegularizedOptimizer) -> list[Tensor]:
    """The parameters of all groups, in their order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def numbers_of(optimizer: RegularizedOptimizer) -> list[Numbers]:
    """What an ordinary optimizer steps each of its parameters with, in the flattened order."""
    is_adam = optimizer.base is not torch.optim.SGD
    rows: list[Numbers] = []
    for group in optimizer.param_groups:
        first, second = group["betas"] if is_adam else (1.0, 1.0)
        for place, parameter in enumerate(group["params"]):
            decayed = group["regularizer"] != "none" and has_target(group, place)
            strength = group["strength"] if decayed else 0.0
            state = optimizer.state.get(parameter, {})
            has_buffer = state.get("momentum_buffer") is not None
            rows.append(
                Numbers(
                    rate=float(group["lr"]),
                    first_weight=1 - first if is_adam else group["momentum"],
                    second_weight=1 - second,
                    first_logarithm=_logarithm(first),
                    second_logarithm=_logarithm(second),
                    epsilon=group["eps"] if is_adam else 0.0,
                    coupled=0.0 if group["decoupled"] else strength,
                    decoupled=strength if group["decoupled"] else 0.0,
                    step=float(state.get("step", has_buffer)),
                )
            )
    return rows


def _logarithm(beta: float) -> float:
    return math.log(beta) if beta > 0 else -math.inf


class Target(NamedTuple):
    """What one parameter of one replica is drawn toward."""

    anchor: Tensor | None
    """None for zero."""
    factors: Tensor | None
    """The diagonal D of Eq. 7; None for one."""


def targets_of(optimizer: RegularizedOptimizer) -> list[Target]:
    """What an ordinary optimizer draws each of its parameters toward, in the flattened order."""
    found: list[Target] = []
    for group in optimizer.param_groups:
        regularizer = group["regularizer"]
        # L2-init's anchors are kept at strength 0 too: its state holds them.
        if regularizer == "l2-init" or (regularizer == "syre" and group["strength"]):
            random = regularizer == "syre"
            for place, parameter in enumerate(group["params"]):
                anchor = None if random and not group["sigma"] else optimizer.anchor(parameter)
                anisotropic = random and group["anisotropy"] > 0
                found.append(Target(anchor, make_factors(group, place) if anisotropic else None))
        else:
            found += [Target(None, None)] * len(group["params"])
    return found


def adjacent_blocks(
    parameters: Sequence[Tensor], every: Sequence[Sequence[Numbers]]
) -> list[Block]:
    """The fewest blocks: parameters side by side in memory, with equal numbers in every replica."""
    runs: list[list[int]] = []
    for place, parameter in enumerate(parameters):
        if (
            place
            and _follows(parameter, parameters[place - 1])
            and list(every[place]) == list(every[place - 1])
        ):
            runs[-1].append(place)
        else:
            runs.append([place])
    return [_block([parameters[p] for p in run], run, list(every[run[0]])) for run in runs]


def _follows(parameter: Tensor, before: Tensor) -> bool:
    return (
        parameter.untyped_storage().data_ptr() == before.untyped_storage().data_ptr()
        and parameter.storage_offset() == before.storage_offset() + before[0].numel()
        and parameter.stride(0) == before.stride(0)
    )


def _block(tensors: Sequence[Tensor], places: list[int], numbers: list[Numbers]) -> Block:
    widths = [tensor[0].numel() for tensor in tensors]
    ends = torch.tensor(widths).cumsum(0).tolist()
    columns = [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]
    first = tensors[0].detach()
    size = (first.shape[0], ends[-1])
    weights = first.as_strided(size, (first.stride(0), 1), first.storage_offset())
    return Block(places, columns, numbers, weights)


def pieces_of(block: Block) -> list[Block]:
    """A block for each parameter of this one; they hold its memory."""

    def part(matrix: Tensor | None, columns: slice) -> Tensor | None:
        return None if matrix is None else matrix[:, columns]

    return [
        Block(
            places=[place],
            columns=[slice(0, columns.stop - columns.start)],
            numbers=list(block.numbers),
            weights=block.weights[:, columns],
            first=part(block.first, columns),
            second=part(block.second, columns),
            anchors=part(block.anchors, columns),
            factors=part(block.factors, columns),
            coupled=block.coupled,
            decoupled=block.decoupled,
        )
        for place, columns in zip(block.places, block.columns, strict=True)
    ]
