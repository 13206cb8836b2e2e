"""Arms of a figure: a method with some settings, trained with every seed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plasticity.scripts.config.grid import settings_name
from plasticity.scripts.config.options import RunOptions
from plasticity.scripts.config.settings_by_option import concerns, with_options
from plasticity.scripts.run.jobs import Job


@dataclass(frozen=True)
class Arm:
    """Runs of one method with the same settings."""

    method: str
    """Name of the method, as `--methods` takes it."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings that the figure gives it, by option; the others are those of the command."""

    line: str = ""
    """Name of the line that it is a point of. Empty: that of the method."""

    @property
    def name(self) -> str:
        """Name of the line that it is a point of."""
        return self.line or self.method

    def folder(self, out: Path) -> Path:
        """Return the folder of its runs; each is in BENCHMARK/METHOD/seed_N in there."""
        return out / settings_name(self.settings)

    def jobs(self, options: RunOptions, out: Path) -> list[Job]:
        """Return its runs, one for each seed of the options.

        Raises:
            ValueError, TypeError: if a setting is unknown or out of range.
        """
        chosen = with_options(options, self.settings)
        parent = self.folder(out) / options.benchmark / self.method
        return [
            Job(parent / f"seed_{seed}", chosen.run_config(self.method, seed))
            for seed in options.seeds
        ]


def grid(methods: Sequence[str], settings: Mapping[str, Sequence[Any]]) -> list[Arm]:
    """Return an arm for each method with each combination of settings.

    Args:
        methods: Names of the methods.
        settings: Values to combine, by option. Those of a mitigation's settings (`syre.sigma`) concern the
            methods that use it; the arms of others are not repeated for them.
    """
    arms = []
    for method in methods:
        used = {option: values for option, values in settings.items() if concerns(option, method)}
        for values in itertools.product(*used.values()):
            arms.append(Arm(method, dict(zip(used, values, strict=True))))
    return arms
