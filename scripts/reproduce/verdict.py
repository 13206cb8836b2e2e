"""Verdict on a claim: checks that were stated before the run, each with the figures that it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plasticity.scripts.report.statistics import Estimate

HOLDS = "holds"
"""All that the claim says is seen."""

PARTLY = "partly"
"""Some of it is seen."""

FAILS = "fails"
"""None of it is seen."""

NOT_SEEN = "not seen"
"""The plain arm did not reach what it must for the figure to mean anything."""

NOT_JUDGED = "not judged"
"""There are fewer seeds than the figure needs."""

OUTCOMES = (HOLDS, PARTLY, FAILS, NOT_SEEN, NOT_JUDGED)
"""Outcomes of a verdict."""

MIN_VALUES = 3
"""Seeds that a mean must have for a check of its interval, as others may have diverged."""


@dataclass(frozen=True)
class Check:
    """One condition, and whether the results meet it."""

    statement: str
    """The condition, in words."""

    passed: bool
    """Whether it is met."""

    figures: Mapping[str, float | None]
    """Numbers that decide it, by what they are; None for one that does not exist."""

    @classmethod
    def above(cls, statement: str, found: Estimate | None, bound: float) -> Check:
        """Return a check that the whole t interval of a mean is above a bound.

        Args:
            statement: The condition, in words.
            found: The mean with its interval. None, and one of fewer than `MIN_VALUES` seeds, do not pass.
            bound: The bound.
        """
        low = None if found is None or found.t is None else found.t[0]
        passed = _is_enough(found) and low is not None and low > bound
        return cls(statement, passed, _figures(found, bound))

    @classmethod
    def below(cls, statement: str, found: Estimate | None, bound: float) -> Check:
        """Return a check that the whole t interval of a mean is below a bound; as `above`."""
        high = None if found is None or found.t is None else found.t[1]
        passed = _is_enough(found) and high is not None and high < bound
        return cls(statement, passed, _figures(found, bound))

    def __str__(self) -> str:
        numbers = ", ".join(
            f"{name} {'none' if value is None else format(value, '.4g')}"
            for name, value in self.figures.items()
        )
        return f"{'yes' if self.passed else 'NO '}  {self.statement} ({numbers})"


def shown(found: Estimate | None, form: str = ".3g") -> str:
    """Format a mean with its t interval, "0.52 [0.5, 0.54]"; "no value" if every run diverged."""
    if found is None:
        return "no value"
    ends = "" if found.t is None else f" [{found.t[0]:{form}}, {found.t[1]:{form}}]"
    return f"{found.mean:{form}}{ends}"


def _is_enough(found: Estimate | None) -> bool:
    return found is not None and found.count >= MIN_VALUES


def _figures(found: Estimate | None, bound: float) -> dict[str, float | None]:
    low, high = (None, None) if found is None or found.t is None else found.t
    mean = None if found is None else found.mean
    return {"mean": mean, "low": low, "high": high, "bound": bound}


@dataclass(frozen=True)
class Verdict:
    """Outcome of a figure.

    The requirements come first: a claim about networks that have not learnt is neither right nor wrong.
    """

    requirements: Sequence[Check]
    """Conditions that the plain arm must meet for the figure to mean anything."""

    claims: Sequence[Check]
    """Conditions for "holds"."""

    enough_seeds: bool = True
    """Whether there are as many seeds as the figure needs."""

    @property
    def outcome(self) -> str:
        """One of `OUTCOMES`."""
        if not self.enough_seeds:
            return NOT_JUDGED
        if not all(each.passed for each in self.requirements):
            return NOT_SEEN
        passed = [each.passed for each in self.claims]
        if all(passed):
            return HOLDS
        return PARTLY if any(passed) else FAILS
