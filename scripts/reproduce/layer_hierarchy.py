"""Figs. 4 and 14 of parameter symmetry: symmetries of neurons in each layer of a network, over training.

A five-layer swish network (four hidden layers) learns CIFAR-10 by SGD with momentum. The distance of each
neuron from its neighbour, in the order of their norms, is compared with the mean one of its layer at the
start: over three times that, a symmetry is broken; under half of it, neurons have come together. One line
starts at half the normal scale and has no decay: its symmetries can only break. The other starts at the
normal scale, and its weight decay can also restore them.

The criterion, stated before the runs of the figure. Without decay the accuracy on the training images must be
above 0.4. The claim holds if without decay the share of broken symmetries at the end is (1-3) lower in each
hidden layer than in the one before it, and (4) in the last than in the first, by 95 % intervals of the
difference, paired by seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from plasticity import symmetry_distances
from plasticity.agents.networks.mlp import MLP
from plasticity.checks import require_integer, require_number
from plasticity.scripts.report.statistics import paired_estimate
from plasticity.scripts.reproduce.arms import Arm
from plasticity.scripts.reproduce.config import FigureTracking
from plasticity.scripts.reproduce.figure import PARAMETER_SYMMETRY, Figure, figure
from plasticity.scripts.reproduce.images import ImageData, ImageExperiment, ImageFigureConfig
from plasticity.scripts.reproduce.network_experiment import NetworkTraining
from plasticity.scripts.reproduce.results import Results
from plasticity.scripts.reproduce.verdict import Check, shown

if TYPE_CHECKING:
    from plasticity.scripts.report.panels import Line, Panel

BROKEN, TOGETHER = 3.0, 0.5
"""Bounds of a distance in units of the mean one of its layer at the start: broken above, together below."""


@dataclass(frozen=True, kw_only=True)
class DeepTraining(NetworkTraining):
    """Settings of the network.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    optimizer: str = "sgd"
    """Name of the optimizer."""

    learning_rate: float = 0.1
    """Learning rate."""

    momentum: float = 0.9
    """Momentum of sgd."""

    num_hidden: int = 4
    """Number of hidden layers."""

    width: int = 64
    """Units of a hidden layer."""

    initial_scale: float = 0.5
    """Standard deviation of the initial weights, times the root of the fan-in."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("num_hidden", self.num_hidden, minimum=1)
        require_integer("width", self.width, minimum=2)
        require_number("initial_scale", self.initial_scale, minimum=0.0)


@dataclass(frozen=True, kw_only=True)
class LayerHierarchyConfig(ImageFigureConfig):
    """Configuration of one network."""

    experiment: ClassVar[str] = "plasticity.scripts.reproduce.layer_hierarchy:DeepNetworks"

    stream: ImageData = field(
        default_factory=lambda: ImageData(
            dataset="cifar10", num_steps=2000, num_train=5000, num_test=1000, pool=2, batch_size=64
        )
    )
    """Images that the network learns."""

    agent: DeepTraining = field(default_factory=DeepTraining)
    """Settings of the network."""

    tracking: FigureTracking = field(default_factory=lambda: FigureTracking(measure_every=100))
    """Measurements along the way."""


class DeepNetworks(ImageExperiment):
    """Deep network that learns images, whose pixels are centred."""

    def make_network(self) -> nn.Module:
        """Return the network, with normal weights and biases of 0; and centre the pixels."""
        agent, middle = self.config.agent, 0.5 * self.config.stream.input_scale
        self.data = replace(
            self.data,
            train_inputs=self.data.train_inputs - middle,
            test_inputs=self.data.test_inputs - middle,
        )
        settings = MLP(hidden=(agent.width,) * agent.num_hidden, activation="silu")
        shape = tuple(self.data.train_inputs.shape[1:])
        network = self.build(settings, shape, self.data.num_classes)
        layers = [each for each in network.modules() if isinstance(each, nn.Linear)]
        for layer in layers:
            nn.init.normal_(layer.weight, std=agent.initial_scale / layer.in_features**0.5)
            nn.init.zeros_(layer.bias)
        names = [f"fc{count}" for count in range(1, len(layers) + 1)]
        self.pairs = list(itertools.pairwise(names))
        self.initial = [each.mean() for each in self._distances(network)]
        return network

    def _distances(self, network: nn.Module) -> list[Tensor]:
        """Return the distances of each hidden layer's neurons."""
        return list(symmetry_distances(network, pairs=self.pairs).values())

    @torch.no_grad()
    def measure(self, run: int) -> dict[str, float | None]:
        """Return accuracies, and each hidden layer's distances, in units of the mean one at the start."""
        data = self.data
        row: dict[str, float | None] = {
            "train_accuracy": self.accuracy(data.train_inputs, data.train_labels),
            "test_accuracy": self.accuracy(data.test_inputs, data.test_labels),
        }
        found = zip(self._distances(self.network), self.initial, strict=True)
        for layer, (distances, initial) in enumerate(found, start=1):
            relative = distances / initial.to(distances.device)
            row[f"broken_{layer}"] = (relative > BROKEN).float().mean().item()
            row[f"together_{layer}"] = (relative < TOGETHER).float().mean().item()
            row[f"median_distance_{layer}"] = relative.median().item()
        return row


