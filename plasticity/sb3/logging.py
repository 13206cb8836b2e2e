"""Rows of measurements in the outputs of Stable-Baselines3's logger, apart from what it writes itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from stable_baselines3.common.logger import Logger

__all__ = ["PROBE", "log_row"]

PROBE = "probe/"
"""What the key of a number measured on the fixed probe batch begins with."""

LONGEST_CONSOLE_KEY = 33  # what SB3's table prints whole: its 36 characters less the indentation
FILE_FORMATS = ("csv", "json", "tensorboard")


def log_row(logger: Logger, row: Mapping[str, Any], measured: Mapping[str, float]) -> None:
    """Write a row at once: what the logger has recorded so far waits for its own row.

    Args:
        logger: Of the model.
        row: With its "step", "task" and "diverged".
        measured: The numbers in it, by `metric_key`, those of the fixed probe batch after `PROBE`.
    """
    own = Logger(None, logger.output_formats)
    own.set_level(logger.level)
    own.record("time/total_timesteps", row["step"], exclude="tensorboard")
    # SB3's table cuts long keys, and fails where two are then alike: it gets a summary.
    for key, value in measured.items():
        fixed = key.startswith(PROBE)
        name = f"plasticity_probe/{key[len(PROBE) :]}" if fixed else f"plasticity/{key}"
        own.record(name, value, exclude=("stdout", "log"))
    for name, value in _summary(measured).items():
        if len(name) <= LONGEST_CONSOLE_KEY:
            # Under a key of its own, as SB3 keeps one value, and one list of formats, for each.
            own.record(f"plasticity_mean/{name}", value, exclude=FILE_FORMATS)
    if isinstance(row["task"], int):
        own.record("plasticity/task", row["task"])
    if row["diverged"]:
        own.record("plasticity/diverged", 1)
    own.dump(row["step"])


def _summary(measured: Mapping[str, float]) -> dict[str, float]:
    """One number for each metric on the latest observations: the total, or the mean over the layers."""
    by_metric: dict[str, dict[str, float]] = {}
    for key, value in measured.items():
        if not key.startswith(PROBE):
            metric, _, layer = key.partition("/")
            by_metric.setdefault(metric, {})[layer] = value
    return {
        metric: values.get("total", float(np.mean(list(values.values()))))
        for metric, values in by_metric.items()
    }
