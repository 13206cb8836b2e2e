"""Runs that train at once in one process, each with a folder of its own, as if it were alone.

What a group's runs share is the time: all are equally far, in one task or rollout. Runs that are
behind, because they were begun later or killed between two of the group's checkpoints, are trained
without the others until they are level. A row's `seconds` in `timings.jsonl` are those of the whole
group, and `together` beside them says how many runs it had.
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
"""Folders that are written at once: each write waits for the disk."""


class StackedExperiment(Protocol):
    """Several runs that are trained as one. Each is told by its place in the list, from 0.

    Args:
        configs: Of the runs, equal but for what `plasticity.scripts.run.stacks` lets differ.
    """

    def __init__(self, configs: Sequence[Any]) -> None:
        """Make all runs, at their beginning."""

    @property
    def progress(self) -> float:
        """How far the runs are that have not ended, in the units of their rows."""

    def is_finished(self, place: int) -> bool:
        """Whether there is nothing left to do for a run."""

    def has_diverged(self, place: int) -> bool:
        """Whether a run ended because something became NaN or infinite; it stays as it is from there."""

    def next_rows(self, should_stop: Callable[[], bool]) -> dict[int, dict[str, Any]]:
        """Work until the next row of any run; rows by place. None of them if stopped before."""

    def take_episodes(self, place: int) -> list[dict[str, Any]]:
        """As `Experiment.take_episodes`, of one run."""

    def state_dicts(self, places: Sequence[int]) -> list[dict[str, Any]]:
        """What the ordinary experiments of these runs save."""

    def load_state_dict(self, place: int, state: dict[str, Any]) -> None:
        """Continue one run from what it saved, here or alone; all must then be equally far."""

    def rehearse(self) -> None:
        """Do a little of everything that takes memory. Of no use afterwards, but for its measure."""

    def close(self) -> None:
        """Let go of whatever the runs share."""

    @staticmethod
    def progress_of(state: dict[str, Any]) -> float:
        """How far a run is that was saved so."""

    @staticmethod
    def is_finished_at(state: dict[str, Any], config: Any) -> bool:
        """Whether there is nothing left to do for a run that was saved so."""


@dataclass
class _Saved:
    """What a checkpoint holds of a run; None: the run has not begun."""

    state: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        assert self.state is not None  # only what an experiment gave is written
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


class StackedRuns:
    """Runs in open folders, to be trained at once to their ends.

    Args:
        folders: Open, one for each run.
        configs: Of the runs, in the same order.
        kind: Of the experiment that trains them.
        has_company: Whether these are some of several runs, of which the others are trained at another
            time; of several folders it is so anyway.
        on_progress: Called often, with a function that gives each run's progress by its place.
        on_end: Called with a run's place, and whether it diverged, as soon as it has its last row.
    """

    def __init__(
        self,
        folders: Sequence[RunFolder],
        configs: Sequence[RunConfig],
        kind: type[StackedExperiment],
        *,
        has_company: bool = False,
        on_progress: Callable[[Callable[[], dict[int, float]]], None] = lambda progress: None,
        on_end: Callable[[int, bool], None] = lambda place, diverged: None,
    ) -> None:
        self._folders, self._configs, self._kind = folders, configs, kind
        self._has_company = has_company or len(folders) > 1
        self._on_progress, self._on_end = on_progress, on_end
        self._ended: set[int] = set()

    def execute(self, should_stop: Callable[[], bool]) -> bool:
        """Run all to their ends, from wherever each was left.

        Args:
            should_stop: Asked often; True writes all checkpoints and leaves.

        Returns:
            Whether all are finished.

        Raises:
            RunError: if a folder cannot be read or written; what the last checkpoints hold is safe.
        """
        while len(self._ended) < len(self._folders):
            saved = self._saved()
            if not saved:
                break
            levels = {place: self._level(each) for place, each in saved.items()}
            lowest = min(levels.values())
            target = min((each for each in levels.values() if each > lowest), default=math.inf)
            members = [place for place in saved if levels[place] == lowest]
            # One that has to go on by itself for a while gets its own copy for company: replicas round
            # alike however many they are, but for a single one, and a run that was killed is to give the
            # same bytes as one that was not.
            is_single = len(members) == 1 and self._has_company
            trained = members * 2 if is_single else members
            experiment = self._kind([self._configs[place] for place in trained])
            try:
                for place, member in enumerate(trained):
                    if (state := saved[member].state) is not None:
                        experiment.load_state_dict(place, state)
                if not _Level(self, experiment, members, target).execute(should_stop):
                    return False
            finally:
                experiment.close()
                del experiment
                release_memory()  # before the next level takes its own
        return True

    def _saved(self) -> dict[int, _Saved]:
        """What the folders hold of the runs that are not finished, by their places."""
        found: dict[int, _Saved] = {}
        for place, folder in enumerate(self._folders):
            if place in self._ended:
                continue
            saved = _Saved()
            folder.resume(saved)
            state = saved.state
            if state is not None and self._kind.is_finished_at(state, self._configs[place]):
                self.end(place, diverged=bool(state["diverged"]))  # by another process, just now
            else:
                found[place] = saved
        return found

    def _level(self, saved: _Saved) -> float:
        return 0.0 if saved.state is None else self._kind.progress_of(saved.state)

    def end(self, place: int, *, diverged: bool) -> None:
        """Note that a run has its last row."""
        self._ended.add(place)
        self._on_end(place, diverged)

    def tell(self, progress: Callable[[], dict[int, float]]) -> None:
        """Offer to tell how far the runs are that train now, by their places."""
        self._on_progress(progress)

    def folder(self, place: int) -> RunFolder:
        """A run's folder."""
        return self._folders[place]


