"""Fig. 1 of syre: neurons that are equal at the start stay equal, unless trained with syre.

A two-layer ReLU network learns 512 examples of a random network of half its width, with gradient descent on
all of them at once. A share of its hidden neurons starts as one: each has their mean, which is the projection
of the weights onto the states that a permutation of these neurons leaves unchanged. Gradients of equal
neurons are equal, so they stay so; the same holds for weight decay, which is symmetric in them. Syre pulls
each toward a point of its own.

The criterion, stated before the runs of the figure. Without equal neurons, both plain arms, none and
weight decay, must reach an error below 5 % of the labels' mean square. The claim holds if (1) under each of
them, at every share, the hidden layer never regains a direction: its rank is at most the number of different
neurons at the start; (2) their errors at the largest share exceed those without equal neurons by more than
5 % of the labels' mean square; (3) under syre, the rank at the largest share is lower than that without equal
neurons by less than 10 %; and (4) its error there is lower than that of either plain arm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from plasticity import (
    capture,
    degree_of_symmetry,
    numerical_rank,
    permutation_distance,
    tie_neurons_,
)
from plasticity.checks import require_integer, require_number
from plasticity.scripts.reproduce.arms import Arm, grid
from plasticity.scripts.reproduce.config import FigureStream, FigureTracking
from plasticity.scripts.reproduce.figure import SYRE, Figure, figure
from plasticity.scripts.reproduce.network_experiment import (
    NetworkExperiment,
    NetworkFigureConfig,
    NetworkTraining,
)
from plasticity.scripts.reproduce.results import Results
from plasticity.scripts.reproduce.verdict import Check, shown

if TYPE_CHECKING:
    from plasticity.scripts.report.figures import Panel

IDENTICAL = 1e-6
"""Distance of two neurons under which they count as equal."""


@dataclass(frozen=True, kw_only=True)
class Examples(FigureStream):
    """Gaussian inputs, labelled by a random two-layer network.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    num_steps: int = 4000
    """Steps of a run, each on all examples. It ends with the first row of metrics at or past it."""

    input_dim: int = 20
    """Dimension of the inputs, which have a standard deviation of 1."""

    output_dim: int = 5
    """Dimension of the labels, which have a mean square of 1."""

    teacher_width: int = 16
    """Hidden units of the network that labels them."""

    num_examples: int = 512
    """Number of examples."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("input_dim", "output_dim", "teacher_width", "num_examples"):
            require_integer(name, getattr(self, name), minimum=1)


@dataclass(frozen=True, kw_only=True)
class TiedTraining(NetworkTraining):
    """Settings of the network and its training.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    optimizer: str = "sgd"
    """Name of the optimizer: sgd, adam or adamw."""

    learning_rate: float = 0.1
    """Learning rate."""

    width: int = 32
    """Hidden units of the network."""

    identical_share: float = 0.0
    """Share of them that are equal at the start, from 0 to 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("width", self.width, minimum=2)
        share = require_number("identical_share", self.identical_share, minimum=0.0)
        if share > 1:
            raise ValueError(f"identical_share must be at most 1: {share!r}.")

    @property
    def distinct(self) -> int:
        """Number of different neurons at the start."""
        return self.width - max(self.num_identical - 1, 0)

    @property
    def num_identical(self) -> int:
        """Number of neurons that are equal at the start."""
        return round(self.identical_share * self.width)


@dataclass(frozen=True, kw_only=True)
class IdenticalNeuronsConfig(NetworkFigureConfig):
    """Configuration of one network."""

    experiment: ClassVar[str] = "plasticity.scripts.reproduce.identical_neurons:TiedNetworks"

    stream: Examples = field(default_factory=Examples)
    """Data that the network learns."""

    agent: TiedTraining = field(default_factory=TiedTraining)
    """Settings of the network and its training."""

    tracking: FigureTracking = field(default_factory=lambda: FigureTracking(measure_every=400))
    """Measurements along the way."""


class TiedNetworks(NetworkExperiment):
    """Network with equal neurons at the start."""

    def make_network(self) -> nn.Module:
        """Return the network, and draw the examples."""
        stream, agent = self.config.stream, self.config.agent
        draws = self.generator("examples")

        def normal(rows: int, columns: int) -> Tensor:
            return torch.randn(rows, columns, generator=draws, device=self.device)

        self.inputs = normal(stream.num_examples, stream.input_dim)
        hidden = torch.relu(self.inputs @ normal(stream.input_dim, stream.teacher_width))
        labels = hidden @ normal(stream.teacher_width, stream.output_dim)
        self.labels = labels / labels.square().mean().sqrt()
        self.first = nn.Linear(stream.input_dim, agent.width)
        self.second = nn.Linear(agent.width, stream.output_dim)
        tie_neurons_(agent.num_identical, self.first.weight, self.second.weight, self.first.bias)
        return nn.Sequential(self.first, nn.ReLU(), self.second)

    def loss(self) -> Tensor:
        """Return the mean squared error on all examples."""
        return nn.functional.mse_loss(self.network(self.inputs), self.labels)

    @torch.no_grad()
    def measure(self, run: int) -> dict[str, float | None]:
        """Return the error, the rank of the hidden layer, and the pairs of equal neurons."""
        with capture(self.network) as activations:
            error = self.loss().item()
        rank = numerical_rank(activations["1"]).item()
        distances = permutation_distance(self.first.weight, self.second.weight, self.first.bias)
        return {
            "error": error,
            "rank": rank,
            "regained": rank - self.config.agent.distinct,
            "identical_pairs": degree_of_symmetry(distances, IDENTICAL).item(),
        }


SHARES = {"small": (0.0, 0.25, 0.5, 0.75, 0.9), "full": tuple(n / 10 for n in range(10))}
"""Shares of equal neurons, by scale."""

SHARE = "identical-share"
PLAIN = ("none", "weight-decay")

MAX_ERROR = 0.05
"""Error that the plain arms must be below without equal neurons, and that they must be above it with most."""

SMALL_LOSS = 0.1
"""Part of a rank whose loss is none."""


@figure("identical-neurons")
class IdenticalNeurons(Figure):
    """Error and rank over the share of neurons that are equal at the start."""

    paper = SYRE
    number = "Fig. 1"
    claim = (
        "plain training stays in the symmetric state that it starts in, with loss and rank stuck; syre leaves"
        " it"
    )
    minutes = 3.5
    config = IdenticalNeuronsConfig(benchmark="identical-neurons")
    methods = (*PLAIN, "syre")
    mitigations: ClassVar = {
        "weight-decay": {"strength": 1e-3},
        "syre": {"strength": 1e-3, "sigma": 0.5},
    }
    scales: ClassVar = {
        "small": {},
        "full": {
            "agent.width": 512,
            "stream.input_dim": 100,
            "stream.teacher_width": 256,
            "stream.num_examples": 10_000,
            "stream.num_steps": 20_000,
            "tracking.measure_every": 1000,
        },
    }

    def arms(self, scale: str) -> Sequence[Arm]:
        """Return every method at every share."""
        return grid(self.methods, {SHARE: SHARES[scale]})

    def requirements(self, results: Results) -> Sequence[Check]:
        """Check that the plain arms learn without equal neurons."""
        return [
            Check.below(
                f"{method} without equal neurons: the error is below {MAX_ERROR}",
                results.estimate("error", method, {SHARE: 0.0}),
                MAX_ERROR,
            )
            for method in PLAIN
        ]

    def claims(self, results: Results) -> Sequence[Check]:
        """Check that the plain arms stay where they start, and that syre does not."""
        none, *shares = results.values_of(SHARE)
        most = {SHARE: shares[-1]}
        checks = [
            Check.below(
                f"{method}, share {share:g}: the rank is at most the number of different neurons",
                results.estimate("regained", method, {SHARE: share}),
                0.5,  # of a direction
            )
            for method in PLAIN
            for share in shares
        ]
        checks += [
            Check.above(
                f"{method}: the error at share {shares[-1]:g} is above that at 0 by more than {MAX_ERROR}",
                results.difference("error", method, most, {SHARE: none}),
                MAX_ERROR,
            )
            for method in PLAIN
        ]
        free = results.estimate("rank", "syre", {SHARE: none})
        allowed = -SMALL_LOSS * (float("inf") if free is None else free.mean)
        checks.append(
            Check.above(
                f"syre: the rank at share {shares[-1]:g} is that at 0 within {SMALL_LOSS:.0%}",
                results.difference("rank", "syre", most, {SHARE: none}),
                allowed,
            )
        )
        return checks + [
            Check.below(
                f"syre: the error at share {shares[-1]:g} is below that of {method}",
                results.difference("error", "syre", most, most, method),
                0.0,
            )
            for method in PLAIN
        ]

    def sentence(self, results: Results) -> str:
        """Return error and rank of each method at the largest share."""
        most = {SHARE: results.values_of(SHARE)[-1]}
        parts = [
            f"{method}: error {shown(results.estimate('error', method, most))}, rank"
            f" {shown(results.estimate('rank', method, most))}"
            for method in self.methods
        ]
        return f"at a share of {most[SHARE]:g}, {'; '.join(parts)}"

    def panels(self, results: Results) -> Sequence[Sequence[Panel]]:
        """Return error, rank and equal pairs over the share, and the first two over steps at the largest."""
        from plasticity.scripts.report.figures import Panel  # noqa: PLC0415  (matplotlib)

        share = results.values_of(SHARE)[-1]
        labels = {
            "error": "mean squared error (labels: 1)",
            "rank": "numerical rank (directions)",
            "identical_pairs": "equal neighbours (pairs)",
        }
        titles = {"error": "Error", "rank": "Hidden layer", "identical_pairs": "Equal neurons"}
        over_share, over_steps = [], []
        for metric, label in labels.items():
            is_error = metric == "error"
            final = [
                results.line_over(SHARE, metric, method, style=style)
                for style, method in enumerate(self.methods)
            ]
            course = [
                results.line_over_steps(metric, method, {SHARE: share}, style=style)
                for style, method in enumerate(self.methods)
            ]
            over_share.append(
                Panel(
                    title=f"{titles[metric]}, last step",
                    lines=tuple(final),
                    x_label="share of neurons that start equal",
                    label=label,
                    log_y=is_error,
                    from_zero=not is_error,
                )
            )
            over_steps.append(
                replace(
                    over_share[-1],
                    title=f"{titles[metric]}, share {share:g}",
                    lines=tuple(course),
                    x_label="",
                )
            )
        return [over_share, over_steps]
