"""Measurement of one row: two sides that take turns, on a device, with some effort."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypedDict

from plasticity.scripts.bench.rows import Ratio, Row, ratio_row
from plasticity.scripts.bench.timing import Times, in_turns, synchronizer
from plasticity.tasks.vector.environments import available_cores

CORES = 2
"""Number of cores that the goals of parallel measurements apply to."""

Side = Callable[[], object]
"""Function that is timed; called without arguments."""

Requirement = Literal[
    "cuda", "pybullet", "pybullet_envs_gymnasium", "mujoco", "mujoco_warp", "envpool"
]
"""Package that a measurement needs, or a device."""

_REMEDIES: dict[Requirement, str] = {
    "cuda": "--device cuda",
    "pybullet": "pip install 'plasticity[bullet]', on Python 3.10 or 3.11",
    "pybullet_envs_gymnasium": "pip install pybullet_envs_gymnasium",
    "mujoco": "pip install 'plasticity[mujoco]'",
    "envpool": "pip install 'plasticity[bench]'",
    "mujoco_warp": "pip install 'plasticity[gpu]', on Python 3.11 or newer",
}


@dataclass(frozen=True)
class Effort:
    """Device and thoroughness of a measurement."""

    device: str = "cpu"
    """Device to measure on: cpu or cuda."""

    quick: bool = False
    """Small sizes and few rounds: checks that everything runs, but measures nothing."""

    rounds: int | None = None
    """Rounds of turns in each comparison; None: each measurement's own default."""

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device == "cuda"

    def size(self, full: int, quick: int) -> int:
        """Return the full size, or the quick one if `quick` is set."""
        return quick if self.quick else full

    def in_turns(
        self,
        contenders: Mapping[str, Side],
        *,
        rounds: int,
        warmup: int = 1,
        calls: int = 1,
        collect_garbage: bool = False,
    ) -> Times:
        """Time functions in turns, as `timing.in_turns`; `rounds` and `calls` are a full measurement's."""
        return in_turns(
            contenders,
            rounds=self.rounds or self.size(rounds, 2),
            warmup=warmup,
            calls=self.size(calls, 1),
            synchronize=synchronizer(self.device),
            collect_garbage=collect_garbage,
        )

    def lacks(self, requirement: Requirement) -> bool:
        """Return whether the device is another one, or the package is not installed."""
        if requirement == "cuda":
            return not self.on_gpu
        return importlib.util.find_spec(requirement) is None

    def unmeasured(
        self, case: str, unit: Ratio, goal: float | None, *requirements: Requirement
    ) -> Row | None:
        """Return a row without a value, whose note says what it needs; None if nothing is missing."""
        for each in requirements:
            if self.lacks(each):
                note = f"not measured: needs {_REMEDIES[each]}"
                return Row(case, None, unit, goal, note=note)
        return None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two functions to be timed in turns, and the goal of their ratio: one row of the table."""

    case: str
    """Description of what is measured, and against what."""

    unit: Literal["time", "speed"]
    """Ratio to compute, ours over theirs."""

    sides: Callable[[], tuple[Side, Side]]
    """Function that sets up ours and theirs, untimed."""

    rounds: int
    """Timed pairs of turns, by default."""

    calls: int = 1
    """Calls per turn: more for functions too short for the clock."""

    warmup: int = 1
    """Untimed pairs of turns that precede the timed ones."""

    goal: float | None = None
    """Goal of the row; None: shown without a goal."""

    note: str = ""
    """Note of the row."""

    steps: tuple[int, int] | None = None
    """Steps per call on both sides: the row then has seconds per step, and tells both rates."""

    needs: tuple[Requirement, ...] = ()
    """Packages or device without which the row has no value."""

    def measured(self, effort: Effort) -> Row:
        """Set up both sides, time them, and return the row."""
        if unmeasured := effort.unmeasured(self.case, self.unit, self.goal, *self.needs):
            return unmeasured
        ours, theirs = self.sides()
        times = effort.in_turns(
            {"ours": ours, "theirs": theirs},
            rounds=self.rounds,
            warmup=self.warmup,
            calls=self.calls,
        )
        return ratio_row(
            self.case,
            self.unit,
            times["ours"],
            times["theirs"],
            self.goal,
            note=self.note,
            steps=self.steps,
        )


def both(ours: Callable[[], Side], theirs: Callable[[], Side]) -> Callable[[], tuple[Side, Side]]:
    """Return the set-up of two sides that have nothing in common from the set-ups of each."""
    return lambda: (ours(), theirs())


class Goal(TypedDict):
    """Goal of a row, and the note that says why it has none."""

    goal: float | None
    note: str


def goal_if(applies: bool, goal: float, otherwise: str) -> Goal:
    """Return a goal where it applies, and otherwise a note that says why there is none."""
    if applies:
        return Goal(goal=goal, note="")
    return Goal(goal=None, note=f"no goal: {otherwise}")


def goal_on_cores(goal: float) -> Goal:
    """Return a goal that applies to a process with two cores."""
    cores = available_cores()
    remedy = f"it applies to {CORES} cores (taskset -c 0,1), not to {cores}"
    return goal_if(cores == CORES, goal, remedy)
