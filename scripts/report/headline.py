"""Headline of a report: what came out, and how sure it is, in two sentences."""

from __future__ import annotations

from plasticity.scripts.report.aggregates import LEVEL, least_p_value
from plasticity.scripts.report.arms import Arm, shared_positions, values_at
from plasticity.scripts.report.comparison import Comparison
from plasticity.scripts.report.metric_names import in_words, is_better_lower, is_percent
from plasticity.scripts.report.significance import Evidence, evidence, p_text
from plasticity.scripts.report.statistics import Estimate, estimate
from plasticity.scripts.report.tables import format_values


def headline(comparison: Comparison) -> str:
    """Return which method is best by the headline metric, how sure that is, and what diverged.

    A method with a run that diverged is best only if every method has one, as the others do not represent it.
    """
    ranked = _ranked(comparison)
    if not ranked:
        return (
            f"No method has a value of {in_words(comparison.headline)} {_where_none(comparison)}."
        )
    sentences = (
        _outcome(comparison, ranked),
        _sureness(comparison, ranked),
        _divergence(comparison, ranked),
    )
    return " ".join(filter(None, sentences))


def _ranked(comparison: Comparison) -> list[tuple[Arm, Estimate]]:
    """Return the methods from the best to the worst, at the positions that all of them share.

    Those with a run that diverged are left out, unless there are no others.
    """
    metric, moment = comparison.headline, comparison.moment
    where = shared_positions(comparison.chosen, metric)
    means = []
    for arm in [arm for arm in comparison.chosen if not arm.diverged] or comparison.chosen:
        found = estimate(values_at(arm, metric, moment, where).values(), comparison.confidence)
        if found is not None:
            means.append((arm, found))
    sign = 1.0 if is_better_lower(metric) else -1.0
    return sorted(means, key=lambda pair: sign * pair[1].mean)


def _outcome(comparison: Comparison, ranked: list[tuple[Arm, Estimate]]) -> str:
    metric = comparison.headline
    (first, best), *others = ranked
    when = _when(comparison)
    if not others:
        return f"{first.label} has {_with_name(best, metric)} {when}."
    which = "lowest" if is_better_lower(metric) else "highest"
    baseline = comparison.baseline
    known = [pair for pair in others if pair[0] is baseline]
    second, other = known[0] if known else others[0]
    best_name, name = (
        f"{arm.label}, the baseline," if arm is baseline else arm.label for arm in (first, second)
    )
    return (
        f"Of {len(comparison.chosen)} methods, {best_name} has the {which}"
        f" {in_words(metric)} {when}: {_text(best, metric)}; {name} has {_text(other, metric)}."
    )


def _when(comparison: Comparison) -> str:
    """Return where the values are taken, and how far that is from the end if runs are unfinished."""
    axis = comparison.axis
    last = shared_positions(comparison.chosen, comparison.headline)[-1]
    planned = max(run.planned for run in comparison.runs)
    if comparison.moment == "last":
        if axis.done_at(last) >= planned:
            return f"at the last {axis.name} ({axis.text(last)})"
        return f"at {axis.name} {axis.text(last)}, the last that all share, of {axis.text(planned)} planned"
    if axis.done_at(last) >= planned:
        return comparison.averaged
    reached = f"to {axis.text(last)}, the last that all share, of {axis.text(planned)} planned"
    return f"{comparison.averaged} {reached}"


def _where_none(comparison: Comparison) -> str:
    """Return where no method has a value, and the remedy."""
    axis, where = comparison.axis, shared_positions(comparison.chosen, comparison.headline)
    if not where:
        return "that all of them share yet: continue the runs to compare them"
    if comparison.moment == "last":
        return (
            f"at {axis.name} {axis.text(where[-1])}, the last that all share: try --moment average"
        )
    but = f", without {axis.first(comparison.skip)}" if comparison.skip else ""
    remedy = "continue the runs, or give a smaller --skip" if but else "continue the runs"
    return f"on average up to {axis.name} {axis.text(where[-1])}, the last that all share{but}: {remedy}"


def _divergence(comparison: Comparison, ranked: list[tuple[Arm, Estimate]]) -> str:
    """Return which methods have runs that diverged; an empty string if none has."""
    counts = [
        f"{arm.label} ({len(arm.diverged)} of {len(arm.runs)})"
        for arm in comparison.chosen
        if arm.diverged
    ]
    if not counts:
        return ""
    if any(arm.diverged for arm, _ in ranked):
        return f"Runs of every method diverged, and the rest flatter it: {', '.join(counts)}."
    return f"Not ranked, as runs of them diverged: {', '.join(counts)}."


def _sureness(comparison: Comparison, ranked: list[tuple[Arm, Estimate]]) -> str:
    baseline = comparison.baseline
    if len(ranked) == 1 and len(comparison.chosen) > 1:
        return "No other method has sound runs with a value there."
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
    name = in_words(metric)
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name} of {_text(found, metric)}"


def _text(found: Estimate, metric: str, *, signed: bool = False) -> str:
    """Return a mean and its t interval, with the unit."""
    unit = "" if not is_percent(metric) else " points" if signed else " %"
    ends = found.t or ()
    mean, *interval = format_values([found.mean, *ends], metric, signed=signed)
    return f"{mean}{unit}" + (f" [{', '.join(interval)}]" if interval else "")
