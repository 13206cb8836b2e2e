"""Settings, versions and commits of the runs of a comparison, and the commands that continue them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

from plasticity.scripts.config.run_config import MADE_BY
from plasticity.scripts.report.arms import differing_keys
from plasticity.scripts.report.comparison import Comparison
from plasticity.scripts.report.run_folders import Run


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
