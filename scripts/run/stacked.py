"""Runs that train stacked in one process, each with its own folder, as if it were alone.

The runs of a stack have the same progress: they are in the same task or rollout. Runs that are behind,
because they were started later or killed between two checkpoints of the stack, are trained without the
others until they have caught up. The `seconds` of a row in `timings.jsonl` are those of the whole stack,
and its `stacked` is the number of runs in the stack.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from plasticity.scripts.config.run_config import RunConfig
from plasticity.scripts.run.folder import RunFolder, timing_of
from plasticity.scripts.run.memory import release_memory

FOLDERS_AT_ONCE = 8
"""Number of folders that are written in parallel, as each write waits for the disk."""


class StackedExperiment(Protocol):
    """Several runs that are trained stacked. An index is the position of a run in the list, from 0.

    Args:
        configs: Configurations of the runs, equal except for `plasticity.scripts.run.stacks.MAY_DIFFER`.
    """

    def __init__(self, configs: Sequence[Any]) -> None:
        """Make all runs, at their beginning."""

    @property
    def progress(self) -> float:
        """Progress of the runs that have not ended, in the units of their rows."""

    def is_finished(self, index: int) -> bool:
        """Return whether a run is complete."""

    def has_diverged(self, index: int) -> bool:
        """Return whether a run ended because something became NaN or infinite; it no longer changes then."""

    def next_rows(self, should_stop: Callable[[], bool]) -> dict[int, dict[str, Any]]:
        """Work until the next row of any run; return rows by index, none if stopped before."""

    def take_episodes(self, index: int) -> list[dict[str, Any]]:
        """Return the rows of one run's episodes, as `Experiment.take_episodes`."""

    def state_dicts(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return the states of these runs, as their ordinary experiments save them."""

    def load_state_dict(self, index: int, state: dict[str, Any]) -> None:
        """Continue one run from a state saved here or alone; all runs must then have the same progress."""

    def rehearse(self) -> None:
        """Do a little of everything that takes memory, to measure it; the runs are of no use afterwards."""

    def close(self) -> None:
        """Release whatever the runs share."""

    @staticmethod
    def progress_of(state: dict[str, Any]) -> float:
        """Return the progress of a run with this saved state."""

    @staticmethod
    def is_finished_at(state: dict[str, Any], config: Any) -> bool:
        """Return whether a run with this saved state is complete."""


@dataclass
class _Saved:
    """State of a run in its checkpoint; None if the run has not begun."""

    state: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        assert self.state is not None  # only states of an experiment are written
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


class StackedRuns:
    """Runs in open folders, to be trained stacked to their ends.

    Args:
        folders: Folders of the runs, open.
        configs: Configurations of the runs, in the same order.
        kind: Class of the experiment that trains them.
        is_stacked: Whether a single run belongs to a group, whose other runs are trained at another time:
            it is then stacked with a copy of itself. Runs of several folders are stacked in any case.
        on_progress: Called often, with a function that returns the progress of each run by its index.
        on_end: Called with the index of a run, and whether it diverged, as soon as it has its last row.
    """

    def __init__(
        self,
        folders: Sequence[RunFolder],
        configs: Sequence[RunConfig],
        kind: type[StackedExperiment],
        *,
        is_stacked: bool = False,
        on_progress: Callable[[Callable[[], dict[int, float]]], None] = lambda progress: None,
        on_end: Callable[[int, bool], None] = lambda index, diverged: None,
    ) -> None:
        self._folders, self._configs, self._kind = folders, configs, kind
        self._is_stacked = is_stacked or len(folders) > 1
        self._on_progress, self._on_end = on_progress, on_end
        self._ended: set[int] = set()

    def execute(self, should_stop: Callable[[], bool]) -> bool:
        """Run all to their ends, each from its latest checkpoint.

        Args:
            should_stop: Called often; once it returns True, all checkpoints are written and the runs stop.

        Returns:
            Whether all are finished.

        Raises:
            RunError: if a folder cannot be read or written; the latest checkpoints are intact.
        """
        while len(self._ended) < len(self._folders):
            saved = self._saved()
            if not saved:
                break
            progress = {index: self._progress_of(each) for index, each in saved.items()}
            lowest = min(progress.values())
            target = min((each for each in progress.values() if each > lowest), default=math.inf)
            members = [index for index in saved if progress[index] == lowest]
            # A run that has to catch up alone is stacked with a copy of itself: stacked networks round
            # alike whatever their number, except for a single one, and a killed run has to produce the
            # same bytes as one that was not killed.
            is_single = len(members) == 1 and self._is_stacked
            trained = members * 2 if is_single else members
            experiment = self._kind([self._configs[index] for index in trained])
            try:
                for position, index in enumerate(trained):
                    if (state := saved[index].state) is not None:
                        experiment.load_state_dict(position, state)
                if not _Stack(self, experiment, members, target).execute(should_stop):
                    return False
            finally:
                experiment.close()
                del experiment
                release_memory()  # before the next stack allocates its own
        return True

    def _saved(self) -> dict[int, _Saved]:
        """Return the saved states of the runs that are not finished, by index."""
        found: dict[int, _Saved] = {}
        for index, folder in enumerate(self._folders):
            if index in self._ended:
                continue
            saved = _Saved()
            folder.resume(saved)
            state = saved.state
            if state is not None and self._kind.is_finished_at(state, self._configs[index]):
                self.end(index, diverged=bool(state["diverged"]))  # by another process, just now
            else:
                found[index] = saved
        return found

    def _progress_of(self, saved: _Saved) -> float:
        return 0.0 if saved.state is None else self._kind.progress_of(saved.state)

    def end(self, index: int, *, diverged: bool) -> None:
        """Record that a run has its last row."""
        self._ended.add(index)
        self._on_end(index, diverged)

    def report(self, progress: Callable[[], dict[int, float]]) -> None:
        """Pass on a function that returns the progress of the runs that train now, by index."""
        self._on_progress(progress)

    def folder(self, index: int) -> RunFolder:
        """Return the folder of a run."""
        return self._folders[index]


class _Stack:
    """Runs with the same progress, trained up to the progress of the next ones, or to their ends.

    An index here is the position of a run in the experiment; `members` maps it to the index in `runs`.
    """

    def __init__(
        self,
        runs: StackedRuns,
        experiment: StackedExperiment,
        members: Sequence[int],
        target: float,
    ) -> None:
        self._runs, self._experiment, self._members = runs, experiment, members
        self._target = target
        self._seconds = 0.0
        # of each run at its latest row: seconds of this stack, progress
        self._marks = [(0.0, experiment.progress)] * len(members)
        self._live = list(range(len(members)))

    def execute(self, should_stop: Callable[[], bool]) -> bool:
        """Train and save up to the target, or until all runs are finished; return False if stopped."""
        experiment, has_target = self._experiment, self._target < math.inf

        def should_pause() -> bool:  # called before every step: reads `progress` only if it must
            self._runs.report(self._progress)
            return should_stop() or (has_target and experiment.progress >= self._target)

        while self._live and experiment.progress < self._target:
            started = time.perf_counter()
            found = experiment.next_rows(should_pause)
            self._seconds += time.perf_counter() - started
            rows = {index: row for index, row in found.items() if index in self._live}
            if not rows:
                break
            self._write(rows)
            self._end_finished()
        self._write(dict.fromkeys(self._live))
        return experiment.progress >= self._target or not self._live

    def _progress(self) -> dict[int, float]:
        progress = self._experiment.progress
        return {self._members[index]: progress for index in self._live}

    def _write(self, rows: Mapping[int, dict[str, Any] | None]) -> None:
        """Write the row, if there is one, and the checkpoint of each of these runs."""
        experiment, writes = self._experiment, []
        # Collected here, one after another: a thread only writes. Episodes that go to their file are taken
        # first, so that they are not part of a state.
        episodes = {index: experiment.take_episodes(index) for index in rows if rows[index]}
        states = experiment.state_dicts(list(rows))
        for (index, row), state in zip(rows.items(), states, strict=True):
            folder, saved = self._runs.folder(self._members[index]), _Saved(state)
            if row is None:
                writes.append(partial(folder.save, saved))
                continue
            since, progress = self._marks[index]
            self._marks[index] = (self._seconds, experiment.progress)
            timing = timing_of(row, self._seconds - since, experiment.progress - progress)
            timing["stacked"] = len(self._members)
            writes.append(partial(_write_row, folder, row, timing, episodes[index], saved))
        _in_parallel(writes)

    def _end_finished(self) -> None:
        for index in [each for each in self._live if self._experiment.is_finished(each)]:
            self._live.remove(index)
            self._runs.end(self._members[index], diverged=self._experiment.has_diverged(index))


def _write_row(
    folder: RunFolder,
    row: dict[str, Any],
    timing: dict[str, float],
    episodes: list[dict[str, Any]],
    saved: _Saved,
) -> None:
    folder.append(row, timing, episodes)
    folder.save(saved)


def _in_parallel(writes: Sequence[Callable[[], None]]) -> None:
    """Write in parallel; raise the first error, after all are done."""
    with ThreadPoolExecutor(FOLDERS_AT_ONCE) as threads:
        waiting = [threads.submit(write) for write in writes]
    for each in waiting:
        each.result()
