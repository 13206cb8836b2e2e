"""Fig. 14 and Props. 2 and 3 of syre: ranks of the tangent kernel and of the gradients, with tied neurons.

A two-layer ReLU network learns MNIST, of 7 x 7 pixels, so that it has fewer parameters than the kernel has
rows. A number m of its hidden neurons is projected at the start onto the states that their permutations
leave unchanged: they become one. What the outputs can do to first order is then what one of them adds, so
that the ranks of the empirical neural tangent kernel and of the covariance of the per-sample gradients are at
most the number of parameters that are left: all, minus those of m - 1 neurons. Gradients of tied neurons are
equal, with weight decay or without, so that this remains so. Ranks are those of a float64 copy: in float32,
rounding hides directions.

The criterion, stated before the runs of the figure. Without tied neurons, the plain network must have a
training accuracy above 80 %, and a kernel and gradients whose ranks exceed the parameters that are left with
the most tied ones: else nothing is bounded. The claim holds if, after training, (1) under none and under
weight decay, both ranks are at most the parameters that are left, for every m above 1, in every run; (2)
under syre, with the most tied neurons, both ranks exceed that number; and (3) so does the effective rank of
its kernel that of either plain arm.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from torch import nn

from plasticity import (
    effective_rank,
    gradient_covariance_rank,
    neural_tangent_kernel,
    numerical_rank,
    tie_neurons_,
)
from plasticity.checks import require_integer
from plasticity.scripts.reproduce.arms import Arm, grid
from plasticity.scripts.reproduce.config import FigureTracking
from plasticity.scripts.reproduce.figure import SYRE, Figure, figure
from plasticity.scripts.reproduce.images import ImageData, ImageExperiment, ImageFigureConfig
from plasticity.scripts.reproduce.network_experiment import NetworkTraining
from plasticity.scripts.reproduce.results import Results
from plasticity.scripts.reproduce.verdict import Check, shown

if TYPE_CHECKING:
    from plasticity.scripts.report.figures import Line, Panel


@dataclass(frozen=True, kw_only=True)
class TiedTraining(NetworkTraining):
    """Settings of the network and its training.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    optimizer: str = "sgd"
    """Name of the optimizer: sgd, adam or adamw."""

    learning_rate: float = 0.5
    """Learning rate."""

    width: int = 10
    """Hidden units of the network."""

    tied_neurons: int = 1
    """Number of them that are one at the start."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("width", self.width, minimum=2)
        require_integer("tied_neurons", self.tied_neurons, minimum=1, maximum=self.width)


@dataclass(frozen=True, kw_only=True)
class RankTracking(FigureTracking):
    """Measurements along the way.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    measure_every: int = 1000
    """Steps between two rows of metrics."""

    kernel_examples: int = 80
    """Training examples of the tangent kernel, which has a row for each of their outputs."""

    gradient_examples: int = 700
    """Training examples whose gradients have a covariance."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("kernel_examples", "gradient_examples"):
            require_integer(name, getattr(self, name), minimum=1)


@dataclass(frozen=True, kw_only=True)
class NTKRankConfig(ImageFigureConfig):
    """Configuration of one network."""

    experiment: ClassVar[str] = "plasticity.scripts.reproduce.ntk_rank:TiedClassifiers"

    stream: ImageData = field(
        default_factory=lambda: ImageData(num_steps=3000, num_train=6000, pool=4, batch_size=64)
    )
    """Images that the network learns."""

    agent: TiedTraining = field(default_factory=TiedTraining)
    """Settings of the network and its training."""

    tracking: RankTracking = field(default_factory=RankTracking)
    """Measurements along the way."""


class TiedClassifiers(ImageExperiment):
    """Classifier of images with tied neurons at the start."""

    def make_network(self) -> nn.Module:
        """Return the network."""
        agent = self.config.agent
        first = nn.Linear(self.data.train_inputs[0].numel(), agent.width)
        second = nn.Linear(agent.width, self.data.num_classes)
        tie_neurons_(agent.tied_neurons, first.weight, second.weight, first.bias)
        parameters = sum(each.numel() for each in (*first.parameters(), *second.parameters()))
        of_a_neuron = first.in_features + 1 + second.out_features
        self.parameters_left = parameters - (agent.tied_neurons - 1) * of_a_neuron
        return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second)

    def measure(self, run: int) -> dict[str, float | None]:
        """Return the training accuracy, and ranks of the tangent kernel and of the gradients."""
        tracking, data = self.config.tracking, self.data
        precise = copy.deepcopy(self.network).double()
        kernel = neural_tangent_kernel(
            precise, data.train_inputs[: tracking.kernel_examples].double()
        )
        kernel_rank = numerical_rank(kernel).item()
        examples = slice(tracking.gradient_examples)
        gradient_rank = gradient_covariance_rank(
            precise, data.train_inputs[examples].double(), data.train_labels[examples]
        ).item()
        return {
            "accuracy": self.accuracy(data.train_inputs, data.train_labels),
            "ntk_rank": kernel_rank,
            "gradient_rank": gradient_rank,
            EFFECTIVE: effective_rank(kernel).item(),
            "parameters_left": self.parameters_left,
            "ntk_excess": kernel_rank - self.parameters_left,
            "gradient_excess": gradient_rank - self.parameters_left,
        }


TIED = {"small": (1, 5, 9), "full": (1, 4, 8, 12, 16, 20, 23)}
"""Numbers of tied neurons, by scale."""

M = "tied-neurons"
PLAIN = ("none", "weight-decay")
RANKS = {"ntk": "tangent kernel", "gradient": "gradients' covariance"}
"""Matrices that have a rank, by the beginning of its metrics."""

EFFECTIVE = "ntk_effective_rank"
TITLES = {
    "ntk_rank": "Tangent kernel",
    "gradient_rank": "Covariance of gradients",
    EFFECTIVE: "Tangent kernel",
}
"""Titles of panels, by metric."""

MIN_ACCURACY = 0.8
"""Training accuracy that the plain network must exceed."""


def _bounded(statement: str, excesses: Iterable[float | None]) -> Check:
    """Return the check of a bound that is exact: it has to hold in every run, not on average."""
    found = list(excesses)
    known = [each for each in found if each is not None]
    largest = max(known, default=None)
    passed = len(known) == len(found) and largest is not None and largest <= 0
    return Check(statement, passed, {"largest excess": largest, "runs": len(known)})


@figure("ntk-rank")
class NTKRank(Figure):
    """Ranks of tangent kernel and gradients over the number of tied neurons, and over steps."""

    paper = SYRE
    number = "Fig. 14 and Props. 2 and 3"
    claim = (
        "the ranks of the tangent kernel and of the gradients are bounded by the parameters that tied neurons"
        " leave, and stay so; syre lifts them"
    )
    minutes = 3.5
    config = NTKRankConfig(benchmark="ntk-rank")
    methods = (*PLAIN, "syre")
    mitigations: ClassVar = {
        "weight-decay": {"strength": 1e-3},
        "syre": {"strength": 1e-3, "sigma": 0.5},
    }
    scales: ClassVar = {
        "small": {},
        "full": {
            "agent.width": 24,
            "stream.pool": 2,
            "stream.num_train": 60_000,
            "stream.num_steps": 30_000,
            "tracking.measure_every": 3000,
            "tracking.kernel_examples": 600,
            "tracking.gradient_examples": 6000,
        },
    }

    def arms(self, scale: str) -> Sequence[Arm]:
        """Return every method with every number of tied neurons."""
        return grid(self.methods, {M: TIED[scale]})

    def requirements(self, results: Results) -> Sequence[Check]:
        """Check that the plain network learns, and that its ranks are not bounded without tied neurons."""
        free, *_, most = results.values_of(M)
        left = results.estimate("parameters_left", "none", {M: most})
        bound = float("inf") if left is None else left.mean
        learnt = Check.above(
            f"none without tied neurons: the training accuracy is above {MIN_ACCURACY:.0%}",
            results.estimate("accuracy", "none", {M: free}),
            MIN_ACCURACY,
        )
        return [
            learnt,
            *(
                Check.above(
                    f"none without tied neurons: the rank of the {what} is above what {most} tied ones leave",
                    results.estimate(f"{name}_rank", "none", {M: free}),
                    bound,
                )
                for name, what in RANKS.items()
            ),
        ]

    def claims(self, results: Results) -> Sequence[Check]:
        """Check the bounds of the plain arms, and that syre is above them."""
        _, *tied = results.values_of(M)
        most = {M: tied[-1]}
        checks = [
            _bounded(
                f"{method}, {m} tied: the rank of the {what} is at most the number of parameters left",
                results.final(f"{name}_excess", method, {M: m}).values(),
            )
            for method in PLAIN
            for m in tied
            for name, what in RANKS.items()
        ]
        checks += [
            Check.above(
                f"syre, {tied[-1]} tied: the rank of the {what} is above the number of parameters left",
                results.estimate(f"{name}_excess", "syre", most),
                0.0,
            )
            for name, what in RANKS.items()
        ]
        return checks + [
            Check.above(
                f"syre, {tied[-1]} tied: the effective rank of the tangent kernel is above that of {method}",
                results.difference(EFFECTIVE, "syre", most, most, method),
                0.0,
            )
            for method in PLAIN
        ]

    def sentence(self, results: Results) -> str:
        """Return both ranks of each method with the most tied neurons, and the parameters that are left."""
        most = {M: results.values_of(M)[-1]}
        left = shown(results.estimate("parameters_left", "none", most), ".0f")
        parts = [
            f"{method}: tangent kernel {shown(results.estimate('ntk_rank', method, most), '.0f')}, gradients"
            f" {shown(results.estimate('gradient_rank', method, most), '.0f')}"
            for method in self.methods
        ]
        return f"ranks with {most[M]} tied neurons, parameters left {left}; {'; '.join(parts)}"

    def panels(self, results: Results) -> Sequence[Sequence[Panel]]:
        """Return the ranks over the tied neurons, and over steps with most of them tied."""
        most = {M: results.values_of(M)[-1]}
        over_tied = partial(results.line_over, M, settings=None)
        over_steps = partial(results.line_over_steps, settings=most)
        return [
            [
                self._panel(
                    metric, over_tied, "last step", f"tied neurons (m of {self.config.agent.width})"
                )
                for metric in TITLES
            ],
            [self._panel(metric, over_steps, f"{most[M]} tied", "") for metric in TITLES],
        ]

    def _panel(self, metric: str, line: Callable[..., Line], where: str, x_label: str) -> Panel:
        from plasticity.scripts.report.figures import Panel  # noqa: PLC0415  (matplotlib)

        lines = [line(metric, method, style=style) for style, method in enumerate(self.methods)]
        if metric != EFFECTIVE:
            bound = line("parameters_left", "none", style=len(lines))
            lines.append(replace(bound, label="parameters left"))
        return Panel(
            title=f"{TITLES[metric]}, {where}",
            label=f"{'effective' if metric == EFFECTIVE else 'numerical'} rank (directions)",
            lines=tuple(lines),
            from_zero=True,
            x_label=x_label,
        )
