"""Figs. 2 and A.2 of parameter symmetry: a network that starts small breaks one symmetry after another.

A tanh network without biases (four hidden layers, five matrices) learns 256 fixed examples by full-batch
gradient descent, without any decay. Its weights start with a standard deviation of a scale divided by the
root of the fan-in: 1 is a normal start, 0.15 a small one. The labels are those of a teacher of the same
architecture, of sinusoids, or of cubic polynomials, with a mean square of 1.

Neurons of a layer that are nearly equal are near a symmetric state. The distance of each neuron from its
neighbour, in the order of their norms, is in every row; a symmetry counts as broken once it is over 0.5,
larger than all distances of a small start. A fall of the loss follows a plateau (at least three rows in
which it falls by less than 2 % each), and is of at least 5 % of the loss at the start.

The criterion, stated before the runs of the figure. From the small start the network must learn each of the
targets (a loss below 0.2), with under 5 % of its symmetries broken in the first row. The claim holds if (1)
from the small start the loss has more than one fall on average, for each of the targets, (2) more than from
the normal one, and (3) the fall of the loss in a row and the number of symmetries that break in it have a
correlation above 0.5, for each of the targets; by 95 % intervals over seeds, in (2) of the paired difference.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from plasticity import symmetry_distances
from plasticity.checks import require_integer, require_known, require_number
from plasticity.scripts.report.run_folders import Run
from plasticity.scripts.report.statistics import estimate, paired_estimate
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
    from plasticity.scripts.report.panels import Line, Panel

BROKEN = 0.5
"""Distance, in the unit of the weights, from which on the symmetry of two neurons counts as broken."""

CURVES: dict[str, Callable[[Tensor], Tensor]] = {
    "polynomial": lambda z: z + z**3 / 3,
    "sinusoid": lambda z: torch.sin(2 * z),
}
"""Functions of one number, by the name of the target; the number is a random projection of the input."""

TARGETS = ("teacher", *CURVES)


@dataclass(frozen=True, kw_only=True)
class FixedExamples(FigureStream):
    """Gaussian inputs, and labels with a mean square of 1; every step is on all of them.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    num_steps: int = 10_000
    """Steps of a run. It ends with the first row of metrics at or past it."""

    target: str = "teacher"
    """Function that gives the labels: teacher (of the student's architecture), polynomial or sinusoid."""

    input_dim: int = 8
    """Dimension of the inputs, which have a standard deviation of 1."""

    output_dim: int = 4
    """Dimension of the labels."""

    num_examples: int = 256
    """Number of examples."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_known("target", self.target, TARGETS)
        for name in ("input_dim", "output_dim", "num_examples"):
            require_integer(name, getattr(self, name), minimum=1)


@dataclass(frozen=True, kw_only=True)
class DescentTraining(NetworkTraining):
    """Settings of the student.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    optimizer: str = "sgd"
    """Name of the optimizer, which has the gradient of all examples."""

    learning_rate: float = 0.1
    """Learning rate."""

    num_hidden: int = 4
    """Number of hidden layers."""

    width: int = 32
    """Units of a hidden layer."""

    initial_scale: float = 0.15
    """Standard deviation of the initial weights, times the root of the fan-in."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("num_hidden", self.num_hidden, minimum=1)
        require_integer("width", self.width, minimum=2)
        require_number("initial_scale", self.initial_scale, minimum=0.0)


@dataclass(frozen=True, kw_only=True)
class SymmetryToSymmetryConfig(NetworkFigureConfig):
    """Configuration of one student."""

    experiment: ClassVar[str] = "plasticity.scripts.reproduce.symmetry_to_symmetry:Descents"

    stream: FixedExamples = field(default_factory=FixedExamples)
    """Examples that the student learns."""

    agent: DescentTraining = field(default_factory=DescentTraining)
    """Settings of the student."""

    tracking: FigureTracking = field(default_factory=lambda: FigureTracking(measure_every=100))
    """Measurements along the way."""


class Descents(NetworkExperiment):
    """Gradient descent of one student."""

    def make_network(self) -> nn.Module:
        """Return the student, and make its examples."""
        stream, agent = self.config.stream, self.config.agent
        hidden = [agent.width] * agent.num_hidden
        widths = (stream.input_dim, *hidden, stream.output_dim)
        draws = self.generator("data")
        size = (stream.num_examples, stream.input_dim)
        self.inputs = torch.randn(size, generator=draws, device=self.device)
        if stream.target == "teacher":
            labels = random_teacher(widths, draws, activation=torch.tanh)(self.inputs)
        else:
            projection = random_teacher((stream.input_dim, stream.output_dim), draws)
            labels = CURVES[stream.target](projection(self.inputs))
        self.labels = labels / labels.square().mean().sqrt()
        modules: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layer = nn.Linear(inputs, outputs, bias=False)
            nn.init.normal_(layer.weight, std=agent.initial_scale / inputs**0.5)
            modules += [layer, nn.Tanh()]
        return nn.Sequential(*modules[:-1])

    def loss(self) -> Tensor:
        """Return the mean squared error of all examples."""
        errors: Tensor = self.network(self.inputs) - self.labels
        return errors.square().mean()

    @torch.no_grad()
    def measure(self, run: int) -> dict[str, float | None]:
        """Return the loss, the share of broken symmetries, and each layer's distances in descending order."""
        layers = [each.sort(descending=True).values for each in self._distances()]
        row: dict[str, float | None] = {
            "loss": self.loss().item(),
            "broken_share": (torch.cat(layers) > BROKEN).float().mean().item(),
        }
        for layer, distances in enumerate(layers, start=1):
            for rank, distance in enumerate(distances.tolist(), start=1):
                row[f"distance_{layer}_{rank}"] = distance
        return row

    def _distances(self) -> Sequence[Tensor]:
        return list(symmetry_distances(self.network).values())


