"""Figs. 3 (middle) and 9 of parameter symmetry: the dimension that a network uses, over its width.

A three-layer swish network without biases learns the identity on standard normal inputs. Gradient descent on
all of some fixed examples, with weight decay or without, is compared with SGD on fresh ones, whose labels are
noisy or not. The loss is the squared distance from the input, the error the same per dimension on 1024 other
inputs without noise. Either hidden layer's dimension is its rank that holds 99 % of the squared norm
(`approximate_rank`) on them; that of the second one, the latent representation, is judged.

Fresh examples alone are a source of noise only while the network errs, and the identity can be learnt well;
noisy labels keep it up, and it is they that are judged as noise.

The criterion, stated before the runs of the figure. At the largest width gradient descent with and without
decay, and SGD with noise, must learn (an error below 0.25), and without either the latent dimension must grow
by over 40 % from a quarter of the largest width to the largest. The claim holds if (1) with decay, and (2)
with noise, it grows by less than a quarter there, and (3, 4) by less than without either; by 95 % intervals
of the ratio of dimensions of the same seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from plasticity import approximate_rank, effective_rank
from plasticity.checks import require_integer, require_number
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

if TYPE_CHECKING:
    from plasticity.scripts.report.figures import Panel

NUM_PROBES = 1024


@dataclass(frozen=True, kw_only=True)
class Identity(FigureStream):
    """Standard normal inputs, each its own label.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    num_steps: int = 3000
    """Steps of a run. It ends with the first row of metrics at or past it."""

    input_dim: int = 8
    """Dimension of the inputs."""

    num_examples: int = 128
    """Examples of a step."""

    fresh: bool = False
    """Whether each step has examples of its own; otherwise all have the same."""

    label_noise: float = 0.0
    """Standard deviation of the noise on the labels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("input_dim", "num_examples"):
            require_integer(name, getattr(self, name), minimum=1)
        require_number("label_noise", self.label_noise, minimum=0.0)


@dataclass(frozen=True, kw_only=True)
class IdentityTraining(NetworkTraining):
    """Settings of the network.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    optimizer: str = "sgd"
    """Name of the optimizer."""

    learning_rate: float = 0.1
    """Learning rate."""

    width: int = 32
    """Units of each of the two hidden layers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("width", self.width, minimum=1)


@dataclass(frozen=True, kw_only=True)
class WidthSaturationConfig(NetworkFigureConfig):
    """Configuration of one network."""

    experiment: ClassVar[str] = "plasticity.scripts.reproduce.width_saturation:Identities"

    stream: Identity = field(default_factory=Identity)
    """Examples that the network learns."""

    agent: IdentityTraining = field(default_factory=IdentityTraining)
    """Settings of the network."""

    tracking: FigureTracking = field(default_factory=lambda: FigureTracking(measure_every=500))
    """Measurements along the way."""


class Identities(NetworkExperiment):
    """Network that learns the identity."""

    network: nn.Sequential
    """Network that is trained: three matrices with activations between them."""

    def make_network(self) -> nn.Module:
        """Return the network; and make the examples, if they are fixed, and those of the measurements."""
        stream, width = self.config.stream, self.config.agent.width
        self.probe = self._normal("probe", NUM_PROBES)[0]
        if not stream.fresh:
            self.examples = self._examples("examples")
        return nn.Sequential(
            nn.Linear(stream.input_dim, width, bias=False),
            nn.SiLU(),
            nn.Linear(width, width, bias=False),
            nn.SiLU(),
            nn.Linear(width, stream.input_dim, bias=False),
        )

    def _normal(self, name: str, rows: int, count: int = 1) -> Tensor:
        size = (count, rows, self.config.stream.input_dim)
        return torch.randn(size, generator=self.generator(name), device=self.device)

    def _examples(self, name: str) -> tuple[Tensor, Tensor]:
        """Return inputs and labels of a step. Shape of each: (examples, input_dim)."""
        stream = self.config.stream
        inputs, noise = self._normal(name, stream.num_examples, 2)
        return inputs, inputs + stream.label_noise * noise

    def loss(self) -> Tensor:
        """Return the mean squared distance from the labels."""
        fresh = self.config.stream.fresh
        inputs, labels = self._examples(f"batch/{self.steps}") if fresh else self.examples
        errors: Tensor = self.network(inputs) - labels
        return errors.square().sum(1).mean()

    @torch.no_grad()
    def measure(self, run: int) -> dict[str, float | None]:
        """Return the error, and ranks of both hidden layers; None once the network has diverged."""
        first = self.network[:2](self.probe)
        latent = self.network[2:4](first)
        error = (self.network[4](latent) - self.probe).square().mean().item()
        row: dict[str, float | None] = {"error": error}
        for name, features in (("first", first), ("latent", latent)):
            finite = bool(features.isfinite().all())
            row[f"{name}_dimension"] = approximate_rank(features).item() if finite else None
            row[f"{name}_effective_rank"] = effective_rank(features).item() if finite else None
        return row


WIDTHS = {"small": (4, 8, 16, 32, 64, 128), "full": (16, 32, 64, 128, 256, 512, 1024)}
"""Widths of the hidden layers, by scale."""

PLAIN, DECAY = "gradient descent", "gradient descent with decay"
NOISE, FRESH = "SGD, fresh data, noisy labels", "SGD, fresh data"
LINES: dict[str, tuple[str, dict[str, Any]]] = {
    PLAIN: ("none", {"fresh": False, "label-noise": 0.0}),
    DECAY: ("weight-decay", {"fresh": False, "label-noise": 0.0}),
    NOISE: ("none", {"fresh": True, "label-noise": 1.0}),
    FRESH: ("none", {"fresh": True, "label-noise": 0.0}),
}
"""Methods and settings of the lines."""

FRESH_BATCH = {"small": 4, "full": 16}
FRESH_RATE = {"small": 0.05, "full": 0.01}
"""Examples of a step, and learning rate, on fresh data, by scale."""

MAX_ERROR = 0.25
MIN_GROWTH, MAX_GROWTH = 1.4, 1.25
"""Ratios of the latent dimension at the largest width to that at a quarter of it."""


@figure("width-saturation")
class WidthSaturation(Figure):
    """Latent and first dimension, and error, over the width."""

    paper = PARAMETER_SYMMETRY
    number = "Figs. 3 (middle) and 9"
    claim = "with decay or noise the dimension saturates, whatever the width"
    config = WidthSaturationConfig(benchmark="width-saturation")
    methods = ("none", "weight-decay")
    mitigations: ClassVar = {"weight-decay": {"strength": 0.1}}
    minutes = 3.5
    scales: ClassVar = {
        "small": {},
        "full": {
            "stream.num_steps": 50_000,
            "stream.input_dim": 300,
            "stream.num_examples": 2000,
            "agent.learning_rate": 0.03,
            "tracking.measure_every": 5000,
        },
    }

    def arms(self, scale: str) -> Sequence[Arm]:
        """Return every line at every width."""
        arms = []
        for line, (method, chosen) in LINES.items():
            settings = dict(chosen)
            if settings["fresh"]:
                settings |= {
                    "num-examples": FRESH_BATCH[scale],
                    "learning-rate": FRESH_RATE[scale],
                }
            arms += [Arm(method, {"width": width, **settings}, line) for width in WIDTHS[scale]]
        return arms

    def requirements(self, results: Results) -> Sequence[Check]:
        """Check that all learn, and that a plain network uses the width that it has."""
        widest = {"width": results.values_of("width")[-1]}
        learnt = [
            Check.below(
                f"{line}: the error is below {MAX_ERROR} at width {widest['width']}",
                results.estimate("error", line, widest),
                MAX_ERROR,
            )
            for line in (PLAIN, DECAY, NOISE)
        ]
        grows = Check.above(
            f"{PLAIN}: the latent dimension grows by over {MIN_GROWTH - 1:.0%}",
            estimate(growth(results, PLAIN).values()),
            MIN_GROWTH,
        )
        return [*learnt, grows]

    def claims(self, results: Results) -> Sequence[Check]:
        """Check that the latent dimension saturates with decay, and with noise, and more than without."""
        plain = growth(results, PLAIN)
        found = {line: growth(results, line) for line in (DECAY, NOISE)}
        saturated = [
            Check.below(
                f"{line}: the latent dimension grows by less than {MAX_GROWTH - 1:.0%}",
                estimate(each.values()),
                MAX_GROWTH,
            )
            for line, each in found.items()
        ]
        less = [
            Check.below(f"{line}: less than for {PLAIN}", paired_estimate(each, plain), 0.0)
            for line, each in found.items()
        ]
        return [*saturated, *less]

    def sentence(self, results: Results) -> str:
        """Return the latent dimensions at the two widths that are compared."""
        quarter, widest = _compared(results)
        parts = []
        for line in LINES:
            dimensions = [
                shown(results.estimate("latent_dimension", line, {"width": width}))
                for width in (quarter, widest)
            ]
            parts.append(f"{line} {dimensions[0]} and {dimensions[1]}")
        return f"latent dimension at widths {quarter} and {widest}: {'; '.join(parts)}"

    def panels(self, results: Results) -> Sequence[Sequence[Panel]]:
        """Return both dimensions and the error over the width."""
        from plasticity.scripts.report.figures import Panel  # noqa: PLC0415  (matplotlib)

        contents = {
            "latent_dimension": ("Latent representation", "dimension (99 % of the squared norm)"),
            "first_dimension": ("First hidden layer", "dimension (99 % of the squared norm)"),
            "error": ("Identity, new inputs", "mean squared error (silence: 1)"),
        }
        return [
            [
                Panel(
                    title,
                    label,
                    tuple(
                        results.line_over("width", metric, line, style=style)
                        for style, line in enumerate(LINES)
                    ),
                    from_zero=True,
                    x_label="width of the hidden layers",
                    log_x=True,
                )
                for metric, (title, label) in contents.items()
            ]
        ]


def _compared(results: Results) -> tuple[int, int]:
    """Return a quarter of the largest width, and the largest."""
    widths = results.values_of("width")
    return widths[-3], widths[-1]


def growth(results: Results, line: str) -> dict[int, float | None]:
    """Return the ratio of the latent dimensions at the two widths that are compared, by seed."""
    narrow, wide = (
        results.final("latent_dimension", line, {"width": width}) for width in _compared(results)
    )
    return {
        seed: None if value is None or not (base := narrow.get(seed)) else value / base
        for seed, value in wide.items()
    }
