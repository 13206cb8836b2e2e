"""Choice of a report's figures, and the data drawn in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import count

import numpy as np
from matplotlib.figure import Figure

from plasticity.scripts.report.arms import (
    Arm,
    known_methods,
    matrix,
)
from plasticity.scripts.report.axis import TASK
from plasticity.scripts.report.comparison import Comparison
from plasticity.scripts.report.map_figure import map_figure
from plasticity.scripts.report.metric_names import (
    DIAGNOSTICS,
    EPISODES,
    GAP,
    LOSS_GAP,
    NORMS,
    RANKS,
    SYMMETRY,
    TOTAL,
    UNITS,
    WEIGHTS,
    WHOLE,
    factor_of,
    family_of,
    headlines,
    in_words,
    is_occasional,
    is_share,
    layer_of,
)
from plasticity.scripts.report.panels import STYLES, Line, Panel, panels_figure
from plasticity.scripts.report.run_folders import Run
from plasticity.scripts.report.settings_map import settings_map
from plasticity.scripts.report.statistics import Array, bands
from plasticity.scripts.report.tables import task_returns

MAX_COLUMNS = 4
"""Largest number of panels in a row."""

MAX_MARKS = 45
"""Largest number of vertical lines in a panel."""

UNITS_OF = {
    GAP: "fresh minus run (% points)",
    LOSS_GAP: "run minus fresh",
    "online_loss": "squared error before the update",
    "dead_fraction": "dead units (%)",
    "dormant_fraction": "dormant units (%)",
    "linearized_fraction": "linearised units (%)",
    "active_fraction": "active outputs (%)",
    SYMMETRY: "symmetric pairs (number)",
    "update_to_weight_ratio": "update / weight (L2)",
    "churn/value": "change of outputs (squared)",
    "churn/argmax": "changed predictions (%)",
    "hessian_rank": "share of eigenvalues (%)",
    "episode_return": "return",
    "episode_length": "steps",
    "policy_entropy": "nats",
    "approximate_kl": "nats",
    "clip_fraction": "share of actions (%)",
    "explained_variance": "share of the variance",
    "policy_loss": "loss",
    "value_loss": "loss",
    "entropy_coefficient": "weight",
    "exploration_rate": "share of actions",
}
"""Labels of the vertical axis, by the name of a metric or its family."""

TOPS = {"explained_variance": 1.0}
BOTTOMS = {"explained_variance": -1.0}  # unbounded below for an untrained critic


def draw_figures(comparison: Comparison) -> dict[str, Figure]:
    """Draw every figure that the runs have data for.

    Returns:
        Figures by name: accuracy or return (progress, where there is neither), tasks, ranks, units,
        norms, weights, steps, updates, map.
    """
    leading, leading_rows = _leading(comparison)
    grids = {
        leading: [_panels(comparison, row) for row in leading_rows],
        "tasks": task_panels(comparison),
        "ranks": _family_rows(comparison, RANKS),
        "units": _family_rows(comparison, (*UNITS, SYMMETRY)),
        "norms": _family_rows(comparison, NORMS),
        "weights": _family_rows(comparison, WEIGHTS),
        "steps": _family_rows(comparison, WHOLE),
        "updates": _diagnostics(comparison),
    }
    figures = {
        name: panels_figure(
            _wrapped(rows),
            TASK if name == "tasks" else comparison.axis.name,
            _note(comparison, [panel for row in rows for panel in row]),
        )
        for name, rows in grids.items()
        if rows
    }
    settings = settings_map(comparison)
    if settings is not None:
        figures["map"] = map_figure(settings)
    return figures


def _leading(comparison: Comparison) -> tuple[str, list[list[str]]]:
    """Return the name of the first figure, and the metrics in each of its rows."""
    played = [[name] for name in EPISODES if name in comparison.chosen_metrics]
    if played:
        return "return", played  # one below the other: many friction changes need the width
    layerless = [name for name in headlines(comparison.chosen_metrics) if not layer_of(name)]
    has_accuracy = any(name.endswith("_accuracy") for name in layerless)
    return "accuracy" if has_accuracy else "progress", [layerless] if layerless else []


def group_of(metric: str) -> str:
    """Return the name of the figure that shows a metric, of `page.TITLES`."""
    family = family_of(metric)
    groups = {
        "return": EPISODES,
        "ranks": RANKS,
        "units": (*UNITS, SYMMETRY),
        "norms": NORMS,
        "weights": WEIGHTS,
        "steps": WHOLE,
        "updates": DIAGNOSTICS,
    }
    for group, families in groups.items():
        if family in families:
            return group
    return "accuracy" if family.endswith("_accuracy") or metric == GAP else "progress"


def _diagnostics(comparison: Comparison) -> list[list[Panel]]:
    """Return panels of an agent's diagnostics, three to a row."""
    known = [name for name in DIAGNOSTICS if name in comparison.chosen_metrics]
    return _wrapped([_panels(comparison, known)], 3)


