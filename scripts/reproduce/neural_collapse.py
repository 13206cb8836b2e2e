"""Figs. 5 and 11-13 of the position paper: the last features of a ResNet-18, under weight decay and syre.

Neural collapse (Papyan et al., 2020): late in training, the last features of all images of a class become one
vector, so that those of ten classes span ten directions. Here they are the inputs of the output layer, of the
training images. Their spectrum is that of their covariance, relative to its trace; their correlation that of
the features of two images, over units, for the first ten training images of each class.

The criterion, stated before the runs of the figure. At both strengths, weight decay must fit 95 % of the
training images; at the larger one it must collapse: at most 5 % of the variance outside of ten directions.
The claim holds if at both strengths (1) syre has a larger share of its variance outside of ten directions,
and (2) a lower correlation within classes, each by the 95 % interval of the difference, paired by seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from plasticity import covariance_eigenvalues
from plasticity.metrics.ranks import effective_rank
from plasticity.scripts.reproduce.arms import Arm
from plasticity.scripts.reproduce.config import FigureTracking
from plasticity.scripts.reproduce.figure import PARAMETER_SYMMETRY, Figure, figure
from plasticity.scripts.reproduce.residual import ResNetExperiment, ResNetFigureConfig
from plasticity.scripts.reproduce.results import Results
from plasticity.scripts.reproduce.verdict import Check, shown

if TYPE_CHECKING:
    from plasticity.scripts.report.panels import HeatMap, Line, Panel

DIRECTIONS = 10
"""Directions that neural collapse leaves: one for each class."""

IMAGES_PER_CLASS = 10
"""Training images of a class whose correlations are measured."""

EIGENVALUES = 40
"""Eigenvalues in the rows."""

STRENGTHS = {"small": (5e-3, 2e-2), "full": (5e-4, 2e-3)}
"""Strengths of either decay, by scale."""

SIGMA = 1.0
"""Spread of syre's anchor, relative to that of the initial weights."""

MIN_TRAIN, MAX_OUTSIDE = 0.95, 0.05
"""Training accuracy, and share of the variance, that weight decay must reach."""


@dataclass(frozen=True, kw_only=True)
class CollapseConfig(ResNetFigureConfig):
    """Configuration of one ResNet."""

    experiment: ClassVar[str] = "plasticity.scripts.reproduce.neural_collapse:Collapses"

    tracking: FigureTracking = field(default_factory=lambda: FigureTracking(measure_every=150))
    """Measurements along the way."""


