"""Notes of a comparison: remarks that a reader needs to interpret its results."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence

from plasticity.scripts.report.arms import Arm, shared_positions
from plasticity.scripts.report.metric_names import GAP, LOSS_GAP, Moment, in_words
from plasticity.scripts.report.run_folders import Run


def skip_notes(arms: Sequence[Arm]) -> list[str]:
    """Return what averages leave out, if anything."""
    first = dict.fromkeys(arm.started[0].axis.first(arm.skip) for arm in arms if arm.skip)
    return [f"Averages leave out {' or '.join(first)}."] if first else []


def gap_notes(metrics: Container[str]) -> list[str]:
    """Return what the gap is, if one was measured."""
    if GAP in metrics:
        what, minus = "Plasticity gap: accuracy", ", minus the run's own"
    elif LOSS_GAP in metrics:
        what, minus = "Loss gap: the run's loss minus that", ""
    else:
        return []
    return [
        f"{what} of a newly initialised network of the same seed and method, trained on this task"
        f" alone{minus} (paired by seed; above 0: the past has cost plasticity)."
    ]


def choice_notes(
    chosen: Sequence[Arm],
    by_method: Mapping[str, Sequence[Arm]],
    headline: str,
    moment: Moment,
) -> list[str]:
    """Return how the settings of methods that have several were chosen."""
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


def run_notes(arms: Sequence[Arm]) -> list[str]:
    """Return which runs are unfinished, diverged or half-written, and whether they were made alike."""
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


def interval_notes(arms: Sequence[Arm], confidence: float) -> list[str]:
    """Return what the intervals of tables are."""
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


def baseline_notes(arms: Sequence[Arm], baseline: Arm) -> list[str]:
    """Return where differences to the baseline are taken, of arms that lack rows."""
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