def _note(comparison: Comparison, panels: Sequence[Panel]) -> str:
    parts = ["thin lines: single seeds"] if any(panel.shows_seeds for panel in panels) else []
    if any(len(arm.started) > 1 for arm in comparison.chosen):
        parts.insert(0, f"band: {100 * comparison.confidence:g} % t interval of the mean")
    if any(arm.diverged for arm in comparison.chosen):
        parts.append("cross: diverged")
    if any(panel.marks for panel in panels):
        (what, *others) = comparison.described or ("task",)
        parts.append(f"dashed: the {'task' if others else in_words(what)} changes")
    return "; ".join(parts)


def _family_rows(comparison: Comparison, families: Sequence[str]) -> list[list[Panel]]:
    """Return a row of panels for each family, its layers in the order of the run's rows."""
    rows = []
    for family in families:
        members = [name for name in comparison.chosen_metrics if family_of(name) == family]
        if f"{family}/{TOTAL}" in members:
            members = [f"{family}/{TOTAL}"]  # panels of single parameters would bury it
        if members:
            rows.append(_panels(comparison, members))
    packed: list[list[Panel]] = []
    for row in rows:  # a single panel joins the row before, or is joined by the next
        alone = bool(packed) and min(len(row), len(packed[-1])) == 1
        if alone and len(row) + len(packed[-1]) <= MAX_COLUMNS:
            packed[-1] += row
        else:
            packed.append(row)
    return packed


def _wrapped(rows: Sequence[Sequence[Panel]], columns: int = MAX_COLUMNS) -> list[list[Panel]]:
    return [
        list(row[start : start + columns]) for row in rows for start in range(0, len(row), columns)
    ]


def _panels(comparison: Comparison, metrics: Sequence[str]) -> list[Panel]:
    return [panel_of(comparison, metric) for metric in metrics]


def panel_of(comparison: Comparison, metric: str) -> Panel:
    """Return the panel of a metric, with a line for each chosen arm that measured it."""
    family, layer = family_of(metric), layer_of(metric)
    if family in WHOLE:  # of the whole network
        layer = ""
    return Panel(
        title="all parameters" if layer == TOTAL else layer or in_words(metric),
        label=_label(metric),
        lines=tuple(
            _line(comparison, arm, metric) for arm in comparison.chosen if metric in arm.metrics
        ),
        from_zero=bool(layer_of(metric)),
        top=100.0 if is_share(metric) else TOPS.get(family),
        bottom=0.0 if is_share(metric) else BOTTOMS.get(family),
        marks=change_marks(comparison),
    )


def _label(metric: str) -> str:
    """Return the label of a vertical axis: the quantity and its unit."""
    family = family_of(metric)
    words = in_words(family)
    if family.endswith("_accuracy"):
        return "accuracy (%)"
    if family in RANKS:
        return f"{words} (dimensions)"
    if family in NORMS:
        return f"{words} (L2)"
    return UNITS_OF.get(metric, UNITS_OF.get(family, words))


def change_marks(comparison: Comparison) -> tuple[float, ...]:
    """Return the scheduled steps of task changes (an environment changes at the end of the episode).

    Returns:
        The steps. Empty if rows are per task, if the arms' schedules differ, or if the lines would be too
        close together to tell apart.
    """
    schedules = {arm.settings.get("change_every") for arm in comparison.arms}
    (every, *others) = schedules
    if comparison.axis.is_dense or others or not isinstance(every, int) or every < 1:
        return ()
    last = max((arm.positions[-1] for arm in comparison.chosen if arm.positions), default=0)
    marks = range(every, last, every)
    return tuple(map(float, marks)) if len(marks) <= MAX_MARKS else ()


def run_values(comparison: Comparison, arm: Arm, metric: str) -> tuple[Array, Array]:
    """Return what the line of an arm's mean is drawn from, in the unit that is shown.

    Returns:
        Positions of shape (positions,), and the values of all started runs there, NaN where there is
        none, of shape (runs, positions).
    """
    positions = arm.positions_of(metric)
    values = factor_of(metric) * matrix(arm, metric, positions)
    # Where no episode ended in any run there is no return: the line goes on to the next row with one.
    known = np.isfinite(values).any(axis=0) | comparison.axis.is_dense
    return np.array(positions, dtype=float)[known], values[:, known]


