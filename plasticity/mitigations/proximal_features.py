"""Proximal feature optimization (PFO): a penalty on the change of the last features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from plasticity.checks import require_integer, require_number
from plasticity.mitigations.base import Kind, Mitigation, mitigation
from plasticity.mitigations.context import Context
from plasticity.mitigations.kept_parameters import copies, keep_parameters, kept_parameters

OLD = "old/"
"""Prefix of the old parameters, in the state."""


@mitigation("proximal-features")
@dataclass(frozen=True, kw_only=True)
class ProximalFeatures(Mitigation):
    """Penalty on the change of the features since some steps ago (PFO; Moalla et al., 2024).

    See "No Representation, No Trust". The loss gets

        strength · mean over batch and units of (z - z_old)²,

    with z the sums of the last hidden layer before their activation, and z_old those of the network as it was
    `every` to 1 steps ago: after each `every` steps, the parameters are kept, and held fixed until then.

    One definition serves both settings. Published is PPO, whose old features are those of the rollout, held
    fixed in all of its epochs: that is `every` = epochs · minibatches, the steps of one update, as long as no
    target KL ends an update early. With other learners it is any number of steps.

    What is decided here:

    - The last hidden layer is what feeds the output layers. Its units are followed as for a reset, so that a
      network whose last units are a residual sum is refused.
    - Old features are computed again from the old parameters, for the batch at hand, and not stored.
    - Both passes are in evaluation mode, with the running statistics of now.
    - While weights of the last hidden layer, or of what reads it, are frozen, there is no penalty.
    - Actor and critic of PPO have it alike; published is the actor, and the critic as an option.

    A step costs a second pass forward and backward, and a third one forward.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    kind: ClassVar[Kind] = "penalty"
    claims: ClassVar[str] = "the change of the features"
    search: ClassVar[Mapping[str, tuple[float, ...]]] = {"strength": (0.1, 1.0, 10.0)}
    reads_units: ClassVar[bool] = True
    reads_roles: ClassVar[bool] = True

    strength: float = 1.0
    """Factor of the penalty; published are 1 for Atari and 10 for MuJoCo."""

    every: int = 160
    """Optimizer steps from one copy of the parameters to the next; for PPO, those of an update: epochs times
    minibatches, 160 at the defaults."""

    def __post_init__(self) -> None:
        require_number("strength", self.strength, minimum=0.0)
        require_integer("every", self.every, minimum=1)

    def initial_state(self, context: Context) -> dict[str, Tensor]:
        """Return the parameters.

        Raises:
            ValueError: if there is no last hidden layer.
        """
        if not _last_hidden_layers(context):
            outputs = sorted({role.layer for role in context.roles.values() if role.is_output})
            raise ValueError(
                f"No hidden layer feeds the output layers {outputs} directly, and proximal-features needs"
                " one: use a network with a linear layer or a convolution before its output."
            )
        return copies(context.parameters, OLD)

    def penalty(self, context: Context) -> Tensor:
        """Return the penalty on the features of the batch at hand."""
        layers, total = _last_hidden_layers(context), context.zeros()
        if not layers:
            return total
        _, now = context.forward_with_sums_of(layers, context.inputs)
        with torch.no_grad():
            old = kept_parameters(context, OLD)
            _, before = context.forward_with_sums_of(layers, context.inputs, old)
        for layer in layers:
            change = (now[layer] - before[layer]).square()
            total = total + change.flatten(len(context.lead)).mean(-1)
        return context.per_run(self.strength, total) * total

    def after_step(self, context: Context) -> None:
        """Keep the parameters as they are."""
        keep_parameters(context, OLD)


def _last_hidden_layers(context: Context) -> tuple[str, ...]:
    """Return the layers whose units an output layer reads; none while these are frozen."""
    outputs = {role.layer for role in context.roles.values() if role.is_output}
    return tuple(
        name
        for name, units in context.units.items()
        if any(reader.layer in outputs for reader in units.readers)
    )
