"""Fig. 3 (left) of syre: least squares, ridge and syre of a linear regression over the number of examples.

Nothing is trained: a run is one closed form. The loss is half the mean squared error of n examples, with
``A = XᵀX / n`` and ``b = Xᵀy / n``, plus ``γ / 2 |theta - theta_0|²``, so that the minimum is
``(A + γ)⁻¹ (b + γ theta_0)``: syre with its random anchor theta_0, ridge with 0, and for γ = 0 the least
squares of minimum norm. Inputs are standard normal, the teacher is a random unit vector, labels have noise.
The test error is exact: ``|theta - teacher|²`` plus the variance of the noise.

Syre's solution differs from ridge's by ``γ (A + γ)⁻¹ theta_0``. That is O(γ σ) where A is well above γ. With
fewer examples than inputs A has a null space, in which all of theta_0 stays, however small γ is: there the
difference is O(σ). Both are drawn, and only the former is part of the criterion.

The criterion, stated before the runs of the figure, is about logarithms: at n = d the error of least squares
has no finite mean. Least squares must have a peak at n = d: twice the error of d / 2 and of 2 d examples. The
claim holds if (1) the error of ridge and (2) that of syre are lower at d than at d / 2, (3) at d these two
differ by less than 10 %, and (4) at 2 d a tenth of γ brings syre nearer to ridge by a factor of at least
10^0.9; each by the 95 % interval of the difference, paired by seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from plasticity.checks import require_integer, require_number
from plasticity.mitigations import regularizer_settings
from plasticity.mitigations.base import Decay
from plasticity.optim.regularizers import regularized
from plasticity.scripts.reproduce.arms import Arm
from plasticity.scripts.reproduce.config import FigureConfig, FigureStream, FigureTracking
from plasticity.scripts.reproduce.experiment import FigureExperiment
from plasticity.scripts.reproduce.figure import SYRE, Figure, figure
from plasticity.scripts.reproduce.results import Results
from plasticity.scripts.reproduce.verdict import Check, shown
from plasticity.seeds import child_seed

if TYPE_CHECKING:
    from plasticity.scripts.report.panels import Panel


@dataclass(frozen=True, kw_only=True)
class LinearData(FigureStream):
    """Gaussian inputs with noisy labels of a linear teacher of norm 1.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    num_steps: int = 1
    """Steps of a run: one computes all."""

    input_dim: int = 64
    """Dimension d of the inputs, which have a standard deviation of 1."""

    num_examples: int = 64
    """Number n of training examples."""

    label_noise: float = 0.5
    """Standard deviation of the noise on the labels, which have one of 1 without it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("input_dim", "num_examples"):
            require_integer(name, getattr(self, name), minimum=1)
        require_number("label_noise", self.label_noise, minimum=0.0)


@dataclass(frozen=True, kw_only=True)
class RidgeConfig(FigureConfig):
    """Configuration of one regression.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, or the method has no closed form here.
    """

    experiment: ClassVar[str] = "plasticity.scripts.reproduce.ridge:Regressions"

    stream: LinearData = field(default_factory=LinearData)
    """Data of the regression."""

    tracking: FigureTracking = field(default_factory=lambda: FigureTracking(measure_every=1))
    """Measurements along the way."""

    def __post_init__(self) -> None:
        super().__post_init__()
        isotropic = regularizer_settings(self.method).anisotropy == 0
        if not isotropic or not all(isinstance(each, Decay) for each in self.method):
            raise ValueError(
                f"The figure {self.benchmark} has closed forms of decays alone, with anisotropy=0: leave"
                " other settings and mitigations out."
            )


def minimizer(inputs: Tensor, labels: Tensor, strength: float, anchor: Tensor) -> Tensor:
    """Return ``(A + γ)⁻¹ (b + γ anchor)``, with the pseudoinverse of A for γ = 0.

    Args:
        inputs: Shape: (examples, inputs).
        labels: Shape: (examples,).
        strength: γ, as torch's weight decay.
        anchor: Point that the weights decay toward. Shape: (inputs,).

    Returns:
        Shape: (inputs,).
    """
    if strength == 0:
        least: Tensor = torch.linalg.pinv(inputs) @ labels
        return least
    examples, dimension = inputs.shape
    matrix = inputs.T @ inputs / examples + strength * torch.eye(dimension, dtype=inputs.dtype)
    solved: Tensor = torch.linalg.solve(matrix, inputs.T @ labels / examples + strength * anchor)
    return solved


class Regressions(FigureExperiment):
    """Solution of one regression, in float64 on the CPU."""

    def begin(self) -> None:
        """Draw the teacher, the examples, and the anchor, as the optimizer of a linear layer has it."""
        stream = self.config.stream
        teacher = self._normal("teacher", stream.input_dim)
        self.teacher = teacher / teacher.norm()
        self.inputs = self._normal("inputs", stream.num_examples, stream.input_dim)
        noise = self._normal("noise", stream.num_examples)
        self.labels = self.inputs @ self.teacher + stream.label_noise * noise
        settings = regularizer_settings(self.config.method, child_seed(self.config.seed, "anchor"))
        torch.manual_seed(child_seed(self.config.seed, "weights"))
        layer = nn.Linear(stream.input_dim, 1, bias=False, dtype=torch.float64)
        optimizer = regularized(torch.optim.SGD)(
            layer.parameters(),
            regularizer=settings.regularizer,
            strength=settings.strength,
            sigma=settings.sigma,
            anchor_seed=settings.anchor_seed,
        )
        anchor = optimizer.anchor(layer.weight)
        self.strength = settings.strength
        self.anchor = torch.zeros_like(teacher) if anchor is None else anchor.flatten()

    def _normal(self, name: str, *shape: int) -> Tensor:
        draws = torch.Generator().manual_seed(child_seed(self.config.seed, name))
        return torch.randn(*shape, generator=draws, dtype=torch.float64)

    def step(self) -> None:
        """Solve the regression, and the one without the anchor."""
        problem = self.inputs, self.labels, self.strength
        self.solution = minimizer(*problem, self.anchor)
        self.unshifted = minimizer(*problem, torch.zeros_like(self.anchor))

    def measure(self, run: int) -> dict[str, float | None]:
        """Return the test error, and the distance from the solution without the anchor, as logarithms too."""
        noise = self.config.stream.label_noise
        error = ((self.solution - self.teacher).square().sum() + noise**2).item()
        distance = (self.solution - self.unshifted).norm().item()
        return {
            "test_error": error,
            "log10_test_error": math.log10(error) if error else None,
            "distance_from_ridge": distance,
            "log10_distance_from_ridge": math.log10(distance) if distance else None,
        }

    def state(self, run: int) -> dict[str, Any]:
        """Return nothing: a run is one step."""
        return {}

    def load(self, run: int, state: Mapping[str, Any]) -> None:
        """Solve again, if it was solved."""
        if self.steps:
            self.step()


DIMS = {"small": 64, "full": 512}
"""Dimension of the inputs, by scale."""

RATIOS = (0.25, 0.5, 0.75, 0.875, 1.0, 1.125, 1.5, 2.0, 4.0)
"""Numbers of examples, relative to the dimension."""

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
"""Strengths of syre at half and at twice as many examples as inputs."""

METHODS = {"least squares": "none", "ridge": "weight-decay", "syre": "syre"}
"""Methods by the names of their lines."""

PEAK = math.log10(2)
"""Height of the peak of least squares, as a logarithm, that makes one."""

SAME = math.log10(1.1)
"""Difference of errors, as a logarithm, that is none."""


@figure("ridge")
class Ridge(Figure):
    """Test error over the number of examples, and distance of syre from ridge over the strength."""

    paper = SYRE
    number = "Fig. 3 (left)"
    claim = (
        "syre is ridge to within O(gamma sigma) and removes the peak of the test error at n = d as"
        " ridge does"
    )
    minutes = 0.2
    num_seeds = 10  # each takes a tenth of a second
    config = RidgeConfig(benchmark="ridge")
    methods = ("none", "weight-decay", "syre")
    mitigations: ClassVar = {
        "weight-decay": {"strength": 0.1},
        "syre": {"strength": 0.1, "sigma": 0.1},
    }
    scales: ClassVar = {
        scale: {"stream.input_dim": dim, "stream.num_examples": dim} for scale, dim in DIMS.items()
    }

    def arms(self, scale: str) -> Sequence[Arm]:
        """Return an arm of each method for each number of examples, and syre's over its strength."""
        dim = DIMS[scale]
        arms = [
            Arm(method, {"num-examples": round(ratio * dim)}, line)
            for ratio in RATIOS
            for line, method in METHODS.items()
        ]
        for ratio, count in self._counts(dim).items():
            arms += [
                Arm(
                    "syre", {"num-examples": count, "syre.strength": strength}, f"syre, n = {ratio}"
                )
                for strength in STRENGTHS
            ]
        return arms

    def _counts(self, dim: int) -> dict[str, int]:
        return {"d / 2": dim // 2, "2 d": 2 * dim}

    def _settings(self, results: Results) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
        """Return the settings of half, once and twice as many examples as inputs."""
        counts = results.values_of("num-examples")
        half, same, twice = (counts[RATIOS.index(ratio)] for ratio in (0.5, 1.0, 2.0))
        return {"num-examples": half}, {"num-examples": same}, {"num-examples": twice}

    def requirements(self, results: Results) -> Sequence[Check]:
        """Check that least squares has a peak where there are as many examples as inputs."""
        half, same, twice = self._settings(results)
        return [
            Check.above(
                f"least squares: log10 of the error at d over that at {name} is above {PEAK:.2f}",
                results.difference("log10_test_error", "least squares", same, other),
                PEAK,
            )
            for name, other in (("d / 2", half), ("2 d", twice))
        ]

    def claims(self, results: Results) -> Sequence[Check]:
        """Check that neither has the peak, that both are equal there, and how their distance scales."""
        half, same, twice = self._settings(results)
        falls = [
            Check.below(
                f"{line}: log10 of the error is lower at d than at d / 2 examples",
                results.difference("log10_test_error", line, same, half),
                0.0,
            )
            for line in ("ridge", "syre")
        ]
        between = results.difference("log10_test_error", "syre", same, same, "ridge")
        weak, strong = ({**twice, "syre.strength": value} for value in STRENGTHS[:2])
        slope = results.difference("log10_distance_from_ridge", "syre, n = 2 d", strong, weak)
        return [
            *falls,
            Check.below("syre's error at d is at most 10 % above ridge's (log10)", between, SAME),
            Check.above("and at most 10 % below it (log10)", between, -SAME),
            Check.above(
                "a tenth of gamma brings syre nearer to ridge, by 10^0.9 or more", slope, 0.9
            ),
        ]

    def sentence(self, results: Results) -> str:
        """Return the errors at as many examples as inputs, and how the distance scales."""
        _, same, _ = self._settings(results)
        errors = ", ".join(
            f"{line} {shown(results.estimate('log10_test_error', line, same), '.2f')}"
            for line in METHODS
        )
        slopes = []
        for ratio, count in self._counts(same["num-examples"]).items():
            weak, strong = (
                {"num-examples": count, "syre.strength": value} for value in STRENGTHS[:2]
            )
            line = f"syre, n = {ratio}"
            slope = results.difference("log10_distance_from_ridge", line, strong, weak)
            slopes.append(f"by 10^{shown(slope, '.2f')} at n = {ratio}")
        return (
            f"log10 of the test error at n = d: {errors}; a tenth of gamma brings syre nearer to ridge"
            f" {' and '.join(slopes)}"
        )

    def panels(self, results: Results) -> Sequence[Sequence[Panel]]:
        """Return the error over the number of examples, and the distance over the strength."""
        from plasticity.scripts.report.panels import Panel  # noqa: PLC0415  (matplotlib)

        errors = Panel(
            title="Linear regression",
            label="log10 of the test error (labels: variance 1)",
            lines=tuple(
                results.line_over("num-examples", "log10_test_error", line, style=style)
                for style, line in enumerate(METHODS)
            ),
            x_label="training examples",
            log_x=True,
        )
        distances = Panel(
            title="Distance of syre from ridge",
            label="distance of the weights",
            lines=tuple(
                results.line_over(
                    "syre.strength", "distance_from_ridge", f"syre, n = {ratio}", style=style
                )
                for style, ratio in enumerate(("d / 2", "2 d"), start=3)
            ),
            x_label="strength (gamma)",
            log_x=True,
            log_y=True,
        )
        return [[errors, distances]]
