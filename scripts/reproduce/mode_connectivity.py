"""Fig. 13 of syre: loss and accuracy on the line between two networks that were trained from different seeds.

A run trains a pair of MLPs on MNIST (2 x 2 pixels averaged to one, the first 6000 images), which differ in
their initial weights and in the order of the data. At the end it measures networks on the line between them,
and once more after the second one's units were matched to the first one's (Ainsworth et al., 2023). The
barrier is the largest excess of the test loss over the straight line between the losses of the pair.

Syre has one anchor for both networks, and W-asymmetric networks (Lim et al., 2024) the same fixed weights.
Training begins at initial weights plus the anchor, as in the paper's `loss(theta + theta_0)`: `syre+shift`.
Controls are weight decay of the same strength, syre with an anchor for each network, and the same start
without syre's decay (`shift`), as both networks then begin near one point.

The criterion, stated before the runs of the figure. The plain arm, without decay, must have a test accuracy
over 90 % at both ends and a barrier over 0.3. The claim holds if the barrier of syre with one anchor is (1)
lower than without decay, (2) lower than under weight decay of the same strength, (3) lower than with an
anchor for each network, and (4) not higher than that of W-asymmetric networks by more than a tenth of the
plain one, and if (5) its networks have a test accuracy that is not lower by two points than under weight
decay of the same strength; each by the 95 % interval of the difference, paired by seed. Condition (6) was
added after a first run had met these five: lower than with the start at the anchor alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from plasticity import along_line, barrier, match_units, permute_units
from plasticity.agents.networks import MLP
from plasticity.checks import require_bool, require_integer
from plasticity.scripts.reproduce.arms import Arm
from plasticity.scripts.reproduce.config import FigureTracking
from plasticity.scripts.reproduce.experiment import FigureExperiment
from plasticity.scripts.reproduce.figure import SYRE, Figure, figure
from plasticity.scripts.reproduce.images import ImageData, ImageExperiment, ImageFigureConfig
from plasticity.scripts.reproduce.network_experiment import NetworkTraining
from plasticity.scripts.reproduce.results import Results
from plasticity.scripts.reproduce.verdict import Check, shown
from plasticity.seeds import child_seed

if TYPE_CHECKING:
    from plasticity.scripts.report.panels import Line, Panel

POINTS = 11
"""Networks that are measured on a line."""


@dataclass(frozen=True, kw_only=True)
class PairTraining(NetworkTraining):
    """Settings of the two networks and their training.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    width: int = 128
    """Units of each hidden layer."""

    depth: int = 2
    """Hidden layers."""

    shared_anchor: bool = True
    """Whether what a method draws for a network, an anchor or fixed weights, is the same for both."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("width", "depth"):
            require_integer(name, getattr(self, name), minimum=1)
        require_bool("shared_anchor", self.shared_anchor)


@dataclass(frozen=True, kw_only=True)
class ModeConnectivityConfig(ImageFigureConfig):
    """Configuration of one pair of networks."""

    experiment: ClassVar[str] = "plasticity.scripts.reproduce.mode_connectivity:Pair"

    stream: ImageData = field(
        default_factory=lambda: ImageData(num_steps=1500, num_train=6000, num_test=2000, pool=2)
    )
    """Images that the networks learn."""

    agent: PairTraining = field(default_factory=PairTraining)
    """Settings of the two networks and their training."""

    tracking: FigureTracking = field(default_factory=lambda: FigureTracking(measure_every=1500))
    """Measurements along the way."""


class Member(ImageExperiment):
    """Training of one network of a pair.

    Args:
        config: Configuration of the pair.
        index: Index in the pair, which the initial weights and the order of the data depend on.
    """

    def __init__(self, config: ModeConnectivityConfig, index: int) -> None:
        self.index = index
        if not config.agent.shared_anchor:
            config = replace(config, seed=child_seed(config.seed, f"anchors/{index}") % 2**31)
        super().__init__([config], stacked=False)

    def make_network(self) -> nn.Module:
        """Return an MLP."""
        training = self.config.agent
        torch.manual_seed(child_seed(self.config.seed, f"weights/{self.index}"))
        shape = tuple(self.data.train_inputs.shape[1:])
        return self.build(
            MLP(hidden=(training.width,) * training.depth), shape, self.data.num_classes
        )

    def generator(self, name: str) -> torch.Generator:
        """Return a generator of this network's own."""
        return super().generator(f"{self.index}/{name}")

    def evaluating(self) -> AbstractContextManager[None]:
        """Return a block in which the network is in evaluation mode."""
        return self._evaluating()

    def measure(self, run: int) -> dict[str, float | None]:
        """Return the training accuracy."""
        data = self.data
        return {"train_accuracy": self.accuracy(data.train_inputs, data.train_labels)}


