"""Losses with symmetries: groups of matrices, functions that they leave unchanged, and many reflections."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from plasticity.symmetry import reflection_matrix, reflection_projector

BLOCK = 4
"""Weights of a neuron."""

SIZE = 64
"""Parameters of a loss with reflections of directions."""

HIDDEN = 8
"""Terms of a random function."""


def normal(draws: torch.Generator, *shape: int) -> Tensor:
    """Return standard normal numbers, in float64."""
    return torch.randn(*shape, generator=draws, dtype=torch.float64)


# ---- groups: all matrices, and the projector of one reflection among them ------------------------------


def reflection_group(order: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the identity and a reflection that inverts `order` random directions, and its projector."""
    projector = reflection_projector(normal(draws, order, max(SIZE, order)))
    identity = torch.eye(len(projector), dtype=projector.dtype)
    return torch.stack([identity, reflection_matrix(projector)]), projector


def permutation_group(order: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return all permutations of so many neurons, and the projector of an exchange of the first two."""
    every = [list(each) for each in itertools.permutations(range(order))]
    return _of_neurons(every, [1, 0, *range(2, order)])


def cyclic_group(order: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return all cyclic shifts of so many neurons, and the projector of half a turn."""
    every = [[(neuron + turn) % order for neuron in range(order)] for turn in range(order)]
    return _of_neurons(every, every[order // 2])


def _of_neurons(every: list[list[int]], reflection: list[int]) -> tuple[Tensor, Tensor]:
    identity = torch.eye(len(reflection), dtype=torch.float64)
    block = torch.eye(BLOCK, dtype=torch.float64)
    matrices = torch.stack([torch.kron(identity[each], block) for each in every])
    mirror = torch.kron(identity[reflection], block)
    return matrices, (torch.eye(len(mirror), dtype=torch.float64) - mirror) / 2


GROUPS = {"reflection": reflection_group, "permutation": permutation_group, "cyclic": cyclic_group}
"""Functions of order and generator that return a group, by name."""

Loss = Callable[[Tensor], Tensor]
"""Function of parameters: (parameters,) to ()."""


def symmetric_loss(matrices: Tensor, draws: torch.Generator) -> Loss:
    """Return the mean of a random function over a group, which the group leaves unchanged.

    Args:
        matrices: All elements. Shape: (elements, parameters, parameters).
        draws: Generator of the function.
    """
    inner = normal(draws, HIDDEN, matrices.shape[1]) / matrices.shape[1] ** 0.5
    offset, outer = normal(draws, HIDDEN), normal(draws, HIDDEN)
    return lambda theta: (torch.tanh(matrices @ theta @ inner.T + offset) @ outer).mean()


# ---- many reflections: a loss, a point, and its mirror images ------------------------------------------


def directions(order: int, draws: torch.Generator) -> tuple[Loss, Tensor, Tensor]:
    """Return a function of the distance from 0, a point, and its images by reflections of directions."""
    normals = functional.normalize(normal(draws, order, SIZE), dim=1)
    theta = normal(draws, SIZE)
    images = theta - 2 * normals * (normals @ theta)[:, None]
    return lambda point: (point.square().sum() / SIZE - 2).square(), theta, images


def swaps(order: int, draws: torch.Generator) -> tuple[Loss, Tensor, Tensor]:
    """Return a regression's loss, weights, and their images by exchanges of two neurons each."""
    neurons = neurons_of(order)
    inputs, labels = normal(draws, 32, BLOCK - 1), normal(draws, 32)
    theta = normal(draws, neurons, BLOCK)
    first, second = torch.triu_indices(neurons, neurons, offset=1)
    images = theta.repeat(order, 1, 1)
    pairs = torch.arange(order)
    images[pairs, first], images[pairs, second] = theta[second], theta[first]

    def loss(flat: Tensor) -> Tensor:
        weights = flat.view(neurons, BLOCK)
        outputs = torch.tanh(inputs @ weights[:, :-1].T) @ weights[:, -1] / neurons**0.5
        return (outputs - labels).square().mean()

    return loss, theta.flatten(), images.flatten(1)


def neurons_of(pairs: int) -> int:
    """Return the number of neurons that have so many pairs, rounded down."""
    return (1 + math.isqrt(1 + 8 * pairs)) // 2


MANY = {"directions": directions, "swaps": swaps}
"""Functions of order and generator that return a loss, a point and its images, by name."""


def smallest_of_normals(count: int, deviation: float) -> float:
    """Return the mean of the smallest absolute value of independent normal numbers with mean 0.

    It is the integral of the probability that all are larger, and about deviation · √(π / 2) / count.
    """
    grid = torch.linspace(0, 10 * deviation / count**0.9, 20_001, dtype=torch.float64)
    larger = torch.erfc(grid / (deviation * 2**0.5)) ** count
    return torch.trapezoid(larger, grid).item()