class _Level:
    """Runs that are equally far, on their way to where the next ones wait, or to their ends."""

    def __init__(
        self,
        together: StackedRuns,
        experiment: StackedExperiment,
        members: Sequence[int],
        target: float,
    ) -> None:
        self._together, self._experiment, self._members = together, experiment, members
        self._target = target
        self._seconds = 0.0
        # where each run's latest row stands: seconds of this level, progress
        self._marks = [(0.0, experiment.progress)] * len(members)
        self._live = list(range(len(members)))

    def execute(self, should_stop: Callable[[], bool]) -> bool:
        """Train until the level is reached and saved, or all runs are finished; False if stopped."""
        experiment, has_target = self._experiment, self._target < math.inf

        def should_pause() -> bool:  # asked before every step: it looks no further than it must
            self._together.tell(self._progress)
            return should_stop() or (has_target and experiment.progress >= self._target)

        while self._live and experiment.progress < self._target:
            started = time.perf_counter()
            found = experiment.next_rows(should_pause)
            self._seconds += time.perf_counter() - started
            rows = {place: row for place, row in found.items() if place in self._live}
            if not rows:
                break
            self._write(rows)
            self._end_finished()
        self._write(dict.fromkeys(self._live))
        return experiment.progress >= self._target or not self._live

    def _progress(self) -> dict[int, float]:
        progress = self._experiment.progress
        return {self._members[place]: progress for place in self._live}

    def _write(self, rows: Mapping[int, dict[str, Any] | None]) -> None:
        """Write a row, if there is one, and the checkpoint of each run named."""
        experiment, writes = self._experiment, []
        # Looked at here, one after another: a thread does no more than write. Episodes that go to their
        # file are taken first, and are then no part of a state.
        episodes = {place: experiment.take_episodes(place) for place in rows if rows[place]}
        states = experiment.state_dicts(list(rows))
        for (place, row), state in zip(rows.items(), states, strict=True):
            folder, saved = self._together.folder(self._members[place]), _Saved(state)
            if row is None:
                writes.append(partial(folder.save, saved))
                continue
            since, progress = self._marks[place]
            self._marks[place] = (self._seconds, experiment.progress)
            timing = timing_of(row, self._seconds - since, experiment.progress - progress)
            timing["together"] = len(self._members)
            writes.append(partial(_write_row, folder, row, timing, episodes[place], saved))
        _at_once(writes)

    def _end_finished(self) -> None:
        for place in [each for each in self._live if self._experiment.is_finished(each)]:
            self._live.remove(place)
            self._together.end(self._members[place], diverged=self._experiment.has_diverged(place))


def _write_row(
    folder: RunFolder,
    row: dict[str, Any],
    timing: dict[str, float],
    episodes: list[dict[str, Any]],
    saved: _Saved,
) -> None:
    folder.append(row, timing, episodes)
    folder.save(saved)


def _at_once(writes: Sequence[Callable[[], None]]) -> None:
    """Do several at once; raise the first error, after all are done."""
    with ThreadPoolExecutor(FOLDERS_AT_ONCE) as threads:
        waiting = [threads.submit(write) for write in writes]
    for each in waiting:
        each.result()
