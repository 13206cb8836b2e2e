"""Arms (a method at one setting), gathered from runs and summarised over seeds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from plasticity.mitigations import MITIGATIONS, PLAIN
from plasticity.scripts.config.nested import flattened, shortest
from plasticity.scripts.config.run_config import FREE_TO_CHANGE, METHOD_FIELDS, without_origin
from plasticity.scripts.report.metric_names import Moment, is_better_lower, is_occasional
from plasticity.scripts.report.run_folders import Run
from plasticity.scripts.report.statistics import Array, Estimate, estimate, paired_estimate

MOMENTS = ("first", "middle", "last", "average")
"""Moments at which seeds are summarised: three tasks (or steps), and the average over a run."""

NO_VALUE = "—"
"""Text of a cell without a value."""

NOT_SETTINGS = (
    *("benchmark", "seed", "tracking.metrics", "tracking.reference_every"),
    *FREE_TO_CHANGE,
)
"""Settings that may differ between the seeds of one arm: the seed itself, the length of a run, the hardware,
and what is measured."""


@dataclass(frozen=True)
class Arm:
    """Runs of a method at one setting, one per seed."""

    method: str
    """Name of the method."""

    settings: Mapping[str, Any]
    """Settings that all its runs share and that the method uses."""

    apart: str
    """Settings that distinguish this arm from the method's others, as text; empty if it has only one."""

    runs: tuple[Run, ...]
    """Runs in the order of their seeds."""

    skip: int = 0
    """Number of tasks (or steps) at the beginning that averages leave out."""

    @property
    def label(self) -> str:
        """Name of the method, with the settings that distinguish this arm."""
        return f"{self.method} ({self.apart})" if self.apart else self.method

    @property
    def started(self) -> tuple[Run, ...]:
        """Runs with at least one row."""
        return tuple(run for run in self.runs if run.rows)

    @property
    def diverged(self) -> tuple[Run, ...]:
        """Runs whose loss became NaN or infinite."""
        return tuple(run for run in self.runs if run.diverged_at is not None)

    @property
    def sound(self) -> tuple[Run, ...]:
        """Runs with at least one row that did not diverge."""
        return tuple(run for run in self.started if run.diverged_at is None)

    @property
    def unfinished(self) -> tuple[Run, ...]:
        """Runs that lack rows."""
        return tuple(run for run in self.runs if not run.finished)

    @cached_property
    def positions(self) -> tuple[int, ...]:
        """Tasks (or steps) that all runs share, ignoring those that diverged.

        If all diverged: all planned tasks, most of them without a value.
        """
        if self.sound:
            shared = (run.regular_positions for run in self.sound)
            return tuple(sorted(frozenset.intersection(*shared)))
        reached = {position for run in self.started for position in run.by_position}
        if self.started and self.started[0].axis.is_dense:
            reached |= set(range(max(run.planned for run in self.started)))
        return tuple(sorted(reached))

    def positions_of(self, metric: str) -> tuple[int, ...]:
        """Return the positions at which a metric is summarised: of one in some rows only, those with it."""
        if not is_occasional(metric):
            return self.positions
        measured = {
            p for run in self.started for p, row in run.by_position.items() if metric in row
        }
        return tuple(position for position in self.positions if position in measured)

    @cached_property
    def tasks(self) -> tuple[int, ...]:
        """Tasks that all runs have played to their ends, ignoring those that diverged.

        Empty for runs without episodes.
        """
        runs = self.sound or self.started
        return tuple(sorted(set.intersection(*(set(run.task_returns) for run in runs))))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that its runs measured, in the order of their rows."""
        return tuple({name: None for run in self.started for name in run.metrics})


def gather(runs: Sequence[Run]) -> tuple[list[Arm], list[str]]:
    """Sort the runs of one benchmark into arms: methods in their usual order, settings ascending.

    Settings that a method does not use (`none` has no strength) do not distinguish arms: a sweep repeats
    such runs, and one of them is kept.

    Args:
        runs: Runs of one benchmark.

    Returns:
        The arms, and notes on runs that were left out.

    Raises:
        ValueError: if two folders hold different results of the same arm and seed.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        key = (run.method, json.dumps(settings_of(run), sort_keys=True))
        groups.setdefault(key, []).append(run)
    by_method: dict[str, list[dict[str, Any]]] = {}
    for members in groups.values():
        by_method.setdefault(members[0].method, []).append(settings_of(members[0]))
    arms, notes = [], []
    for (method, _), members in groups.items():
        kept, repeated = _without_repeats(members)
        if repeated:
            notes.append(f"{method}: {repeated} folders repeat a run that is already counted.")
        settings = settings_of(kept[0])
        keys = differing_keys(by_method[method])
        apart = ", ".join(f"{key} {plain(settings.get(key))}" for key in keys)
        arms.append(Arm(method, settings, apart, tuple(kept)))
    return sorted(arms, key=_usual_order), notes


