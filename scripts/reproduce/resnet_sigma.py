"""Fig. 3 (right) of syre: the accuracy of a ResNet-18 on CIFAR-10 over the spread sigma of syre's anchor.

The plain arm is weight decay of the same strength, which is syre with sigma = 0. Small scale: width 8, the
first 5000 images, pixels averaged 2 x 2, 15 epochs without augmentation. The layers are those of the
published network, on images of half the side; a test accuracy near 50 % is that of so few images.

The criterion, stated before the runs of the figure. Weight decay must reach a training accuracy over 0.7 and
a test accuracy over 0.4. The claim holds if (1) the runs with sigma = 0 end in the same numbers as those of
weight decay, bit for bit, and (2) below sigma = 0.2, at 0.05 and at 0.15, the test accuracy is not lower than
that of weight decay by more than 3 points, by the 95 % interval of the difference, paired by seed. What a
larger sigma costs is reported, not judged: the paper does not say that it must.

The paper gives no strength. Ours is the one of 0.005 and 0.02 with the higher test accuracy of weight decay
(0.46 and 0.51, seed 1000, which the figure does not use): a decay that is too weak to act in 600 steps could
not cost anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from plasticity.metrics.norms import weight_norm
from plasticity.scripts.reproduce.arms import Arm
from plasticity.scripts.reproduce.config import FigureTracking
from plasticity.scripts.reproduce.figure import SYRE, Figure, figure
from plasticity.scripts.reproduce.residual import ResNetExperiment, ResNetFigureConfig
from plasticity.scripts.reproduce.results import Results
from plasticity.scripts.reproduce.verdict import Check, shown

if TYPE_CHECKING:
    from plasticity.scripts.report.panels import Panel

SIGMAS = {"small": (0.0, 0.05, 0.15, 0.5, 1.0), "full": (0.0, 0.01, 0.05, 0.1, 0.15, 0.2, 0.5, 1.0)}
"""Spreads of the anchor, by scale."""

FREE = 0.2
"""Spread below which the paper sees no cost."""

FULL_STRENGTH = 5e-4
"""Strength of the decay at full scale, the usual one for this training."""

COST = 0.03
"""Loss of accuracy that is none."""

MIN_TRAIN, MIN_TEST = 0.7, 0.4
"""Accuracies that weight decay must exceed."""

BITWISE = ("loss", "train_accuracy", "test_accuracy", "weight_norm")
"""Metrics that must be equal without a spread."""


@dataclass(frozen=True, kw_only=True)
class ResNetSigmaConfig(ResNetFigureConfig):
    """Configuration of one ResNet."""

    experiment: ClassVar[str] = "plasticity.scripts.reproduce.resnet_sigma:ResNets"

    tracking: FigureTracking = field(default_factory=lambda: FigureTracking(measure_every=150))
    """Measurements along the way."""


class ResNets(ResNetExperiment):
    """ResNet whose accuracy is measured."""

    def measure(self, run: int) -> dict[str, float | None]:
        """Return loss and accuracy on the training images, accuracy on the others, and the weights' norm."""
        return {**self.fit(), "weight_norm": weight_norm(self.network)["total"].item()}


@figure("resnet-sigma")
class ResNetSigma(Figure):
    """Accuracy over the spread of syre's anchor."""

    paper = SYRE
    number = "Fig. 3, right"
    claim = (
        "syre costs a ResNet-18 no accuracy while sigma < 0.2; with sigma = 0 it is weight decay"
    )
    minutes = 22
    config = ResNetSigmaConfig(benchmark="resnet-sigma")
    methods = ("weight-decay", "syre")
    mitigations: ClassVar = {"weight-decay": {"strength": 2e-2}, "syre": {"strength": 2e-2}}
    scales: ClassVar = {
        "small": {
            "stream.num_steps": 600,
            "stream.num_train": 5000,
            "stream.num_test": 2000,
            "stream.pool": 2,
        },
        "full": {
            "stream.num_steps": 78_000,
            "stream.augment": True,
            "agent.anneal_steps": 78_000,
            "agent.width": 64,
            "tracking.measure_every": 1950,
        },
    }

    def arms(self, scale: str) -> Sequence[Arm]:
        """Return weight decay, and syre over its spread."""
        strength = {} if scale == "small" else {"weight-decay.strength": FULL_STRENGTH}
        own = {} if scale == "small" else {"syre.strength": FULL_STRENGTH}
        return [
            Arm("weight-decay", strength),
            *(Arm("syre", {**own, "syre.sigma": sigma}) for sigma in SIGMAS[scale]),
        ]

    def requirements(self, results: Results) -> Sequence[Check]:
        """Check that weight decay learns."""
        return [
            Check.above(
                f"weight decay reaches a {split} accuracy over {bound}",
                results.estimate(f"{split}_accuracy", "weight-decay"),
                bound,
            )
            for split, bound in (("train", MIN_TRAIN), ("test", MIN_TEST))
        ]

    def claims(self, results: Results) -> Sequence[Check]:
        """Check the equality without a spread, and the accuracy with a small one."""
        free = [sigma for sigma in results.values_of("syre.sigma") if 0 < sigma < FREE]
        return [_same(results), *(_free_of_cost(results, sigma) for sigma in free)]

    def sentence(self, results: Results) -> str:
        """Return the accuracy of weight decay, and that of syre by its spread."""
        plain = shown(results.estimate("test_accuracy", "weight-decay"))
        others = [
            f"{shown(results.estimate('test_accuracy', 'syre', {'syre.sigma': sigma}))} with {sigma:g}"
            for sigma in results.values_of("syre.sigma")
        ]
        return f"weight decay has a test accuracy of {plain}, syre {', '.join(others)}"

    def panels(self, results: Results) -> Sequence[Sequence[Panel]]:
        """Return the accuracy over the spread, and that of each arm while it trains."""
        from plasticity.scripts.report.panels import Panel  # noqa: PLC0415  (matplotlib)

        over_sigma = [
            Panel(
                title=f"{split} images",
                label="accuracy (share of images)",
                lines=(results.line_over("syre.sigma", f"{split}_accuracy", "syre", style=2),),
                x_label="sigma (0: weight decay)",
            )
            for split in ("test", "train")
        ]
        ends = (results.values_of("syre.sigma")[-1], 0.0)
        over_steps = [
            results.line_over_steps("test_accuracy", "syre", {"syre.sigma": sigma}, style=style)
            for style, sigma in zip((3, 1), ends, strict=True)
        ]
        named = tuple(
            replace(line, label=f"syre, sigma = {sigma:g}")
            for line, sigma in zip(over_steps, ends, strict=True)
        )
        return [[*over_sigma, Panel("test images", "accuracy (share of images)", named)]]


def _same(results: Results) -> Check:
    """Check that syre without a spread ends as weight decay does, in all metrics of every seed."""
    largest = 0.0
    for metric in BITWISE:
        plain = results.final(metric, "weight-decay")
        for seed, value in results.final(metric, "syre", {"syre.sigma": 0.0}).items():
            other = plain.get(seed)
            gap = math.inf if value is None or other is None else abs(value - other)
            largest = max(largest, gap)
    return Check(
        "with sigma = 0, loss, accuracies and norm of the weights are those of weight decay, bit for bit",
        largest == 0.0,
        {"largest difference": largest if math.isfinite(largest) else None},
    )


def _free_of_cost(results: Results, sigma: float) -> Check:
    return Check.above(
        f"with sigma = {sigma:g}, the test accuracy is not lower by more than {COST}",
        results.difference("test_accuracy", "syre", {"syre.sigma": sigma}, {}, "weight-decay"),
        -COST,
    )
