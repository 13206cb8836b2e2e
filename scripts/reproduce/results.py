"""Results of a figure's runs: the values of its arms over seeds, over a setting, or over steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from plasticity.scripts.report.run_folders import Run
from plasticity.scripts.report.statistics import Estimate, bands, estimate, paired_estimate
from plasticity.scripts.reproduce.arms import Arm

if TYPE_CHECKING:
    from plasticity.scripts.report.panels import Line

Settings = Mapping[str, Any]
"""Settings that choose arms, by option; an arm may have others in addition."""


@dataclass(frozen=True)
class Results:
    """Finished runs of a figure.

    A run that diverged has no value from there on, and is left out of means.
    """

    arms: Sequence[tuple[Arm, Sequence[Run]]]
    """Each arm with its runs, one for each seed."""

    def select(self, line: str, settings: Settings | None = None) -> list[tuple[Arm, list[Run]]]:
        """Return the arms of a line (of a method, unless the figure names lines) with these settings.

        Raises:
            ValueError: if there is none.
        """
        wanted = settings or {}
        found = [
            (arm, list(runs))
            for arm, runs in self.arms
            if arm.name == line and wanted.items() <= arm.settings.items()
        ]
        if not found:
            raise ValueError(f"The figure has no arm of {line} with {dict(wanted)}.")
        return found

    def runs(self, line: str, settings: Settings | None = None) -> list[Run]:
        """Return the runs of one arm.

        Raises:
            ValueError: if no arm, or more than one, has these settings.
        """
        found = self.select(line, settings)
        if len(found) > 1:
            raise ValueError(
                f"{len(found)} arms of {line} have {dict(settings or {})}, the first of them"
                f" {dict(found[0][0].settings)}: name more settings."
            )
        return found[0][1]

    def values_of(self, option: str) -> list[Any]:
        """Return the values that the arms give to a setting, ascending."""
        return sorted({arm.settings[option] for arm, _ in self.arms if option in arm.settings})

    def final(
        self, metric: str, line: str, settings: Settings | None = None
    ) -> dict[int, float | None]:
        """Return the values of an arm at the end of its runs, by seed.

        Raises:
            ValueError: as `runs`.
        """
        return {run.seed: _final(run, metric) for run in self.runs(line, settings)}

    def estimate(self, metric: str, line: str, settings: Settings | None = None) -> Estimate | None:
        """Estimate the mean of `final` over seeds."""
        return estimate(self.final(metric, line, settings).values())

    def difference(
        self,
        metric: str,
        line: str,
        settings: Settings,
        baseline: Settings,
        baseline_line: str | None = None,
    ) -> Estimate | None:
        """Estimate the mean difference of one arm from another at the end, paired by seed.

        Args:
            metric: Name in the rows.
            line: Line of the arm.
            settings: Settings of the arm.
            baseline: Settings of the other arm, which is subtracted.
            baseline_line: Line of the other arm. None: the same.
        """
        other = self.final(metric, baseline_line or line, baseline)
        return paired_estimate(self.final(metric, line, settings), other)

    def over_rows(
        self, metric: str, line: str, rows: slice, settings: Settings | None = None
    ) -> dict[int, float | None]:
        """Return the means of an arm's values over some of its rows, by seed; None with a value missing.

        Args:
            metric: Name in the rows.
            line: Line of the arm.
            rows: Rows in the order of a run, without those at changes of an environment:
                `slice(-3, None)` for the last three.
            settings: Settings of the arm.

        Raises:
            ValueError: as `runs`.
        """
        return {run.seed: _mean(run, metric, rows) for run in self.runs(line, settings)}

    def kept(
        self,
        metric: str,
        line: str,
        first: slice,
        last: slice,
        settings: Settings | None = None,
    ) -> dict[int, float | None]:
        """Return the ratios of an arm's values over its last rows to those over its first ones, by seed.

        Args:
            metric: Name in the rows.
            line: Line of the arm.
            first: First rows, as in `over_rows`.
            last: Last rows, as in `over_rows`.
            settings: Settings of the arm.

        Returns:
            The ratios; None with a value missing, or 0 at first.

        Raises:
            ValueError: as `runs`.
        """
        start, end = (self.over_rows(metric, line, rows, settings) for rows in (first, last))
        return ratios(end, start)

    def line_over(
        self,
        option: str,
        metric: str,
        line: str,
        settings: Settings | None = None,
        *,
        style: int,
    ) -> Line:
        """Return a line of a panel: the final values of arms over a setting that they differ in.

        Args:
            option: Setting on the horizontal axis; those of the arms with other settings as given.
            metric: Name in the rows.
            line: Line of the arms, which is the label in the legend.
            settings: Settings that the arms have in common.
            style: Index of its `plasticity.scripts.report.panels.style_of`.
        """
        found = sorted(self.select(line, settings), key=lambda each: each[0].settings[option])
        positions = [float(arm.settings[option]) for arm, _ in found]
        seeds = sorted({run.seed for _, runs in found for run in runs})
        by_arm = [{run.seed: _final(run, metric) for run in runs} for _, runs in found]
        values = [[values.get(seed) for values in by_arm] for seed in seeds]
        return _line(line, style, positions, values, [False] * len(seeds))

    def line_over_steps(
        self, metric: str, line: str, settings: Settings | None = None, *, style: int
    ) -> Line:
        """Return a line of a panel: the values of one arm over its rows; arguments as in `line_over`.

        Rows at changes of an environment, whose steps differ from seed to seed, are left out.
        """
        runs = self.runs(line, settings)
        positions = sorted({position for run in runs for position in run.regular_positions})
        values = [[run.value(metric, position) for position in positions] for run in runs]
        diverged = [run.diverged_at is not None for run in runs]
        return _line(line, style, [float(each) for each in positions], values, diverged)

    def line_over_metrics(
        self,
        metrics: Mapping[float, str],
        line: str,
        settings: Settings | None = None,
        *,
        style: int,
    ) -> Line:
        """Return a line of a panel: several values of one arm at the end, as of layers or of a spectrum.

        Args:
            metrics: Names in the rows, by their positions on the horizontal axis.
            line: Line of the arm, which is the label in the legend.
            settings: Settings of the arm.
            style: Index of its `plasticity.scripts.report.panels.style_of`.
        """
        runs = self.runs(line, settings)
        values = [[_final(run, metric) for metric in metrics.values()] for run in runs]
        return _line(line, style, list(metrics), values, [False] * len(runs))


def ratios(
    values: Mapping[int, float | None], baseline: Mapping[int, float | None]
) -> dict[int, float | None]:
    """Return the ratios of values to those of a baseline, by seed; None with one missing, or a baseline of 0.

    Args:
        values: Values, by seed.
        baseline: Values of the baseline, whose seeds the ratios have.
    """
    found: dict[int, float | None] = {}
    for seed, base in baseline.items():
        value = values.get(seed)
        found[seed] = value / base if base and value is not None else None
    return found


def _final(run: Run, metric: str) -> float | None:
    return run.value(metric, max(run.by_position)) if run.rows else None


def _mean(run: Run, metric: str, rows: slice) -> float | None:
    values = [run.value(metric, position) for position in sorted(run.regular_positions)[rows]]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _line(
    label: str,
    style: int,
    positions: Sequence[float],
    values: Sequence[Sequence[float | None]],
    diverged: Sequence[bool],
) -> Line:
    from plasticity.scripts.report.panels import Line  # noqa: PLC0415  (matplotlib)

    where = np.array(positions)
    matrix = np.array(values, dtype=np.float64)
    mean, low, high = bands(matrix)
    seeds = tuple((where, each) for each in matrix)
    return Line(label, style, where, mean, low, high, seeds, tuple(diverged))