def _line(comparison: Comparison, arm: Arm, metric: str) -> Line:
    factor = factor_of(metric)
    line = _mean_line(comparison, arm, *run_values(comparison, arm, metric))
    if is_share(metric):  # a share: no mean lies outside 0 to 100 %, as in the tables
        low, high = np.clip(line.low, 0.0, 100.0), np.clip(line.high, 0.0, 100.0)
        line = replace(line, low=low, high=high)
    return replace(line, seeds=tuple(_seed_line(run, metric, factor) for run in arm.started))


def _mean_line(comparison: Comparison, arm: Arm, positions: Array, values: Array) -> Line:
    """Return means over an arm's started runs, with each run. Shape of the values: (runs, positions)."""
    mean, low, high = bands(values, comparison.confidence)
    return Line(
        label=arm.label,
        style=styles_of([each.method for each in comparison.chosen])[arm.method],
        positions=positions,
        mean=mean,
        low=low,
        high=high,
        seeds=tuple((positions, row) for row in values),
        diverged=tuple(run in arm.diverged for run in arm.started),
    )


def _seed_line(run: Run, metric: str, factor: float) -> tuple[Array, Array]:
    points = [
        (position, run.value(metric, position))
        for position, row in sorted(run.by_position.items())
        # As above, except that the line of a diverged run ends there.
        if (run.axis.is_dense and not is_occasional(metric))
        or row.get(metric) is not None
        or position == run.diverged_at
    ]
    positions = np.array([position for position, _ in points], dtype=float)
    return positions, factor * np.array([value for _, value in points], dtype=float)


def styles_of(methods: Sequence[str]) -> dict[str, int]:
    """Return an index for `panels.style_of`: fixed for the oldest methods, the next free one for others.

    All methods of a figure thus differ in colour as long as there are enough colours.
    """
    fixed = known_methods()[: len(STYLES)]
    taken = {fixed.index(method) for method in methods if method in fixed}
    free = (index for index in count() if index not in taken)
    return {
        method: fixed.index(method) if method in fixed else next(free)
        for method in dict.fromkeys(methods)
    }


# ---- tasks of runs with a row per number of steps ---------------------------------------------------


def task_panels(comparison: Comparison) -> list[list[Panel]]:
    """Return panels of the return per task and of its differences to the baseline, paired by seed.

    Returns:
        One row of panels, or no row if no run has played a task to its end.
    """
    arms = [arm for arm in comparison.chosen if arm.tasks]
    if not arms:
        return []
    lines = [_task_line(comparison, arm, None) for arm in arms]
    panels = [Panel("episode return per task", "return", tuple(lines))]
    baseline = comparison.baseline
    others = [arm for arm in arms if arm is not baseline]
    if baseline is not None and baseline.tasks and others:
        compared = [_task_line(comparison, arm, baseline) for arm in [baseline, *others]]
        title, label = f"the same minus {baseline.label}", "difference of returns"
        panels.append(Panel(title, label, tuple(compared)))
    return [panels]


def _task_line(comparison: Comparison, arm: Arm, baseline: Arm | None) -> Line:
    """Return means over seeds; with a baseline, of the differences to it (0 for the baseline itself)."""
    line = _mean_line(comparison, arm, *task_values(arm, baseline))
    return replace(line, seeds=(), diverged=()) if arm is baseline else line


def task_values(arm: Arm, baseline: Arm | None) -> tuple[Array, Array]:
    """Return the tasks of shape (tasks,), and the returns of shape (runs, tasks), or their differences."""
    tasks = [task for task in arm.tasks if baseline is None or task in baseline.tasks]
    values = _task_matrix(arm, arm.started, tasks)
    if baseline is not None:
        values = values - _task_matrix(baseline, arm.started, tasks)
    return np.array(tasks, dtype=float), values


def _task_matrix(arm: Arm, runs: Sequence[Run], tasks: Sequence[int]) -> Array:
    """Return the arm's returns for the seeds of the runs, NaN where missing. Shape: (runs, tasks)."""
    by_task = [task_returns(arm, task) for task in tasks]
    values = [[returns.get(run.seed) for returns in by_task] for run in runs]
    return np.array(values, dtype=np.float64).reshape(len(runs), len(tasks))
