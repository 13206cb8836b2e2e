"""Section 6 of the position paper: a layer with weights u ⊙ w, whose decay switches rows or weights off.

A classifier of MNIST (7 x 7 squares of pixels averaged to one, the first 4000 images) has one hidden layer,
whose weights are plain (w), a factor for each row times w, or a factor for each weight times w. Flipping the
signs of a factor and of its weights leaves the function unchanged: a symmetry that is put in, whose symmetric
state is a row, or a weight, of zeros. All parameters are decayed; so a plain row can be switched off, too,
together with its outgoing weights. A part is off if its size is under a hundredth of the mean initial one;
the accuracy of a row of metrics is that of the network with such parts set to 0.

The rival is the plain layer of the same decay and seed, of which the smallest rows, or weights, are set to 0
after training, as many as are off in the other layer (in sixteenths of the layer, rounded down).

The criterion, stated before the runs of the figure. The plain arm is the plain layer at the weakest decay: a
training accuracy over 95 %, and under 5 % of the rows off. The claim holds if at the strongest decay (1) more
rows are off with a factor for each row than without, (2) more weights with a factor for each weight than
without, (3) and more than at the weakest decay, of rows, and if the accuracy is not lower by more than one
point than that of the rival (4) of rows and (5) of weights; each by the 95 % interval of the difference,
paired by seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from plasticity.checks import require_integer, require_known
from plasticity.scripts.report.statistics import Estimate, paired_estimate
from plasticity.scripts.reproduce.arms import Arm
from plasticity.scripts.reproduce.config import FigureTracking
from plasticity.scripts.reproduce.figure import PARAMETER_SYMMETRY, Figure, figure
from plasticity.scripts.reproduce.images import (
    ImageData,
    ImageExperiment,
    ImageFigureConfig,
    share_correct,
)
from plasticity.scripts.reproduce.network_experiment import NetworkTraining
from plasticity.scripts.reproduce.results import Results
from plasticity.scripts.reproduce.verdict import Check, shown

if TYPE_CHECKING:
    from plasticity.scripts.report.panels import Panel

Factors = Literal["plain", "rows", "weights"]
"""Names of the forms of a layer: w, a factor for each row times w, a factor for each weight times w."""

OFF = 0.01
"""Share of the mean initial size under which a row or a weight is off."""

LEVELS = 16
"""Parts in which a plain layer is pruned."""


class FactoredLinear(nn.Linear):
    """Linear layer with weights ``factor * weight``.

    Args:
        inputs: Size of an input.
        outputs: Size of an output.
        factors: Form of the layer; the factors are 1 at first.
    """

    def __init__(self, inputs: int, outputs: int, factors: Factors) -> None:
        super().__init__(inputs, outputs)
        shapes = {"rows": (outputs, 1), "weights": (outputs, inputs)}
        self.factor = nn.Parameter(torch.ones(shapes[factors])) if factors in shapes else None

    def product(self) -> Tensor:
        """Return the weights of the function. Shape: (outputs, inputs)."""
        return self.weight if self.factor is None else self.factor * self.weight

    def forward(self, features: Tensor) -> Tensor:
        """Map inputs to sums. Shape: (..., inputs) to (..., outputs)."""
        return functional.linear(features, self.product(), self.bias)


def pruned(weight: Tensor, count: int, *, rows: bool) -> Tensor:
    """Return weights of which the smallest are set to 0: rows by their norm, or single ones by magnitude.

    Args:
        weight: Shape: (outputs, inputs).
        count: Number of rows or weights to set to 0.
        rows: Whether rows are set to 0.
    """
    sizes = weight.norm(dim=1) if rows else weight.abs().flatten()
    kept = torch.ones_like(sizes)
    kept[sizes.argsort(stable=True)[:count]] = 0
    return weight * (kept[:, None] if rows else kept.view_as(weight))


@dataclass(frozen=True, kw_only=True)
class FactoredTraining(NetworkTraining):
    """Settings of the network and its training.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range or a name is unknown.
    """

    optimizer: str = "sgd"
    """Name of the optimizer: sgd, adam or adamw."""

    learning_rate: float = 0.1
    """Learning rate."""

    momentum: float = 0.9
    """Momentum of sgd."""

    width: int = 64
    """Hidden units."""

    factors: Factors = "plain"
    """Form of the hidden layer: plain, or a factor for each of its rows or weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("width", self.width, minimum=1)
        require_known("factors", self.factors, get_args(Factors))


