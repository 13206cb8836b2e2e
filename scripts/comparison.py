"""The runs of one benchmark, compared: which arms stand for their methods, tables, notes."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plasticity.scripts.arms import (
    MOMENTS,
    NO_VALUE,
    NOT_SETTINGS,
    Arm,
    best,
    differing_keys,
    gather,
    moments,
    paired_summary,
    plain,
    shared_positions,
    summary,
)
from plasticity.scripts.metric_names import headlines, in_words, is_percent
from plasticity.scripts.run_folders import Run
from plasticity.scripts.statistics import MAX_EXACT_COUNT, Estimate
from plasticity.settings import nearest

PREFERRED_BASELINES = ("weight-decay", "none")
"""What others are compared with where nobody said."""


@dataclass(frozen=True)
class Cell:
    """Of a table: what is read first, and smaller lines below it."""

    text: str
    """The figure."""

    details: tuple[str, ...] = ()
    """Its interval, and what is to be known of it."""


@dataclass(frozen=True)
class Table:
    """One table, for the terminal and for the page."""

    title: str
    """Above it."""

    columns: tuple[str, ...]
    """Heads, in one line or two; the first column holds names, the others figures."""

    rows: tuple[tuple[Cell, ...], ...]
    """As long as the heads, each."""


@dataclass(frozen=True)
class Comparison:
    """The arms of one benchmark."""

    benchmark: str
    """Its name."""

    arms: tuple[Arm, ...]
    """Those with a row, methods in their usual order."""

    chosen: tuple[Arm, ...]
    """One arm per method: its best setting."""

    baseline: Arm | None
    """What the others are compared with."""

    metrics: tuple[str, ...]
    """All that was measured, in the order of the rows."""

    confidence: float
    """Of the intervals."""

    unfinished: tuple[Run, ...]
    """Runs that lack rows, those without any among them."""

    notes: tuple[str, ...]
    """What a reader has to know."""

    @property
    def headline(self) -> str:
        """The metric that settings are compared by."""
        return headlines(self.metrics)[0]

    @property
    def axis(self) -> str:
        """What rows are placed by: "task" or "step"."""
        return self.arms[0].started[0].axis

    @property
    def is_sweep(self) -> bool:
        """Whether a method has several settings."""
        return len(self.chosen) < len(self.arms)


def compare(runs: Sequence[Run], baseline: str | None, confidence: float) -> Comparison:
    """Gather the runs of one benchmark, and choose what is compared with what.

    Args:
        runs: Of one benchmark.
        baseline: A method, or an arm's label. None: weight decay if there are runs of it, else the
            plain optimizer, else nothing.
        confidence: Of the intervals.

    Raises:
        ValueError: if no run has a row yet, the baseline is unknown, or folders contradict each
            other.
    """
    arms, notes = gather(runs)
    started = [arm for arm in arms if arm.started]
    if not started:
        raise ValueError(
            f"No run of {runs[0].benchmark} has a row in its metrics.jsonl yet (looked in"
            f" {runs[0].path}{' and others' if len(runs) > 1 else ''}): wait for the first task's"
            " end, or continue the runs."
        )
    metrics = tuple({name: None for arm in started for name in arm.metrics})
    headline = headlines(metrics)[0]
    by_method: dict[str, list[Arm]] = {}
    for arm in started:
        by_method.setdefault(arm.method, []).append(arm)
    chosen = tuple(best(members, headline) for members in by_method.values())
    reference = _baseline(baseline, started, chosen)
    notes = [*_choice_notes(by_method, headline), *_run_notes(arms), *notes]
    notes += _interval_notes(started, confidence)
    if reference is not None:
        notes += _baseline_notes(started, reference)
    return Comparison(
        benchmark=runs[0].benchmark,
        arms=tuple(started),
        chosen=chosen,
        baseline=reference,
        metrics=metrics,
        confidence=confidence,
        unfinished=tuple(run for arm in arms for run in arm.unfinished),
        notes=tuple(notes),
    )


def _baseline(name: str | None, arms: Sequence[Arm], chosen: Sequence[Arm]) -> Arm | None:
    by_name = {arm.label: arm for arm in arms} | {arm.method: arm for arm in chosen}
    if name is None:
        return next((by_name[each] for each in PREFERRED_BASELINES if each in by_name), None)
    if name not in by_name:
        raise ValueError(f"Unknown baseline {name!r}.{nearest(name, by_name)}")
    return by_name[name]


# ---- notes ------------------------------------------------------------------------------------------


def _choice_notes(by_method: Mapping[str, Sequence[Arm]], headline: str) -> list[str]:
    if all(len(members) == 1 for members in by_method.values()):
        return []
    return [
        f"Where a method has several settings, the best one by {in_words(headline)} at the last task"
        " stands for it. It was chosen on the seeds shown here, which flatters it: confirm it on"
        " other seeds."
    ]


def _run_notes(arms: Sequence[Arm]) -> list[str]:
    notes = []
    for arm in arms:
        for run in arm.unfinished:
            if run.rows:
                reached, axis = max(run.by_position), run.axis
                notes.append(
                    f"{arm.label}, seed {run.seed}, is unfinished: its last {axis} is {reached}, of"
                    f" {run.planned} planned. The arm is summed up over the {axis}s that its runs"
                    " share."
                )
            else:
                notes.append(f"{arm.label}, seed {run.seed}, has no row yet, and is left out.")
        for run in arm.diverged:
            notes.append(
                f"{arm.label}, seed {run.seed}, diverged at {run.axis} {run.diverged_at}: it is left"
                " out from there on, and of averages. Means over the rest flatter the method."
            )
        for run in arm.runs:
            if run.half_written:
                notes.append(
                    f"The last line of {run.path / 'metrics.jsonl'} is half-written, and left out."
                )
    for key in ("git_commit", "versions"):
        found = {str(run.config.get(key)) for arm in arms for run in arm.runs}
        if len(found) > 1:
            notes.append(
                f"The runs were made with {len(found)} different {key}: see their folders."
            )
    return notes


def _interval_notes(arms: Sequence[Arm], confidence: float) -> list[str]:
    fewest = min(len(arm.started) for arm in arms)
    text = f"In brackets: {100 * confidence:g} % percentile bootstrap intervals over seeds"
    if fewest == 1:
        return [f"{text}; one seed gives none."]
    if fewest <= MAX_EXACT_COUNT:
        # All n values lie on one side of the median with probability 2 * (1/2)^n.
        holds = 100 * (1 - 2.0 ** (1 - fewest))
        return [
            f"{text}. They are rough: with {fewest} seeds even the whole range of the seeds holds"
            f" the median of all possible seeds in {holds:.0f} of 100 cases only."
        ]
    return [f"{text}."]


def _baseline_notes(arms: Sequence[Arm], baseline: Arm) -> list[str]:
    notes = []
    for arm in arms:
        shared = shared_positions([arm, baseline])
        if arm.positions != baseline.positions:
            last = f"{shared[-1]} is the last" if shared else "nowhere yet"
            notes.append(
                f"Differences of {arm.label} to {baseline.label} are taken where both have"
                f" rows: {last}."
            )
    return notes


# ---- tables -----------------------------------------------------------------------------------------


def format_values(values: Sequence[float], metric: str, *, signed: bool = False) -> list[str]:
    """Figures to read: shares in per cent, the rest to three digits of the largest, or more."""
    factor = 100.0 if is_percent(metric) else 1.0
    size = max(abs(value) for value in values)
    decimals = 1 if is_percent(metric) else sum(size < bound for bound in (1000, 10, 1))
    return [f"{factor * value:{'+' if signed else ''}.{decimals}f}" for value in values]


def _cell(found: Estimate | None, metric: str, runs: int, *, signed: bool = False) -> Cell:
    if found is None:
        return Cell(NO_VALUE)
    ends = [end for end in (found.low, found.high) if end is not None]
    text, *interval = format_values([found.mean, *ends], metric, signed=signed)
    details = [f"[{', '.join(interval)}]" if interval else "one seed"]
    if found.count != runs:
        details.append(f"{found.count} of {runs} seeds")
    return Cell(text, tuple(details))


def _name_cell(arm: Arm, *, with_places: bool = False) -> Cell:
    runs = len(arm.runs)
    details = [arm.apart] if arm.apart else []
    details.append(f"{runs} seed{'s' if runs > 1 else ''}")
    if with_places and arm.positions:
        places = ", ".join(map(str, moments(arm.positions).values()))
        details.append(f"{arm.started[0].axis}s {places}")
    if arm.diverged:
        details.append(f"{len(arm.diverged)} of {runs} diverged")
    if arm.unfinished:
        details.append(f"{len(arm.unfinished)} of {runs} unfinished")
    return Cell(arm.method, tuple(details))


def metric_table(comparison: Comparison, metric: str, arms: Sequence[Arm], *, full: bool) -> Table:
    """Means over seeds at the first, middle and last task and over all, and the difference.

    Args:
        comparison: Gives the baseline and the confidence.
        metric: Name in the rows.
        arms: A row for each.
        full: The difference at every moment, in place of the last task's alone.
    """
    baseline, confidence = comparison.baseline, comparison.confidence
    compared = MOMENTS if full else ("last",)
    places = _places(comparison, arms)
    rows = []
    for arm in arms:
        found = summary(arm, metric, confidence)
        name = _name_cell(arm, with_places=not places["last"])
        cells = [name, *(_cell(found[m], metric, len(arm.runs)) for m in MOMENTS)]
        if baseline is not None:
            paired = paired_summary(arm, baseline, metric, confidence)
            cells += [
                Cell("baseline")
                if arm is baseline
                else _cell(paired[m], metric, len(arm.runs), signed=True)
                for m in compared
            ]
        rows.append(tuple(cells))
    heads = [f"{name}\n{place}".strip() for name, place in places.items()]
    if baseline is not None:
        heads += [f"{moment} minus\n{baseline.label}" for moment in compared]
    unit = " (%)" if is_percent(metric) else ""
    return Table(f"{in_words(metric)}{unit}", ("method", *heads), tuple(rows))


def _places(comparison: Comparison, arms: Sequence[Arm]) -> dict[str, str]:
    """Which task each moment is, where all arms agree."""
    found = [moments(arm.positions) for arm in arms]
    axis = comparison.axis
    places = {m: {each.get(m) for each in found} for m in MOMENTS if m != "average"}
    return {
        m: f"({axis} {next(iter(places[m]))})" if len(places.get(m, ())) == 1 else ""
        for m in MOMENTS
    }


def best_table(comparison: Comparison) -> Table:
    """Each method at its own best setting: the fair comparison."""
    metric, confidence = comparison.headline, comparison.confidence
    common = shared_positions(comparison.chosen)
    baseline = comparison.baseline
    rows = []
    for arm in comparison.chosen:
        tried = sum(other.method == arm.method for other in comparison.arms)
        at_last = summary(arm, metric, confidence, common)
        cells = [
            _name_cell(arm),
            Cell(str(tried)),
            _cell(at_last["last"], metric, len(arm.runs)),
            _cell(at_last["average"], metric, len(arm.runs)),
        ]
        if baseline is not None:
            paired = paired_summary(arm, baseline, metric, confidence)["last"]
            difference = _cell(paired, metric, len(arm.runs), signed=True)
            cells.append(Cell("baseline") if arm is baseline else difference)
        rows.append(tuple(cells))
    last = f"\n({comparison.axis} {common[-1]})" if common else ""
    heads = ["method", "settings\ntried", f"last{last}", "average"]
    heads += [f"last minus\n{baseline.label}"] if baseline is not None else []
    unit = " (%)" if is_percent(metric) else ""
    title = f"{in_words(metric)}{unit}, each method at its own best setting"
    return Table(title, tuple(heads), tuple(rows))


def common_settings(comparison: Comparison) -> dict[str, object]:
    """What all arms have in common."""
    settings = [arm.settings for arm in comparison.arms]
    apart = set(differing_keys(settings))
    return {key: value for key, value in settings[0].items() if key not in apart}


def settings_table(comparison: Comparison) -> Table:
    """What differs from arm to arm, and how far each one's runs are."""
    apart = differing_keys([arm.settings for arm in comparison.arms])
    rows = []
    for arm in comparison.arms:
        values = [Cell(plain(arm.settings.get(key))) for key in apart]
        seeds = Cell(", ".join(str(run.seed) for run in arm.runs))
        done = Cell(", ".join(f"{len(run.rows)} of {run.planned}" for run in arm.started))
        rows.append((Cell(arm.label), *values, seeds, done))
    done_head = "rows of each" if comparison.axis == "task" else "rows, of steps planned"
    return Table("Arms", ("method", *apart, "seeds", done_head), tuple(rows))


def recorded(comparison: Comparison, key: str) -> list[str]:
    """What the folders say of their making (`versions`, `git_commit`), each answer once."""
    assert key in NOT_SETTINGS
    answers = []
    for run in (run for arm in comparison.arms for run in arm.runs):
        value = run.config.get(key)
        if isinstance(value, dict):
            answers.append(", ".join(f"{name} {version}" for name, version in value.items()))
        else:
            answers.append("not recorded" if value is None else str(value))
    return list(dict.fromkeys(answers))


def continue_commands(runs: Sequence[Run]) -> list[str]:
    """Commands that continue the unfinished runs: one for all seeds of the same settings."""
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
