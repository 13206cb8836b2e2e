"""Effective rank: steps beside the optimizer that raise the effective rank of features, as in L2-ER."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from plasticity.checks import require_integer, require_number
from plasticity.mitigations.base import Kind, Mitigation, mitigation
from plasticity.mitigations.context import Context
from plasticity.mitigations.processes import mean_over_processes
from plasticity.mitigations.recent_inputs import recent_inputs, remember_inputs

EPSILON = 1e-8
"""Number that is added inside the logarithm of the entropy."""


@mitigation("effective-rank")
@dataclass(frozen=True, kw_only=True)
class EffectiveRank(Mitigation):
    """Gradient ascent on the effective rank of the hidden features, now and then (Prakash et al., 2026).

    The second half of L2-ER, from "Spectral Collapse Drives Loss of Plasticity": all of it is the method
    `weight-decay+effective-rank`. After every `every` optimizer steps, the parameters take one plain step

        θ ← θ + learning_rate · ∇ mean over layers of exp(-Σ pᵢ log(pᵢ + 1e-8)),

    with p the singular values of a layer's features, divided by their sum. The optimizer and its moments see
    nothing of it.

    What is decided here, and differs from the published form:

    - The features are those of the `examples` latest inputs at the weights as they are, recomputed, which the
      state holds. Published are all minibatches since the last such step: `every` times the batch. Until
      enough were seen, the first batch is repeated.
    - They are those of all hidden layers whose units can be followed; published for a ResNet are the last two
      maps. Each position of a convolution's map is a sample, and each channel a unit.
    - The pass is in evaluation mode: published are statistics of the batch, which also move the running ones.
    - Singular values are roots of eigenvalues of the smaller Gram matrix, in float64 where the device has it.

    A rank is at most the number of samples. On CUDA, the decomposition waits for the device.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    kind: ClassVar[Kind] = "penalty"
    claims: ClassVar[str] = "the rank of the features"
    search: ClassVar[Mapping[str, tuple[float, ...]]] = {"learning_rate": (1e-5, 1e-4, 1e-3, 1e-2)}
    reads_units: ClassVar[bool] = True
    records_features: ClassVar[bool] = False
    reads_example: ClassVar[bool] = True

    every: int = 100
    """Optimizer steps between two steps of ascent; published are 100, 12 and 5."""

    learning_rate: float = 1e-3
    """Learning rate of the ascent; published are searches from 1e-5 to 1e-2."""

    examples: int = 512
    """Number of latest inputs whose features count."""

    def __post_init__(self) -> None:
        require_integer("every", self.every, minimum=1)
        require_number("learning_rate", self.learning_rate, minimum=0.0)
        require_integer("examples", self.examples, minimum=1)

    @property
    def cadence(self) -> int:
        """Every step: each has inputs to remember."""
        return 1

    def initial_state(self, context: Context) -> dict[str, Tensor]:
        """Return room for the latest inputs."""
        return recent_inputs(context, self.examples)

    def after_step(self, context: Context) -> None:
        """Remember the inputs, and take a step of ascent, if it is due."""
        remember_inputs(context)
        if context.step % self.every:
            return
        trained = context.trained
        with torch.enable_grad():
            _, features = context.forward_with_features(context.state["recent"])
            features = {name: each for name, each in features.items() if each.requires_grad}
            if not features:  # all of what makes them is frozen
                return
            ranks = torch.stack([differentiable_rank(each) for each in features.values()]).mean(0)
        gradients = torch.autograd.grad(
            ranks, [*trained.values()], torch.ones_like(ranks), allow_unused=True
        )
        for parameter, gradient in zip(trained.values(), gradients, strict=True):
            if gradient is not None:
                rate = context.per_run(self.learning_rate, parameter)
                parameter.add_(rate * mean_over_processes(gradient))


def differentiable_rank(features: Tensor) -> Tensor:
    """Compute the effective rank of features, with a graph.

    `plasticity.metrics.effective_rank` is the metric, which is exact for zero features and has no graph. Here
    zero features have no gradient, and a value without meaning. Nor have features that are not finite, as of
    a stacked network that diverged beside others.

    Shape: (..., samples, units) to (...).
    """
    if features.device.type != "mps":
        features = features.double()
    samples, units = features.shape[-2:]
    gram = features @ features.mT if samples < units else features.mT @ features
    is_finite = gram.isfinite().all(-1).all(-1)[..., None, None]
    gram = torch.where(is_finite, gram, 0)  # a decomposition would raise an error
    squares = torch.linalg.eigvalsh(gram)
    # of rounding: a root has no derivative at 0
    floor = 1e-12 * squares.detach().clamp(min=0).sum(-1, keepdim=True) + 1e-30
    values = (squares.clamp(min=0) + floor).sqrt()
    shares = values / values.sum(-1, keepdim=True)
    entropy: Tensor = -(shares * (shares + EPSILON).log()).sum(-1)
    return entropy.exp()
