"""Rows of measurements in the outputs of Stable-Baselines3's logger, separate from SB3's own rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from stable_baselines3.common.logger import Logger

__all__ = ["PROBE", "log_row"]

PROBE = "probe/"
"""Prefix of the keys of numbers measured on the fixed probe batch."""

LONGEST_CONSOLE_KEY = 33  # SB3's table prints keys of up to 36 characters, with indentation
FILE_FORMATS = ("csv", "json", "tensorboard")


def log_row(logger: Logger, row: Mapping[str, Any], measured: Mapping[str, float]) -> None:
    """Write a row immediately; values already recorded in the logger stay there for SB3's own row.

    Args:
        logger: Logger of the model.
        row: Row with its "step", "task" and "diverged".
        measured: Numbers of the row by `metric_key`; those of the fixed probe batch are prefixed by `PROBE`.
    """
    own = Logger(None, logger.output_formats)
    own.set_level(logger.level)
    own.record("time/total_timesteps", row["step"], exclude="tensorboard")
    # SB3's table truncates long keys and fails if two become equal, so it gets a summary.
    for key, value in measured.items():
        fixed = key.startswith(PROBE)
        name = f"plasticity_probe/{key[len(PROBE) :]}" if fixed else f"plasticity/{key}"
        own.record(name, value, exclude=("stdout", "log"))
    for name, value in _summary(measured).items():
        if len(name) <= LONGEST_CONSOLE_KEY:
            # Uses a separate key, as SB3 stores one value and one list of excluded formats per key.
            own.record(f"plasticity_mean/{name}", value, exclude=FILE_FORMATS)
    if isinstance(row["task"], int):
        own.record("plasticity/task", row["task"])
    if row["diverged"]:
        own.record("plasticity/diverged", 1)
    own.dump(row["step"])


def _summary(measured: Mapping[str, float]) -> dict[str, float]:
    """Reduce each metric on the latest observations to one number: its total, or its mean over layers."""
    by_metric: dict[str, dict[str, float]] = {}
    for key, value in measured.items():
        if not key.startswith(PROBE):
            metric, _, layer = key.partition("/")
            by_metric.setdefault(metric, {})[layer] = value
    return {
        metric: values.get("total", float(np.mean(list(values.values()))))
        for metric, values in by_metric.items()
    }
