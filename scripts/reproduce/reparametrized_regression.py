"""Fig. 3 (middle) of syre: a linear regression with weights u ⊙ w, and the coordinates that die.

The model is ``(u ⊙ w)ᵀ x``, trained by SGD on half the squared error of fresh Gaussian inputs with labels of
a linear teacher. Each coordinate has a symmetry: the signs of u_i and w_i can be flipped together. Its
symmetric state, ``u_i = w_i = 0``, is one that gradients do not leave. With decay it is a minimum for each
coordinate whose teacher weight is smaller than the strength: a lasso. A coordinate counts as dead if its size
``√(u_i² + w_i²)`` is under a hundredth of the mean initial one, and as off if u_i w_i is under a hundredth of
the teacher's weight. The error is exact: the squared distance of u ⊙ w from the teacher's weights, of norm 1.
W-fix has the same weight decay; a coordinate is free of it if it holds neither u_i nor w_i.

The criterion, stated before the runs of the figure. The plain arm, without decay, must learn (an error under
0.02) with less than 2 % of the coordinates dead. The claim holds if at the end (1) weight decay has over half
of the coordinates dead, (2) W-fix over half of the free ones, (3) syre less than 5 %, and if under syre (4)
fewer coordinates are off than under weight decay and (5) than under W-fix; each by the 95 % interval,
differences paired by seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from plasticity.checks import require_integer, require_number
from plasticity.mitigations.fixed_weights import MASK
from plasticity.scripts.reproduce.arms import Arm
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
    from plasticity.scripts.report.panels import Panel

SMALL = 0.01
"""Share of the mean initial size under which a coordinate is dead; of the teacher's weight under which it is
off."""


@dataclass(frozen=True, kw_only=True)
class RegressionData(FigureStream):
    """Fresh Gaussian inputs for every step, labelled by a random linear function of norm 1, with noise.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    num_steps: int = 4000
    """Steps of a run, each on a batch of its own. It ends with the first row of metrics at or past it."""

    input_dim: int = 64
    """Dimension of the inputs, which have a standard deviation of 1."""

    label_noise: float = 0.1
    """Standard deviation of the noise on the labels, which have one of 1 without it."""

    batch_size: int = 32
    """Examples of a step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("input_dim", "batch_size"):
            require_integer(name, getattr(self, name), minimum=1)
        require_number("label_noise", self.label_noise, minimum=0.0)


@dataclass(frozen=True, kw_only=True)
class RegressionTraining(NetworkTraining):
    """Settings of the training."""

    optimizer: str = "sgd"
    """Name of the optimizer: sgd, adam or adamw."""

    learning_rate: float = 0.1
    """Learning rate."""


@dataclass(frozen=True, kw_only=True)
class RegressionConfig(NetworkFigureConfig):
    """Configuration of one regression."""

    experiment: ClassVar[str] = "plasticity.scripts.reproduce.reparametrized_regression:Regressions"

    stream: RegressionData = field(default_factory=RegressionData)
    """Data of the regression."""

    agent: RegressionTraining = field(default_factory=RegressionTraining)
    """Settings of the training."""

    tracking: FigureTracking = field(default_factory=lambda: FigureTracking(measure_every=200))
    """Measurements along the way."""


class ProductRegression(nn.Module):
    """Linear function with weights u ⊙ w, each factor the weight of a linear layer, initialized as such.

    Args:
        inputs: Size of an input.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.u = nn.Linear(inputs, 1, bias=False)
        self.w = nn.Linear(inputs, 1, bias=False)

    def weights(self) -> Tensor:
        """Return u ⊙ w. Shape: (inputs,)."""
        return (self.u.weight * self.w.weight).flatten()

    def sizes(self) -> Tensor:
        """Return the size √(u_i² + w_i²) of each coordinate. Shape: (inputs,)."""
        return torch.hypot(self.u.weight, self.w.weight).flatten()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs. Shape: (batch, inputs) to (batch,)."""
        return inputs @ self.weights()


class Regressions(NetworkExperiment):
    """Regression of one teacher."""

    network: ProductRegression

    def make_network(self) -> nn.Module:
        """Return the model, and draw the teacher."""
        inputs = self.config.stream.input_dim
        teacher = torch.randn(inputs, generator=self.generator("teacher"), device=self.device)
        self.teacher = teacher / teacher.norm()
        network = ProductRegression(inputs)
        self.scale = network.sizes().mean().item()
        return network

    def loss(self) -> Tensor:
        """Return half the mean squared error on a fresh batch."""
        stream, draws = self.config.stream, self.generator(f"batch/{self.steps}")
        shape = (stream.batch_size, stream.input_dim + 1)
        numbers = torch.randn(shape, generator=draws, device=self.device)
        inputs, noise = numbers[:, 1:], numbers[:, 0]
        errors: Tensor = self.network(inputs) - inputs @ self.teacher - stream.label_noise * noise
        return errors.square().mean() / 2

    @torch.no_grad()
    def measure(self, run: int) -> dict[str, float | None]:
        """Return the error without noise, and the shares of coordinates that are dead and off."""
        network = self.network
        dead = network.sizes() < SMALL * self.scale
        off = network.weights().abs() < SMALL * self.teacher.abs()
        free = torch.ones_like(dead)
        for name, held in network.named_buffers():
            if name.endswith(MASK):
                free &= ~held.flatten()
        return {
            "error": (network.weights() - self.teacher).square().sum().item(),
            "dead_share": dead.float().mean().item(),
            "dead_share_of_free": dead[free].float().mean().item() if free.any() else None,
            "off_share": off.float().mean().item(),
        }


LINES = {
    "none": "none",
    "weight decay": "weight-decay",
    "W-fix": "w-fix+weight-decay",
    "syre": "syre",
}
"""Methods by the names of their lines."""

LEARNT, ALIVE = 0.02, 0.02
"""Error and share of dead coordinates that the plain arm must be below."""

COLLAPSED, KEPT = 0.5, 0.05
"""Share of dead coordinates of a collapse, and of none."""


@figure("reparametrized-regression")
class ReparametrizedRegression(Figure):
    """Dead coordinates over time."""

    paper = SYRE
    number = "Fig. 3 (middle)"
    claim = "with weights u ⊙ w, weight decay and W-fix collapse, and syre does not"
    minutes = 1
    config = RegressionConfig(benchmark="reparametrized-regression")
    methods = tuple(LINES.values())
    mitigations: ClassVar = {
        "weight-decay": {"strength": 0.15},
        "w-fix": {"share": 0.1},
        "syre": {"strength": 0.15, "sigma": 0.3},
    }
    scales: ClassVar = {
        "small": {},
        "full": {
            "stream.num_steps": 50_000,
            "stream.input_dim": 1000,
            "stream.batch_size": 500,
            "tracking.measure_every": 1000,
        },
    }

    def arms(self, scale: str) -> Sequence[Arm]:
        """Return an arm for each method."""
        return [Arm(method, {}, line) for line, method in LINES.items()]

    def requirements(self, results: Results) -> Sequence[Check]:
        """Check that the model learns without decay, and that no coordinates die by themselves."""
        return [
            Check.below(
                f"without decay the error is below {LEARNT}",
                results.estimate("error", "none"),
                LEARNT,
            ),
            Check.below(
                f"without decay under {ALIVE:.0%} of the coordinates are dead",
                results.estimate("dead_share", "none"),
                ALIVE,
            ),
        ]

    def claims(self, results: Results) -> Sequence[Check]:
        """Check which methods collapse, by dead coordinates and by those that are off."""
        decayed = results.estimate("dead_share", "weight decay")
        fixed = results.estimate("dead_share_of_free", "W-fix")
        kept = results.estimate("dead_share", "syre")
        return [
            Check.above(f"weight decay: over {COLLAPSED:.0%} are dead", decayed, COLLAPSED),
            Check.above(f"W-fix: over {COLLAPSED:.0%} of the free ones are dead", fixed, COLLAPSED),
            Check.below(f"syre: under {KEPT:.0%} are dead", kept, KEPT),
            *(
                Check.below(
                    f"syre: a smaller share is off than under {line}",
                    results.difference("off_share", "syre", {}, {}, line),
                    0.0,
                )
                for line in ("weight decay", "W-fix")
            ),
        ]

    def sentence(self, results: Results) -> str:
        """Return the shares and the error of each method."""
        parts = []
        for line in LINES:
            judged, whose = (
                ("dead_share_of_free", " of the free ones")
                if line == "W-fix"
                else ("dead_share", "")
            )
            parts.append(
                f"{line}: {shown(results.estimate(judged, line), '.2f')}{whose} dead,"
                f" {shown(results.estimate('off_share', line), '.2f')} off, error"
                f" {shown(results.estimate('error', line), '.2f')}"
            )
        return "; ".join(parts)

    def panels(self, results: Results) -> Sequence[Sequence[Panel]]:
        """Return dead coordinates, those that are off, and the error, over the steps."""
        from plasticity.scripts.report.panels import Panel  # noqa: PLC0415  (matplotlib)

        labels = {
            "dead_share": ("Symmetric states", "dead coordinates (share)"),
            "off_share": ("Function", "coordinates that are off (share)"),
            "error": ("Error", "squared distance from the teacher"),
        }
        return [
            [
                Panel(
                    title=title,
                    label=label,
                    lines=tuple(
                        results.line_over_steps(metric, line, style=style)
                        for style, line in enumerate(LINES)
                    ),
                    from_zero=True,
                )
                for metric, (title, label) in labels.items()
            ]
        ]
