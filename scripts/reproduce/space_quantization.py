"""Conjecture 1 and Theorem 4 of the position paper: how close two neurons can come without being identical.

The published text that we have lost the formulas, so that this is a reading. A loss that does not change when
two neurons are exchanged is even in their difference s. Where identical neurons are stable without decay, a
difference gains at most of the order of s^4, and decay of strength g costs g s^2 / 4, so that a minimum with
two different neurons has an s of at least the order of sqrt(g). Distances of neurons are then either 0, or at
least a smallest one that grows as the square root of the decay, whatever the width.

Students with one hidden layer of SiLU units, without biases, learn 512 fixed Gaussian inputs of 4 dimensions,
labelled by a teacher of the same form with 16 units, with Adam, on all of them at every step. A neuron's
vector has its incoming and outgoing weights; two are identical if they are closer than a hundredth of the
mean distance at the beginning. A neuron whose norm is under a tenth of that is at zero, or on its way there,
and is left out.

The criterion, stated before the runs of the figure. The plain arm, at the weakest decay, must have an error
below 5 % of the labels' mean square. The claim holds if (1) the smallest distance grows with the decay, as a
power (2) over 0.25 and (3) under 0.75, and (4) falls by less than half from the smallest to the largest width
at the same decay; by the 95 % intervals over seeds of the slope and of the logarithm of the ratio.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from plasticity import neuron_vectors
from plasticity.checks import require_integer
from plasticity.scripts.report.statistics import Estimate, estimate, paired_estimate
from plasticity.scripts.reproduce.arms import Arm
from plasticity.scripts.reproduce.config import FigureStream, FigureTracking
from plasticity.scripts.reproduce.figure import PARAMETER_SYMMETRY, Figure, figure
from plasticity.scripts.reproduce.network_experiment import (
    NetworkExperiment,
    NetworkFigureConfig,
    NetworkTraining,
)
from plasticity.scripts.reproduce.results import Results
from plasticity.scripts.reproduce.verdict import Check, shown
from plasticity.tasks.synthetic.teachers import random_teacher

if TYPE_CHECKING:
    from plasticity.scripts.report.figures import Panel

IDENTICAL = 0.01
"""Distance, as a share of the mean initial one, under which two neurons are identical."""

ZERO = 0.1
"""Norm, as a share of the mean initial distance, under which a neuron is at zero."""


@dataclass(frozen=True, kw_only=True)
class FixedData(FigureStream):
    """Fixed Gaussian inputs, labelled by a random two-layer network.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    num_steps: int = 10_000
    """Steps of a run, each on all examples. It ends with the first row of metrics at or past it."""

    input_dim: int = 4
    """Dimension of the inputs, which have a standard deviation of 1."""

    num_train: int = 512
    """Number of examples."""

    teacher_width: int = 16
    """Hidden units of the teacher, whose labels have a root mean square of 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("input_dim", "num_train", "teacher_width"):
            require_integer(name, getattr(self, name), minimum=1)


@dataclass(frozen=True, kw_only=True)
class DistancesTraining(NetworkTraining):
    """Settings of the student.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    learning_rate: float = 3e-3
    """Learning rate."""

    width: int = 32
    """Hidden units of the student."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("width", self.width, minimum=2)


@dataclass(frozen=True, kw_only=True)
class SpaceQuantizationConfig(NetworkFigureConfig):
    """Configuration of one student."""

    experiment: ClassVar[str] = "plasticity.scripts.reproduce.space_quantization:FixedStudent"

    stream: FixedData = field(default_factory=FixedData)
    """Data that the student learns."""

    agent: DistancesTraining = field(default_factory=DistancesTraining)
    """Settings of the student."""

    tracking: FigureTracking = field(default_factory=lambda: FigureTracking(measure_every=2500))
    """Measurements along the way."""


def distances_between(vectors: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return the distances of all pairs of different neurons, and those of identical ones.

    Args:
        vectors: Vectors of the neurons. Shape: (neurons, weights).
        scale: Distance that `IDENTICAL` and `ZERO` are shares of.

    Returns:
        Both ascending. Shapes: (pairs,), (other pairs,).
    """
    first, second = torch.triu_indices(len(vectors), len(vectors), 1)
    is_zero = vectors.norm(dim=1) < ZERO * scale
    all_pairs = (vectors[first] - vectors[second]).norm(dim=1)
    kept = all_pairs[~(is_zero[first] | is_zero[second])].sort().values
    limit = IDENTICAL * scale
    return kept[kept >= limit], kept[kept < limit]


