"""Figure of a user's own, in a module outside of the package: random walks with a drift."""

import time
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from plasticity.scripts.reproduce.arms import grid
from plasticity.scripts.reproduce.config import FigureConfig, FigureStream, FigureTracking
from plasticity.scripts.reproduce.experiment import FigureExperiment
from plasticity.scripts.reproduce.figure import Figure, figure
from plasticity.scripts.reproduce.verdict import Check, shown
from plasticity.seeds import child_seed


@dataclass(frozen=True, kw_only=True)
class Walk(FigureStream):
    """Walk with a drift."""

    num_steps: int = 6
    """Steps of a walk."""

    drift: float = 0.0
    """Mean of a step."""

    noise: float = 1.0
    """Standard deviation of a step."""

    pause: float = 0.0
    """Seconds that a step takes."""


@dataclass(frozen=True, kw_only=True)
class WalkConfig(FigureConfig):
    """Configuration of one walk."""

    experiment = "walk_figure:Walks"

    stream: Walk = field(default_factory=Walk)
    """Walk with a drift."""

    tracking: FigureTracking = field(default_factory=lambda: FigureTracking(measure_every=3))
    """Measurements along the way."""


class Walks(FigureExperiment):
    """Walks, R of them as one tensor, each with a generator of its own."""

    def begin(self):
        self.place = torch.zeros(len(self.configs), dtype=torch.float64)
        self.draws = [
            torch.Generator().manual_seed(child_seed(each.seed, "draws")) for each in self.configs
        ]

    def step(self):
        time.sleep(self.config.stream.pause)
        noise = torch.stack([torch.randn((), generator=g, dtype=torch.float64) for g in self.draws])
        self.place += self.config.stream.drift + self.config.stream.noise * noise

    def measure(self, run):
        return {"place": self.place[run].item(), "nothing": None}

    def state(self, run):
        return {"place": self.place[run].clone(), "draws": self.draws[run].get_state()}

    def load(self, run, state):
        self.place[run] = state["place"]
        self.draws[run].set_state(state["draws"])

    @staticmethod
    def can_stack(config):
        return True


@figure("walks")
class WalkFigure(Figure):
    """Figure of walks: they go where the drift points."""

    paper = "A Paper (1905)"
    number = "Fig. 1"
    claim = "a walk goes where its drift points"
    minutes = 0.01
    num_seeds = 3
    config = WalkConfig(benchmark="walks")
    methods = ("none", "syre")
    mitigations: ClassVar = {"syre": {"sigma": 0.25}}
    scales: ClassVar = {"small": {}, "full": {"stream.num_steps": 12}}

    def arms(self, scale):
        drifts = (0.0, 10.0) if scale == "small" else (0.0, 10.0, 20.0)
        return grid(self.methods, {"drift": drifts})

    def requirements(self, results):
        start = results.estimate("place", "none", {"drift": 0.0})
        return [Check.below("without a drift, it stays below 50", start, 50.0)]

    def claims(self, results):
        moved = results.difference("place", "syre", {"drift": 10.0}, {"drift": 0.0})
        return [Check.above("with one, it is 50 farther", moved, 50.0)]

    def sentence(self, results):
        found = results.estimate("place", "syre", {"drift": 10.0})
        return f"walks end at {shown(found)}"

    def panels(self, results):
        from plasticity.scripts.report.panels import Panel

        lines = tuple(
            results.line_over("drift", "place", method, style=index)
            for index, method in enumerate(self.methods)
        )
        steps = results.line_over_steps("place", "none", {"drift": 10.0}, style=0)
        first = Panel("end", "place", lines, x_label="drift per step")
        return [[first, Panel("way", "place", (steps,))]]