PLAIN, DECAY = "none, from half the scale", "weight decay, from the normal scale"
LINES: dict[str, tuple[str, dict[str, Any]]] = {
    PLAIN: ("none", {"initial-scale": 0.5}),
    DECAY: ("weight-decay", {"initial-scale": 1.0}),
}
"""Methods and settings of the lines."""

MIN_ACCURACY = 0.4


@figure("layer-hierarchy")
class LayerHierarchy(Figure):
    """Distances by layer over training, and shares of broken and restored symmetries at its end."""

    paper = PARAMETER_SYMMETRY
    number = "Figs. 4 and 14"
    claim = "later layers are more symmetric than earlier ones"
    config = LayerHierarchyConfig(benchmark="layer-hierarchy")
    methods = ("none", "weight-decay")
    mitigations: ClassVar = {"weight-decay": {"strength": 3e-3}}
    minutes = 1.0
    scales: ClassVar = {
        "small": {},
        "full": {
            "stream.num_steps": 39_000,
            "stream.num_train": None,
            "stream.num_test": None,
            "stream.pool": 1,
            "stream.batch_size": 128,
            "agent.width": 512,
            "tracking.measure_every": 390,
        },
    }

    def arms(self, scale: str) -> Sequence[Arm]:
        """Return one arm for each line."""
        return [Arm(method, settings, line) for line, (method, settings) in LINES.items()]

    def requirements(self, results: Results) -> Sequence[Check]:
        """Check that the network learns without decay."""
        return [
            Check.above(
                f"{PLAIN}: the accuracy on the training images is above {MIN_ACCURACY}",
                results.estimate("train_accuracy", PLAIN),
                MIN_ACCURACY,
            )
        ]

    def claims(self, results: Results) -> Sequence[Check]:
        """Check that fewer symmetries are broken in later layers."""
        layers = layers_of(results)
        pairs = [*itertools.pairwise(layers), (layers[0], layers[-1])]
        return [
            Check.below(
                f"hidden layer {later} has a smaller share of broken symmetries than layer {earlier}",
                paired_estimate(
                    results.final(f"broken_{later}", PLAIN),
                    results.final(f"broken_{earlier}", PLAIN),
                ),
                0.0,
            )
            for earlier, later in pairs
        ]

    def sentence(self, results: Results) -> str:
        """Return the shares by layer, and the accuracy."""

        def by_layer(metric: str, line: str) -> str:
            found = [results.estimate(f"{metric}_{each}", line) for each in layers_of(results)]
            return ", ".join(shown(each, ".2f") for each in found)

        accuracy = shown(results.estimate("train_accuracy", PLAIN), ".2f")
        return (
            f"broken symmetries by hidden layer without decay {by_layer('broken', PLAIN)}, at a training"
            f" accuracy of {accuracy}; neurons that decay brought together {by_layer('together', DECAY)}"
        )

    def panels(self, results: Results) -> Sequence[Sequence[Panel]]:
        """Return distances and broken symmetries of each layer over training, and the shares at its end."""
        from plasticity.scripts.report.panels import Panel  # noqa: PLC0415  (matplotlib)

        layers = layers_of(results)

        def over_steps(metric: str, line: str) -> tuple[Line, ...]:
            found = [
                results.line_over_steps(f"{metric}_{layer}", line, style=style)
                for style, layer in enumerate(layers)
            ]
            labels = [f"hidden layer {layer}" for layer in layers]
            return tuple(
                replace(line, label=label) for line, label in zip(found, labels, strict=True)
            )

        distance = "median distance (of the mean at the start)"
        share = "symmetries (share)"
        return [
            [
                Panel(
                    f"Distances: {line}",
                    distance,
                    over_steps("median_distance", line),
                    from_zero=True,
                )
                for line in LINES
            ],
            [
                Panel(
                    f"Broken: {PLAIN}", share, over_steps("broken", PLAIN), from_zero=True, top=1.0
                ),
                Panel(
                    f"Together: {DECAY}",
                    share,
                    over_steps("together", DECAY),
                    from_zero=True,
                    top=1.0,
                ),
            ],
        ]


def layers_of(results: Results) -> list[int]:
    """Return the numbers of the hidden layers, from the first, that the rows tell of."""
    metrics = results.arms[0][1][0].metrics
    return list(range(1, 1 + sum(name.startswith("broken_") for name in metrics)))