class FixedStudent(NetworkExperiment):
    """Student of one teacher, on all examples at every step."""

    def make_network(self) -> nn.Module:
        """Return a student without biases; and make the examples."""
        stream, width = self.config.stream, self.config.agent.width
        draws = self.generator("data")
        shape = stream.num_train, stream.input_dim
        self.inputs = torch.randn(shape, generator=draws, device=self.device)
        sizes = (stream.input_dim, stream.teacher_width, 1)
        teacher = random_teacher(sizes, draws, activation=functional.silu)
        self.labels = teacher.normalized(self.inputs)(self.inputs)
        first = nn.Linear(stream.input_dim, width, bias=False)
        second = nn.Linear(width, 1, bias=False)
        self.incoming, self.outgoing = first.weight, second.weight
        start = neuron_vectors(first.weight, second.weight).detach()
        self.scale = torch.pdist(start).mean().item()
        return nn.Sequential(first, nn.SiLU(), second)

    def loss(self) -> Tensor:
        """Return the mean squared error on all examples."""
        return functional.mse_loss(self.network(self.inputs), self.labels)

    def measure(self, run: int) -> dict[str, float | None]:
        """Return the error, the smallest distance of different neurons, and how far the training is."""
        loss = self.loss()
        vectors = neuron_vectors(self.incoming, self.outgoing).detach()
        different, identical = distances_between(vectors, self.scale)
        num_pairs = len(different) + len(identical)
        return {
            "error": loss.item(),
            "smallest_distance": different[0].item() if len(different) else None,
            "largest_identical": identical[-1].item() if len(identical) else None,
            "identical_share": len(identical) / num_pairs if num_pairs else None,
            "zero_neurons": (vectors.norm(dim=1) < ZERO * self.scale).sum().item(),
            "weight_norm": math.sqrt(vectors.square().sum().item()),
        }


STRENGTHS = {"small": (3e-4, 1e-3, 3e-3, 1e-2), "full": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)}
"""Strengths of the decay, by scale, at `WIDTH`."""

WIDTHS = {"small": (16, 32, 128), "full": (16, 32, 64, 128, 256, 512)}
"""Widths of the student, by scale, at `STRENGTH` and without decay."""

WIDTH = 32
STRENGTH = 3e-3

DECAY = "weight-decay.strength"
"""Option of the strength."""

MAX_ERROR = 0.05
"""Error that the plain arm must be below, as a share of the labels' mean square."""

EXPONENTS = (0.25, 0.75)
"""Exponents that the power of the decay must lie between; the reading says a half."""


def slopes(results: Results, strengths: Sequence[float]) -> list[float | None]:
    """Return the exponent of the smallest distance as a power of the decay, by least squares, of each seed.

    Args:
        results: Results of the figure.
        strengths: Strengths of the decay.

    Returns:
        None for a seed in which a student has no two different neurons.
    """
    columns = [
        results.final("smallest_distance", "weight-decay", {"width": WIDTH, DECAY: each})
        for each in strengths
    ]
    found: list[float | None] = []
    for seed in columns[0]:
        distances = [column.get(seed) for column in columns]
        if None in distances:
            found.append(None)
        else:
            logs = np.log(np.array(distances, dtype=np.float64))
            found.append(float(np.polyfit(np.log(strengths), logs, 1)[0]))
    return found


def width_ratio(results: Results, method: str) -> Estimate | None:
    """Estimate log2 of the smallest distance at the largest width over that at the smallest, by seed.

    Args:
        results: Results of the figure.
        method: Method of the arms.
    """
    settings = {} if method == "none" else {DECAY: STRENGTH}
    widths = results.values_of("width")
    narrow, wide = (
        {
            seed: None if distance is None else math.log2(distance)
            for seed, distance in results.final(
                "smallest_distance", method, {"width": width, **settings}
            ).items()
        }
        for width in (widths[0], widths[-1])
    )
    return paired_estimate(wide, narrow)