def settings_of(run: Run) -> dict[str, Any]:
    """Return the part of a run's configuration that defines its arm, by short names."""
    paths = {
        path: value
        for path, value in flattened(without_origin(run.config)).items()
        if path not in NOT_SETTINGS and not (path in METHOD_FIELDS and value is None)
    }
    return {_short_name(path, paths): value for path, value in paths.items()}


def _short_name(path: str, paths: Iterable[str]) -> str:
    """Return the last part of a path; of mitigations that share a setting, with the mitigation's name."""
    section, _, rest = path.partition(".")
    name = rest.rpartition(".")[2] or section
    if section not in METHOD_FIELDS:
        return name
    same = [each for each in paths if each.startswith(f"{section}.") and each.endswith(f".{name}")]
    return ("critic_" if section != "method" else "") + (name if len(same) == 1 else rest)


def differing_keys(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys whose values are not all the same, in order of first appearance."""
    keys = {key: None for one in settings for key in one}
    return [key for key in keys if any(one.get(key) != settings[0].get(key) for one in settings)]


def plain(value: object) -> str:
    """Format a setting, in as many digits as it has: two settings never look the same."""
    if isinstance(value, (list, tuple)):
        return " ".join(map(plain, value))
    if isinstance(value, float):
        return shortest(value)
    return NO_VALUE if value is None else str(value)


def _usual_order(arm: Arm) -> tuple[Any, ...]:
    known = known_methods()
    rank = known.index(arm.method) if arm.method in known else len(known)
    return (rank, arm.method, [numbers_of(v) for v in arm.settings.values()], arm.label)


def numbers_of(value: object) -> list[float]:
    """Return the numbers of a setting, by which it is sorted; [-1] if it is none."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return [float(v) if isinstance(v, (int, float)) else -1.0 for v in values]


def known_methods() -> list[str]:
    """Return the names of the methods of one mitigation at most, in their usual order."""
    return [PLAIN, *MITIGATIONS]


def _without_repeats(runs: Sequence[Run]) -> tuple[list[Run], int]:
    kept: dict[int, Run] = {}
    repeated = 0
    for run in runs:
        other = kept.get(run.seed)
        if other is None:
            kept[run.seed] = run
            continue
        shared = min(len(run.rows), len(other.rows))
        if run.rows[:shared] != other.rows[:shared]:
            raise ValueError(
                f"{other.path} and {run.path} hold the same method, settings and seed, but not the"
                " same rows: report on a folder that contains only one of them."
            )
        repeated += 1
        if len(run.rows) > len(other.rows):
            kept[run.seed] = run
    return [kept[seed] for seed in sorted(kept)], repeated


# ---- summaries --------------------------------------------------------------------------------------


def moments(positions: Sequence[int]) -> dict[str, int]:
    """Return the first, middle and last of the positions; empty if there are none."""
    if not positions:
        return {}
    middle = positions[(len(positions) - 1) // 2]
    return {"first": positions[0], "middle": middle, "last": positions[-1]}


def values_at(
    arm: Arm, metric: str, moment: str, positions: Sequence[int]
) -> dict[int, float | None]:
    """Return a value per seed; None where a run has none.

    Args:
        arm: Arm whose runs are evaluated.
        metric: Name in the rows.
        moment: One of `MOMENTS`.
        positions: Tasks (or steps) that the moment refers to. The average is over all tasks, or over
            all steps up to the last position, without those that the arm skips; a run that diverged before
            has none.
    """
    if moment != "average":
        position = moments(positions).get(moment)
        return {r.seed: None if position is None else r.value(metric, position) for r in arm.runs}
    return {run.seed: _average(run, metric, positions, arm.skip) for run in arm.runs}


def _average(run: Run, metric: str, positions: Sequence[int], skip: int) -> float | None:
    if not run.axis.is_dense:
        return _average_over_steps(run, metric, positions, skip)
    values = [run.value(metric, position) for position in positions if position >= skip]
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present and len(present) == len(values) else None


def _average_over_steps(run: Run, metric: str, positions: Sequence[int], skip: int) -> float | None:
    """Return the mean over the steps after the skipped ones; a row represents those since the previous row.

    All of the run's rows count, including those that other seeds do not share. Rows without a value (no
    episode ended) are left out of the average.
    """
    if not positions or not run.by_position or max(run.by_position) < positions[-1]:
        return None
    if run.diverged_at is not None and run.diverged_at <= positions[-1]:
        return None
    total, steps, before = 0.0, 0, skip
    for position in sorted(run.by_position):
        value = run.value(metric, position)
        if before < position <= positions[-1] and value is not None:
            total += (position - before) * value
            steps += position - before
        before = max(before, position)
    return total / steps if steps else None


def summary(
    arm: Arm,
    metric: str,
    confidence: float,
    positions: Sequence[int] | None = None,
) -> dict[str, Estimate | None]:
    """Estimate the mean over seeds with its intervals, at each of `MOMENTS`.

    Args:
        arm: Arm whose runs are evaluated.
        metric: Name in the rows.
        confidence: Confidence level of the intervals.
        positions: Tasks (or steps) to consider. None: those that all its runs share and that have the metric.
    """
    where = arm.positions_of(metric) if positions is None else positions
    return {m: estimate(values_at(arm, metric, m, where).values(), confidence) for m in MOMENTS}


def shared_positions(arms: Sequence[Arm], metric: str = "") -> tuple[int, ...]:
    """Return the tasks (or steps) that all of the arms have, where they have a metric.

    An arm all of whose runs diverged cuts the others' no shorter: it counts only if there are no others.
    """
    going = [arm for arm in arms if arm.sound] or arms
    return tuple(sorted(set.intersection(*(set(arm.positions_of(metric)) for arm in going))))


def paired_summary(
    arm: Arm, baseline: Arm, metric: str, confidence: float
) -> dict[str, Estimate | None]:
    """Estimate the mean of the differences to the baseline, seed by seed, at the positions that both have."""
    where = shared_positions([arm, baseline], metric)
    return {
        moment: paired_estimate(
            values_at(arm, metric, moment, where),
            values_at(baseline, metric, moment, where),
            confidence,
        )
        for moment in MOMENTS
    }


def matrix(arm: Arm, metric: str, positions: Sequence[int]) -> Array:
    """Return the values of all started runs, NaN where there is none. Shape: (runs, positions)."""
    values = [[run.value(metric, position) for position in positions] for run in arm.started]
    return np.array(values, dtype=np.float64).reshape(len(values), len(positions))


def best(arms: Sequence[Arm], metric: str, moment: Moment) -> Arm:
    """Return the arm with the best mean at a moment of the tasks (or steps) that the arms share.

    Arms that lack rows, and then arms with a diverged run, are considered only if there are no others:
    an early task is not comparable with a late one, and the runs that did not diverge do not represent
    the method.

    Args:
        arms: Arms of one method, at least one.
        metric: Metric to compare by.
        moment: Moment to compare at.
    """
    complete = [arm for arm in arms if not arm.unfinished]
    sound = [arm for arm in complete if not arm.diverged]
    candidates = sound or complete or [arm for arm in arms if arm.started] or list(arms)
    where = shared_positions(candidates, metric)

    def height(arm: Arm) -> float:
        found = estimate(values_at(arm, metric, moment, where).values())
        if found is None:
            return -np.inf
        return -found.mean if is_better_lower(metric) else found.mean

    return max(candidates, key=height)
