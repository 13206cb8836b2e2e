"""DASH: weights shrunk by how well they agree with the gradient of new data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from plasticity.checks import require_bool, require_number
from plasticity.mitigations.base import Kind, Mitigation, mitigation
from plasticity.mitigations.context import Context
from plasticity.mitigations.processes import mean_over_processes


@mitigation("dash")
@dataclass(frozen=True, kw_only=True)
class DASH(Mitigation):
    """Direction-aware shrinking of the weights when a task begins (Shin et al., 2024).

    See "DASH: Warm-Starting Neural Network Training in Stationary Settings without Loss of Plasticity". One
    pass over the data of the new task, without a step, averages the descent direction:
    G <- (1 - alpha) G + alpha (-dL/dW) after each batch, from 0. Each weight vector is then multiplied by the
    cosine of its angle to G, at least `floor`: what the new data agree with stays, the rest shrinks. A vector
    is the weights of one unit in a linear layer, the kernel between two channels in a convolution (the
    weights of one unit if the kernel has one position), and all of a layer's biases. Normalizations and
    embeddings stay, and the optimizer's state begins anew.

    The batches are those that the learner gives. The pass is in evaluation mode, so that nothing of the run
    changes: no dropout draws, and batch normalizations use their running statistics; a public port uses those
    of the batch. The factors are ours, as the authors' were not at hand. Where a new task contradicts the
    last one, most vectors shrink to the floor, in every layer: a network without normalizations may then be
    too small to learn, as the CNN of permuted-digits with a floor of 0.1. A loop of one's own gives
    `attached.boundary(task, batches, loss)`; an agent in an environment has no such data.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    kind: ClassVar[Kind] = "weight reset"
    claims: ClassVar[str] = "the start of a task"
    reads_roles: ClassVar[bool] = True
    reads_batches: ClassVar[bool] = True
    search: ClassVar[Mapping[str, tuple[float, ...]]] = {
        "alpha": (0.1, 0.3),
        "floor": (0.1, 0.3, 0.5),
    }

    alpha: float = 0.3
    """Share of a batch's gradient in the average, above 0 and at most 1."""

    floor: float = 0.3
    """Smallest factor of a weight vector, 0 to 1."""

    restart_optimizer: bool = True
    """Whether the optimizer's state begins anew."""

    def __post_init__(self) -> None:
        for name in ("alpha", "floor"):
            if require_number(name, getattr(self, name), minimum=0.0) > 1:
                raise ValueError(f"{name} must be at most 1: {getattr(self, name)}.")
        if self.alpha == 0:
            raise ValueError("alpha must be above 0: 0. No gradient would enter the average.")
        require_bool("restart_optimizer", self.restart_optimizer)

    def boundary(self, context: Context) -> None:
        """Shrink the weights."""
        shrunk = [name for name, role in context.roles.items() if role.kind in ("weight", "bias")]
        for name, direction in self._descent(context, shrunk).items():
            weight = context.parameters[name].detach()
            vectors = _vectors(weight)
            factors = torch.cosine_similarity(_vectors(direction), vectors, dim=-1)
            factors = factors.clamp(self.floor, 1.0).unsqueeze(-1)
            weight.copy_((vectors * factors).view(weight.shape))
        if self.restart_optimizer:
            context.restart_optimizer()

    def _descent(self, context: Context, names: list[str]) -> dict[str, Tensor]:
        """Return the average descent direction of parameters on the data of the task, by name.

        Raises:
            ValueError: if there are no data.
        """
        weights = {name: context.parameters[name].detach().clone() for name in names}
        found = [torch.zeros_like(each) for each in weights.values()]
        for each in weights.values():
            each.requires_grad_()
        has_data = False
        for inputs, labels in context.batches():
            has_data = True
            with torch.enable_grad():
                loss = context.loss(context.forward(inputs, weights), labels)
                gradients = torch.autograd.grad(loss, [*weights.values()], materialize_grads=True)
            torch._foreach_lerp_(found, torch._foreach_neg(gradients), self.alpha)
        if not has_data:
            raise ValueError(
                "dash got no batch of the task that begins, and would shrink all weights: give boundary() a"
                " list, or a function that returns the batches anew at each call."
            )
        return {name: mean_over_processes(each) for name, each in zip(names, found, strict=True)}


def _vectors(weight: Tensor) -> Tensor:
    """Return a weight's vectors, each of which is shrunk by itself. Shape: (..., entries)."""
    if weight.dim() < 2:
        return weight.unsqueeze(0)
    is_kernel = weight.dim() > 2 and weight[0, 0].numel() > 1
    return weight.flatten(2 if is_kernel else 1)
