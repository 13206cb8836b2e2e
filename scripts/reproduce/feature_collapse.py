"""Figs. 5 and 8 of syre: collapse of the last hidden layer under strong decay and weak inputs.

A network of four layers learns MNIST, of 14 x 14 pixels, with SGD and momentum: over the strength of the
decay, over the scale of its inputs (a factor of the pixels), and, under syre, over sigma. Measured are the
test accuracy, and the effective rank and the eigenvalues of the covariance of the last hidden layer on 1000
test images. The plain arm is weight decay.

The criterion, stated before the runs of the figure. At the weakest decay, weight decay must reach a test
accuracy above 90 %. The claim holds if (1) from the weakest to the strongest decay, and from inputs of scale
1 to the weakest ones, weight decay loses over half of its rank and over 10 points of accuracy; (2) syre loses
less than that of both; (3) the 20th eigenvalue, twice the number of classes, grows from each sigma to the
next; and (4) in proportion to it: the exponent of a power law through these eigenvalues is between 0.5 and
1.5. Each by the 95 % interval, paired by seed. (If the features grow in proportion, and not their variances,
the exponent is 2.)
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from plasticity import capture, covariance_eigenvalues, effective_rank
from plasticity.agents.networks.mlp import MLP
from plasticity.checks import require_integer
from plasticity.scripts.report.statistics import Estimate, estimate
from plasticity.scripts.reproduce.arms import Arm
from plasticity.scripts.reproduce.config import FigureTracking
from plasticity.scripts.reproduce.figure import SYRE, Figure, figure
from plasticity.scripts.reproduce.images import ImageData, ImageExperiment, ImageFigureConfig
from plasticity.scripts.reproduce.network_experiment import NetworkTraining
from plasticity.scripts.reproduce.results import Results
from plasticity.scripts.reproduce.verdict import Check, shown

if TYPE_CHECKING:
    from plasticity.scripts.report.panels import Line, Panel


@dataclass(frozen=True, kw_only=True)
class ClassifierTraining(NetworkTraining):
    """Settings of the network and its training.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    optimizer: str = "sgd"
    """Name of the optimizer: sgd, adam or adamw."""

    learning_rate: float = 0.05
    """Learning rate."""

    momentum: float = 0.9
    """Momentum of sgd."""

    hidden: tuple[int, ...] = (64, 64, 64)
    """Widths of the hidden layers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        MLP(hidden=self.hidden)  # checks them


@dataclass(frozen=True, kw_only=True)
class CollapseTracking(FigureTracking):
    """Measurements along the way.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    measure_every: int = 750
    """Steps between two rows of metrics."""

    num_eigenvalues: int = 40
    """Number of eigenvalues in a row, the largest first; at most as many as units."""

    probe_examples: int = 1000
    """Test images, the first so many, whose features are measured."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_eigenvalues", "probe_examples"):
            require_integer(name, getattr(self, name), minimum=1)


@dataclass(frozen=True, kw_only=True)
class FeatureCollapseConfig(ImageFigureConfig):
    """Configuration of one network."""

    experiment: ClassVar[str] = "plasticity.scripts.reproduce.feature_collapse:Classifiers"

    stream: ImageData = field(
        default_factory=lambda: ImageData(num_steps=1500, num_train=10_000, pool=2)
    )
    """Images that the network learns."""

    agent: ClassifierTraining = field(default_factory=ClassifierTraining)
    """Settings of the network and its training."""

    tracking: CollapseTracking = field(default_factory=CollapseTracking)
    """Measurements along the way."""


class Classifiers(ImageExperiment):
    """Classifier of images whose last hidden layer is measured."""

    def make_network(self) -> nn.Module:
        """Return the network."""
        settings = MLP(hidden=self.config.agent.hidden)
        self.last = f"fc{len(settings.hidden)}"
        shape = tuple(self.data.train_inputs.shape[1:])
        return self.build(settings, shape, self.data.num_classes)

    @torch.no_grad()
    def measure(self, run: int) -> dict[str, float | None]:
        """Return the accuracies, and rank and spectrum of the last hidden layer."""
        tracking, data = self.config.tracking, self.data
        with capture(self.network, [self.last]) as activations:
            self.network(data.test_inputs[: tracking.probe_examples])
        features = activations[self.last]
        largest = covariance_eigenvalues(features)[: tracking.num_eigenvalues].tolist()
        return {
            "accuracy": self.accuracy(data.test_inputs, data.test_labels),
            "train_accuracy": self.accuracy(data.train_inputs, data.train_labels),
            "rank": effective_rank(features).item(),
            **{f"eigenvalue_{k}": value for k, value in enumerate(largest, start=1)},
        }


STRENGTHS = (1e-3, 3e-3, 1e-2, 3e-2)
"""Strengths of the decay, with inputs of scale 1."""

SCALES = {"small": (0.1, 0.3, 1.0), "full": (0.03, 0.1, 0.3, 1.0, 3.0)}
"""Factors of the pixels, by scale of the figure."""

SCALES_STRENGTH = 3e-3
"""Strength of the decay where the inputs vary."""

SIGMAS = (0.25, 0.5, 1.0, 2.0)
"""Sigmas of syre at `SIGMAS_STRENGTH`, with inputs of scale 1."""

SIGMAS_STRENGTH = 1e-2

SIGMA = 1.0
"""Sigma where it does not vary."""

PLAIN, LIFTED = "weight-decay", "syre"
SCALE = "input-scale"

TAIL = "eigenvalue_20"
"""Eigenvalue that is judged: twice as far down as there are classes."""

PROPORTIONAL = (0.5, 1.5)
"""Exponents of a power law between which it is called proportional."""

MIN_ACCURACY = 0.9
"""Test accuracy that the plain arm must exceed at the weakest decay."""

COLLAPSE = {"rank": 0.5, "accuracy": 0.1}
"""Loss that is a collapse: of the rank, as a part of it; of the accuracy, in absolute terms."""


def at(method: str, strength: float, scale: float = 1.0, sigma: float = SIGMA) -> dict[str, Any]:
    """Return the settings of an arm."""
    of_syre = {"syre.sigma": sigma} if method == LIFTED else {}
    return {f"{method}.strength": strength, SCALE: scale, **of_syre}


def exponent(positions: Sequence[float], values: Sequence[float | None]) -> float | None:
    """Return the exponent of the power law nearest to some values, in logarithms.

    Args:
        positions: Positions, above 0, at least two of them different.
        values: A value at each.

    Returns:
        The exponent; None if a value is missing, or not above 0.
    """
    if any(value is None or value <= 0 for value in values):
        return None
    slope, _ = np.polyfit(np.log(positions), np.log(np.array(values, dtype=np.float64)), 1)
    return float(slope)


@figure("feature-collapse")
class FeatureCollapse(Figure):
    """Rank and accuracy over decay and input scale, and the spectrum over sigma."""

    paper = SYRE
    number = "Figs. 5 and 8"
    claim = (
        "under strong decay or weak inputs, the plain network's rank is low, and then its accuracy; under"
        " syre, neither, and the eigenvalues of the features are lifted in proportion to sigma"
    )
    minutes = 5
    config = FeatureCollapseConfig(benchmark="feature-collapse")
    methods = (PLAIN, LIFTED)
    scales: ClassVar = {
        "small": {},
        "full": {
            "agent.hidden": (512, 512, 512),
            "stream.pool": 1,
            "stream.num_train": None,
            "stream.num_steps": 20_000,
            "tracking.measure_every": 2000,
            "tracking.num_eigenvalues": 100,
            "tracking.probe_examples": 5000,
        },
    }

    def arms(self, scale: str) -> Sequence[Arm]:
        """Return the arms over the strength, over the scale of the inputs and over sigma."""
        points = [(method, at(method, each)) for method in self.methods for each in STRENGTHS]
        points += [
            (method, at(method, SCALES_STRENGTH, each))
            for method in self.methods
            for each in SCALES[scale]
        ]
        points += [(LIFTED, at(LIFTED, SIGMAS_STRENGTH, sigma=each)) for each in SIGMAS]
        different = {(method, *settings.items()): (method, settings) for method, settings in points}
        return [Arm(method, settings) for method, settings in different.values()]

    def requirements(self, results: Results) -> Sequence[Check]:
        """Check that weight decay learns at the weakest decay."""
        return [
            Check.above(
                f"weight decay, strength {STRENGTHS[0]:g}: the test accuracy is above {MIN_ACCURACY:.0%}",
                results.estimate("accuracy", PLAIN, at(PLAIN, STRENGTHS[0])),
                MIN_ACCURACY,
            )
        ]

    def claims(self, results: Results) -> Sequence[Check]:
        """Check the collapse of weight decay, that syre has none, and its spectrum over sigma."""
        checks = []
        for method in self.methods:
            for where, (usual, extreme) in self._ends(results, method).items():
                for metric, loss in COLLAPSE.items():
                    found = self._lost(results, metric, method, usual, extreme)
                    what = f"{method}, {where}: {metric}, loss"
                    checks.append(
                        Check.above(f"{what} over {loss:g}", found, loss)
                        if method == PLAIN
                        else Check.below(f"{what} under {loss:g}", found, loss)
                    )
        arms = {sigma: at(LIFTED, SIGMAS_STRENGTH, sigma=sigma) for sigma in SIGMAS}
        checks += [
            Check.above(
                f"syre: the 20th eigenvalue grows from sigma {low:g} to {high:g}",
                results.difference(TAIL, LIFTED, arms[high], arms[low]),
                0.0,
            )
            for low, high in itertools.pairwise(SIGMAS)
        ]
        power, low, high = self.exponent(results), *PROPORTIONAL
        return [
            *checks,
            Check.above(f"syre: it grows as sigma to the power of over {low:g}", power, low),
            Check.below(f"syre: it grows as sigma to the power of under {high:g}", power, high),
        ]

    def _ends(
        self, results: Results, method: str
    ) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
        """Return the settings of the usual and of the extreme arm, by what lies between them."""
        weakest = results.values_of(SCALE)[0]
        first, last = STRENGTHS[0], STRENGTHS[-1]
        return {
            f"decay {first:g} to {last:g}": (at(method, first), at(method, last)),
            f"inputs of scale 1 to {weakest:g}": (
                at(method, SCALES_STRENGTH),
                at(method, SCALES_STRENGTH, weakest),
            ),
        }

    def _lost(
        self,
        results: Results,
        metric: str,
        method: str,
        usual: Mapping[str, Any],
        extreme: Mapping[str, Any],
    ) -> Estimate | None:
        """Estimate what is lost from one arm to another: a share of the rank, or a part of the accuracy."""
        before, after = (results.final(metric, method, each) for each in (usual, extreme))
        losses: list[float | None] = []
        for seed, start in before.items():
            end = after[seed]
            if not start or end is None:
                losses.append(None)
            else:
                losses.append((start - end) / (start if metric == "rank" else 1.0))
        return estimate(losses)

    def exponent(self, results: Results) -> Estimate | None:
        """Estimate the exponent of sigma in the eigenvalue that is judged, over seeds."""
        finals = [
            results.final(TAIL, LIFTED, at(LIFTED, SIGMAS_STRENGTH, sigma=each)) for each in SIGMAS
        ]
        return estimate(exponent(SIGMAS, [each[seed] for each in finals]) for seed in finals[0])

    def sentence(self, results: Results) -> str:
        """Return rank and accuracy at the ends of decay and input scale, and the exponent."""
        parts = []
        for method in self.methods:
            for where, ends in self._ends(results, method).items():
                rank, accuracy = (
                    " to ".join(shown(results.estimate(name, method, end), form) for end in ends)
                    for name, form in (("rank", ".1f"), ("accuracy", ".2f"))
                )
                parts.append(f"{method}, {where}: rank {rank}, accuracy {accuracy}")
        power = shown(self.exponent(results), ".2f")
        return f"{'; '.join(parts)}; the 20th eigenvalue grows as sigma to the power of {power}"

    def panels(self, results: Results) -> Sequence[Sequence[Panel]]:
        """Return rank and accuracy over the decay and over the inputs, and the spectrum over sigma."""
        rows = []
        for metric, title, label in (
            ("rank", "Last hidden layer", "effective rank (directions)"),
            ("accuracy", "Test images", "accuracy (share)"),
        ):
            decays, inputs = [], []
            for style, method in enumerate(self.methods):
                option = f"{method}.strength"
                chosen = at(method, SCALES_STRENGTH)
                fixed = {name: each for name, each in chosen.items() if name != option}
                decays.append(results.line_over(option, metric, method, fixed, style=style))
                fixed = {name: each for name, each in chosen.items() if name != SCALE}
                inputs.append(results.line_over(SCALE, metric, method, fixed, style=style))
            over_inputs = f"{title}, decay {SCALES_STRENGTH:g}"
            rows.append(
                [
                    _panel(title, label, decays, "strength of the decay"),
                    _panel(over_inputs, label, inputs, "factor of the inputs"),
                ]
            )
        at_strength = {"syre.strength": SIGMAS_STRENGTH, SCALE: 1.0}
        tail = results.line_over("syre.sigma", TAIL, LIFTED, at_strength, style=1)
        label, title = "variance (features squared)", f"decay {SIGMAS_STRENGTH:g}"
        spectra = _panel(
            f"Covariance, {title}", label, self._spectra(results), "index", log_y=True, log_x=False
        )
        over_sigma = _panel(f"20th eigenvalue, {title}", label, [tail], "sigma of syre", log_y=True)
        return [[*rows[0], spectra], [*rows[1], over_sigma]]

    def _spectra(self, results: Results) -> list[Line]:
        """Return the spectrum of weight decay, and that of syre with each sigma."""
        run = results.runs(PLAIN, at(PLAIN, SIGMAS_STRENGTH))[0]
        names = [name for name in run.rows[-1] if name.startswith("eigenvalue_")]
        metrics = {float(name.removeprefix("eigenvalue_")): name for name in names}
        plain = results.line_over_metrics(metrics, PLAIN, at(PLAIN, SIGMAS_STRENGTH), style=0)
        lines = [plain]
        for style, sigma in enumerate(SIGMAS, start=2):
            arm = at(LIFTED, SIGMAS_STRENGTH, sigma=sigma)
            line = results.line_over_metrics(metrics, LIFTED, arm, style=style)
            lines.append(replace(line, label=f"syre, sigma {sigma:g}"))
        return lines


def _panel(
    title: str,
    label: str,
    lines: Sequence[Line],
    x_label: str,
    *,
    log_x: bool = True,
    log_y: bool = False,
) -> Panel:
    from plasticity.scripts.report.panels import Panel  # noqa: PLC0415  (matplotlib)

    return Panel(
        title=title,
        label=label,
        lines=tuple(lines),
        from_zero=not log_y,
        x_label=x_label,
        log_x=log_x,
        log_y=log_y,
    )
