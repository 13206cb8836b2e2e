"""Options of `plasticity tune` and `plasticity compare`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from plasticity.checks import require_bool, require_integer, require_known, require_number
from plasticity.scripts.config.command_line import SweepOptions
from plasticity.scripts.config.seed_ranges import Seeds
from plasticity.scripts.report.metric_names import NEITHER_IS_BETTER, family_of

SearchKind = Literal["random", "grid", "optuna"]
"""Kinds of search by their name."""

TUNING_SEEDS = (1000, 1001, 1002)
"""Seeds of a search by default: none that a comparison begins with."""


@dataclass(frozen=True, kw_only=True)
class TuneOptions(SweepOptions):
    """Options of a search.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    grid: tuple[str, ...] = ()
    """Values to try, by option: learning-rate=0.001,0.01 syre.sigma=0.1,1. A setting of the agent is searched
    for every method, a mitigation's for the methods that use it. The word own: also each mitigation's own
    search, of what is not named. Nothing: as own."""

    budget: int = 30
    """Largest number of settings that each method may try, the same for all."""

    fraction: float = 0.1
    """Part of the benchmark that they are tried on, from its beginning, above 0; 1 for all of it."""

    search: SearchKind = "random"
    """Choice of settings where there are more than the budget. random: drawn without repetition, each value
    of a setting about as often as its others. grid: all of them, refused if they are more. optuna: proposed
    by the scores of others (the extra "tune")."""

    measure: str | None = None
    """Measure that settings are compared by, averaged over the tasks (or steps) that they are tried on. None:
    the return, the online accuracy or the online loss."""

    defaults: bool = False
    """Whether the best settings of single mitigations also become the benchmark's defaults, in this
    installation."""

    def __post_init__(self) -> None:
        require_integer("--budget", self.budget, minimum=1)
        if require_number("--fraction", self.fraction, minimum=0.0) == 0 or self.fraction > 1:
            raise ValueError(f"--fraction must be above 0 and at most 1, not {self.fraction}.")
        require_known("--search", self.search, get_args(SearchKind))
        require_bool("--defaults", self.defaults)
        if self.measure is not None and family_of(self.measure) in NEITHER_IS_BETTER:
            raise ValueError(
                f"--measure {self.measure}: neither more nor less of it is better. Name another one."
            )


@dataclass(frozen=True, kw_only=True)
class CompareOptions(TuneOptions):
    """Options of a comparison."""

    tuning_seeds: Seeds = TUNING_SEEDS
    """Seeds of the search, others than --seeds."""
