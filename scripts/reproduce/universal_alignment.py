"""Fig. 6, Fig. 15 and Theorem 2 of parameter symmetry: layers of two networks that align, or do not.

Two deep networks without biases learn the same noisy linear map from fresh Gaussian inputs. The second sees
the inputs times an invertible matrix of its own, and both start from weights of their own. The alignment of
two layers is the cosine of their Gram matrices over the same 512 samples (`kernel_alignment`): 1 for layers
that are equal up to a rotation. Of every pair of a layer of one network and a layer of the other, only hidden
layers are compared, since outputs agree once both networks have learnt.

Gradient noise chooses among the solutions, which a symmetry of the weights connects (each layer can be
multiplied by a matrix, and the next by its inverse): the one that it prefers has representations that depend
on the map alone. A random point, as syre has it, chooses others. A decay of the same strength without a point
shows which part of syre's effect the decay has.

The criterion, stated before the runs of the figure. Plain training of linear networks must reach an error
below 10 % of the labels' mean square with either optimizer. The claim holds if with SGD, and with Adam, (1)
the mean alignment of all pairs of hidden layers is above 0.95, (2) that under syre is lower, (3) and lower
than under weight decay of the same strength; by 95 % intervals, (2) and (3) of differences paired by seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from plasticity import kernel_alignment
from plasticity.checks import require_integer, require_known, require_number
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
    from plasticity.scripts.report.figures import Line, Panel

ACTIVATIONS: dict[str, type[nn.Module]] = {"linear": nn.Identity, "tanh": nn.Tanh}
"""Activations of the two networks by name."""

NUM_PROBES = 512


@dataclass(frozen=True, kw_only=True)
class TwoViews(FigureStream):
    """Fresh Gaussian inputs for every step, seen by two networks, and their labels by a random linear map.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    num_steps: int = 4000
    """Steps of a run, each on a batch of its own. It ends with the first row of metrics at or past it."""

    input_dim: int = 6
    """Dimension of the inputs, which have a standard deviation of 1, and of the labels."""

    stretch: float = 2.0
    """Largest factor by which the second network's view stretches a direction; 1 / it is the smallest."""

    label_noise: float = 0.5
    """Standard deviation of the noise on the labels, which have about 1."""

    batch_size: int = 8
    """Examples of a step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("input_dim", "batch_size"):
            require_integer(name, getattr(self, name), minimum=1)
        require_number("stretch", self.stretch, minimum=1.0)
        require_number("label_noise", self.label_noise, minimum=0.0)


@dataclass(frozen=True, kw_only=True)
class PairTraining(NetworkTraining):
    """Settings of the two networks.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    activation: str = "linear"
    """Activation of the hidden layers: linear (none) or tanh."""

    num_hidden: int = 3
    """Number of hidden layers."""

    width: int = 12
    """Units of a hidden layer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_known("activation", self.activation, ACTIVATIONS)
        for name in ("num_hidden", "width"):
            require_integer(name, getattr(self, name), minimum=1)


@dataclass(frozen=True, kw_only=True)
class UniversalAlignmentConfig(NetworkFigureConfig):
    """Configuration of one pair of networks."""

    experiment: ClassVar[str] = "plasticity.scripts.reproduce.universal_alignment:Pairs"

    stream: TwoViews = field(default_factory=TwoViews)
    """Data that both networks learn."""

    agent: PairTraining = field(default_factory=PairTraining)
    """Settings of the two networks."""

    tracking: FigureTracking = field(default_factory=lambda: FigureTracking(measure_every=250))
    """Measurements along the way."""


def invertible_matrix(size: int, stretch: float, generator: torch.Generator) -> Tensor:
    """Draw a matrix with random singular directions, and singular values from 1 / stretch to stretch.

    Args:
        size: Rows and columns.
        stretch: Largest possible singular value, at least 1; their logarithms are uniform.
        generator: Generator of the draws, on the matrix's device.
    """
    gaussian = torch.randn(2, size, size, generator=generator, device=generator.device)
    left, right = torch.linalg.qr(gaussian).Q
    uniform = torch.rand(size, generator=generator, device=generator.device)
    matrix: Tensor = (left * stretch ** (2 * uniform - 1)) @ right
    return matrix


class Pairs(NetworkExperiment):
    """Two networks that learn the same map from two views of its inputs."""

    def make_network(self) -> nn.Module:
        """Return both networks, without biases; and make the map and the second view."""
        stream, dim = self.config.stream, self.config.stream.input_dim
        draws = self.generator("data")
        self.teacher = random_teacher((dim, dim), draws)
        self.view = invertible_matrix(dim, stream.stretch, draws)
        self.probe = torch.randn(NUM_PROBES, dim, generator=draws, device=self.device)
        self.pair = [self._one_network() for _ in range(2)]
        return nn.ModuleList(self.pair)

    def _one_network(self) -> nn.Sequential:
        """Return a network whose modules are its layers, each with its activation."""
        stream, agent = self.config.stream, self.config.agent
        widths = (stream.input_dim, *[agent.width] * agent.num_hidden)
        hidden = [
            nn.Sequential(nn.Linear(*sizes, bias=False), ACTIVATIONS[agent.activation]())
            for sizes in itertools.pairwise(widths)
        ]
        return nn.Sequential(*hidden, nn.Linear(agent.width, stream.input_dim, bias=False))

    def _errors(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean squared error of each network. Shape: (2,)."""
        views = (inputs, inputs @ self.view.T)
        errors = [net(view) - labels for net, view in zip(self.pair, views, strict=True)]
        return torch.stack(errors).square().mean((1, 2))

    def loss(self) -> Tensor:
        """Return the sum of both networks' losses on a fresh batch; each has gradients of its own alone."""
        stream, draws = self.config.stream, self.generator(f"batch/{self.steps}")
        size = (2, stream.batch_size, stream.input_dim)
        inputs, noise = torch.randn(size, generator=draws, device=self.device)
        return self._errors(inputs, self.teacher(inputs) + stream.label_noise * noise).sum()

    @torch.no_grad()
    def measure(self, run: int) -> dict[str, float | None]:
        """Return the larger error of the two without noise, and alignments of hidden layers."""
        first = hidden_features(self.pair[0], self.probe)
        second = hidden_features(self.pair[1], self.probe @ self.view.T)
        pairs = torch.stack([torch.stack([kernel_alignment(f, g) for g in second]) for f in first])
        labels = self.teacher(self.probe)
        error = self._errors(self.probe, labels).max() / labels.square().mean()
        row: dict[str, float | None] = {
            "error": error.item(),
            "alignment": pairs.mean().item(),
            "lowest_alignment": pairs.min().item(),
        }
        for index, features in enumerate(first):
            row[f"alignment_{index + 1}"] = pairs[index, index].item()
            row[f"data_alignment_{index + 1}"] = kernel_alignment(self.probe, features).item()
        return row


