"""Command `plasticity tune`: the best settings of a sweep become the defaults of its benchmark."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from plasticity.mitigations import MITIGATIONS
from plasticity.scripts.config.benchmark import TUNED_SETTINGS
from plasticity.scripts.report.arms import Arm, differing_keys
from plasticity.scripts.report.comparison import compare
from plasticity.scripts.report.metric_names import in_words
from plasticity.scripts.report.run_folders import Run, by_benchmark
from plasticity.scripts.run.atomic_files import write_whole

Tuned = dict[str, dict[str, dict[str, Any]]]
"""Settings by benchmark and mitigation."""


@dataclass(frozen=True)
class TuneConfig:
    """Choose each method's best setting in the runs of a sweep, and write it as the benchmark's default.

    The best setting is the one that `plasticity report` chooses. It was chosen on the seeds of the sweep:
    compare methods on other seeds.
    """

    folder: tyro.conf.Positional[Path]
    """Folder that contains the runs, at any depth: the --out of `plasticity sweep`."""

    out: Path | None = None
    """File to update, created if missing. None: the defaults of this installation, which `plasticity run`
    reads."""


def tune(config: TuneConfig) -> Tuned:
    """Write the best settings of a sweep, and print them beside those of before.

    Settings of other benchmarks and mitigations in the file are kept.

    Returns:
        The settings found, by benchmark and mitigation.

    Raises:
        ValueError: if there are no runs, no method with several settings, unfinished runs, or arms that
            differ in more than the settings of their mitigation; or if the file cannot be read or written.
    """
    found: Tuned = {}
    lines: list[str] = []
    file = TUNED_SETTINGS if config.out is None else config.out
    tuned = _read(file)
    for benchmark, runs in by_benchmark(config.folder).items():
        for name, (arm, metric) in _best_arms(runs).items():
            settings = _tuned_settings(name, arm.runs[0].config["method"][name])
            before = _text(tuned.get(benchmark, {}).get(name))
            found.setdefault(benchmark, {})[name] = settings
            chosen = f"{_text(settings)} by {in_words(metric)}"
            lines.append(f"{benchmark}, {name}: {chosen}; before: {before}.")
    if not found:
        raise ValueError(
            f"No method in {config.folder} was run with several settings: plasticity sweep NAME --out"
            f" {config.folder} tries some."
        )
    for benchmark, settings_of in found.items():
        tuned.setdefault(benchmark, {}).update(settings_of)
    _write(file, tuned)
    print("\n".join([*lines, f"Written: {file}"]))
    return found


def _best_arms(runs: Sequence[Run]) -> dict[str, tuple[Arm, str]]:
    """Return the best arm of each mitigation that was run by itself with several settings, and the metric."""
    comparison = compare(runs, None, 0.95)
    if comparison.unfinished:
        run = comparison.unfinished[0]
        raise ValueError(
            f"{run.path} is unfinished: continue the sweep with the same command first."
        )
    found = {}
    for chosen in comparison.chosen:
        arms = comparison.arms_of(chosen.method)
        if len(arms) == 1 or chosen.method not in MITIGATIONS:
            continue
        own = chosen.runs[0].config["method"][chosen.method]
        others = [key for key in differing_keys([arm.settings for arm in arms]) if key not in own]
        if others:
            raise ValueError(
                f"The runs of {chosen.method} differ in {', '.join(others)} too, and only settings of the"
                " mitigation become defaults: give a folder in which nothing else differs."
            )
        found[chosen.method] = (chosen, comparison.headline)
    return found


def _tuned_settings(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a search is about, and those that differ from their defaults."""
    defaults = MITIGATIONS[name]()
    return {
        key: value
        for key, value in settings.items()
        if key in defaults.search or value != getattr(defaults, key)
    }


def _text(settings: Mapping[str, Any] | None) -> str:
    if settings is None:
        return "nothing"
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def _read(file: Path) -> Tuned:
    if not file.exists():
        return {}
    try:
        content: Tuned = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read ({error}): pass another --out.") from error
    return content


def _write(file: Path, tuned: Tuned) -> None:
    try:
        write_whole(file, json.dumps(tuned, indent=2).encode() + b"\n")
    except OSError as error:
        raise ValueError(
            f"Cannot write {file} ({error.strerror}): pass --out a file that you can write to."
        ) from error
