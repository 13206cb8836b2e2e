"""Rows of a run at the MLflow server, database or folder that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Mapping
from typing import Any

from plasticity.scripts.trackers.base import PROJECT, TrackedRun

MAX_PARAMETERS = 100
"""Most parameters that a server takes at once."""

MAX_METRICS = 1000
"""Most metrics that a server takes at once."""

MAX_VALUE = 6000
"""Most characters of a parameter's value."""


class MlflowTracker:
    """Run at MLflow, in the experiment "plasticity/BENCHMARK"; see `Tracker`.

    Names of metrics may only have letters, digits and some signs there: others become "_".

    Args:
        run: The run.
        identifier: Its identifier there; None before it was ever sent.
    """

    def __init__(self, run: TrackedRun, identifier: str | None) -> None:
        mlflow: Any = importlib.import_module("mlflow")
        self._entities: Any = importlib.import_module("mlflow.entities")
        self._client = mlflow.MlflowClient()
        if identifier is None:
            identifier = self._created(f"{PROJECT}/{run.benchmark}", run)
        else:
            self._client.set_terminated(identifier, status="RUNNING")
        self.identifier = identifier

    def _created(self, experiment: str, run: TrackedRun) -> str:
        tags = {"method": run.method, "seed": str(run.seed), "folder": str(run.folder)}
        created = self._client.create_run(
            self._experiment(experiment), run_name=run.name, tags=tags
        )
        identifier: str = created.info.run_id
        parameters = [
            self._entities.Param(_allowed(path), str(value)[:MAX_VALUE])
            for path, value in run.settings.items()
        ]
        for first in range(0, len(parameters), MAX_PARAMETERS):
            self._client.log_batch(identifier, params=parameters[first : first + MAX_PARAMETERS])
        return identifier

    def _experiment(self, name: str) -> str:
        """Return the identifier of an experiment, which is created if it does not exist."""
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name))
            except Exception:
                # another run was faster
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Send a row; see `Tracker`."""
        now = int(time.time() * 1000)
        metrics = [
            self._entities.Metric(_allowed(name), value, now, step)
            for name, value in numbers.items()
        ]
        for first in range(0, len(metrics), MAX_METRICS):
            self._client.log_batch(self.identifier, metrics=metrics[first : first + MAX_METRICS])

    def close(self, *, finished: bool) -> None:
        """Say that no more rows come for now; see `Tracker`."""
        self._client.set_terminated(self.identifier, status="FINISHED" if finished else "KILLED")


def _allowed(name: str) -> str:
    return re.sub(r"[^\w\-. :/]", "_", name)