class Pair(FigureExperiment):
    """Two networks that are trained side by side, and the line between them."""

    def begin(self) -> None:
        """Make both networks."""
        self.members = [Member(self.config, index) for index in (0, 1)]

    def step(self) -> None:
        """Do an optimizer step of each network."""
        for member in self.members:
            member.steps = self.steps
            member.step()

    @torch.no_grad()
    def measure(self, run: int) -> dict[str, float | None]:
        """Return loss and accuracy along the line, before and after matching, and the barriers."""
        with ExitStack() as block:
            for member in self.members:
                block.enter_context(member.evaluating())
            first, second = (member.network for member in self.members)
            images = self.members[0].data.test_inputs
            orders = match_units(first, second, images[:2])
            matched = permute_units(second, orders, images[:2])
            found: dict[str, float | None] = {
                "train_accuracy": min(
                    member.measure(run)["train_accuracy"] or 0.0 for member in self.members
                )
            }
            found |= self._line("", first, second) | self._line("matched_", first, matched)
        return found

    def _line(self, prefix: str, first: nn.Module, second: nn.Module) -> dict[str, float | None]:
        data = self.members[0].data

        def outputs(network: nn.Module) -> Tensor:
            found: Tensor = network(data.test_inputs)
            return found

        along = along_line(first, second, outputs, POINTS)
        losses = torch.stack([functional.cross_entropy(each, data.test_labels) for each in along])
        correct = [(each.argmax(1) == data.test_labels).float().mean() for each in along]
        found: dict[str, float | None] = {f"{prefix}barrier": barrier(losses).item()}
        for point in range(POINTS):
            found[f"{prefix}loss_{point}"] = losses[point].item()
            found[f"{prefix}accuracy_{point}"] = correct[point].item()
        return found

    def state(self, run: int) -> dict[str, Any]:
        """Return the states of both networks and their optimizers."""
        return {"members": [member.state(run) for member in self.members]}

    def load(self, run: int, state: Mapping[str, Any]) -> None:
        """Load the states of both networks and their optimizers."""
        for member, own in zip(self.members, state["members"], strict=True):
            member.load(run, own)

    require_runnable = staticmethod(ImageExperiment.require_runnable)
    modules = staticmethod(ImageExperiment.modules)


STRENGTH = 3e-3
"""Strength of weight decay and of syre."""

ONE_ANCHOR = "syre, one anchor"
TWO_ANCHORS = "syre, two anchors"
"""Lines of the pairs with an anchor for both networks, or for each."""

LINES = ("none", "weight-decay", ONE_ANCHOR, TWO_ANCHORS, "w-asymmetric", "shift")
"""Lines in the order of the legend."""

MIN_ACCURACY = 0.9
"""Test accuracy that the plain pair must exceed."""

MIN_BARRIER = 0.3
"""Barrier that the plain pair must exceed, in nats."""

COST = 0.02
"""Accuracy that is not much."""


