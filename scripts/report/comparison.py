"""Comparison of the runs of one benchmark: the best arm of each method, the baseline, and notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from plasticity.checks import nearest, require_known
from plasticity.scripts.report.arms import (
    Arm,
    best,
    gather,
)
from plasticity.scripts.report.axis import Axis
from plasticity.scripts.report.metric_names import (
    NEITHER_IS_BETTER,
    Moment,
    compared_at,
    criterion,
    family_of,
    headlines,
)
from plasticity.scripts.report.notes import (
    baseline_notes,
    choice_notes,
    gap_notes,
    interval_notes,
    run_notes,
    skip_notes,
)
from plasticity.scripts.report.run_folders import Run

PREFERRED_BASELINES = ("weight-decay", "none")
"""Default baselines, in order of preference."""


@dataclass(frozen=True)
class Criterion:
    """Metric and moment that methods and settings are compared by."""

    metrics: tuple[str, ...] = ()
    """Names of metrics, of which the first that the runs have counts. Empty: the headline one."""

    moment: Moment | None = None
    """Moment of the runs. None: the last task, or the average for what is noisy."""

    skip: int = 0
    """Number of tasks at the beginning that averages leave out; of runs without tasks, of steps."""


@dataclass(frozen=True)
class Comparison:
    """Arms of one benchmark, and how they are compared."""

    benchmark: str
    """Name of the benchmark."""

    arms: tuple[Arm, ...]
    """Arms with at least one row, methods in their usual order."""

    chosen: tuple[Arm, ...]
    """Arm with the best setting of each method."""

    baseline: Arm | None
    """Arm that the others are compared with."""

    headline: str
    """Metric that methods and settings are compared by."""

    moment: Moment
    """Moment at which they are compared by the headline."""

    metrics: tuple[str, ...]
    """Names of all that was measured, in the order of the rows."""

    confidence: float
    """Confidence level of the intervals."""

    unfinished: tuple[Run, ...]
    """Runs that lack rows, including those without any."""

    notes: tuple[str, ...]
    """Remarks that a reader needs to interpret the results."""

    @property
    def skip(self) -> int:
        """Number of tasks (or steps) at the beginning that averages leave out."""
        return self.arms[0].skip

    @property
    def averaged(self) -> str:
        """Description of what averages are taken over."""
        but = f" but {self.axis.first(self.skip)}" if self.skip else ""
        return f"averaged over the {self.axis.name}s{but}"

    @property
    def chosen_metrics(self) -> tuple[str, ...]:
        """Names of what the chosen arms measured: a sweep over depth has layers that none of them has."""
        measured = {name for arm in self.chosen for name in arm.metrics}
        return tuple(name for name in self.metrics if name in measured)

    @property
    def leading_metrics(self) -> tuple[str, ...]:
        """Names of the metrics that are shown first, among them what methods are compared by."""
        names = headlines(self.chosen_metrics)
        return tuple(names if self.headline in names else [self.headline, *names])

    @property
    def axis(self) -> Axis:
        """Axis of the rows."""
        return self.arms[0].started[0].axis

    @property
    def runs(self) -> tuple[Run, ...]:
        """Runs of all arms."""
        return tuple(run for arm in self.arms for run in arm.runs)

    @property
    def described(self) -> tuple[str, ...]:
        """Keys under which the rows tell what their tasks are."""
        keys = dict.fromkeys(key for run in self.runs for key in run.descriptions)
        return tuple(key for key in keys if any(run.described(key) for run in self.runs))

    def arms_of(self, method: str) -> list[Arm]:
        """Return the arms of one method, a setting each."""
        return [arm for arm in self.arms if arm.method == method]

    @property
    def is_sweep(self) -> bool:
        """Whether any method has several settings."""
        return len(self.chosen) < len(self.arms)


def compare(
    runs: Sequence[Run],
    baseline: str | None,
    confidence: float,
    by: Criterion | None = None,
    *,
    benchmark: str | None = None,
    may_lack_it: bool = False,
) -> Comparison:
    """Gather the runs of one benchmark into arms, and choose each method's best arm and the baseline.

    Args:
        runs: Runs of one benchmark.
        baseline: Name of a method, or label of an arm. None: weight decay if it was run, else the plain
            optimizer, else no baseline.
        confidence: Confidence level of the intervals.
        by: What the methods are compared by. None: the headline metric at its usual moment.
        benchmark: Name of the benchmark in tables and messages. None: that which the runs have.
        may_lack_it: Whether the runs may lack the baseline, as one of other benchmarks; they have none then,
            and a note says so.

    Raises:
        ValueError: if no run has a row yet, or none of the metrics to compare by, or all of them end before
            averages begin; if the baseline is unknown, or two folders hold different results of the same run.
    """
    arms, notes = gather(runs)
    by = Criterion() if by is None else by
    benchmark = benchmark or runs[0].benchmark
    started = [_skipping(arm, by.skip) for arm in arms if arm.started]
    if not started:
        raise ValueError(
            f"No run of {benchmark} has a row in its metrics.jsonl yet (looked in"
            f" {runs[0].path}{' and others' if len(runs) > 1 else ''}): wait for the end of"
            " the first task, or continue the runs."
        )
    metrics = tuple({name: None for arm in started for name in arm.metrics})
    headline = _headline(by, metrics, benchmark)
    moment = by.moment or compared_at(headline)
    _require_rest(started, benchmark)
    by_method: dict[str, list[Arm]] = {}
    for arm in started:
        by_method.setdefault(arm.method, []).append(arm)
    chosen = tuple(best(members, headline, moment) for members in by_method.values())
    reference = _baseline(baseline, started, chosen, may_lack_it=may_lack_it)
    notes = [*choice_notes(chosen, by_method, headline, moment), *run_notes(arms), *notes]
    if reference is None and baseline is not None:
        notes.append(f"{baseline}, the baseline, was not run here: there are no differences to it.")
    notes += [*skip_notes(started), *interval_notes(started, confidence), *gap_notes(metrics)]
    if reference is not None:
        notes += baseline_notes(started, reference)
    return Comparison(
        benchmark=benchmark,
        arms=tuple(started),
        chosen=chosen,
        baseline=reference,
        headline=headline,
        moment=moment,
        metrics=metrics,
        confidence=confidence,
        unfinished=tuple(run for arm in arms for run in arm.unfinished),
        notes=tuple(notes),
    )


def _headline(by: Criterion, metrics: Sequence[str], benchmark: str) -> str:
    if not by.metrics:
        return criterion(metrics)
    found = next((name for name in by.metrics if name in metrics), None)
    if found is None:
        raise ValueError(
            f"The runs of {benchmark} have none of {', '.join(by.metrics)} to be compared"
            f" by.{nearest(by.metrics[0], metrics)}"
        )
    if family_of(found) in NEITHER_IS_BETTER:
        raise ValueError(
            f"Methods cannot be compared by {found}, of which neither more nor less is better: name another"
            " metric with --by; --metrics prints it."
        )
    return found


def _skipping(arm: Arm, tasks: int) -> Arm:
    return replace(arm, skip=tasks * arm.started[0].task_length)


def _require_rest(arms: Sequence[Arm], benchmark: str) -> None:
    runs = [
        (run.axis.done_at(max(run.by_position)), arm.skip, run)
        for arm in arms
        for run in arm.started
    ]
    if all(skip >= done for done, skip, _ in runs):
        done, skip, run = max(runs, key=lambda each: each[0])
        raise ValueError(
            f"Averages cannot leave out {run.axis.first(skip)}: the longest run of {benchmark} has"
            f" {run.axis.text(done)}."
        )


def baseline_names(runs: Sequence[Run]) -> list[str]:
    """Return the names that a baseline of one benchmark may have: methods with a row, and labels of arms."""
    arms, _ = gather(runs)
    return [name for arm in arms if arm.started for name in (arm.method, arm.label)]


def _baseline(
    name: str | None, arms: Sequence[Arm], chosen: Sequence[Arm], *, may_lack_it: bool
) -> Arm | None:
    by_name = {arm.label: arm for arm in arms} | {arm.method: arm for arm in chosen}
    if name is None:
        return next((by_name[each] for each in PREFERRED_BASELINES if each in by_name), None)
    if not may_lack_it:
        require_known("baseline", name, by_name)
    return by_name.get(name)
