"""Accuracy and loss over the batches of a task, summed on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from plasticity.agents.execution.single import part_of

STEPS_COUNTED_AT_ONCE = 32
"""Number of steps whose logits are kept before they are counted: the few tiny operations for each step cost
as much as a layer."""


class Counts:
    """Correct predictions and summed losses, counted for many steps at once.

    Args:
        lead: Leading dimensions `...`: () for one network, (R,) for R stacked ones.
        device: Device of the sums.
        of_examples: Function that returns the loss of each example, from logits (examples, classes) and
            labels (examples,), for steps of one example that are added without a loss.
    """

    def __init__(
        self,
        lead: tuple[int, ...],
        device: torch.device,
        of_examples: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self._lead, self._device = lead, device
        self._of_examples = of_examples
        self._pending: list[tuple[Tensor, ...]] = []
        self._correct = torch.zeros(lead, dtype=torch.int64, device=device)
        # float32 sums over a long task lose digits, but mps has no wider dtype
        wide = torch.float32 if device.type == "mps" else torch.float64
        self._loss_sum = torch.zeros(lead, dtype=wide, device=device)

    def add(self, logits: Tensor, labels: Tensor, losses: Tensor | None) -> None:
        """Add a step.

        Args:
            logits: New tensor. Shape: (..., batch, classes).
            labels: New tensor. Shape: (..., batch); of a regression, whose predictions are not counted,
                (..., batch, outputs).
            losses: Each network's mean loss over the batch. Shape: (...). None: it is computed later,
                with those of other steps; only of one network, at batch 1.
        """
        if losses is None:
            self._pending.append((logits, labels))
        else:
            self._pending.append((logits, labels, losses * logits.shape[-2]))
        if len(self._pending) == STEPS_COUNTED_AT_ONCE:
            self._count_pending()

    def means(self, examples: int) -> tuple[Tensor, Tensor]:
        """Return accuracy and loss, averaged over this many examples, on the device. Shape of each: (...)."""
        self._count_pending()
        return self._correct.to(self._loss_sum.dtype) / examples, self._loss_sum / examples

    def _count_pending(self) -> None:
        if not self._pending:
            return
        self._complete()
        logits, labels, losses = zip(*self._pending, strict=True)
        if not labels[0].is_floating_point():
            found = torch.cat(logits, dim=-2).argmax(dim=-1)
            self._correct += (found == torch.cat(labels, dim=-1)).sum(-1)
        self._loss_sum += torch.stack(losses, dim=-1).to(self._loss_sum.dtype).sum(-1)
        self._pending.clear()

    def _complete(self) -> None:
        """Compute the losses of the steps that were added without one."""
        missing = [place for place, each in enumerate(self._pending) if len(each) == 2]
        if not missing:
            return
        assert self._of_examples is not None
        logits, labels = zip(*[self._pending[place] for place in missing], strict=True)
        losses = self._of_examples(torch.cat(logits), torch.cat(labels))
        for place, own in zip(missing, losses.unbind(), strict=True):
            self._pending[place] = (*self._pending[place], own)

    def clear(self) -> None:
        """Begin again at zero."""
        self._pending.clear()
        self._correct.zero_()
        self._loss_sum.zero_()

    def keep_until(self, step: int) -> None:
        """Drop steps at or after this one, which networks had done before they loaded states of this step."""
        del self._pending[step % STEPS_COUNTED_AT_ONCE :]

    def state_dict(self, step: int, index: int) -> dict[str, Any]:
        """Return the sums of one network, which has done this many steps since the beginning."""
        # Steps are saved separately instead of being counted early: rounding depends on the order of a sum.
        self._complete()
        pending = self._pending[: step % STEPS_COUNTED_AT_ONCE]
        return {
            "pending": [
                tuple([part_of(each, self._lead, index).clone() for each in entry])
                for entry in pending
            ],
            "online_correct": part_of(self._correct, self._lead, index).clone(),
            "loss_sum": part_of(self._loss_sum, self._lead, index).clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any], index: int) -> None:
        """Load the sums of one network, saved on any device."""
        part_of(self._correct, self._lead, index).copy_(state["online_correct"])
        part_of(self._loss_sum, self._lead, index).copy_(state["loss_sum"])
        for position, entry in enumerate(state["pending"]):
            self._load_pending(position, entry, index)

    def _load_pending(self, position: int, entry: Sequence[Tensor], index: int) -> None:
        """Load one network's part of a pending step."""
        held = self._pending[position] if position < len(self._pending) else ()
        if [part_of(each, self._lead, index).shape for each in held] != [
            each.shape for each in entry
        ]:
            held = tuple(
                [each.new_zeros((*self._lead, *each.shape), device=self._device) for each in entry]
            )
            self._pending[position : position + 1] = [held]
        for own, each in zip(held, entry, strict=True):
            part_of(own, self._lead, index).copy_(each)
