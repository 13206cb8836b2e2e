"""Differences to the baseline on each of several benchmarks, and whether they are shown to be any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plasticity.scripts.report.aggregates import LEVEL, holm
from plasticity.scripts.report.arms import NO_VALUE
from plasticity.scripts.report.comparison import Comparison
from plasticity.scripts.report.metric_names import is_better_lower
from plasticity.scripts.report.significance import Evidence, evidence, p_text
from plasticity.scripts.report.statistics import Estimate, estimate
from plasticity.scripts.report.tables import Cell, Table, estimate_cell

DIFFERENCES_NOTE = (
    "Differences on each benchmark are paired by seed, in the units of what methods are compared by there."
    " Better or worse: the p-value, by flips of signs and adjusted for the benchmarks of the method (Holm),"
    f" is below {LEVEL:g}."
)
"""Text that a reader needs to interpret the table."""


@dataclass(frozen=True)
class Difference:
    """Difference of a method to the baseline on one benchmark."""

    metric: str
    """Metric that the methods are compared by there."""

    estimate: Estimate
    """Mean over seeds of the differences, paired by seed, with its intervals."""

    adjusted: float
    """P-value, adjusted for the number of benchmarks (Holm)."""

    runs: int
    """Number of runs of the method there, also of those that diverged or have a seed of their own."""

    verdict: str
    """Statement about it: better, worse, or that no difference is seen."""


def differences(comparisons: Sequence[Comparison]) -> dict[str, dict[str, Difference]]:
    """Return the differences by method, and by the name of the benchmark.

    A p-value is that of flips of the signs, adjusted over the benchmarks that the method has in common with
    the baseline.
    """
    found: dict[str, dict[str, tuple[Comparison, Evidence, int]]] = {}
    for comparison in comparisons:
        arms = {arm.label: arm for arm in comparison.chosen}
        for label, each in evidence(comparison).items():
            runs = len(arms[label].runs)
            found.setdefault(arms[label].method, {})[comparison.benchmark] = comparison, each, runs
    differences = {}
    for method, by_benchmark in found.items():
        adjusted = holm({name: each.p_value for name, (_, each, _) in by_benchmark.items()})
        differences[method] = {
            name: _difference(comparison, each, runs, adjusted[name])
            for name, (comparison, each, runs) in by_benchmark.items()
        }
    return differences


def _difference(comparison: Comparison, found: Evidence, runs: int, adjusted: float) -> Difference:
    pairs, metric = found.pairs, comparison.headline
    mean = estimate(pairs[:, 0] - pairs[:, 1], comparison.confidence)
    assert mean is not None  # there are two seeds or more
    verdict = "no difference seen"
    if adjusted < LEVEL:
        verdict = "better" if (mean.mean < 0) == is_better_lower(metric) else "worse"
    return Difference(metric, mean, adjusted, runs, verdict)


def differences_table(comparisons: Sequence[Comparison]) -> Table | None:
    """Return the differences, a row for each method and a column for each benchmark.

    Returns:
        The table, or None with one benchmark, or unless all that have a baseline have the same, and another
        method.
    """
    baselines = [each.baseline for each in comparisons if each.baseline is not None]
    methods, labels = {arm.method for arm in baselines}, {arm.label for arm in baselines}
    found = differences(comparisons)
    if len(comparisons) < 2 or len(methods) > 1 or not found:
        return None
    baseline = (labels if len(labels) == 1 else methods).pop()
    benchmarks = [each.benchmark for each in comparisons]
    headings = [name.replace("/", "/\n") for name in benchmarks]
    rows = [
        (Cell(method), *(_cell(by_benchmark.get(name)) for name in benchmarks))
        for method, by_benchmark in found.items()
    ]
    title = f"Differences to {baseline} on each benchmark"
    return Table(title, ("method", *headings), tuple(rows))


def _cell(difference: Difference | None) -> Cell:
    if difference is None:
        return Cell(NO_VALUE)
    found = difference.estimate
    cell = estimate_cell(found, difference.metric, difference.runs, signed=True)
    sign = "" if (p_value := p_text(difference.adjusted)).startswith("<") else "= "
    return Cell(cell.text, (*cell.details, f"p {sign}{p_value}", difference.verdict))
