"""Experiment of a kind that the program does not know: points of a curve, one after another.

It has neither tasks nor environment steps, no network and no benchmark. Whatever runs it, alone or stacked,
needs of an experiment only the protocol.
"""

import json
import random
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch

from plasticity.scripts.config.nested import with_values
from plasticity.scripts.config.run_config import RunConfig
from plasticity.scripts.run.folder import RunFolder
from plasticity.scripts.run.runner import Runner

STEPS = 4  # of a point
DIVERGING_SEED = 13  # its second point is not finite


@dataclass(frozen=True, kw_only=True)
class Curve:
    num_points: int = 4
    pause: float = 0.0  # seconds that a step takes
    padding: int = 0  # bytes that a checkpoint is longer


@dataclass(frozen=True, kw_only=True)
class CurveConfig(RunConfig):
    experiment: ClassVar[str] = "curve_runs:Points"
    axes: ClassVar[tuple[str, ...]] = ("point",)
    length_path: ClassVar[str] = "stream.num_points"

    benchmark: str = "curve"
    stream: Curve = field(default_factory=Curve)
    agent: None = None
    tracking: None = None
    rate: float = 0.1
    width: int = 3


class DrawsConfig(CurveConfig):
    experiment: ClassVar[str] = "curve_runs:Draws"


class Points:
    """Runs with points of four steps, in each of which a run computes its next number."""

    made: ClassVar = []

    def __init__(self, configs, *, stacked):
        assert stacked or len(configs) == 1
        self.configs, self.stacked = configs, stacked
        self.values = [each.seed for each in configs]
        self.steps = [0] * len(configs)
        self.ended = [False] * len(configs)
        self.closed = False
        Points.made.append(self)

    @property
    def progress(self):
        return max(self.steps) / STEPS  # one that diverged stays behind

    def is_finished(self, run):
        return self.ended[run] or self.steps[run] >= STEPS * self.configs[run].length

    def has_diverged(self, run):
        return self.ended[run]

    def next_rows(self, should_stop):
        live = [run for run, ended in enumerate(self.ended) if not ended]
        assert len({self.steps[run] for run in live}) == 1, "not at the same step"
        while not should_stop():
            time.sleep(self.configs[0].stream.pause)
            for run in live:
                self.values[run] = self.following(self.values[run])
                self.steps[run] += 1
            if self.steps[live[0]] % STEPS == 0:
                return {run: self.row(run) for run in live}
        return {}

    def following(self, value):
        return (value * 1103515245 + 12345) % 2**31

    def row(self, run):
        point = self.steps[run] // STEPS - 1
        self.ended[run] = self.configs[run].seed == DIVERGING_SEED and point == 1
        value, bad = self.values[run], float("nan")
        return {"point": point, "value": value, "bad": bad, "diverged": self.ended[run]}

    def take_episodes(self, run):
        return []

    def state_dicts(self, runs):
        return [
            {
                "value": self.values[run],
                "step": self.steps[run],
                "diverged": self.ended[run],
                "padding": torch.zeros(self.configs[run].stream.padding),
            }
            for run in runs
        ]

    def load_state_dict(self, run, state):
        self.values[run], self.steps[run] = state["value"], state["step"]

    def rehearse(self):
        self.next_rows(lambda: False)

    def close(self):
        self.closed = True

    @staticmethod
    def progress_of(state):
        return state["step"] / STEPS

    @staticmethod
    def is_finished_at(state, config):
        return state["diverged"] or state["step"] >= STEPS * config.length

    @staticmethod
    def can_stack(config):
        return True

    @staticmethod
    def can_be_alone(config):
        return config.width != 1  # such runs have a stacked backend only

    @staticmethod
    def require_runnable(configs):
        pass

    @staticmethod
    def modules(config):
        return []


class Draws(Points):
    """A single run whose numbers come from the global random generators of its process."""

    def __init__(self, configs, *, stacked):
        super().__init__(configs, stacked=stacked)
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        random.seed(0)

    def following(self, value):
        return value + torch.randn(()).item() + np.random.randn() + random.gauss(0, 1)  # noqa: NPY002


class Killed(BaseException):
    """Error that ends a run at once, as SIGKILL does, except that the folder's lock is released."""


def never():
    return False


def after(calls):
    """Return a should_stop that is False so many times, and then True."""
    count = iter(range(10**6))
    return lambda: next(count) >= calls


def curves(out, seeds, changes=None, kind=CurveConfig):
    """Return the folder of the run with each seed, and its configuration."""
    config = with_values(kind(), changes or {})
    return [(out / str(seed), with_values(config, {"seed": seed})) for seed in seeds]


def train(runs, should_stop=never, ends=None, **settings):
    """Train these runs together; record which end, and whether they diverged."""
    with ExitStack() as opened:
        folders = [opened.enter_context(RunFolder(path, config)) for path, config in runs]
        on_end = ({} if ends is None else ends).__setitem__
        return Runner(folders, on_end=on_end, **settings).execute(should_stop)


def run(path, should_stop=never, changes=None, kind=DrawsConfig):
    """Train a single run."""
    return train([(path, with_values(kind(), changes or {}))], should_stop)


def rows(path, name="metrics"):
    return [json.loads(line) for line in (path / f"{name}.jsonl").read_text().splitlines()]


def content(path):
    return (path / "metrics.jsonl").read_bytes()