def hidden_features(network: nn.Sequential, inputs: Tensor) -> list[Tensor]:
    """Return the outputs of all modules of a network but the last. Shape of each: (batch, width)."""
    found, features = [], inputs
    for layer in list(network)[:-1]:
        features = layer(features)
        found.append(features)
    return found


LEARNING_RATES = {"sgd": 0.1, "adam": 0.01}
"""Learning rates by optimizer."""

METHODS = ("none", "weight-decay", "syre")

MAX_ERROR = 0.1
"""Error that plain training must be below, as a share of the labels' mean square."""

ALIGNED = 0.95
"""Mean alignment that counts as perfect: gradient noise does not vanish, and moves every layer."""


def _line(method: str, optimizer: str) -> str:
    return f"{method}, {optimizer}"


@figure("universal-alignment")
class UniversalAlignment(Figure):
    """Alignment of hidden layers over steps, by method and optimizer; by layer; and with the data."""

    paper = PARAMETER_SYMMETRY
    number = "Figs. 6 and 15, Theorem 2"
    claim = (
        "two linear networks align perfectly, layer by layer, in spite of different data; with syre they do"
        " not have to"
    )
    config = UniversalAlignmentConfig(benchmark="universal-alignment")
    methods = METHODS
    minutes = 2.5
    mitigations: ClassVar = {
        "weight-decay": {"strength": 0.03},
        "syre": {"strength": 0.03, "sigma": 1.0},
    }
    scales: ClassVar = {
        "small": {},
        "full": {
            "stream.input_dim": 100,
            "stream.num_steps": 200_000,
            "stream.batch_size": 32,
            "agent.num_hidden": 4,
            "agent.width": 200,
            "tracking.measure_every": 2000,
        },
    }

    def arms(self, scale: str) -> Sequence[Arm]:
        """Return linear networks with every method, and tanh networks without any, by either optimizer."""
        arms = []
        for (optimizer, rate), method in itertools.product(LEARNING_RATES.items(), METHODS):
            for activation in ("linear", "tanh") if method == "none" else ("linear",):
                settings = {
                    "activation": activation,
                    "optimizer": optimizer,
                    "learning-rate": rate,
                }
                arms.append(Arm(method, settings, _line(method, optimizer)))
        return arms

    def requirements(self, results: Results) -> Sequence[Check]:
        """Check that both linear networks learn the map without a method."""
        return [
            Check.below(
                f"{optimizer}: both linear networks learn, each with an error below {MAX_ERROR}",
                results.estimate("error", _line("none", optimizer), {"activation": "linear"}),
                MAX_ERROR,
            )
            for optimizer in LEARNING_RATES
        ]

    def claims(self, results: Results) -> Sequence[Check]:
        """Check that linear networks align without a method, and less with syre."""
        linear = {"activation": "linear"}
        checks = []
        for optimizer in LEARNING_RATES:
            plain = results.estimate("alignment", _line("none", optimizer), linear)
            text = f"{optimizer}: the mean alignment of hidden layers is above {ALIGNED}"
            checks.append(Check.above(text, plain, ALIGNED))
            for other in ("none", "weight-decay"):
                found = results.difference(
                    "alignment", _line("syre", optimizer), linear, linear, _line(other, optimizer)
                )
                text = f"{optimizer}: it is lower with syre than with {other}"
                checks.append(Check.below(text, found, 0.0))
        return checks

    def sentence(self, results: Results) -> str:
        """Return the alignments at the end, by optimizer and method, and those of tanh networks."""
        parts = []
        for optimizer in LEARNING_RATES:
            found = [
                f"{method}"
                f" {shown(results.estimate('alignment', _line(method, optimizer), {'activation': 'linear'}))}"
                for method in METHODS
            ]
            tanh = results.estimate("alignment", _line("none", optimizer), {"activation": "tanh"})
            parts.append(f"{optimizer}: {', '.join(found)}, tanh networks {shown(tanh)}")
        return f"mean alignment of all pairs of hidden layers with {'; '.join(parts)}"

    def panels(self, results: Results) -> Sequence[Sequence[Panel]]:
        """Return the alignment over steps, and that of each layer with the other network and the inputs."""
        from plasticity.scripts.report.figures import Panel  # noqa: PLC0415  (matplotlib)

        def over_steps(activation: str, methods: Sequence[str]) -> tuple[Line, ...]:
            lines = enumerate(itertools.product(methods, LEARNING_RATES))
            chosen = {"activation": activation}
            return tuple(
                results.line_over_steps("alignment", _line(*line), chosen, style=style)
                for style, line in lines
            )

        def by_layer(metric: str) -> tuple[Line, ...]:
            layers = range(1, _num_layers(results) + 1)
            names: dict[float, str] = {layer: f"{metric}_{layer}" for layer in layers}
            lines = enumerate(itertools.product(METHODS, LEARNING_RATES))
            chosen = {"activation": "linear"}
            return tuple(
                results.line_over_metrics(names, _line(*line), chosen, style=style)
                for style, line in lines
            )

        label, layer = "alignment (1: equal up to a rotation)", "hidden layer (from the inputs)"
        shared: dict[str, Any] = {"label": label, "top": 1.0, "from_zero": True}
        return [
            [
                Panel(
                    "Linear: all pairs of hidden layers",
                    lines=over_steps("linear", METHODS),
                    **shared,
                ),
                Panel(
                    "tanh: all pairs of hidden layers",
                    lines=over_steps("tanh", METHODS[:1]),
                    **shared,
                ),
            ],
            [
                Panel(
                    "Linear: with the other's layer",
                    lines=by_layer("alignment"),
                    x_label=layer,
                    **shared,
                ),
                Panel(
                    "Linear: with the inputs",
                    lines=by_layer("data_alignment"),
                    x_label=layer,
                    **shared,
                ),
            ],
        ]


def _num_layers(results: Results) -> int:
    """Return the number of hidden layers that the rows tell of."""
    metrics = results.arms[0][1][0].metrics
    return sum(name.startswith("data_alignment_") for name in metrics)