@figure("space-quantization")
class SpaceQuantization(Figure):
    """Smallest distance of two different neurons over the decay and the width."""

    paper = PARAMETER_SYMMETRY
    number = "Conjecture 1 and Theorem 4"
    claim = (
        "two neurons are identical, or further apart than a distance that grows as the square root of the"
        " decay, whatever the width"
    )
    config = SpaceQuantizationConfig(benchmark="space-quantization")
    methods = ("none", "weight-decay")
    minutes = 4.5
    scales: ClassVar = {
        "small": {},
        "full": {"stream.num_steps": 100_000, "tracking.measure_every": 10_000},
    }

    def arms(self, scale: str) -> Sequence[Arm]:
        """Return the arms over the decay, and those over the width, with and without decay."""
        points = [(WIDTH, strength) for strength in STRENGTHS[scale]]
        points += [(width, STRENGTH) for width in WIDTHS[scale]]
        decayed = [
            Arm("weight-decay", {"width": width, DECAY: strength})
            for width, strength in dict.fromkeys(points)
        ]
        return [*decayed, *(Arm("none", {"width": width}) for width in WIDTHS[scale])]

    def requirements(self, results: Results) -> Sequence[Check]:
        """Check that a student learns at the weakest decay."""
        weakest = {"width": WIDTH, DECAY: results.values_of(DECAY)[0]}
        return [
            Check.below(
                f"weight decay, {weakest[DECAY]:g}: the error is below {MAX_ERROR}",
                results.estimate("error", "weight-decay", weakest),
                MAX_ERROR,
            )
        ]

    def claims(self, results: Results) -> Sequence[Check]:
        """Check the exponent of the decay, and that the width matters little."""
        exponent = estimate(slopes(results, results.values_of(DECAY)))
        return [
            Check.above("the smallest distance grows with the decay", exponent, 0.0),
            Check.above(f"as a power over {EXPONENTS[0]}", exponent, EXPONENTS[0]),
            Check.below(f"as a power under {EXPONENTS[1]}", exponent, EXPONENTS[1]),
            Check.above(
                "it falls by less than half from the smallest width to the largest (log2 of the ratio)",
                width_ratio(results, "weight-decay"),
                -1.0,
            ),
        ]

    def sentence(self, results: Results) -> str:
        """Return the exponent, the distances at both ends, and the ratios over the width."""
        strengths = results.values_of(DECAY)
        ends = [
            shown(
                results.estimate("smallest_distance", "weight-decay", {"width": WIDTH, DECAY: each})
            )
            for each in (strengths[0], strengths[-1])
        ]
        exponent = shown(estimate(slopes(results, strengths)), ".2f")
        ratios = [shown(width_ratio(results, method), ".2f") for method in ("weight-decay", "none")]
        widths = results.values_of("width")
        return (
            f"smallest distance {ends[0]} at decay {strengths[0]:g}, {ends[1]} at {strengths[-1]:g}:"
            f" exponent {exponent}; log2 of the ratio from width {widths[0]} to {widths[-1]}: {ratios[0]}"
            f" with decay {STRENGTH:g}, {ratios[1]} without"
        )

    def panels(self, results: Results) -> Sequence[Sequence[Panel]]:
        """Return the smallest distance over decay and width, and the number of neurons at zero."""
        from plasticity.scripts.report.figures import Panel  # noqa: PLC0415  (matplotlib)

        decayed = {"width": WIDTH}
        over_width = (
            results.line_over("width", "smallest_distance", "none", style=0),
            results.line_over(
                "width", "smallest_distance", "weight-decay", {DECAY: STRENGTH}, style=1
            ),
        )
        over_decay = [
            (results.line_over(DECAY, metric, "weight-decay", decayed, style=1),)
            for metric in ("smallest_distance", "zero_neurons")
        ]
        distance = "smallest distance of two neurons"
        decay_label = "strength of the decay"
        return [
            [
                Panel(
                    title=f"{WIDTH} units",
                    label=distance,
                    lines=over_decay[0],
                    x_label=decay_label,
                    log_x=True,
                    from_zero=True,
                ),
                Panel(
                    title=f"Decay {STRENGTH:g}, and none",
                    label=distance,
                    lines=over_width,
                    x_label="hidden units",
                    log_x=True,
                    from_zero=True,
                ),
                Panel(
                    title=f"{WIDTH} units",
                    label="neurons at zero (number)",
                    lines=over_decay[1],
                    x_label=decay_label,
                    log_x=True,
                    from_zero=True,
                ),
            ]
        ]