@dataclass(frozen=True, kw_only=True)
class IntroducedSymmetryConfig(ImageFigureConfig):
    """Configuration of one network."""

    experiment: ClassVar[str] = "plasticity.scripts.reproduce.introduced_symmetry:FactoredNetwork"

    stream: ImageData = field(
        default_factory=lambda: ImageData(num_steps=4000, num_train=4000, num_test=2000, pool=2)
    )
    """Images that the network learns."""

    agent: FactoredTraining = field(default_factory=FactoredTraining)
    """Settings of the network and its training."""

    tracking: FigureTracking = field(default_factory=lambda: FigureTracking(measure_every=1000))
    """Measurements along the way."""


class FactoredNetwork(ImageExperiment):
    """Classifier with one hidden layer, which may have factors."""

    def make_network(self) -> nn.Module:
        """Return the network; its weights are the same for every form of the layer."""
        training = self.config.agent
        inputs = self.data.train_inputs[0].numel()
        self.layer = FactoredLinear(inputs, training.width, training.factors)
        self.output = nn.Linear(training.width, self.data.num_classes)
        weight = self.layer.weight.detach()
        self.limits = OFF * weight.norm(dim=1).mean(), OFF * weight.abs().mean()
        return nn.Sequential(nn.Flatten(), self.layer, nn.ReLU(), self.output)

    @torch.no_grad()
    def measure(self, run: int) -> dict[str, float | None]:
        """Return shares of rows and weights that are off, accuracies without them, and when pruned."""
        weight = self.layer.product()
        row_limit, weight_limit = self.limits
        rows_off = weight.norm(dim=1) < row_limit
        weights_off = (weight.abs() < weight_limit) | rows_off[:, None]
        is_off = weights_off if self.config.agent.factors == "weights" else rows_off[:, None]
        data = self.data
        with_off_at_0 = weight.masked_fill(is_off, 0)
        found: dict[str, float | None] = {
            "rows_off": rows_off.float().mean().item(),
            "weights_off": weights_off.float().mean().item(),
            "train_accuracy": self._accuracy(with_off_at_0, data.train_inputs, data.train_labels),
            "accuracy": self._accuracy(with_off_at_0, data.test_inputs, data.test_labels),
        }
        if self.config.agent.factors == "plain":
            for part, count in (("rows", len(weight)), ("weights", weight.numel())):
                for level in range(LEVELS + 1):
                    cut = pruned(weight, count * level // LEVELS, rows=part == "rows")
                    accuracy = self._accuracy(cut, data.test_inputs, data.test_labels)
                    found[f"pruned_{part}_{level}"] = accuracy
        return found

    def _accuracy(self, weight: Tensor, inputs: Tensor, labels: Tensor) -> float:
        hidden = functional.linear(inputs.flatten(1), weight, self.layer.bias)
        return share_correct(self.output(hidden.relu()), labels)


STRENGTHS = {"small": (1e-4, 3e-4, 1e-3, 3e-3), "full": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)}
"""Strengths of the decay, by scale."""

FORMS = get_args(Factors)
OFF_METRICS = {"rows": "rows_off", "weights": "weights_off"}
"""Share of what each symmetric form switches off."""

MIN_ACCURACY = 0.95
"""Training accuracy that the plain arm must exceed."""

MAX_OFF = 0.05
"""Share of rows off that the plain arm must be below."""

COST = 0.01
"""Accuracy that is not much."""


