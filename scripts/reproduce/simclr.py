"""Table 1 of syre: SimCLR on CIFAR-100, rank and linear-probe accuracy before and after the head.

A ResNet-18 with a two-layer head learns without labels, from two augmented views of each image (Chen et al.,
2020), with NT-Xent at the head's outputs. The plain arm is weight decay; syre of the same strength replaces
it on the head alone, or everywhere. Rank (effective rank) and probe (a least-squares classifier, fitted to
the training images' features, on test images) are of images without augmentation.

The criterion, stated before the runs of the figure. Under weight decay the probe before the head must gain a
point over that of the untrained network, and the rank after the head must be lower than before it. The claim
holds if syre on the head (1) raises the rank after it, (2) raises the probe accuracy after it, and before it
lowers (3) the rank by no more than 10 %, and (4) the probe accuracy by no more than 2 points; each by the
95 % interval of the difference, paired by seed. Syre everywhere is reported, not judged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from plasticity import linear_probe_accuracy
from plasticity.agents.networks.resnet import ResidualNetwork
from plasticity.agents.self_supervised.nt_xent import nt_xent
from plasticity.checks import require_integer, require_known, require_number
from plasticity.metrics.ranks import effective_rank
from plasticity.optim.parameter_groups import parameter_groups
from plasticity.optim.settings import RegularizerSettings
from plasticity.scripts.report.statistics import paired_estimate
from plasticity.scripts.reproduce.arms import Arm
from plasticity.scripts.reproduce.config import FigureTracking
from plasticity.scripts.reproduce.figure import SYRE, Figure, figure
from plasticity.scripts.reproduce.residual import (
    ColourImages,
    ResNetExperiment,
    ResNetFigureConfig,
    ResNetTraining,
)
from plasticity.scripts.reproduce.results import Results
from plasticity.scripts.reproduce.verdict import Check, shown
from plasticity.tasks.datasets.augmentations import (
    random_colours,
    random_flip,
    random_resized_crop,
)

if TYPE_CHECKING:
    from plasticity.scripts.report.panels import Panel

PLAIN, HEAD, EVERYWHERE = "weight decay", "syre on the head", "syre everywhere"
"""Lines of the figure."""

STRENGTH, SIGMA = 1e-3, 1.0
"""Strength of both decays, and spread of syre's anchor."""

MIN_GAIN = 0.01
"""Probe accuracy before the head that the plain arm must gain by its training."""

SMALL_RANK, SMALL_PROBE = 0.1, 0.02
"""Losses that are none: of the rank, as a part of it, and of the accuracy."""


@dataclass(frozen=True, kw_only=True)
class SimCLRTraining(ResNetTraining):
    """Settings of the network and of its training.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    optimizer: str = "adam"
    """Name of the optimizer: sgd, adam or adamw."""

    learning_rate: float = 3e-3
    """Learning rate at the beginning."""

    momentum: float = 0.0
    """Momentum of sgd."""

    output_size: int = 64
    """Outputs of the head."""

    temperature: float = 0.5
    """Temperature of the loss."""

    decayed: str = "all"
    """Part that the method's decay acts on: all, or head; the rest then has weight decay of its strength."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("output_size", self.output_size, minimum=1)
        require_known("decayed", self.decayed, ("all", "head"))
        if require_number("temperature", self.temperature, minimum=0.0) == 0:
            raise ValueError("temperature must be above 0.")


@dataclass(frozen=True, kw_only=True)
class SimCLRConfig(ResNetFigureConfig):
    """Configuration of one network."""

    experiment: ClassVar[str] = "plasticity.scripts.reproduce.simclr:Contrasts"

    stream: ColourImages = field(default_factory=lambda: ColourImages(dataset="cifar100"))
    """Images that the network learns."""

    agent: SimCLRTraining = field(default_factory=SimCLRTraining)
    """Settings of the training."""

    tracking: FigureTracking = field(default_factory=lambda: FigureTracking(measure_every=140))
    """Measurements along the way."""


