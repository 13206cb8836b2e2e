"""Updates of a dense network by the gradients of one example, which are outer products.

A gradient is added to its weight at once and never stored. Everything here is
theta <- theta - rate * (gradient + strength * (theta - anchor)), up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from plasticity.optim.linear_step import LinearStep
from plasticity.optim.plan import exceeds_rounding

NUMBERS_IN_CACHE = 2**18
"""Numbers of a part of a weight that is moved at once, few enough that they are still in the cache for the
second operation on them."""

NUMBERS_AT_ONCE = 2**18
"""Most numbers of a network that are moved at once: several operations on small tensors take longer than one
on all of them."""


class Memory:
    """Weights and biases of a dense network in one block of memory.

    Args:
        weights: Weights from input to output. Shape of each: (units, inputs). They are moved into the block.
        biases: Biases likewise. Shape of each: (units,).
    """

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
        self.parameters = [*weights, *biases]
        self.whole, places = self.like()
        for parameter, place in zip(self.parameters, places, strict=True):
            parameter.data = place.copy_(parameter.detach())
        self.weights, self.biases = places[: len(weights)], places[len(weights) :]
        units = sum(each.numel() for each in biases)
        self.all_biases = self.whole[-units:]
        self.all_gradients = self.whole.new_empty(units)
        """Gradients of the biases: those of the sums of each layer."""
        self.gradients = torch.split(self.all_gradients, [each.numel() for each in biases])
        """The same by layer."""
        self.columns = [each.unsqueeze(1) for each in self.gradients]

    def like(self) -> tuple[Tensor, list[Tensor]]:
        """Return a block of zeros of the same size, and the parts of it that belong to the parameters."""
        # each weight at a multiple of 64 bytes, the biases side by side at the end
        sizes = [each.numel() for each in self.parameters]
        steps = [
            -(-each.numel() // 16) * 16 if each.dim() > 1 else each.numel()
            for each in self.parameters
        ]
        whole = self.parameters[0].detach().new_zeros(sum(steps))
        parts = torch.split(whole, steps)
        return whole, [
            part[:size].view(parameter.shape)
            for part, size, parameter in zip(parts, sizes, self.parameters, strict=True)
        ]

    @property
    def is_small(self) -> bool:
        """Whether all parameters are moved at once."""
        return self.whole.numel() <= NUMBERS_AT_ONCE

    def holds(self) -> bool:
        """Return whether the parameters are still where they were moved."""
        places = [*self.weights, *self.biases]
        return all(
            parameter.data_ptr() == place.data_ptr()
            for parameter, place in zip(self.parameters, places, strict=True)
        )


class Update(Protocol):
    """Update of all parameters of a network."""

    def move(self, index: int, row: Tensor) -> None:
        """Update the weight of a layer, if its gradient is no longer needed for other layers.

        Args:
            index: Index of the layer.
            row: Its inputs. Shape: (1, inputs). The gradient of its sums is in the memory.
        """

    def end(self) -> None:
        """Update the rest, after all layers."""


class PlainUpdate:
    """Update without a decay."""

    def __init__(self, memory: Memory, step: LinearStep) -> None:
        self._memory, self._step = memory, step
        self._pairs = list(zip(memory.weights, memory.columns, strict=True))

    def move(self, index: int, row: Tensor) -> None:
        """Update the weight of a layer; see `Update`."""
        weight, column = self._pairs[index]
        weight.addmm_(column, row, alpha=-self._step.rate)

    def end(self) -> None:
        """Update the biases."""
        self._memory.all_biases.add_(self._memory.all_gradients, alpha=-self._step.rate)


class ScaledUpdate:
    """Update with a decay that is large enough to multiply the weights by 1 - rate * strength."""

    def __init__(self, memory: Memory, step: LinearStep) -> None:
        self._memory, self._step = memory, step
        self._anchor = _anchors_as_one(memory, step)
        anchors: list[Tensor | None] = [None] * len(memory.weights)
        if step.anchors is not None and self._anchor is None:
            anchors = [step.anchors[each] for each in memory.parameters]
        self._parts = _parts_of(memory, anchors)
        pairs = zip(memory.biases, anchors[len(memory.weights) :], strict=False)
        self._biases = [(bias, anchor) for bias, anchor in pairs if anchor is not None]

    def move(self, index: int, row: Tensor) -> None:
        """Update the weight of a layer; see `Update`."""
        rate = self._step.rate
        amount = rate * self._step.strength
        for weight, column, anchor in self._parts[index]:
            weight.addmm_(column, row, beta=1 - amount, alpha=-rate)
            if anchor is not None:
                weight.add_(anchor, alpha=amount)

    def end(self) -> None:
        """Update the biases, and the rest of a small network."""
        rate, memory = self._step.rate, self._memory
        amount = rate * self._step.strength
        memory.all_biases.mul_(1 - amount).add_(memory.all_gradients, alpha=-rate)
        if self._anchor is not None:
            memory.whole.add_(self._anchor, alpha=amount)
        for bias, anchor in self._biases:
            bias.add_(anchor, alpha=amount)


class GoalUpdate:
    """Update with a decay of any strength: theta moves to anchor - gradient / strength by rate * strength.

    The gradient and the decay are added up first, which keeps a decay that is less than the rounding error of
    a weight.
    """

    def __init__(self, memory: Memory, step: LinearStep) -> None:
        self._memory, self._step = memory, step
        self._at_once = memory.is_small
        anchors: list[Tensor | None] = [None] * len(memory.parameters)
        if step.anchors is not None:
            anchors = [step.anchors[each] for each in memory.parameters]
        self._parts = _parts_of(memory, anchors)
        if self._at_once:
            self._goal, goals = memory.like()
        else:
            most = max(each.numel() for parts in self._parts for each, _, _ in parts)
            goals = [memory.whole.new_empty(most)] * len(memory.weights)
            goals += [torch.empty_like(each) for each in memory.biases]
        self._goals = goals
        of_biases = slice(len(memory.weights), None)
        self._biases = list(
            zip(memory.biases, memory.gradients, anchors[of_biases], goals[of_biases], strict=True)
        )

    def move(self, index: int, row: Tensor) -> None:
        """Update the weight of a layer, or compute where it is to go; see `Update`."""
        rate, strength = self._step.rate, self._step.strength
        for weight, column, anchor in self._parts[index]:
            goal = self._goals[index]
            if not self._at_once:
                goal = goal[: weight.numel()].view(weight.shape)
            if anchor is None:
                torch.addmm(goal, column, row, beta=0, alpha=-1 / strength, out=goal)
            else:
                torch.addcmul(anchor, column, row, value=-1 / strength, out=goal)
            if not self._at_once:
                weight.lerp_(goal, rate * strength)

    def end(self) -> None:
        """Update the biases, or everything."""
        amount, strength = self._step.rate * self._step.strength, self._step.strength
        for bias, gradient, anchor, goal in self._biases:
            if anchor is None:
                torch.mul(gradient, -1 / strength, out=goal)
            else:
                torch.add(anchor, gradient, alpha=-1 / strength, out=goal)
            if not self._at_once:
                bias.lerp_(goal, amount)
        if self._at_once:
            self._memory.whole.lerp_(self._goal, amount)


def update_of(memory: Memory, step: LinearStep) -> Update:
    """Return the fastest update that computes a step, at the learning rate that it has now."""
    if step.strength == 0:
        return PlainUpdate(memory, step)
    if exceeds_rounding(step.rate * step.strength, memory.whole.dtype):
        return ScaledUpdate(memory, step)
    return GoalUpdate(memory, step)


def _anchors_as_one(memory: Memory, step: LinearStep) -> Tensor | None:
    """Return the anchors of a small network in one block, as its parameters are; None for others."""
    if step.anchors is None or not memory.is_small:
        return None
    whole, places = memory.like()
    for place, parameter in zip(places, memory.parameters, strict=True):
        place.copy_(step.anchors[parameter])
    return whole


_Part = tuple[Tensor, Tensor, Tensor | None]


def _parts_of(memory: Memory, anchors: Sequence[Tensor | None]) -> list[list[_Part]]:
    """Return the parts of each weight that fit into the cache; of a small network, each weight is one.

    Returns:
        For each weight, each part's rows of it, of the gradient's column and of the anchor.
    """
    found = []
    for weight, column, anchor in zip(memory.weights, memory.columns, anchors, strict=False):
        rows = len(weight)
        if not memory.is_small:
            rows = max(1, NUMBERS_IN_CACHE // weight.shape[1])
        whole = [None] * len(weight) if anchor is None else torch.split(anchor, rows)
        found.append(
            list(zip(torch.split(weight, rows), torch.split(column, rows), whole, strict=False))
        )
    return found