# ---- what is counted in the rows of a run ------------------------------------------------------------

PLATEAU = 0.02
"""Share of the loss that it falls by in a row of a plateau, at most."""

PLATEAU_ROWS = 3
"""Rows of a plateau, at least."""

FALL = 0.05
"""Share of the loss at the start by which it falls between plateaus, at least, for a fall."""


def falls(losses: Sequence[float]) -> int:
    """Count the falls of a loss that follow a plateau (`PLATEAU`, `PLATEAU_ROWS`, `FALL`).

    Args:
        losses: Losses, all above 0, at equal distances in time.
    """
    count, calm, top = 0, 0, None  # rows of the plateau so far; loss at the end of the last plateau
    for before, now in itertools.pairwise(losses):
        calm = calm + 1 if (before - now) / before < PLATEAU else 0
        if calm >= PLATEAU_ROWS:
            count += top is not None and top - now >= FALL * losses[0]
            top = now
    return count


def coincidence(losses: Sequence[float], broken: Sequence[float]) -> float | None:
    """Return the correlation of a row's fall of the loss and the symmetries that break in it.

    Args:
        losses: Losses by row.
        broken: Shares of broken symmetries by row.

    Returns:
        Pearson's correlation of the differences of rows; None if either does not change.
    """
    drops, gains = -np.diff(losses), np.diff(broken)
    if len(drops) < 2 or not drops.std() or not gains.std():
        return None
    return float(np.corrcoef(drops, gains)[0, 1])


def _values(run: Run, metric: str) -> list[float]:
    return [value for row in run.rows if (value := row.get(metric)) is not None]


def _falls(run: Run) -> float:
    return falls(_values(run, "loss"))


def _coincidence(run: Run) -> float | None:
    return coincidence(_values(run, "loss"), _values(run, "broken_share"))


def _first_share(run: Run) -> float:
    return _values(run, "broken_share")[0]


def of_runs(
    results: Results, line: str, measure: Callable[[Run], float | None]
) -> dict[int, float | None]:
    """Return what is measured in the rows of each run of an arm, by seed; None if it diverged."""
    runs = results.runs(line)
    return {run.seed: None if run.diverged_at is not None else measure(run) for run in runs}


# ---- the figure -------------------------------------------------------------------------------------

SCALES = {"small start": 0.15, "between": 0.4, "normal start": 1.0}
"""Scales of the initial weights."""

SMALL = {target: f"{target}, small start" for target in TARGETS}
"""Lines of the small start, by target."""

MAX_LOSS = 0.2
MAX_BROKEN = 0.05
MIN_COINCIDENCE = 0.5


