"""Headline of a report: what came out, and how sure it is, in two sentences."""

from __future__ import annotations

from plasticity.scripts.report.aggregates import least_p_value
from plasticity.scripts.report.arms import Arm, shared_positions, values_at
from plasticity.scripts.report.comparison import Comparison
from plasticity.scripts.report.metric_names import in_words, is_better_lower, is_percent
from plasticity.scripts.report.significance import Evidence, evidence, p_text
from plasticity.scripts.report.statistics import Estimate, estimate
from plasticity.scripts.report.tables import format_values

LEVEL = 0.05
"""Level of significance, after Holm's correction."""


def headline(comparison: Comparison) -> str:
    """Return two sentences: which method is best by the headline metric, and how sure that is."""
    ranked = _ranked(comparison)
    if not ranked:
        return (
            f"No method has a value of {in_words(comparison.headline)} that all of them share yet."
            " Continue the runs to compare them."
        )
    return f"{_outcome(comparison, ranked)} {_sureness(comparison, ranked)}"


def _ranked(comparison: Comparison) -> list[tuple[Arm, Estimate]]:
    """Return the methods from the best to the worst, at the positions that all of them share."""
    metric, moment = comparison.headline, comparison.moment
    where = shared_positions(comparison.chosen, metric)
    means = []
    for arm in comparison.chosen:
        found = estimate(values_at(arm, metric, moment, where).values(), comparison.confidence)
        if found is not None:
            means.append((arm, found))
    sign = 1.0 if is_better_lower(metric) else -1.0
    return sorted(means, key=lambda pair: sign * pair[1].mean)


def _outcome(comparison: Comparison, ranked: list[tuple[Arm, Estimate]]) -> str:
    metric, axis = comparison.headline, comparison.axis
    (first, best), *others = ranked
    when = f"averaged over the {axis.name}s"
    if comparison.moment == "last":
        last = shared_positions(comparison.chosen, metric)[-1]
        when = f"at the last {axis.name} ({axis.text(last)})"
    if not others:
        return f"{first.label} has {_with_name(best, metric)} {when}."
    which = "lowest" if is_better_lower(metric) else "highest"
    baseline = comparison.baseline
    known = [pair for pair in others if pair[0] is baseline]
    second, other = known[0] if known else others[0]
    name = f"{second.label}, the baseline," if second is baseline else f"{second.label}"
    return (
        f"Of {len(ranked)} methods, {first.label}{', the baseline,' if first is baseline else ''} has the"
        f" {which} {in_words(metric)} {when}: {_text(best, metric)}; {name} has {_text(other, metric)}."
    )


def _sureness(comparison: Comparison, ranked: list[tuple[Arm, Estimate]]) -> str:
    baseline = comparison.baseline
    if len(ranked) == 1:
        return "There is nothing to compare it with: train another method on the same seeds."
    if baseline is None:
        return "No test was made, for there is no baseline: choose one with --baseline."
    first = ranked[0][0]
    compared = ranked[1][0] if first is baseline else first
    found = evidence(comparison).get(compared.label)
    if found is None:
        return "That is one seed, an example rather than evidence: train more seeds."
    return _tested(comparison, compared, found)


def _tested(comparison: Comparison, compared: Arm, found: Evidence) -> str:
    tests, seeds = len(evidence(comparison)), len(found.pairs)
    difference = estimate(found.pairs[:, 0] - found.pairs[:, 1], comparison.confidence)
    assert comparison.baseline is not None
    assert difference is not None
    size = _text(difference, comparison.headline, signed=True)
    start = f"The difference of {compared.label} to {comparison.baseline.label}, {size}, is"
    p_value = f"p = {p_text(found.adjusted)}".replace("= <", "<")
    adjusted = f"{p_value}, adjusted for {tests} comparisons" if tests > 1 else p_value
    if found.adjusted < LEVEL:
        return f"{start} significant over {seeds} seeds ({adjusted})."
    if tests * least_p_value(seeds) >= LEVEL:
        return (
            f"{start} not certain: {seeds} seeds are too few to show any difference at the level"
            f" {LEVEL:g} ({adjusted})."
        )
    return f"{start} not significant over {seeds} seeds ({adjusted}): it may be due to chance."


def _with_name(found: Estimate, metric: str) -> str:
    return f"a {in_words(metric)} of {_text(found, metric)}"


def _text(found: Estimate, metric: str, *, signed: bool = False) -> str:
    """Return a mean and its t interval, with the unit."""
    unit = "" if not is_percent(metric) else " points" if signed else " %"
    ends = found.t or ()
    mean, *interval = format_values([found.mean, *ends], metric, signed=signed)
    return f"{mean}{unit}" + (f" [{', '.join(interval)}]" if interval else "")
