"""Comparison of the runs of one benchmark: the best arm of each method, the baseline, and notes."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from plasticity.checks import nearest, require_known
from plasticity.scripts.config.run_config import MADE_BY
from plasticity.scripts.report.arms import (
    Arm,
    best,
    differing_keys,
    gather,
    shared_positions,
)
from plasticity.scripts.report.axis import Axis
from plasticity.scripts.report.metric_names import (
    GAP,
    LOSS_GAP,
    NEITHER_IS_BETTER,
    Moment,
    compared_at,
    criterion,
    family_of,
    headlines,
    in_words,
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
    notes = [*_choice_notes(chosen, by_method, headline, moment), *_run_notes(arms), *notes]
    if reference is None and baseline is not None:
        notes.append(f"{baseline}, the baseline, was not run here: there are no differences to it.")
    if by.skip:
        first = dict.fromkeys(arm.started[0].axis.first(arm.skip) for arm in started)
        notes.append(f"Averages leave out {' or '.join(first)}.")
    notes += _interval_notes(started, confidence)
    if GAP in metrics or LOSS_GAP in metrics:
        what = (
            "Plasticity gap: accuracy" if GAP in metrics else "Loss gap: the run's loss minus that"
        )
        minus = ", minus the run's own" if GAP in metrics else ""
        notes.append(
            f"{what} of a newly initialised network of the same seed and method, trained on this task"
            f" alone{minus} (paired by seed; above 0: the past has cost plasticity)."
        )
    if reference is not None:
        notes += _baseline_notes(started, reference)
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


# ---- notes ------------------------------------------------------------------------------------------


def _choice_notes(
    chosen: Sequence[Arm],
    by_method: Mapping[str, Sequence[Arm]],
    headline: str,
    moment: Moment,
) -> list[str]:
    if all(len(members) == 1 for members in by_method.values()):
        return []
    axis = chosen[0].started[0].axis.name
    at = f"at the {moment} {axis}"
    if moment == "average":
        at = f"averaged over all {axis}s that a method's settings share"
    return [
        f"Where a method has several settings, the best one by {in_words(headline)} {at}"
        " represents it. It was chosen on the seeds shown here, which biases it upwards: confirm"
        " it on other seeds."
    ]


def _run_notes(arms: Sequence[Arm]) -> list[str]:
    notes = []
    for arm in arms:
        notes += _progress_notes(arm)
        for run in arm.runs:
            if run.half_written:
                notes.append(
                    f"The last line of {run.path / 'metrics.jsonl'} is half-written and left out."
                )
    for key in ("git_commit", "versions"):
        found = {str(run.config.get(key)) for arm in arms for run in arm.runs}
        if len(found) > 1:
            notes.append(
                f"The runs were made with {len(found)} different {key}: see their folders."
            )
    return notes


def _progress_notes(arm: Arm) -> list[str]:
    """Return notes on the runs of an arm that are unfinished or diverged, one of each kind."""
    notes = []
    name = arm.started[0].axis.name if arm.started else ""
    going = [run for run in arm.unfinished if run.rows]
    if going:
        reached = [run.axis.text(max(run.by_position)) for run in going]
        planned = dict.fromkeys(run.axis.text(run.planned) for run in going)
        verb, last = (
            _number(going, "is", "are"),
            _number(going, f"its last {name} is", f"their last {name}s are"),
        )
        notes.append(
            f"{_named(arm, going)} {verb} unfinished: {last} {_listed(reached)}, of {_listed(planned)}"
            f" planned. The arm is summarised over the {name}s that its runs share."
        )
    waiting = [run for run in arm.unfinished if not run.rows]
    if waiting:
        has, is_out = _number(waiting, "has", "have"), _number(waiting, "is", "are")
        notes.append(f"{_named(arm, waiting)} {has} no row yet and {is_out} left out.")
    if arm.diverged:
        where = _listed(run.axis.text(run.diverged_at or 0) for run in arm.diverged)
        notes.append(
            f"{_named(arm, arm.diverged)} diverged at {_number(arm.diverged, name, f'{name}s')} {where}:"
            f" {_number(arm.diverged, 'it is', 'they are')} left out from there on, and from averages. Means"
            " over the rest flatter the method."
        )
    return notes


def _named(arm: Arm, runs: Sequence[Run]) -> str:
    return f"{arm.label}, {_number(runs, 'seed', 'seeds')} {_listed(run.seed for run in runs)},"


def _number(runs: Sequence[Run], one: str, several: str) -> str:
    return one if len(runs) == 1 else several


def _listed(values: Iterable[object]) -> str:
    *words, last = map(str, values)
    return f"{', '.join(words)} and {last}" if words else last


def _interval_notes(arms: Sequence[Arm], confidence: float) -> list[str]:
    share = f"{100 * confidence:g} %"
    text = f"In brackets: {share} t intervals of the mean over seeds (Student's, paired for differences)"
    if max(len(arm.started) for arm in arms) == 1:
        return [f"{text}. A single seed has none."]
    return [
        f"{text}. Their coverage is exact if the values of seeds are normally distributed, which a few"
        " seeds cannot show. Those of shares are clipped to 0 and 100 %.",
        f"In parentheses: {share} percentile bootstrap intervals. They assume no distribution, but are"
        " too narrow with few seeds: the coverage of 95 % intervals, for normally distributed values, is"
        " 74, 84 and 90 % at 3, 5 and 10 seeds.",
    ]


def _baseline_notes(arms: Sequence[Arm], baseline: Arm) -> list[str]:
    notes = []
    for arm in arms:
        shared = shared_positions([arm, baseline])
        if arm.sound and baseline.sound and arm.positions != baseline.positions:
            axis = arm.started[0].axis
            last = f"{axis.text(shared[-1])} is the last" if shared else "nowhere yet"
            notes.append(
                f"Differences of {arm.label} to {baseline.label} are taken where both have"
                f" rows: {last}."
            )
    return notes


# ---- settings and provenance --------------------------------------------------------------------------


def common_settings(comparison: Comparison) -> dict[str, object]:
    """Return the settings that all arms share."""
    settings = [arm.settings for arm in comparison.arms]
    apart = set(differing_keys(settings))
    return {key: value for key, value in settings[0].items() if key not in apart}


def recorded(comparison: Comparison, key: str) -> list[str]:
    """Return the provenance recorded in the folders (`versions` or `git_commit`), without duplicates."""
    assert key in MADE_BY
    answers = []
    for run in comparison.runs:
        value = run.config.get(key)
        if isinstance(value, dict):
            answers.append(", ".join(f"{name} {version}" for name, version in value.items()))
        else:
            answers.append("not recorded" if value is None else str(value))
    return list(dict.fromkeys(answers))


def continue_commands(runs: Sequence[Run]) -> list[str]:
    """Return commands that continue the unfinished runs, one for all seeds of the same settings."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if not run.finished:
            settings = {k: v for k, v in run.config.items() if k != "seed"}
            groups.setdefault(f"{run.path.parent} {sorted(map(str, settings.items()))}", []).append(
                run
            )
    commands = []
    for members in groups.values():
        first = members[0]
        words = ["plasticity", "run", "--config", str(first.path / "config.json")]
        words += ["--seeds", *(str(run.seed) for run in members)]
        words += ["--out", os.path.normpath(first.path / "../../..")]
        commands.append(shlex.join(words))
    return commands
