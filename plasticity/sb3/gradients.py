"""Gradients used in the latest step of each of a policy's optimizers.

Between two updates, ``.grad`` may hold something else: the actor loss of SAC and TD3 is backpropagated
through the critic after the critic's own step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from plasticity.metrics.norms import gradient_norm

__all__ = ["StepGradients"]


class StepGradients:
    """Copies of the gradients as the latest step of each optimizer received them; changes nothing.

    They are taken after clipping, and before weight decay is added.
    """

    def __init__(self) -> None:
        self._gradients: dict[Tensor, Tensor] = {}
        self._handles: list[RemovableHandle] = []

    def attach(self, policy: nn.Module) -> None:
        """Watch the optimizers of a policy and of its parts until `detach` is called."""
        self.detach()
        owned = [getattr(module, "optimizer", None) for module in policy.modules()]
        for optimizer in dict.fromkeys(each for each in owned if isinstance(each, Optimizer)):
            self._handles.append(optimizer.register_step_pre_hook(self._keep))

    def detach(self) -> None:
        """Stop watching. The copies are kept."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def norm(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the `gradient_norm` of the kept gradients.

        Args:
            model: Any module that has the policy's parameters. Their ``.grad`` is left unchanged.

        Returns:
            As for `gradient_norm`; parameters that have not yet had a gradient in a step are left out.
        """
        with self.in_place(model):
            return gradient_norm(model)

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """Put the kept gradients into the ``.grad`` of a module's parameters, inside the block."""
        parameters = list(model.parameters())
        present = [parameter.grad for parameter in parameters]
        try:
            for parameter in parameters:
                parameter.grad = self._gradients.get(parameter)
            yield
        finally:
            for parameter, gradient in zip(parameters, present, strict=True):
                parameter.grad = gradient

    def state_dict(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return copies of the kept gradients, by the names of their parameters."""
        return {
            name: self._gradients[each].clone()
            for name, each in parameters.items()
            if each in self._gradients
        }

    def load_state_dict(
        self, parameters: Mapping[str, Tensor], state: Mapping[str, Tensor]
    ) -> None:
        """Keep the gradients of a `state_dict`."""
        self._gradients = {
            parameters[name]: each.to(parameters[name]) for name, each in state.items()
        }

    def _keep(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._gradients[parameter] = parameter.grad.detach().clone()
