"""Teachers: random feedforward networks of any depth that label inputs for students."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from plasticity.checks import require_integer


@dataclass(frozen=True)
class Teacher:
    """Feedforward network without biases, which is not trained."""

    weights: tuple[Tensor, ...]
    """Weights from the inputs to the outputs, at least one. Shape of each: (outputs, inputs) of its layer."""

    activation: Callable[[Tensor], Tensor]
    """Activation after every layer except the last."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the labels of inputs. Shape: (..., inputs) to (..., outputs)."""
        features = inputs
        for weight in self.weights[:-1]:
            features = self.activation(features @ weight.T)
        return features @ self.weights[-1].T

    def divided(self, divisor: Tensor) -> Teacher:
        """Return the teacher whose labels are these divided by a number of shape ()."""
        return replace(self, weights=(*self.weights[:-1], self.weights[-1] / divisor))

    def normalized(self, inputs: Tensor) -> Teacher:
        """Return the teacher with its labels divided by their root mean square.

        Args:
            inputs: Inputs that the mean is taken over, and over the outputs. Shape: (batch, inputs).

        Raises:
            ValueError: if all their labels are 0.
        """
        scale = self(inputs).square().mean().sqrt()
        if not scale > 0:
            raise ValueError("The teacher's labels of these inputs are all 0: give other inputs.")
        return self.divided(scale)


def random_teacher(
    widths: Sequence[int],
    generator: torch.Generator,
    *,
    activation: Callable[[Tensor], Tensor] = torch.relu,
    scaled: bool = True,
) -> Teacher:
    """Draw a teacher with normal weights, layer after layer from the inputs.

    Args:
        widths: Number of inputs, widths of the hidden layers (or none, for a linear map), number of outputs.
        generator: Generator of the weights, on the device that they are made on.
        activation: Activation after every layer except the last.
        scaled: Whether the weights of a layer have a standard deviation of 1 / sqrt(its inputs); otherwise
            it is 1.

    Raises:
        TypeError: if a width is not an integer.
        ValueError: if there are fewer than two widths, or one is under 1.
    """
    if len(widths) < 2:
        raise ValueError(f"A teacher needs the widths of its inputs and outputs, not {widths}.")
    for width in widths:
        require_integer("a width of a teacher", width, minimum=1)
    weights = []
    for inputs, outputs in pairwise(widths):
        weight = torch.randn(outputs, inputs, generator=generator, device=generator.device)
        weights.append(weight / inputs**0.5 if scaled else weight)
    return Teacher(tuple(weights), activation)