@figure("symmetry-to-symmetry")
class SymmetryToSymmetry(Figure):
    """Loss, broken symmetries and all distances of neighbours over time."""

    paper = PARAMETER_SYMMETRY
    number = "Figs. 2 and A.2"
    claim = (
        "from a small start the loss falls in steps, each when a distance of neurons grows past the"
        " threshold: a symmetry is broken"
    )
    config = SymmetryToSymmetryConfig(benchmark="symmetry-to-symmetry")
    methods = ("none",)
    minutes = 3.0
    scales: ClassVar = {
        "small": {},
        "full": {
            "stream.num_steps": 100_000,
            "stream.num_examples": 2000,
            "agent.width": 64,
            "tracking.measure_every": 200,
        },
    }

    def arms(self, scale: str) -> Sequence[Arm]:
        """Return three starts with the teacher's labels, and the small one with the others."""
        chosen = [("teacher", start) for start in SCALES]
        chosen += [(target, "small start") for target in CURVES]
        return [
            Arm("none", {"target": target, "initial-scale": SCALES[start]}, f"{target}, {start}")
            for target, start in chosen
        ]

    def requirements(self, results: Results) -> Sequence[Check]:
        """Check that the students of a small start learn, and are symmetric at first."""
        checks = []
        for line in SMALL.values():
            loss = results.estimate("loss", line)
            checks.append(Check.below(f"{line}: the loss is below {MAX_LOSS}", loss, MAX_LOSS))
            text = f"{line}: at first, under {MAX_BROKEN:.0%} of the symmetries are broken"
            first = estimate(of_runs(results, line, _first_share).values())
            checks.append(Check.below(text, first, MAX_BROKEN))
        return checks

    def claims(self, results: Results) -> Sequence[Check]:
        """Check that the loss falls in steps, and that symmetries break in them."""
        found = {line: of_runs(results, line, _falls) for line in SMALL.values()}
        normal = of_runs(results, "teacher, normal start", _falls)
        steps = [
            Check.above(f"{line}: more than one fall of the loss", estimate(each.values()), 1.0)
            for line, each in found.items()
        ]
        more = Check.above(
            "teacher: more falls from the small start than from the normal one",
            paired_estimate(found[SMALL["teacher"]], normal),
            0.0,
        )
        together = [
            Check.above(
                f"{line}: falls and broken symmetries have a correlation above {MIN_COINCIDENCE}",
                estimate(of_runs(results, line, _coincidence).values()),
                MIN_COINCIDENCE,
            )
            for line in SMALL.values()
        ]
        return [*steps, more, *together]

    def sentence(self, results: Results) -> str:
        """Return the numbers of falls, and the correlations with broken symmetries."""
        parts = []
        for line in (*SMALL.values(), "teacher, normal start"):
            count = estimate(of_runs(results, line, _falls).values())
            part = f"{line}: {shown(count, '.2g')} falls of the loss after a plateau"
            if line in SMALL.values():
                together = estimate(of_runs(results, line, _coincidence).values())
                part += f", correlation with broken symmetries {shown(together, '.2f')}"
            parts.append(part)
        return "; ".join(parts)

    def panels(self, results: Results) -> Sequence[Sequence[Panel]]:
        """Return loss and broken share of all arms, and all distances of two students of the first seed."""
        from plasticity.scripts.report.panels import Panel  # noqa: PLC0415  (matplotlib)

        lines = [arm.name for arm, _ in results.arms]

        def over_steps(metric: str) -> tuple[Line, ...]:
            return tuple(
                results.line_over_steps(metric, line, style=style)
                for style, line in enumerate(lines)
            )

        every = [
            Panel(
                "All starts and targets", "mean squared error", over_steps("loss"), from_zero=True
            ),
            Panel(
                f"Distances over {BROKEN:g}",
                "broken symmetries (share)",
                over_steps("broken_share"),
            ),
        ]
        each = [
            Panel(
                f"One student: {line}",
                "distance of neighbours (unit of the weights)",
                all_distances(results, line, first_style=len(lines)),
                from_zero=True,
            )
            for line in (SMALL["teacher"], "teacher, normal start")
        ]
        return [every, each]


def all_distances(results: Results, line: str, *, first_style: int) -> tuple[Line, ...]:
    """Return a line for each layer of the first seed's run: the mean distance, and faintly each of them."""
    run = results.runs(line)[0]
    alone = Results([(arm, [run]) for arm, _ in results.select(line)])
    layers: dict[str, list[str]] = {}
    for name in run.metrics:
        if name.startswith("distance_"):
            layers.setdefault(name.split("_")[1], []).append(name)
    found = []
    for style, (layer, names) in enumerate(layers.items(), start=first_style):
        each = [alone.line_over_steps(name, line, style=style) for name in names]
        mean = np.mean([distance.mean for distance in each], axis=0)
        seeds = tuple(seed for distance in each for seed in distance.seeds)
        found.append(
            replace(
                each[0],
                label=f"hidden layer {layer} (mean, and each pair)",
                mean=mean,
                seeds=seeds,
                diverged=(False,) * len(seeds),
            )
        )
    return tuple(found)
