"""Numbers, differences and tables of docs/comparison.md as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from measures import Difference

from plasticity.scripts.report.aggregates import LEVEL
from plasticity.scripts.report.metric_names import is_better_lower, is_percent
from plasticity.scripts.report.statistics import estimate

MINUS = "\N{MINUS SIGN}"
NOT_DONE = "\N{EN DASH}"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def decimals(metric: str) -> int:
    """Return the number of decimals of a metric's means; differences have one more."""
    return 1 if is_percent(metric) or not is_better_lower(metric) else 2


def number(value: float, digits: int = 1, *, signed: bool = False) -> str:
    """Format a number, with a minus sign."""
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", MINUS)


def interval(found: Difference, digits: int) -> str:
    """Format a difference and its interval."""
    ends = f"[{number(found.low, digits)}, {number(found.high, digits)}]"
    return f"{number(found.mean, digits, signed=True)} {ends}"


def mean(values: Iterable[float | None], digits: int = 1, factor: float = 1.0) -> str:
    """Format a mean over seeds and half of its 95 % t interval."""
    found = estimate(values)
    if found is None or found.t is None:
        return NOT_DONE
    half = factor * (found.t[1] - found.t[0]) / 2
    return f"{number(factor * found.mean, digits)} ± {half:.{digits}f}"


def verdict(found: Difference, digits: int, *, lower: bool = False) -> str:
    """Return what the protocol says of a difference."""
    if found.p_value < LEVEL:
        return "better" if (found.mean < 0) == lower else "worse"
    worst = max(abs(found.low), abs(found.high))
    return f"no difference seen, one larger than {worst:.{digits}f} is excluded"
