"""Plain SGD on a dense network, one example at a time."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from plasticity.agents.execution.dense import ACTIVATION_GRADIENTS, IN_PLACE
from plasticity.agents.execution.rank_one_updates import Memory, Update, update_of
from plasticity.agents.networks.layers import ACTIVATIONS
from plasticity.optim.linear_step import LinearStep


class RankOneDescent:
    """Forward pass, backward pass and update of a dense network for one example.

    The parameters are moved into one block of memory, where they keep their values.

    Args:
        parameters: Parameters by their names, from input to output: "fc1.weight", (units, inputs),
            "fc1.bias", (units,), …
        activation: A name in `ACTIVATIONS`, for every layer except the last.
    """

    def __init__(self, parameters: Mapping[str, Tensor], activation: str) -> None:
        weights = [each for name, each in parameters.items() if name.endswith(".weight")]
        biases = [each for name, each in parameters.items() if name.endswith(".bias")]
        self._layers = [name.removesuffix(".bias") for name in parameters if name.endswith(".bias")]
        self._memory = memory = Memory(weights, biases)
        self._transposed = [each.T for each in memory.weights]
        units = [each.numel() for each in biases]
        self._all_sums = memory.whole.new_empty(sum(units))
        self._sums = torch.split(self._all_sums, units)
        self._affine = list(zip(memory.biases, memory.weights, self._sums, strict=True))
        self._activation = IN_PLACE.get(activation, ACTIVATIONS[activation])
        self._activation_gradient = ACTIVATION_GRADIENTS[activation]
        # a ReLU's derivatives of all layers in one operation
        self._slopes = torch.empty_like(self._all_sums) if activation == "relu" else None
        self._slope_parts = () if self._slopes is None else torch.split(self._slopes, units)
        self._kept = [each.unsqueeze(0) for each in self._sums[:-1]]
        self._rows: list[Tensor] = []
        self._update: Update | None = None
        self._settings: tuple[object, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the parameters are still in the memory that is updated here."""
        return self._memory.holds()

    def follow(self, step: LinearStep) -> None:
        """Take the steps of an optimizer from now on."""
        anchors = () if step.anchors is None else [id(each) for each in step.anchors.values()]
        settings = (step.rate, step.strength, *anchors)
        if self._update is None or settings != self._settings:
            self._update, self._settings = update_of(self._memory, step), settings

    @property
    def layer_inputs(self) -> dict[str, Tensor]:
        """Inputs of all layers in the last `forward`, by name. Shape of each: (1, inputs)."""
        return dict(zip(self._layers, self._rows, strict=True))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs, a new tensor. Shape: (1, inputs) to (1, outputs)."""
        features = inputs.view(-1)
        self._rows = [inputs, *self._kept]
        for index, (bias, weight, sums) in enumerate(self._affine[:-1], start=1):
            features = self._activation(torch.addmv(bias, weight, features, out=sums))
            if features is not sums:
                self._rows[index] = features.unsqueeze(0)
        bias, weight, _ = self._affine[-1]
        return torch.addmv(bias, weight, features).unsqueeze(0)

    def descend(self, gradient: Tensor) -> None:
        """Take a step.

        Args:
            gradient: Gradient of the loss with respect to the outputs of the last `forward`. Shape: (1,
                outputs).
        """
        assert self._update is not None
        gradients, rows, update = self._memory.gradients, self._rows, self._update
        gradients[-1].copy_(gradient.view(-1))
        if self._slopes is not None:
            torch.sign(self._all_sums, out=self._slopes)
        for index in range(len(rows) - 1, 0, -1):
            below = gradients[index - 1]
            torch.mv(self._transposed[index], gradients[index], out=below)
            update.move(index, rows[index])  # its gradient is done
            if self._slopes is not None:
                below.mul_(self._slope_parts[index - 1])
            else:
                self._activation_gradient(below, self._sums[index - 1], rows[index].view(-1))
        update.move(0, rows[0])
        update.end()
