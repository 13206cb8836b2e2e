"""Adapter of the ordinary and the stacked experiment of a kind to one protocol, until they are one class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


class Adapted:
    """Runs trained by the class of the ordinary experiment, or by that of the stacked one."""

    def __init__(self, configs: Sequence[Any], made: Any, *, stacked: bool) -> None:
        self.configs = configs
        self._made = made
        self._stacked = stacked

    @property
    def progress(self) -> float:
        """Progress of the runs."""
        return float(self._made.progress)

    def is_finished(self, run: int) -> bool:
        """Return whether a run is complete."""
        return bool(self._made.is_finished(run) if self._stacked else self._made.finished)

    def has_diverged(self, run: int) -> bool:
        """Return whether a run diverged."""
        return bool(self._made.has_diverged(run) if self._stacked else self._made.diverged)

    def next_rows(self, should_stop: Callable[[], bool]) -> dict[int, dict[str, Any]]:
        """Work until the next row of any run."""
        if self._stacked:
            return dict(self._made.next_rows(should_stop))
        row = self._made.next_row(should_stop)
        return {} if row is None else {0: row}

    def take_episodes(self, run: int) -> list[dict[str, Any]]:
        """Return the rows of a run's episodes."""
        return list(self._made.take_episodes(run) if self._stacked else self._made.take_episodes())

    def state_dicts(self, runs: Sequence[int]) -> list[dict[str, Any]]:
        """Return the states of these runs."""
        if self._stacked:
            return list(self._made.state_dicts(runs))
        return [self._made.state_dict() for _ in runs]

    def load_state_dict(self, run: int, state: dict[str, Any]) -> None:
        """Continue a run from its state."""
        if self._stacked:
            self._made.load_state_dict(run, state)
        else:
            self._made.load_state_dict(state)

    def rehearse(self) -> None:
        """Do a little of everything that takes memory."""
        self._made.rehearse()

    def close(self) -> None:
        """Release what the runs share."""
        self._made.close()
