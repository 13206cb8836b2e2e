"""Theorems 1 to 5 of syre: how strongly it removes a symmetry, measured against the closed forms.

Nothing is trained. A run draws a loss with a symmetry, adds decay toward random anchors, and measures with
the loss and its gradient what the theorems say:

- the loss difference of mirror images, ``2 · strength · |⟨P theta, anchor⟩|`` (`reflection_removal`), for a
  reflection of the group;
- the gradient out of a symmetric state, ``strength · |(I - P_sym) anchor|`` (`group_escape_gradient`), and
  its mean square, ``strength² · sigma² · rank(I - P_sym)`` (`expected_group_escape`);
- the smallest loss difference per distance of many reflections, at one point with one anchor.

The groups: a reflection that inverts `order` directions; the permutations, or the cyclic shifts, of `order`
neurons with 4 weights each; their losses are the mean of a random function over the group. For the last
question there are `order` reflections: of random directions, with a function of the distance from 0 as the
loss, or each an exchange of two neurons of a two-layer tanh network, with a regression.

The criterion, stated before the runs of the figure. Weight decay, which has no random point, must leave the
loss the same at mirror images (to within 1e-10). The claim holds if (1) loss differences and (2) gradients
are the closed forms to within 1e-6, (3) the mean square of the gradient is its closed form to within 10 %,
and the smallest strength falls (4) at most with the power 1.1 of the number of symmetries and (5) at least
with the power 0.9; each by 95 % intervals over seeds, at every order, differences paired.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.func import grad, vmap

from plasticity.checks import require_integer, require_known
from plasticity.mitigations import regularizer_settings
from plasticity.mitigations.base import Decay
from plasticity.scripts.report.statistics import Estimate
from plasticity.scripts.reproduce.arms import Arm
from plasticity.scripts.reproduce.config import FigureConfig, FigureStream, FigureTracking
from plasticity.scripts.reproduce.experiment import FigureExperiment
from plasticity.scripts.reproduce.figure import SYRE, Figure, figure
from plasticity.scripts.reproduce.results import Results
from plasticity.scripts.reproduce.symmetric_losses import (
    GROUPS,
    MANY,
    neurons_of,
    normal,
    smallest_of_normals,
    symmetric_loss,
)
from plasticity.scripts.reproduce.verdict import Check, shown
from plasticity.seeds import child_seed
from plasticity.symmetry import (
    broken_projector,
    expected_group_escape,
    group_escape_gradient,
    group_projector,
    reflection_matrix,
    reflection_removal,
)

if TYPE_CHECKING:
    from plasticity.scripts.report.figures import Panel


@dataclass(frozen=True, kw_only=True)
class Symmetries(FigureStream):
    """Loss with symmetries, and random anchors.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    num_steps: int = 1
    """Steps of a run: one computes all."""

    group: str = "reflection"
    """Group: reflection, permutation or cyclic; or many reflections: directions or swaps."""

    order: int = 2
    """Directions that are inverted, neurons that are permuted or shifted, or number of the reflections: that
    of swaps is one of 1, 3, 6, 10, …, as there is one for each pair of neurons."""

    num_anchors: int = 2048
    """Random anchors that are averaged over, each with a random point; for many reflections an eighth of
    them, at one point."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_known("group", self.group, (*GROUPS, *MANY))
        require_integer("num_anchors", self.num_anchors, minimum=1)
        shifted = self.group in ("permutation", "cyclic")
        require_integer("order", self.order, minimum=2 if shifted else 1)
        if self.group == "cyclic" and self.order % 2:
            raise ValueError(
                f"order must be even, not {self.order}: half a turn is the reflection that is measured."
            )
        if self.group == "swaps" and math.comb(neurons_of(self.order), 2) != self.order:
            raise ValueError(f"order must be a number of pairs (1, 3, 6, …), not {self.order}.")


@dataclass(frozen=True, kw_only=True)
class RemovalConfig(FigureConfig):
    """Configuration of one loss.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, or the method is another than weight decay or syre.
    """

    experiment: ClassVar[str] = "plasticity.scripts.reproduce.removal_strength:Removals"

    stream: Symmetries = field(default_factory=Symmetries)
    """Loss and anchors."""

    tracking: FigureTracking = field(default_factory=lambda: FigureTracking(measure_every=1))
    """Measurements along the way."""

    def __post_init__(self) -> None:
        super().__post_init__()
        settings = regularizer_settings(self.method)
        known = settings.regularizer in ("none", "weight-decay", "syre") and not settings.anisotropy
        if not known or not all(isinstance(each, Decay) for each in self.method):
            raise ValueError(
                f"The figure {self.benchmark} has closed forms of weight decay and syre with anisotropy=0:"
                " leave other settings and mitigations out."
            )


class Removals(FigureExperiment):
    """Measurements of one loss, in float64 on the CPU; an anchor's entries have the spread sigma."""

    def begin(self) -> None:
        """Read the decay."""
        settings = regularizer_settings(self.config.method)
        self.strength = settings.strength
        self.sigma = settings.sigma if settings.regularizer == "syre" else 0.0

    def _draws(self, name: str) -> torch.Generator:
        return torch.Generator().manual_seed(child_seed(self.config.seed, name))

    def step(self) -> None:
        """Measure."""
        stream = self.config.stream
        measured = self._group if stream.group in GROUPS else self._many
        self.metrics = measured(stream.group, stream.order, stream.num_anchors)

    def _group(self, name: str, order: int, count: int) -> dict[str, float | None]:
        matrices, projector = GROUPS[name](order, self._draws("group"))
        symmetric, loss = group_projector(matrices), symmetric_loss(matrices, self._draws("loss"))
        anchors = self.sigma * normal(self._draws("anchor"), count, len(symmetric))
        points = normal(self._draws("point"), count, len(symmetric))

        def objective(point: Tensor, anchor: Tensor) -> Tensor:
            return loss(point) + self.strength / 2 * (point - anchor).square().sum()

        values, images = vmap(objective, chunk_size=CHUNK), points @ reflection_matrix(projector)
        difference = (values(points, anchors) - values(images, anchors)).abs()
        gradients = vmap(grad(objective), chunk_size=CHUNK)(points @ symmetric, anchors)
        escape = (gradients @ broken_projector(symmetric)).norm(dim=1)
        removal = reflection_removal(projector, points, anchors, self.strength)
        closed = group_escape_gradient(symmetric, anchors, self.strength)
        square = expected_group_escape(symmetric, self.strength, self.sigma).item()
        return {
            "loss_difference": difference.mean().item(),
            "loss_difference_closed": removal.mean().item(),
            "loss_difference_error": _error(difference, removal),
            "escape_error": _error(escape, closed),
            "escape_square": escape.square().mean().item(),
            "escape_square_closed": square,
            "escape_ratio": escape.square().mean().item() / square if square else None,
        }

    def _many(self, name: str, order: int, count: int) -> dict[str, float | None]:
        loss, theta, images = MANY[name](order, self._draws("loss"))
        distances = (theta - images).norm(dim=1) / 2
        base = vmap(loss)(images) - loss(theta)
        anchors = self.sigma * normal(self._draws("anchor"), max(count // 8, 1), len(theta))
        found, means, errors = [], [], []
        for anchor in anchors:
            decay = (images - anchor).square().sum(1) - (theta - anchor).square().sum()
            difference = (base + self.strength / 2 * decay).abs()
            errors.append(_error(difference, self.strength * ((theta - images) @ anchor).abs()))
            means.append(difference.mean())
            found.append((difference / distances).min())
        smallest = torch.stack(found).mean().item()
        closed = smallest_of_normals(order, 2 * self.strength * self.sigma) if self.sigma else None
        return {
            "loss_difference": torch.stack(means).mean().item(),
            "loss_difference_error": max(errors) if self.sigma else None,  # type: ignore[type-var]
            "smallest": smallest,
            "smallest_closed": closed,
            "log10_smallest": math.log10(smallest) if self.sigma else None,
        }

    def measure(self, run: int) -> dict[str, float | None]:
        """Return what was measured, and the closed forms."""
        return self.metrics

    def state(self, run: int) -> dict[str, Any]:
        """Return nothing: a run is one step."""
        return {}

    def load(self, run: int, state: Mapping[str, Any]) -> None:
        """Measure again, if it was measured."""
        if self.steps:
            self.step()


def _error(measured: Tensor, closed: Tensor) -> float | None:
    """Return the largest error, relative to the mean; None if all is 0."""
    mean = closed.mean().item()
    return (measured - closed).abs().max().item() / mean if mean else None


COUNTS = (1, 6, 28, 120, 496, 2016)
"""Numbers of many reflections, each one of pairs."""

ORDERS = {
    "small": {
        "reflection": (1, 2, 4, 8, 16, 32),
        "permutation": (2, 3, 4, 5),
        "cyclic": (2, 4, 8, 16),
        "directions": COUNTS,
        "swaps": COUNTS,
    },
    "full": {
        "reflection": (1, 2, 4, 8, 16, 32, 64),
        "permutation": (2, 3, 4, 5, 6),
        "cyclic": (2, 4, 8, 16, 32, 64),
        "directions": (*COUNTS, 8128),
        "swaps": (*COUNTS, 8128),
    },
}
"""Orders by scale and group."""

CHUNK = 256
"""Anchors at once, whose images under a whole group fit into memory."""

EXACT, ALMOST, SLACK = 1e-6, 0.1, 0.1
"""Relative error of a closed form; that of a mean; that of an exponent."""


@figure("removal-strength")
class RemovalStrength(Figure):
    """Loss differences and escape gradients over the order of a group, and the smallest of many."""

    paper = SYRE
    number = "Theorems 1 to 5"
    claim = (
        "the closed forms of the strength of removal hold, and the smallest strength falls as one over the"
        " number of symmetries, not faster"
    )
    minutes = 0.6
    config = RemovalConfig(benchmark="removal-strength")
    methods = ("weight-decay", "syre")
    mitigations: ClassVar = {
        "weight-decay": {"strength": 0.1},
        "syre": {"strength": 0.1, "sigma": 0.5},
    }
    scales: ClassVar = {"small": {}, "full": {"stream.num_anchors": 8192}}

    def arms(self, scale: str) -> Sequence[Arm]:
        """Return syre's arms over the order of each group, and one of weight decay for each."""
        arms = []
        for group, orders in ORDERS[scale].items():
            arms += [Arm("syre", {"group": group, "order": order}, group) for order in orders]
            arms.append(Arm("weight-decay", {"group": group, "order": orders[-1]}))
        return arms

    def _largest(self, results: Results, metric: str, groups: Sequence[str]) -> Estimate | None:
        """Return the estimate with the largest upper end over groups and orders; None if one has none."""
        found = [
            results.estimate(metric, group, arm.settings)
            for group in groups
            for arm, _ in results.select(group)
        ]
        if any(each is None or each.t is None for each in found):
            return None
        return max(found, key=lambda each: each.t[1])  # type: ignore[union-attr, index]

    def _slope(self, results: Results, group: str) -> tuple[Estimate | None, float]:
        """Return the change of log10 of the smallest strength from the third order on, and of the number."""
        orders = [arm.settings["order"] for arm, _ in results.select(group)]
        first, last = ({"group": group, "order": order} for order in (orders[2], orders[-1]))
        change = results.difference("log10_smallest", group, last, first)
        return change, math.log10(orders[-1] / orders[2])

    def requirements(self, results: Results) -> Sequence[Check]:
        """Check that the losses have the symmetries, which weight decay keeps."""
        return [
            Check.below(
                f"weight decay: mirror images have equal losses ({group})",
                results.estimate("loss_difference", "weight-decay", {"group": group}),
                1e-10,
            )
            for group in (*GROUPS, *MANY)
        ]

    def claims(self, results: Results) -> Sequence[Check]:
        """Check the closed forms, and how the smallest strength falls."""
        groups, every = tuple(GROUPS), (*GROUPS, *MANY)
        checks = [
            Check.below(
                "loss differences of mirror images are the closed form (largest relative error)",
                self._largest(results, "loss_difference_error", every),
                EXACT,
            ),
            Check.below(
                "gradients out of symmetric states are the closed form (largest relative error)",
                self._largest(results, "escape_error", groups),
                EXACT,
            ),
        ]
        for group in groups:
            last = results.select(group)[-1][0].settings
            ratio = results.estimate("escape_ratio", group, last)
            what = f"{group}, largest order: mean square of the gradient over its closed form is"
            checks += [
                Check.above(f"{what} above {1 - ALMOST}", ratio, 1 - ALMOST),
                Check.below(f"{what} below {1 + ALMOST}", ratio, 1 + ALMOST),
            ]
        for group in MANY:
            change, decades = self._slope(results, group)
            what = f"{group}: the smallest strength falls as one over their number, with a power"
            checks += [
                Check.above(
                    f"{what} of at most {1 + SLACK} (log10)", change, -(1 + SLACK) * decades
                ),
                Check.below(
                    f"{what} of at least {1 - SLACK} (log10)", change, -(1 - SLACK) * decades
                ),
            ]
        return checks

    def sentence(self, results: Results) -> str:
        """Return the largest errors, and the powers with which the smallest strength falls."""
        difference = self._largest(results, "loss_difference_error", (*GROUPS, *MANY))
        escape = self._largest(results, "escape_error", tuple(GROUPS))
        powers = []
        for group in MANY:
            change, decades = self._slope(results, group)
            power = "no value" if change is None else f"{change.mean / decades:.2f}"
            powers.append(f"{power} ({group})")
        return (
            f"largest relative error of a loss difference {shown(difference, '.0e')}, of an escape gradient"
            f" {shown(escape, '.0e')}; the smallest strength goes with the number of symmetries to the power"
            f" {' and '.join(powers)}"
        )

    def panels(self, results: Results) -> Sequence[Sequence[Panel]]:
        """Return measurements and closed forms over the order."""
        from plasticity.scripts.report.figures import Panel  # noqa: PLC0415  (matplotlib)

        def panel(metric: str, groups: Mapping[str, Any], title: str, label: str, x: str) -> Panel:
            lines = []
            for group in groups:
                closed = results.line_over("order", f"{metric}_closed", group, style=0)
                lines.append(replace(closed, label="closed form", seeds=(), diverged=()))
                style = 1 + [*GROUPS, *MANY].index(group)
                lines.append(results.line_over("order", metric, group, style=style))
            return Panel(title, label, tuple(lines), x_label=x, log_x=True, log_y=True)

        order = "order: directions inverted, neurons"
        return [
            [
                panel("loss_difference", GROUPS, "Mirror images", "loss difference (mean)", order),
                panel(
                    "escape_square",
                    GROUPS,
                    "Symmetric states",
                    "squared escape gradient (mean)",
                    order,
                ),
                panel(
                    "smallest",
                    MANY,
                    "Many reflections",
                    "smallest loss difference per distance",
                    "number of reflections",
                ),
            ]
        ]
