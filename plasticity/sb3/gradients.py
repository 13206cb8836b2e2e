"""Gradients used in the latest step of each of a policy's optimizers.

Between two updates, ``.grad`` may hold something else: the actor loss of SAC and TD3 is backpropagated
through the critic after the critic's own step.
"""

from __future__ import annotations

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
        self._gradients: dict[nn.Parameter, Tensor] = {}
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
        parameters = list(model.parameters())
        present = [parameter.grad for parameter in parameters]
        try:
            for parameter in parameters:
                parameter.grad = self._gradients.get(parameter)
            return gradient_norm(model)
        finally:
            for parameter, gradient in zip(parameters, present, strict=True):
                parameter.grad = gradient

    def _keep(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._gradients[parameter] = parameter.grad.detach().clone()
