"""Blocks of stacked parameters that `StackedOptimizer` steps at once, and each network's coefficients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from plasticity.optim.optimizer import RegularizedOptimizer
from plasticity.optim.targets import has_target, make_factors


class Numbers(NamedTuple):
    """Coefficients of the step of one parameter of one stacked network."""

    rate: float
    """Learning rate."""
    first_weight: float
    """Weight 1 - beta1 of the gradient in Adam's first moment; of the buffer in SGD: the momentum."""
    second_weight: float
    """Weight 1 - beta2 of the squared gradient in Adam's second moment."""
    first_logarithm: float
    """Logarithm of beta1: 1 - beta1**step is -expm1(step * ln(beta1)), exact to rounding in any dtype."""
    second_logarithm: float
    """Logarithm of beta2."""
    epsilon: float
    """Term added to Adam's denominator."""
    coupled: float
    """Strength of a decay that is added to the gradient."""
    decoupled: float
    """Strength of a decay separate from the gradient, to be multiplied by the rate."""
    step: float
    """Steps done so far."""


RATE, FIRST, SECOND, LOG_FIRST, LOG_SECOND, EPSILON, COUPLED, DECOUPLED, STEP = range(9)


@dataclass
class Block:
    """Parameters adjacent in memory and stepped alike: one matrix with a row for each stacked network."""

    positions: list[int]
    """Positions of the parameters in the optimizer's order."""
    columns: list[slice]
    """Columns of each parameter in the matrices below."""
    numbers: list[Numbers]
    """Coefficients of each stacked network when its settings were last loaded; later changes of the rate
    and the step count are not in them."""
    weights: Tensor
    """Memory of the parameters. Shape: (R, width), as for all matrices that follow."""
    first: Tensor | None = None
    """First moment of Adam; momentum buffer of SGD."""
    second: Tensor | None = None
    """Second moment of Adam."""
    anchors: Tensor | None = None
    """Anchors; None while all are zero."""
    factors: Tensor | None = None
    """Diagonal D of syre's Eq. 7; None while all are one."""
    coupled: bool = False
    """Whether a decay is added to the gradient in any stacked network."""
    decoupled: bool = False
    """Whether a decay is separate from the gradient in any stacked network."""


def side_by_side(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate stacked tensors. Shape of each: (R, *shape); of the result: (R, width)."""
    rows = [tensor.reshape(tensor.shape[0], -1) for tensor in tensors]
    return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)


def zeros_like_block(block: Block) -> Tensor:
    """Return zeros for every parameter of a block. Shape: (R, width)."""
    return torch.zeros(block.weights.shape, dtype=block.weights.dtype, device=block.weights.device)


def with_row(
    matrix: Tensor | None,
    index: int,
    block: Block,
    parts: Sequence[Tensor | None],
    otherwise: float,
) -> Tensor | None:
    """Set one stacked network's row of a block's matrix to new parts, one for each parameter.

    Args:
        matrix: Matrix, changed in place. None: it is created if any part is given. Shape: (R, width).
        index: Index of the stacked network.
        block: Block that the matrix belongs to.
        parts: One part for each parameter; None for a part filled with `otherwise`.
        otherwise: Value where no part is given.

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
    """Return the parameters of all groups, in their order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def numbers_of(optimizer: RegularizedOptimizer) -> list[Numbers]:
    """Return the coefficients of each parameter of an ordinary optimizer, in the flattened order."""
    is_adam = optimizer.base is not torch.optim.SGD
    rows: list[Numbers] = []
    for group in optimizer.param_groups:
        first, second = group["betas"] if is_adam else (1.0, 1.0)
        for i, parameter in enumerate(group["params"]):
            decayed = group["regularizer"] != "none" and has_target(group, i)
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
    """Anchor and factors that one parameter of one stacked network is decayed with."""

    anchor: Tensor | None
    """Point that the parameter is drawn toward; None for zero."""
    factors: Tensor | None
    """Diagonal D of Eq. 7; None for one."""


def targets_of(optimizer: RegularizedOptimizer) -> list[Target]:
    """Return the target of each parameter of an ordinary optimizer, in the flattened order."""
    found: list[Target] = []
    for group in optimizer.param_groups:
        regularizer = group["regularizer"]
        # L2-init's anchors are needed at strength 0 too: its state contains them.
        if regularizer == "l2-init" or (regularizer == "syre" and group["strength"]):
            random = regularizer == "syre"
            for i, parameter in enumerate(group["params"]):
                anchor = None if random and not group["sigma"] else optimizer.anchor(parameter)
                anisotropic = random and group["anisotropy"] > 0
                found.append(Target(anchor, make_factors(group, i) if anisotropic else None))
        else:
            found += [Target(None, None)] * len(group["params"])
    return found


def adjacent_blocks(
    parameters: Sequence[Tensor], every: Sequence[Sequence[Numbers]]
) -> list[Block]:
    """Return the fewest blocks of adjacent parameters with equal coefficients in every stacked network."""
    runs: list[list[int]] = []
    for position, parameter in enumerate(parameters):
        if (
            position
            and _follows(parameter, parameters[position - 1])
            and list(every[position]) == list(every[position - 1])
        ):
            runs[-1].append(position)
        else:
            runs.append([position])
    return [_block([parameters[p] for p in run], run, list(every[run[0]])) for run in runs]


def _follows(parameter: Tensor, before: Tensor) -> bool:
    return (
        parameter.untyped_storage().data_ptr() == before.untyped_storage().data_ptr()
        and parameter.storage_offset() == before.storage_offset() + before[0].numel()
        and parameter.stride(0) == before.stride(0)
    )


def _block(tensors: Sequence[Tensor], positions: list[int], numbers: list[Numbers]) -> Block:
    widths = [tensor[0].numel() for tensor in tensors]
    ends = torch.tensor(widths).cumsum(0).tolist()
    columns = [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]
    first = tensors[0].detach()
    size = (first.shape[0], ends[-1])
    weights = first.as_strided(size, (first.stride(0), 1), first.storage_offset())
    return Block(positions, columns, numbers, weights)


def pieces_of(block: Block) -> list[Block]:
    """Return one block for each parameter of this one, as views of its memory."""
    matrices = {
        name: matrix
        for name in ("weights", "first", "second", "anchors", "factors")
        if (matrix := getattr(block, name)) is not None
    }
    return [
        replace(
            block,
            positions=[position],
            columns=[slice(0, columns.stop - columns.start)],
            numbers=list(block.numbers),
            **{name: matrix[:, columns] for name, matrix in matrices.items()},
        )
        for position, columns in zip(block.positions, block.columns, strict=True)
    ]
