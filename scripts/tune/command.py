"""Command `plasticity tune`: a search of each method's settings, with the same budget for all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from plasticity.mitigations import MITIGATIONS
from plasticity.scripts.config.benchmark import TUNED_SETTINGS
from plasticity.scripts.config.grid import Axis, settings_name
from plasticity.scripts.config.nested import setting_at, with_values
from plasticity.scripts.config.options import RunOptions
from plasticity.scripts.config.settings_by_option import with_options
from plasticity.scripts.report.metric_names import is_better_lower
from plasticity.scripts.report.run_folders import read_run
from plasticity.scripts.report.statistics import Estimate
from plasticity.scripts.run.atomic_files import write_whole
from plasticity.scripts.run.command import jobs_of, run_all
from plasticity.scripts.run.jobs import Job
from plasticity.scripts.run.progress import Messages
from plasticity.scripts.run.versions import made_by
from plasticity.scripts.tune.candidates import Search, Settings, axes_of, search_of
from plasticity.scripts.tune.options import TuneOptions
from plasticity.scripts.tune.scores import first_part, in_sentence, measure_of, score

FILE = "tuned.json"
"""Name of the file with the best settings, in the folder of a search."""


@dataclass
class Tried:
    """Setting that was tried, and how it did."""

    settings: Settings
    """Values by option."""

    jobs: Sequence[Job]
    """Runs, one for each seed."""

    estimate: Estimate | None = None
    """Score over the seeds; None if a run diverged."""


@dataclass
class MethodSearch:
    """Search of one method, and what it has tried."""

    method: str
    """Name of the method."""

    search: Search
    """Chooses what is tried."""

    tried: list[Tried] = field(default_factory=list)
    """Settings tried so far."""

    def best(self, measure: str) -> Tried:
        """Return the setting with the best score, the first of equal ones.

        Raises:
            ValueError: if runs diverged with every setting.
        """
        sign = -1.0 if is_better_lower(measure) else 1.0
        sound = [each for each in self.tried if each.estimate is not None]
        if not sound:
            raise ValueError(
                f"{self.method} diverged with all {len(self.tried)} settings: give a --grid with others, such"
                " as a smaller learning-rate."
            )
        return max(sound, key=lambda each: sign * each.estimate.mean if each.estimate else 0.0)


def tune(options: RunOptions, axes: Sequence[Axis], wanted: TuneOptions, command: str) -> int:
    """Try settings of each method on the first part of a benchmark, and write the best ones.

    The same command again continues a search that was stopped. The file holds all that was tried.

    Args:
        options: Options of the command line; their seeds are those of the search.
        axes: Settings to try, with their values.
        wanted: Options of the search.
        command: Command line that continues the search, for the message about stopped runs.

    Returns:
        The exit code, as of `run`.

    Raises:
        RunError, ValueError, TypeError: before anything runs, if the options cannot be satisfied.
        ModuleNotFoundError: if Optuna is wanted and not installed.
    """
    if wanted.defaults:
        _require_own(axes, options.methods)
    searches = [
        MethodSearch(method, search_of(wanted.search, axes_of(axes, method), wanted.budget, method))
        for method in options.methods
    ]
    shortened = _shortened(options, wanted.fraction)
    measure = wanted.measure
    rounds = [(each, each.search.rounds()) for each in searches]
    while rounds:
        latest: list[tuple[MethodSearch, list[Tried]]] = []
        going = []
        for each, proposals in rounds:
            settings = next(proposals, None)
            if settings is not None:
                going.append((each, proposals))
                latest.append((each, [_tried(shortened, each.method, one) for one in settings]))
        jobs = [job for _, tried in latest for one in tried for job in one.jobs]
        if jobs and (code := run_all(jobs, shortened, command)) != 0:
            return code
        for each, tried in latest:
            measure = _take_scores(each, tried, measure, shortened.config.length)
        rounds = going
    assert measure is not None
    content = _record(shortened, wanted, measure, searches)
    file = options.out / FILE
    _write(file, content)
    if wanted.defaults:
        _make_defaults(options.benchmark, searches, measure)
    _print(searches, measure, file)
    return 0


def _shortened(options: RunOptions, fraction: float) -> RunOptions:
    """Return options for the first part of the benchmark, at least one task or step."""
    path = options.config.length_path
    length = max(1, round(fraction * int(setting_at(options.config, path))))
    return replace(options, config=with_values(options.config, {path: length}))


def _tried(options: RunOptions, method: str, settings: Settings) -> Tried:
    chosen = with_options(options, settings)
    return Tried(settings, jobs_of(chosen, (method,), options.out / settings_name(settings)))


def _take_scores(
    each: MethodSearch, tried: Sequence[Tried], measure: str | None, length: int
) -> str:
    """Read the runs of a round, and return the measure that they are compared by."""
    for one in tried:
        runs = [first_part(read_run(job.path), length) for job in one.jobs]
        measure = measure_of(runs, measure)
        one.estimate = score(runs, measure)
    assert measure is not None
    sign = -1.0 if is_better_lower(measure) else 1.0
    each.search.learn([None if t.estimate is None else sign * t.estimate.mean for t in tried])
    each.tried += tried
    return measure


# ---- what is written --------------------------------------------------------------------------------


def _record(
    options: RunOptions, wanted: TuneOptions, measure: str, searches: Sequence[MethodSearch]
) -> dict[str, Any]:
    return {
        "benchmark": options.benchmark,
        "measure": measure,
        "search": wanted.search,
        "budget": wanted.budget,
        "fraction": wanted.fraction,
        options.config.length_path.rpartition(".")[2]: options.config.length,
        "seeds": list(options.seeds),
        "methods": {
            each.method: {
                "settings": dict(each.best(measure).settings),
                "tried": [
                    {
                        "settings": dict(one.settings),
                        "score": None if one.estimate is None else one.estimate.mean,
                        "interval": None if one.estimate is None else one.estimate.t,
                    }
                    for one in each.tried
                ],
            }
            for each in searches
        },
        **made_by(),
    }


def _write(file: Path, content: Mapping[str, Any]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(content, indent=2).encode() + b"\n")
    except OSError as error:
        raise ValueError(
            f"Cannot write {file} ({error.strerror}): pass --out a folder that you can write to."
        ) from error


def _require_own(axes: Sequence[Axis], methods: Sequence[str]) -> None:
    """Raise a ValueError if settings are searched that cannot become defaults of a mitigation."""
    for method in methods:
        names = [axis.option for axis in axes_of(axes, method)]
        others = [name for name in names if not name.startswith(f"{method}.")]
        if method in MITIGATIONS and others:
            raise ValueError(
                f"--defaults: the grid has {', '.join(others)}, and only settings of a mitigation become"
                " defaults. Leave out --defaults, and use the file of the search: --tuned FILE."
            )


def _make_defaults(benchmark: str, searches: Sequence[MethodSearch], measure: str) -> None:
    """Write the best settings of single mitigations into the file of the benchmarks' defaults.

    Raises:
        ValueError: if the file cannot be written.
    """
    tuned = json.loads(TUNED_SETTINGS.read_text(encoding="utf-8"))
    for each in searches:
        if each.method not in MITIGATIONS:
            continue
        settings = each.best(measure).settings
        found = {option.partition(".")[2].replace("-", "_"): v for option, v in settings.items()}
        tuned.setdefault(benchmark, {}).setdefault(each.method, {}).update(found)
    _write(TUNED_SETTINGS, tuned)


def _print(searches: Sequence[MethodSearch], measure: str, file: Path) -> None:
    messages = Messages()
    for each in searches:
        best = each.best(measure)
        name = settings_name(best.settings).replace(",", ", ") or "nothing to tune"
        diverged = sum(one.estimate is None for one in each.tried)
        remark = f", {diverged} diverged" if diverged else ""
        messages.print(
            f"{each.method}: {name} ({in_sentence(measure, best.estimate)}; {len(each.tried)} tried{remark})"
        )
    messages.print(f"Written: {file}")