def class_correlations(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the mean correlation, over units, of the features of two different images of two classes.

    Args:
        features: One row per image. Shape: (images, units).
        labels: Classes, int64; each has at least two images. Shape: (images,).
        num_classes: Number of classes.

    Returns:
        Means over all pairs of different images. Shape: (classes, classes).
    """
    centred = features.double() - features.double().mean(dim=1, keepdim=True)
    norms = centred.norm(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    unit = centred / norms
    of_class = torch.nn.functional.one_hot(labels, num_classes).double()
    different = 1 - torch.eye(len(features), dtype=torch.float64, device=features.device)
    sums: Tensor = of_class.T @ (unit @ unit.T * different) @ of_class
    return sums / (of_class.T @ different @ of_class)


class Collapses(ResNetExperiment):
    """ResNet whose last features are measured."""

    def begin(self) -> None:
        """Choose the images whose correlations are measured, then make the network."""
        super().begin()
        labels, classes = self.data.train_labels, self.data.num_classes
        firsts = [
            (labels == each).nonzero().flatten()[:IMAGES_PER_CLASS] for each in range(classes)
        ]
        self.chosen = torch.cat(firsts)

    @torch.no_grad()
    def measure(self, run: int) -> dict[str, float | None]:
        """Return the fit, and the spectrum and the correlations of the last features."""
        features, labels = self.features(self.data.train_inputs), self.data.train_labels
        spectrum = covariance_eigenvalues(features)
        shares = spectrum / spectrum.sum().clamp(min=torch.finfo(spectrum.dtype).tiny)
        classes = self.data.num_classes
        found = class_correlations(features[self.chosen], labels[self.chosen], classes)
        others = found[~torch.eye(classes, dtype=torch.bool, device=found.device)]
        pairs = ((i, j) for i in range(classes) for j in range(i, classes))
        return {
            **self.fit(),
            "effective_rank": effective_rank(features).item(),
            "outside": shares[DIRECTIONS:].sum().item(),
            "within_classes": found.diagonal().mean().item(),
            "between_classes": others.mean().item(),
            **{f"eigenvalue_{i}": each for i, each in enumerate(shares[:EIGENVALUES].tolist(), 1)},
            **{f"correlation_{i}_{j}": found[i, j].item() for i, j in pairs},
        }


@figure("neural-collapse")
class NeuralCollapse(Figure):
    """Spectrum and correlations of the last features, under two decays of two strengths."""

    paper = PARAMETER_SYMMETRY
    number = "Figs. 5 and 11-13"
    claim = "weight decay collapses the last features to ten directions, syre less"
    minutes = 13
    num_seeds = 3
    config = CollapseConfig(benchmark="neural-collapse")
    methods = ("weight-decay", "syre")
    mitigations: ClassVar = {"syre": {"sigma": SIGMA}}
    scales: ClassVar = {
        "small": {
            "stream.num_steps": 900,
            "stream.num_train": 2000,
            "stream.num_test": 2000,
            "stream.pool": 2,
            "agent.anneal_steps": 900,
        },
        "full": {
            "stream.num_steps": 137_000,
            "agent.anneal_steps": 137_000,
            "agent.width": 64,
            "tracking.measure_every": 3425,
        },
    }

    def arms(self, scale: str) -> Sequence[Arm]:
        """Return both methods with both strengths."""
        return [
            Arm(method, {f"{method}.strength": strength}, _line(method, strength))
            for strength in STRENGTHS[scale]
            for method in self.methods
        ]

    def requirements(self, results: Results) -> Sequence[Check]:
        """Check that weight decay fits, and collapses."""
        strengths = results.values_of("weight-decay.strength")
        fits = [
            Check.above(
                f"weight decay of {strength:g} fits over {MIN_TRAIN:.0%} of the training images",
                results.estimate("train_accuracy", _line("weight-decay", strength)),
                MIN_TRAIN,
            )
            for strength in strengths
        ]
        collapse = Check.below(
            f"weight decay of {strengths[-1]:g} has under {MAX_OUTSIDE:.0%} of the variance outside of"
            f" {DIRECTIONS} directions",
            results.estimate("outside", _line("weight-decay", strengths[-1])),
            MAX_OUTSIDE,
        )
        return [*fits, collapse]

    def claims(self, results: Results) -> Sequence[Check]:
        """Check that syre collapses less, at either strength."""
        checks = []
        for strength in results.values_of("syre.strength"):
            syre, plain = (_line(method, strength) for method in ("syre", "weight-decay"))
            outside = results.difference("outside", syre, {}, {}, plain)
            within = results.difference("within_classes", syre, {}, {}, plain)
            checks += [
                Check.above(
                    f"at {strength:g}, syre has more of the variance outside of {DIRECTIONS} directions",
                    outside,
                    0.0,
                ),
                Check.below(
                    f"at {strength:g}, syre has a lower correlation within classes", within, 0.0
                ),
            ]
        return checks

    def sentence(self, results: Results) -> str:
        """Return shares, correlations and ranks of each arm."""
        parts = [
            f"{arm.name}: {shown(results.estimate('outside', arm.name))} of the variance outside of"
            f" {DIRECTIONS} directions, correlation {shown(results.estimate('within_classes', arm.name))}"
            f" within classes, effective rank {shown(results.estimate('effective_rank', arm.name))}, training"
            f" accuracy {shown(results.estimate('train_accuracy', arm.name))}"
            for arm, _ in results.arms
        ]
        return "; ".join(parts)

    def panels(self, results: Results) -> Sequence[Sequence[Panel | HeatMap]]:
        """Return the spectrum, the share outside while training, and the correlations of the larger decay."""
        from plasticity.scripts.report.panels import HeatMap, Panel  # noqa: PLC0415  (matplotlib)

        lines = [arm.name for arm, _ in results.arms]
        positions = {float(i): f"eigenvalue_{i}" for i in range(1, EIGENVALUES + 1)}
        spectra = tuple(
            results.line_over_metrics(positions, line, style=style)
            for style, line in enumerate(lines, 1)
        )
        spectrum = Panel(
            title="spectrum of the last features",
            label="variance (share of the whole)",
            lines=tuple(map(_above_nothing, spectra)),
            marks=(DIRECTIONS + 0.5,),
            x_label="direction, the largest first",
            log_y=True,
        )
        outside = Panel(
            title=f"outside of {DIRECTIONS} directions",
            label="variance (share of the whole)",
            lines=tuple(
                results.line_over_steps("outside", line, style=style)
                for style, line in enumerate(lines, 1)
            ),
            from_zero=True,
        )
        maps = [
            HeatMap(
                title=line,
                label="correlation",
                values=_matrix(results, line),
                limits=(-1.0, 1.0),
                x_label="class of one image",
                y_label="class of the other image",
            )
            for line in lines[-2:]
        ]
        return [[spectrum, outside], maps]


def _line(method: str, strength: float) -> str:
    return f"{method} {strength:g}"


def _above_nothing(line: Line) -> Line:
    """Return a line for a logarithmic axis, with its band cut where the interval reaches 0."""
    low = np.where(line.low > 0, line.low, line.mean / 10)
    return replace(line, low=low)


def _matrix(results: Results, line: str) -> np.ndarray:
    """Return the mean correlations of an arm over seeds. Shape: (classes, classes)."""
    names = [name for name in results.runs(line)[0].rows[-1] if name.startswith("correlation_")]
    classes = 1 + max(int(name.rpartition("_")[2]) for name in names)
    values = np.full((classes, classes), np.nan)
    for name in names:
        i, j = map(int, name.split("_")[1:])
        found = results.estimate(name, line)
        values[i, j] = values[j, i] = np.nan if found is None else found.mean
    return values
