"""Best weights of a task: those after the epoch with the highest accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from plasticity.agents.execution.single import SingleNetwork, part_of
from plasticity.stacking.networks import StackedNetworks

_NOTHING = -1.0  # accuracy below any other


class BestWeights:
    """Weights and buffers of each network at the highest accuracy that was offered; of equals, the first.

    Nothing waits for the device.

    Args:
        networks: The network, or the stacked ones.
        lead: Leading dimensions: () for one network, (R,) for R stacked ones.
    """

    def __init__(self, networks: SingleNetwork | StackedNetworks, lead: tuple[int, ...]) -> None:
        self._networks, self._lead = networks, lead
        self._accuracy: Tensor | None = None
        self._kept: dict[str, Tensor] = {}

    def _tensors(self) -> dict[str, Tensor]:
        every = {**self._networks.parameters, **self._networks.buffers}
        return {name: each.detach() for name, each in every.items()}

    @torch.no_grad()
    def offer(self, accuracy: Tensor) -> None:
        """Keep the weights that the networks have now, of those whose accuracy is the highest so far.

        Args:
            accuracy: Accuracy of each network. Shape: (...).
        """
        if self._accuracy is None:
            self._accuracy = torch.full_like(accuracy, _NOTHING)
            self._kept = {name: each.clone() for name, each in self._tensors().items()}
        is_better = accuracy > self._accuracy
        self._accuracy = torch.where(is_better, accuracy, self._accuracy)
        for name, own in self._tensors().items():
            kept = self._kept[name]
            mask = is_better.view((*is_better.shape, *[1] * (own.dim() - is_better.dim())))
            kept.copy_(torch.where(mask, own, kept))

    @torch.no_grad()
    def restore(self, runs: Iterable[int]) -> None:
        """Give networks the weights that were kept, if there are any.

        Args:
            runs: Indices of the networks.
        """
        if self._accuracy is None:
            return
        is_kept = self._accuracy >= 0
        for name, own in self._tensors().items():
            for run in runs:
                mine, kept, mask = (
                    part_of(each, self._lead, run) for each in (own, self._kept[name], is_kept)
                )
                mine.copy_(torch.where(mask, kept, mine))

    def forget(self) -> None:
        """Begin anew: the next accuracy is the highest."""
        self._accuracy = None
        self._kept = {}

    def state_dict(self, index: int) -> dict[str, Any] | None:
        """Return what is kept of one network; None if nothing is."""
        if self._accuracy is None:
            return None
        return {
            "accuracy": part_of(self._accuracy, self._lead, index).clone(),
            "weights": {
                name: part_of(each, self._lead, index).clone() for name, each in self._kept.items()
            },
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any] | None, index: int) -> None:
        """Load what was kept of one network, saved on any device, alone or stacked."""
        if state is None:
            if self._accuracy is not None:
                part_of(self._accuracy, self._lead, index).fill_(_NOTHING)
            return
        if self._accuracy is None:
            tensors = self._tensors()
            device = next(iter(tensors.values())).device
            kind = state["accuracy"].dtype
            self._accuracy = torch.full(self._lead, _NOTHING, dtype=kind, device=device)
            self._kept = {name: each.clone() for name, each in tensors.items()}
        part_of(self._accuracy, self._lead, index).copy_(state["accuracy"])
        for name, each in state["weights"].items():
            part_of(self._kept[name], self._lead, index).copy_(each)
