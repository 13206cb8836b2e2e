"""SNR: self-normalized resets of units that are silent for longer than they ever are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from plasticity.checks import require_integer, require_number
from plasticity.mitigations.base import Kind, Mitigation, mitigation
from plasticity.mitigations.context import Context


@mitigation("snr")
@dataclass(frozen=True, kw_only=True)
class SNR(Mitigation):
    """Reset of units that are silent for longer than is usual for them (Farias & Jozefiak).

    See "Self-Normalized Resets for Plasticity in Continual Learning". A unit fires if it is above 0 for some
    example of the batch, at some position of a convolution's map; its age is the number of examples since
    then. At every step, a silent unit whose age has reached its
    threshold is reset. Each unit has a threshold of its own, half of `max_age` at first, and a histogram of
    the ages at which it fired again or was reset. At an update, the threshold becomes the percentile of the
    histogram if that is smaller, and otherwise grows by the factor `expansion`; the histogram begins anew.

    What is decided here:

    - An update leaves a unit alone that had no such age since the last one: nothing was observed of it.
    - Ages count whole batches, and a unit that fires in every batch never enters its histogram. No threshold
      therefore falls below the size of a batch.
    - A histogram has `bins` of equal width, whatever the length of training. An age counts as the upper edge
      of its bin, so that it is exact where the width, `max_age / bins`, divides the batch's size, and the
      reset is late rather than early elsewhere. Ages above `max_age` count as `max_age`, the largest
      threshold.
    - Of the units of a layer that are due, the oldest are reset, `at_most` of them in a step; the rest keep
      their age, and are due in the next.

    Firing means what it should where features are 0, or nearly, while a unit's sum is below 0: ReLU, GELU,
    SiLU. With tanh, ELU or leaky ReLU a silent unit still feeds something, so that its reset changes the
    outputs. With CReLU, sigmoid or softplus, or a normalization behind the activation, units are hardly ever
    silent, and none is reset.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    kind: ClassVar[Kind] = "unit reset"
    reads_gradients: ClassVar[bool] = False
    claims: ClassVar[str] = "which units are reset"
    reads_units: ClassVar[bool] = True
    search: ClassVar[Mapping[str, tuple[float, ...]]] = {"percentile": (0.92, 0.95, 0.97, 0.99)}

    percentile: float = 0.99
    """Share of a unit's ages that are at most its threshold, after an update that lowers it."""

    expansion: float = 2.0
    """Factor of the threshold in an update that does not lower it."""

    update_tasks: int = 16
    """Tasks between two updates of the thresholds."""

    update_steps: int | None = None
    """Optimizer steps between two updates, in place of tasks, where a learner knows none. None: tasks."""

    max_age: int = 20_000
    """Largest threshold, in examples."""

    bins: int = 200
    """Bins of the histogram of each unit."""

    at_most: int = 4
    """Largest number of units of a layer that are reset in one step."""

    def __post_init__(self) -> None:
        require_number("percentile", self.percentile, minimum=0.0, below=1.0)
        require_number("expansion", self.expansion, minimum=1.0)
        for name in ("update_tasks", "max_age", "bins", "at_most"):
            require_integer(name, getattr(self, name), minimum=1)
        if self.update_steps is not None:
            require_integer("update_steps", self.update_steps, minimum=1)

    def initial_state(self, context: Context) -> dict[str, Tensor]:
        """Return ages, thresholds and histograms. Shape of each: (..., units), or (..., units, bins)."""
        state = {}
        for layer, units in context.units.items():
            shape, device = (*context.lead, units.count), context.parameters[units.weight].device
            state[f"age/{layer}"] = torch.zeros(shape, dtype=torch.int64, device=device)
            state[f"threshold/{layer}"] = torch.full(shape, self.max_age / 2, device=device)
            state[f"histogram/{layer}"] = torch.zeros(
                *shape, self.bins, dtype=torch.int32, device=device
            )
        state["tasks"] = torch.zeros(
            context.lead, dtype=torch.int64, device=next(iter(state.values())).device
        )
        return state

    def after_step(self, context: Context) -> None:
        """Count ages, reset units that are due, and update the thresholds, if steps decide when."""
        examples = context.batch_size
        chosen = {}
        for layer in context.units:
            fires = context.any_over_samples(context.features(layer) > 0)
            before, threshold = context.state[f"age/{layer}"], context.state[f"threshold/{layer}"]
            age = torch.where(fires, before, before + examples)
            chosen[layer] = self._oldest(age, ~fires & (age >= threshold))
            is_over = fires | chosen[layer]
            self._record(context.state[f"histogram/{layer}"], age, is_over)
            before.copy_(age.masked_fill(is_over, 0))
        context.reset_units(chosen, at_most=self.at_most)
        if self.update_steps is not None and context.step % self.update_steps == 0:
            self._update(context, torch.ones_like(context.state["tasks"], dtype=torch.bool))

    def boundary(self, context: Context) -> None:
        """Update the thresholds, if tasks decide when."""
        # Counted here: an agent may pass over tasks.
        context.state["tasks"] += 1
        if self.update_steps is None:
            self._update(context, context.state["tasks"] % self.update_tasks == 0)

    def _oldest(self, age: Tensor, is_due: Tensor) -> Tensor:
        """Return the oldest of the units that are due, `at_most` of a layer. Shape: (..., units)."""
        # reset_units() would take the first ones; units of one age, which are many where a layer falls
        # silent at once, by their place: what topk() makes of equals differs between devices
        units = age.shape[-1]
        order = age * units + torch.arange(units - 1, -1, -1, device=age.device)
        values, places = torch.where(is_due, order, -1).topk(min(self.at_most, units), dim=-1)
        return torch.zeros_like(is_due).scatter_(-1, places, values >= 0)

    def _record(self, histogram: Tensor, age: Tensor, is_over: Tensor) -> None:
        """Count ages that have come to their end; an age of 0 is none.

        Shape: (..., units, bins), (..., units) and (..., units).
        """
        place = (age * self.bins + self.max_age - 1) // self.max_age - 1
        counted = (is_over & (age > 0)).to(histogram.dtype)
        index = place.clamp(0, self.bins - 1)
        histogram.scatter_add_(-1, index.unsqueeze(-1), counted.unsqueeze(-1))

    def _update(self, context: Context, is_due: Tensor) -> None:
        """Update the thresholds where it is due, and begin new histograms. Shape of `is_due`: (...)."""
        for layer in context.units:
            threshold = context.state[f"threshold/{layer}"]
            histogram = context.state[f"histogram/{layer}"]
            reached = histogram.cumsum(-1).to(threshold.dtype)
            total = reached[..., -1]
            wanted = total * context.per_run(self.percentile, total)
            # the number of bins before the first that reaches the percentile is the place of that bin
            place = (reached < wanted.unsqueeze(-1)).sum(-1)
            usual = (place + 1) * (self.max_age / self.bins)
            larger = threshold * context.per_run(self.expansion, threshold)
            changed = torch.where(usual < threshold, usual, larger.clamp(max=self.max_age))
            updated = is_due.unsqueeze(-1)
            threshold.copy_(torch.where(updated & (total > 0), changed, threshold))
            histogram.masked_fill_(updated.unsqueeze(-1), 0)