@figure("mode-connectivity")
class ModeConnectivity(Figure):
    """Loss and accuracy along the line between two networks."""

    paper = SYRE
    number = "Fig. 13"
    claim = "with one anchor for both networks the barrier between them falls, about as for W-asymmetric ones"
    config = ModeConnectivityConfig(benchmark="mode-connectivity")
    methods = ("none", "weight-decay", "syre+shift", "w-asymmetric", "shift")
    minutes = 3.5
    mitigations: ClassVar = {
        "weight-decay": {"strength": STRENGTH},
        "syre": {"strength": STRENGTH, "sigma": 3.0},
        "shift": {"sigma": 3.0},
        "w-asymmetric": {"share": 0.25, "kappa": 0.25},
    }
    scales: ClassVar = {
        "small": {},
        "full": {
            "agent.width": 512,
            "agent.depth": 3,
            "stream.num_train": 60_000,
            "stream.num_test": 10_000,
            "stream.pool": 1,
            "stream.num_steps": 50_000,
            "tracking.measure_every": 50_000,
        },
    }

    def arms(self, scale: str) -> Sequence[Arm]:
        """Return an arm for each method, and syre with an anchor for each network."""
        others = [
            Arm(method, {"shared-anchor": True}) for method in self.methods if "syre" not in method
        ]
        return [
            *others,
            Arm("syre+shift", {"shared-anchor": True}, line=ONE_ANCHOR),
            Arm("syre+shift", {"shared-anchor": False}, line=TWO_ANCHORS),
        ]

    def requirements(self, results: Results) -> Sequence[Check]:
        """Check that the plain networks learn, and that there is a barrier between them."""
        learnt = [
            Check.above(
                f"none: the test accuracy of network {end + 1} is over {MIN_ACCURACY:.0%}",
                results.estimate(f"accuracy_{end * (POINTS - 1)}", "none"),
                MIN_ACCURACY,
            )
            for end in (0, 1)
        ]
        between = Check.above(
            f"none: the barrier is over {MIN_BARRIER}",
            results.estimate("barrier", "none"),
            MIN_BARRIER,
        )
        return [*learnt, between]

    def claims(self, results: Results) -> Sequence[Check]:
        """Check syre's barrier against those of the other arms, and its accuracy."""
        lower = [
            Check.below(
                f"{ONE_ANCHOR}: the barrier is lower than that of {line}",
                results.difference("barrier", ONE_ANCHOR, {}, {}, line),
                0.0,
            )
            for line in ("none", "weight-decay", TWO_ANCHORS)
        ]
        plain = results.estimate("barrier", "none")
        alike = Check.below(
            f"{ONE_ANCHOR}: it is not higher than that of w-asymmetric by over a tenth of the plain one",
            results.difference("barrier", ONE_ANCHOR, {}, {}, "w-asymmetric"),
            -math.inf if plain is None else 0.1 * plain.mean,
        )
        kept = Check.above(
            f"{ONE_ANCHOR}: the test accuracy is not lower than that of weight-decay by over {COST}",
            results.difference("accuracy_0", ONE_ANCHOR, {}, {}, "weight-decay"),
            -COST,
        )
        decay = Check.below(
            f"{ONE_ANCHOR}: the barrier is lower than that of the start at the anchor alone",
            results.difference("barrier", ONE_ANCHOR, {}, {}, "shift"),
            0.0,
        )
        return [*lower, alike, kept, decay]

    def sentence(self, results: Results) -> str:
        """Return the barriers of all arms."""
        barriers = [f"{line} {shown(results.estimate('barrier', line), '.2f')}" for line in LINES]
        matched = [
            f"{line} {shown(results.estimate('matched_barrier', line), '.2f')}"
            for line in ("none", "weight-decay")
        ]
        return f"barrier: {', '.join(barriers)}; after matching: {', '.join(matched)}"

    def panels(self, results: Results) -> Sequence[Sequence[Panel]]:
        """Return loss and accuracy along the line, and once more after matching."""
        from plasticity.scripts.report.panels import Panel  # noqa: PLC0415  (matplotlib)

        def lines(metric: str) -> tuple[Line, ...]:
            along = {point / (POINTS - 1): f"{metric}_{point}" for point in range(POINTS)}
            return tuple(
                results.line_over_metrics(along, name, style=style)
                for style, name in enumerate(LINES)
            )

        return [
            [
                Panel(
                    title=title,
                    label=label,
                    lines=lines(f"{prefix}{metric}"),
                    x_label="position on the line",
                )
                for metric, label in (
                    ("loss", "test loss (nats)"),
                    ("accuracy", "test accuracy (share)"),
                )
            ]
            for prefix, title in (("", "As trained"), ("matched_", "After matching"))
        ]