@figure("introduced-symmetry")
class IntroducedSymmetry(Figure):
    """Rows and weights that are off over the decay, and the accuracy against magnitude pruning."""

    paper = PARAMETER_SYMMETRY
    number = "Section 6"
    claim = "a symmetry that is put in is used: the network switches parts of the layer off"
    config = IntroducedSymmetryConfig(benchmark="introduced-symmetry")
    methods = ("weight-decay",)
    minutes = 3.6
    scales: ClassVar = {
        "small": {},
        "full": {
            "agent.width": 512,
            "stream.num_train": 60_000,
            "stream.num_test": 10_000,
            "stream.pool": 1,
            "stream.num_steps": 50_000,
            "tracking.measure_every": 5000,
        },
    }

    def arms(self, scale: str) -> Sequence[Arm]:
        """Return the arms: each form of the layer at each strength of the decay."""
        return [
            Arm("weight-decay", {"factors": form, "weight-decay.strength": strength}, line=form)
            for form in FORMS
            for strength in STRENGTHS[scale]
        ]

    def requirements(self, results: Results) -> Sequence[Check]:
        """Check that the plain layer learns at the weakest decay, and keeps its rows."""
        weakest = {"weight-decay.strength": results.values_of("weight-decay.strength")[0]}
        return [
            Check.above(
                f"plain, weakest decay: the training accuracy is over {MIN_ACCURACY:.0%}",
                results.estimate("train_accuracy", "plain", weakest),
                MIN_ACCURACY,
            ),
            Check.below(
                f"plain, weakest decay: under {MAX_OFF:.0%} of the rows are off",
                results.estimate("rows_off", "plain", weakest),
                MAX_OFF,
            ),
        ]

    def claims(self, results: Results) -> Sequence[Check]:
        """Check the parts of the claim at the strongest decay."""
        strengths = results.values_of("weight-decay.strength")
        weakest, strongest = ({"weight-decay.strength": strengths[end]} for end in (0, -1))
        more = [
            Check.above(
                f"more {form} are off with a factor for each than without",
                results.difference(metric, form, strongest, strongest, "plain"),
                0.0,
            )
            for form, metric in OFF_METRICS.items()
        ]
        rising = Check.above(
            "more rows are off at the strongest decay than at the weakest",
            results.difference("rows_off", "rows", strongest, weakest),
            0.0,
        )
        cost = [
            Check.above(
                f"{form}: the accuracy is not lower by more than {COST} than that of the plain layer, pruned",
                against_pruning(results, form, strengths[-1]),
                -COST,
            )
            for form in OFF_METRICS
        ]
        return [*more, rising, *cost]

    def sentence(self, results: Results) -> str:
        """Return the shares that are off at both ends of the decay, and the accuracy against pruning."""
        strengths = results.values_of("weight-decay.strength")
        parts = []
        for form, metric in OFF_METRICS.items():
            found = {
                line: [
                    shown(results.estimate(metric, line, {"weight-decay.strength": each}), ".2f")
                    for each in (strengths[0], strengths[-1])
                ]
                for line in (form, "plain")
            }
            cost = shown(against_pruning(results, form, strengths[-1]), ".3f")
            parts.append(
                f"share of {form} off from decay {strengths[0]:g} to {strengths[-1]:g}:"
                f" {' to '.join(found[form])} with factors, {' to '.join(found['plain'])} without; accuracy"
                f" at {strengths[-1]:g} minus that of a plain layer pruned alike {cost}"
            )
        return "; ".join(parts)

    def panels(self, results: Results) -> Sequence[Sequence[Panel]]:
        """Return both shares, and the test accuracy, over the decay."""
        from plasticity.scripts.report.panels import Panel  # noqa: PLC0415  (matplotlib)

        labels = {
            "rows_off": ("Rows that are off", "share of the rows"),
            "weights_off": ("Weights that are off", "share of the weights"),
            "accuracy": ("Without what is off", "test accuracy (share)"),
        }
        return [
            [
                Panel(
                    title=title,
                    label=label,
                    lines=tuple(
                        results.line_over("weight-decay.strength", metric, form, style=style)
                        for style, form in enumerate(FORMS)
                    ),
                    from_zero=metric != "accuracy",
                    x_label="strength of the decay",
                    log_x=True,
                )
                for metric, (title, label) in labels.items()
            ]
        ]


def against_pruning(results: Results, form: str, strength: float) -> Estimate | None:
    """Estimate the accuracy of a layer with factors minus that of the plain one, pruned as much, by seed.

    Args:
        results: Results of the figure.
        form: Form of the layer: rows or weights.
        strength: Strength of the decay.
    """
    settings = {"weight-decay.strength": strength}
    off = results.final(OFF_METRICS[form], form, settings)
    curve = [
        results.final(f"pruned_{form}_{level}", "plain", settings) for level in range(LEVELS + 1)
    ]
    rival = {
        seed: None if share is None else curve[int(share * LEVELS)].get(seed)
        for seed, share in off.items()
    }
    return paired_estimate(results.final("accuracy", form, settings), rival)