class Contrasts(ResNetExperiment):
    """ResNet with a head that learns from pairs of views."""

    def begin(self) -> None:
        """Make the network and its optimizer, and measure the probe before the head without training."""
        super().begin()
        self.network.eval()
        self.untrained = self.measured()["probe_before"]
        self.network.train()

    def make_network(self) -> ResidualNetwork:
        """Return a ResNet-18 whose output layer is a head of two layers."""
        network = super().make_network()
        size = cast(nn.Linear, network.output).in_features
        head = [nn.Linear(size, size), nn.ReLU(), nn.Linear(size, self.config.agent.output_size)]
        network.output = nn.Sequential(*head)
        return network

    def parameter_groups(self, settings: RegularizerSettings) -> Iterable[Any]:
        """Return the groups of the head, and those of the encoder."""
        if self.config.agent.decayed == "all":
            return super().parameter_groups(settings)
        encoder = nn.ModuleDict(
            {name: each for name, each in self.network.named_children() if name != "output"}
        )
        plain = replace(settings, regularizer="weight-decay")
        return [
            *parameter_groups(self.network.output, **asdict(settings)),
            *parameter_groups(encoder, **asdict(plain)),
        ]

    def loss(self) -> Tensor:
        """Return the NT-Xent loss of two views of the step's batch."""
        images = self.data.train_inputs[self.epochs.rows(self.steps)]
        draws = self.generator(f"augmentation/{self.steps}")
        views = self.view(images.repeat(2, 1, 1, 1), draws)
        first, second = self.network(views).chunk(2)
        return nt_xent(first, second, self.config.agent.temperature)

    @staticmethod
    def view(images: Tensor, draws: torch.Generator) -> Tensor:
        """Return an augmented view of each image: cropped, flipped, its colours changed."""
        return random_colours(random_flip(random_resized_crop(images, draws), draws), draws)

    def measure(self, run: int) -> dict[str, float | None]:
        """Return rank and probe accuracy of both layers, and what training gave the probe before the head."""
        measured = self.measured()
        return {**measured, "probe_gain": measured["probe_before"] - self.untrained}

    @torch.no_grad()
    def measured(self) -> dict[str, float]:
        """Return rank and probe accuracy of both layers, in evaluation mode."""
        data, measured = self.data, {}
        before = [self.features(inputs) for inputs in (data.train_inputs, data.test_inputs)]
        after = [self.network.output(features) for features in before]
        for name, (train, test) in (("before", before), ("after", after)):
            probe = linear_probe_accuracy(train, data.train_labels, test, data.test_labels)
            measured[f"rank_{name}"] = effective_rank(train).item()
            measured[f"probe_{name}"] = probe.item()
        return measured


@figure("simclr")
class SimCLR(Figure):
    """Rank and probe accuracy on both sides of the head."""

    paper = SYRE
    number = "Table 1"
    claim = (
        "syre takes the low rank from the head's output and its probe accuracy up; the layer before it stays"
        " as it was"
    )
    minutes = 17
    num_seeds = 3
    config = SimCLRConfig(benchmark="simclr")
    methods = ("weight-decay", "syre")
    mitigations: ClassVar = {
        "weight-decay": {"strength": STRENGTH},
        "syre": {"strength": STRENGTH, "sigma": SIGMA},
    }
    scales: ClassVar = {
        "small": {
            "stream.num_steps": 700,
            "stream.num_train": 8000,
            "stream.num_test": 2000,
            "stream.pool": 2,
            "agent.anneal_steps": 700,
        },
        "full": {
            "stream.num_steps": 39_000,
            "stream.batch_size": 256,
            "agent.anneal_steps": 39_000,
            "agent.width": 64,
            "agent.output_size": 128,
            "tracking.measure_every": 3900,
        },
    }

    def arms(self, scale: str) -> Sequence[Arm]:
        """Return weight decay, and syre on the head or everywhere."""
        return [
            Arm("weight-decay", {"decayed": "all"}, PLAIN),
            Arm("syre", {"decayed": "head"}, HEAD),
            Arm("syre", {"decayed": "all"}, EVERYWHERE),
        ]

    def requirements(self, results: Results) -> Sequence[Check]:
        """Check that the plain encoder has learnt, and that its head lowers the rank."""
        fall = paired_estimate(
            results.final("rank_after", PLAIN), results.final("rank_before", PLAIN)
        )
        return [
            Check.above(
                f"weight decay gains over {MIN_GAIN} of probe accuracy before the head by training",
                results.estimate("probe_gain", PLAIN),
                MIN_GAIN,
            ),
            Check.below("under weight decay, the head lowers the rank", fall, 0.0),
        ]

    def claims(self, results: Results) -> Sequence[Check]:
        """Check what syre on the head changes, and what it leaves."""
        plain = results.estimate("rank_before", PLAIN)
        allowed = -SMALL_RANK * (math.inf if plain is None else plain.mean)
        parts = (
            ("rank_after", 0.0, "syre on the head raises the rank after it"),
            ("probe_after", 0.0, "it raises the probe accuracy after the head"),
            ("rank_before", allowed, f"it lowers the rank before by no more than {SMALL_RANK:.0%}"),
            (
                "probe_before",
                -SMALL_PROBE,
                f"it lowers the probe accuracy before by no more than {SMALL_PROBE}",
            ),
        )
        return [
            Check.above(statement, results.difference(metric, HEAD, {}, {}, PLAIN), bound)
            for metric, bound, statement in parts
        ]

    def sentence(self, results: Results) -> str:
        """Return the table."""
        return "; ".join(
            f"{line}: rank {shown(results.estimate('rank_before', line))} before and"
            f" {shown(results.estimate('rank_after', line))} after the head, probe accuracy"
            f" {shown(results.estimate('probe_before', line))} and"
            f" {shown(results.estimate('probe_after', line))}"
            for line in (PLAIN, HEAD, EVERYWHERE)
        )

    def panels(self, results: Results) -> Sequence[Sequence[Panel]]:
        """Return rank and probe accuracy of both layers while training."""
        from plasticity.scripts.report.panels import Panel  # noqa: PLC0415  (matplotlib)

        return [
            [
                Panel(
                    title=f"{name} the head",
                    label=label,
                    lines=tuple(
                        results.line_over_steps(f"{metric}_{name}", line, style=style)
                        for style, line in enumerate((PLAIN, HEAD, EVERYWHERE), 1)
                    ),
                    from_zero=True,
                )
                for name in ("before", "after")
            ]
            for metric, label in (
                ("rank", "effective rank (directions)"),
                ("probe", "accuracy of a linear probe (share)"),
            )
        ]
