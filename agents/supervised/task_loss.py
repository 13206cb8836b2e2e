"""Loss of a task over its active classes, for one network or R stacked ones."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import torch
from torch import Tensor
from torch.nn import functional

from plasticity.agents.execution.single import part_of
from plasticity.agents.supervised.task import Task, TaskSpec


class TaskLoss:
    """Loss of the current task. The logits of classes that it does not have take no part.

    Args:
        default: Loss of tasks that choose none: "cross-entropy" or "squared-error". A task may also choose
            "regression", for labels that are real numbers.
        lead: Leading dimensions `...`: () for one network, (R,) for R stacked ones.
        device: Device of the networks.
    """

    def __init__(self, default: str, lead: tuple[int, ...], device: torch.device) -> None:
        self._default, self._lead, self._device = default, lead, device
        self._kind = default
        self._active: tuple[int, ...] | tuple[tuple[int, ...], ...] | None = None
        self._inactive: Tensor | None = None
        self._one_hot: Tensor | None = None

    @property
    def constants(self) -> Hashable:
        """Values that a captured step holds fixed."""
        return self._kind, self._inactive is None

    @property
    def is_regression(self) -> bool:
        """Whether labels are real numbers instead of classes."""
        return self._kind == "regression"

    def follow(self, spec: TaskSpec) -> None:
        """Set the loss and the active classes to those of a task."""
        self._kind = spec.loss or self._default
        if spec.active == self._active:
            return
        self._active = spec.active
        if spec.active is None:
            self._inactive = None
            return
        inactive = torch.ones(*self._lead, spec.output_size, dtype=torch.bool)
        is_of_each = isinstance(spec.active[0], tuple)
        for position, row in enumerate(inactive.view(-1, spec.output_size)):
            row[torch.tensor(spec.active[position] if is_of_each else spec.active)] = False
        if self._inactive is None:
            self._inactive = inactive.to(self._device)
        else:
            self._inactive.copy_(inactive)  # where a captured step reads it

    def require_active(self, task: Task, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Raise a ValueError if an example of these batches has a label outside the active classes."""
        if self._inactive is None:
            return
        # read once, in the end: the device goes on meanwhile
        if torch.stack([self._inactive.gather(-1, labels).any() for _, labels in batches]).any():
            raise ValueError(
                f"Task {task.index} has labels outside its active classes {self._active}: name them in the"
                " task's spec.active, or leave out their examples."
            )

    def of_network(self, index: int) -> TaskLoss:
        """Return the loss of one network by itself, for logits of shape (batch, classes)."""
        found = TaskLoss(self._default, (), self._device)
        found._kind = self._kind
        if self._inactive is not None:
            found._inactive = part_of(self._inactive, self._lead, index)
        return found

    def masked(self, logits: Tensor) -> Tensor:
        """Return the logits, those of inactive classes as minus infinity."""
        if self._inactive is None:
            return logits
        return logits.masked_fill(self._inactive.unsqueeze(-2), -torch.inf)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return each network's mean loss.

        Args:
            logits: Masked logits. Shape: (..., batch, classes).
            labels: Shape: (..., batch), or (..., batch, outputs) of a regression.

        Returns:
            Shape: (...).
        """
        if self._kind == "cross-entropy":
            return self._cross_entropy(logits, labels)
        if self.is_regression:
            return self._squared_error(logits, labels)
        # Not functional.one_hot, which reads the labels on the host.
        one_hot = torch.zeros_like(logits).scatter_(-1, labels.unsqueeze(-1), 1.0)
        if self._inactive is None:
            return self._squared_error(logits, one_hot)
        # Inactive classes count neither in the sum nor in the number that divides it.
        loss = self._squared_error(logits.masked_fill(self._inactive.unsqueeze(-2), 0.0), one_hot)
        return loss * (logits.shape[-1] / self._inactive.logical_not().sum(-1))

    def gradient(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the gradient of the mean loss by the logits, without a graph, for one network.

        Args:
            logits: Masked logits, without a graph. Shape: (batch, classes).
            labels: Shape: (batch, …).

        Returns:
            A new tensor. Shape: (batch, classes).
        """
        if self.is_regression:
            return (logits - labels).mul_(2 / logits.numel())
        if self._kind != "cross-entropy":
            with torch.enable_grad():
                leaf = logits.detach().requires_grad_()
                return torch.autograd.grad(self(leaf, labels), leaf)[0]
        # A third of autograd's time. The rows of an identity are cheaper than a scatter.
        gradient = torch.softmax(logits, -1)
        rows = self._one_hot
        if rows is None or len(rows) != logits.shape[-1] or rows.dtype != logits.dtype:
            rows = torch.eye(logits.shape[-1], dtype=logits.dtype, device=logits.device)
            self._one_hot = rows
        gradient.sub_(rows.index_select(0, labels))
        return gradient if len(labels) == 1 else gradient.div_(len(labels))

    @property
    def is_of_examples(self) -> bool:
        """Whether `of_examples` is known."""
        return self._kind == "cross-entropy"

    def of_examples(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each example. Shape: (examples, classes) and (examples,) to (examples,)."""
        return functional.cross_entropy(logits, labels, reduction="none")

    # One network and stacked ones round differently.

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        if not self._lead:
            return functional.cross_entropy(logits, labels)
        each = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        return each.view(labels.shape).mean(1)

    def _squared_error(self, logits: Tensor, targets: Tensor) -> Tensor:
        if not self._lead:
            return functional.mse_loss(logits, targets)
        return (logits - targets).square().mean((1, 2))
