"""Syre in the form of the paper, loss(theta + theta_0), for verification and for teaching.

`regularized` trains the effective weights theta + theta_0 directly and decays them toward theta_0.
This form keeps theta as the parameters and adds theta_0 at every use: the same path under SGD, but
slower, and with parameters that are not the weights that the network computes with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class ShiftedModel(nn.Module):
    """Model that computes with theta + theta_0 (syre, Eq. 6), where theta are its parameters.

    Args:
        model: Model whose parameters become theta; it is changed in place if `keep_function`.
        anchors: theta_0 by parameter name, each with its parameter's shape; a missing name or None
            stands for zero.
        keep_function: Subtract the anchors from the parameters, so that the shifted model initially
            computes the same function as `model`. False takes the model's own values as theta.

    Raises:
        ValueError: if an anchor's name or shape does not match a parameter.

    Examples:
        >>> model, gamma = nn.Linear(4, 2), 1e-3
        >>> syre = regularized(torch.optim.SGD)(model.parameters(), regularizer="syre", strength=2 * gamma)
        >>> anchors = {name: syre.anchor(each) for name, each in model.named_parameters()}
        >>> shifted = ShiftedModel(model, anchors)
        >>> penalty = gamma * sum(each.square().sum() for each in shifted.parameters())
    """

    def __init__(
        self,
        model: nn.Module,
        anchors: Mapping[str, Tensor | None],
        *,
        keep_function: bool = True,
    ) -> None:
        super().__init__()
        self.model = model
        parameters = dict(model.named_parameters())
        self._anchor_names: dict[str, str] = {}
        for name, anchor in anchors.items():
            if name not in parameters:
                known = ", ".join(map(repr, parameters))
                raise ValueError(f"No parameter is named {name!r}. Known: {known}.")
            if anchor is None:
                continue
            if anchor.shape != parameters[name].shape:
                raise ValueError(
                    f"The anchor of {name!r} has shape {tuple(anchor.shape)}, its parameter"
                    f" {tuple(parameters[name].shape)}: give an anchor of the parameter's shape."
                )
            buffer = f"anchor:{name}".replace(".", "/")  # a buffer's name has no dots
            self.register_buffer(buffer, anchor.detach().clone())
            self._anchor_names[name] = buffer
            if keep_function:
                with torch.no_grad():
                    parameters[name].sub_(anchor)

    def effective_parameters(self) -> dict[str, Tensor]:
        """Return the weights that the network computes with, theta + theta_0, by parameter name."""
        return {
            name: parameter + self.get_buffer(self._anchor_names[name])
            if name in self._anchor_names
            else parameter
            for name, parameter in self.model.named_parameters()
        }

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model with theta + theta_0 in place of theta."""
        return torch.func.functional_call(self.model, self.effective_parameters(), args, kwargs)
