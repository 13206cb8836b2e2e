"""Rows of a run at Weights & Biases, or in its folder for `wandb sync` where WANDB_MODE is "offline"."""

from __future__ import annotations

import importlib
import os
import uuid
from collections.abc import Mapping
from typing import Any

from plasticity.scripts.trackers.base import PROJECT, TrackedRun


class WandbTracker:
    """Run at Weights & Biases, in the group of its benchmark; see `Tracker`.

    The project is that of the variable WANDB_PROJECT, else "plasticity". What wandb keeps on disk is in the
    run's folder.

    Args:
        run: The run.
        identifier: Its identifier there; None before it was ever sent.
    """

    def __init__(self, run: TrackedRun, identifier: str | None) -> None:
        wandb: Any = importlib.import_module("wandb")
        self.identifier = identifier or uuid.uuid4().hex
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),  # an argument wins over the variable
            settings=wandb.Settings(silent=True, console="off"),
            group=run.benchmark,
            job_type=run.method,
            name=run.name,
            id=self.identifier,
            resume="allow",
            reinit="create_new",  # stacked runs are open at once
            dir=run.folder,
            config=dict(run.settings),
        )

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Send a row; see `Tracker`."""
        self._run.log(dict(numbers), step=step)

    def close(self, *, finished: bool) -> None:
        """Say that no more rows come for now; see `Tracker`."""
        self._run.finish(exit_code=0 if finished else 1)
