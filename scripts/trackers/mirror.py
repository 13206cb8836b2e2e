"""Rows of a run folder at its trackers: each is sent once, also after a kill or while a service is down."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plasticity.scripts.run.atomic_files import RunError, explained, write_whole
from plasticity.scripts.trackers.base import TrackedRun, Tracker, open_tracker

FILE_NAME = "trackers.json"
"""File of a run folder that tells, for each tracker, its identifier of the run and the rows that it has."""


class Mirror:
    """Copy of the rows of a run at one tracker.

    A run that was killed computes the rows again that its checkpoint has not seen: they are the same, and
    those that were sent are not sent again. What cannot be sent is sent later, before the next row.

    Args:
        name: Name of the tracker.
        run: The run; its rows are in the file metrics.jsonl of its folder.
        axis: Key of a row that is its position at the tracker.

    Raises:
        RunError: if the file of the trackers cannot be read.
    """

    def __init__(self, name: str, run: TrackedRun, axis: str) -> None:
        self._name, self._run, self._axis = name, run, axis
        self._file = run.folder / FILE_NAME
        known = _read(self._file).get(name, {})
        self._identifier: str | None = known.get("identifier")
        self._sent = int(known.get("rows", 0))
        self._tracker: Tracker | None = None

    def update(self) -> None:
        """Send the rows that the tracker does not have yet; warn if that fails, and go on."""
        rows = _rows(self._run.folder / "metrics.jsonl", self._sent)
        if not rows:
            return
        try:
            if self._tracker is None:
                self._tracker = open_tracker(self._name, self._run, self._identifier)
                self._identifier = self._tracker.identifier
                self._save()
            for row in rows:
                self._tracker.log(int(row[self._axis]), _numbers(row))
                self._sent += 1
                self._save()
        except RunError:
            raise
        except Exception as error:
            warnings.warn(
                f"{self._name} did not take row {self._sent} of {self._run.folder} ({error}): the run goes"
                " on, and the row is sent before the next one.",
                stacklevel=2,
            )

    def close(self, *, finished: bool) -> None:
        """Send what is left, and say that no more rows come for now."""
        self.update()
        if self._tracker is None:
            return
        try:
            self._tracker.close(finished=finished)
        except Exception as error:
            warnings.warn(
                f"{self._name} does not know that {self._run.folder} has ended ({error}).",
                stacklevel=2,
            )

    def _save(self) -> None:
        known = _read(self._file)
        known[self._name] = {"identifier": self._identifier, "rows": self._sent}
        with explained(self._file):
            write_whole(self._file, json.dumps(known, indent=2).encode() + b"\n")


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RunError(
            f"{file} cannot be read ({error}): delete it, and the rows are sent again as another run."
        ) from error
    if not isinstance(found, dict):
        raise RunError(f"{file} must hold an object: delete it, and the rows are sent again.")
    return found


def _rows(file: Path, first: int) -> list[dict[str, Any]]:
    """Return the rows of a file from a given one on; half a row, of a kill, is none."""
    try:
        lines = file.read_text(encoding="utf-8").split("\n")[:-1]
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines[first:]]


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a row; text and None are left out."""
    return {name: float(value) for name, value in row.items() if isinstance(value, (int, float))}
