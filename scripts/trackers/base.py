"""Protocol of trackers, what they are told of a run, and their names."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

TRACKERS = {
    "wandb": "plasticity.scripts.trackers.wandb:WandbTracker",
    "mlflow": "plasticity.scripts.trackers.mlflow:MlflowTracker",
}
"""Classes of the trackers, as "module:Class", by name."""

PROJECT = "plasticity"
"""Project of the runs, where the user's environment names none."""


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """Run that a tracker shows."""

    folder: Path
    """Folder of the run."""

    benchmark: str
    """Name of the benchmark."""

    method: str
    """Name of the method."""

    seed: int
    """Seed."""

    settings: Mapping[str, Any]
    """Settings by their path, such as agent.learning_rate."""

    @property
    def name(self) -> str:
        """Name of the run among those of its benchmark."""
        return f"{self.method}/seed_{self.seed}"


class Tracker(Protocol):
    """Copy of a run at a service: an object for each run.

    Its class is called with a `TrackedRun`, and with the identifier that the run has there already, or None
    before it was ever sent.
    """

    identifier: str
    """Name of the run at the service, by which it is continued."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Send a row.

        Args:
            step: Its position on the finest axis; larger than that of the row before.
            numbers: Its values by name.

        Raises:
            Exception: of the service's own kinds, if it cannot be sent now.
        """

    def close(self, *, finished: bool) -> None:
        """Say that no more rows come for now.

        Args:
            finished: Whether the run is complete.
        """


def open_tracker(name: str, run: TrackedRun, identifier: str | None) -> Tracker:
    """Return the tracker of a run.

    Args:
        name: One of `TRACKERS`.
        run: The run.
        identifier: Its identifier at the service; None if it is not there yet.

    Raises:
        ModuleNotFoundError: if the package of the tracker is not installed.
    """
    module, _, kind = TRACKERS[name].partition(":")
    tracker: Tracker = getattr(importlib.import_module(module), kind)(run, identifier)
    return tracker


def require_trackers(names: tuple[str, ...]) -> None:
    """Raise an error unless the packages of these trackers are installed.

    Raises:
        ValueError: if one is not; the message names the remedy.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise ValueError(
                f"--track {name} needs a package that is not installed: pip install 'plasticity[{name}]'."
            ) from error
