"""Runner: trains the runs of open folders, a single one or stacked, from their checkpoints to their ends.

Each folder is as if its run were alone. Stacked runs have the same progress: they are in the same task or
rollout. Runs that are behind, because they were started later or killed between two checkpoints of the
others, are trained without them until they have caught up. The `seconds` of a row in `timings.jsonl` are
those of all runs that are trained together; for stacked ones, `stacked` is their number.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from plasticity.scripts.run.experiment import Experiment, experiment_class
from plasticity.scripts.run.folder import RunFolder
from plasticity.scripts.run.memory import release_memory
from plasticity.scripts.run.saved_run import Checkpoint

FOLDERS_AT_ONCE = 8
"""Number of folders that are written in parallel, as each write waits for the disk."""


class Runner:
    """Runs in open folders, to be trained together to their ends.

    Args:
        folders: Folders of the runs, open; several are stacked.
        in_group: Whether a single run belongs to a group, whose other runs are trained at another time: it
            is then stacked too, with a copy of itself.
        on_progress: Called often, with a function that returns the progress of each run by its index.
        on_end: Called with the index of a run, and whether it diverged, as soon as it has its last row.
    """

    def __init__(
        self,
        folders: Sequence[RunFolder],
        *,
        in_group: bool = False,
        on_progress: Callable[[Callable[[], dict[int, float]]], None] = lambda progress: None,
        on_end: Callable[[int, bool], None] = lambda run, diverged: None,
    ) -> None:
        config = folders[0].config
        self._folders = folders
        self._kind = experiment_class(config)
        self._in_group = in_group or len(folders) > 1
        self._stacked = self._in_group or not self._kind.can_be_alone(config)
        self._on_progress, self._on_end = on_progress, on_end
        self._ended: set[int] = set()

    def execute(self, should_stop: Callable[[], bool]) -> bool:
        """Train all runs to their ends, each from its latest checkpoint.

        Args:
            should_stop: Called often; once it returns True, all checkpoints are written and the runs stop.

        Returns:
            Whether all are finished.

        Raises:
            RunError: if a folder cannot be read or written; the latest checkpoints are intact.
        """
        while unfinished := self._unfinished():
            progress = {
                index: 0.0 if saved is None else saved.progress(self._folders[index].config)
                for index, saved in unfinished.items()
            }
            lowest = min(progress.values())
            target = min((each for each in progress.values() if each > lowest), default=math.inf)
            members = [index for index in unfinished if progress[index] == lowest]
            # A run that has to catch up alone is stacked with a copy of itself: stacked networks round
            # alike whatever their number, except for a single one, and a killed run has to produce the
            # same bytes as one that was not killed.
            trained = members * 2 if self._in_group and len(members) == 1 else members
            configs = [self._folders[index].config for index in trained]
            experiment = self._kind(configs, stacked=self._stacked)
            try:
                for run, index in enumerate(trained):
                    if (saved := unfinished[index]) is not None:
                        saved.restore(experiment, run)
                if not self._train(experiment, members, target, should_stop):
                    return False
            finally:
                experiment.close()
                del experiment
                release_memory()  # before the next ones allocate their own
        return True

    def _unfinished(self) -> dict[int, Checkpoint | None]:
        """Return the checkpoints of the runs that are not finished, by index; None for one not begun."""
        found: dict[int, Checkpoint | None] = {}
        for index, folder in enumerate(self._folders):
            if index in self._ended:
                continue
            saved = folder.resume()
            if saved is not None and saved.is_finished(folder.config):
                self._end(index, diverged=saved.diverged)  # by another process, just now
            else:
                found[index] = saved
        return found

    def _end(self, index: int, *, diverged: bool) -> None:
        self._ended.add(index)
        self._on_end(index, diverged)

    def _train(
        self,
        experiment: Experiment,
        members: Sequence[int],
        target: float,
        should_stop: Callable[[], bool],
    ) -> bool:
        """Train runs with the same progress up to that of the next ones, or to their ends.

        Args:
            experiment: Experiment of the runs.
            members: Index of the folder of each of its runs, but for a copy.
            target: Progress to train up to; infinite without others.
            should_stop: As in `execute`.

        Returns:
            Whether they got there; False if they were stopped.
        """
        has_target = target < math.inf
        live = list(range(len(members)))
        clock = _Clock(experiment, len(members), stacked=self._stacked)

        def progress() -> dict[int, float]:
            now = experiment.progress
            return {members[run]: now for run in live}

        def should_pause() -> bool:  # called before every step: reads `progress` only if it must
            self._on_progress(progress)
            return should_stop() or (has_target and experiment.progress >= target)

        while live and experiment.progress < target:
            found = clock.timed(lambda: experiment.next_rows(should_pause))
            if not found:
                break
            rows = {run: row for run, row in found.items() if run in live}  # but those of a copy
            self._write(experiment, members, rows, clock)
            for run in [each for each in live if experiment.is_finished(each)]:
                live.remove(run)
                self._end(members[run], diverged=experiment.has_diverged(run))
        self._write(experiment, members, dict.fromkeys(live), clock)
        return experiment.progress >= target or not live

    def _write(
        self,
        experiment: Experiment,
        members: Sequence[int],
        rows: Mapping[int, dict[str, Any] | None],
        clock: _Clock,
    ) -> None:
        """Write the row, if there is one, and the checkpoint of each of these runs."""
        # Collected here, one after another: a thread only writes. Episodes that go to their file are taken
        # first, so that they are not part of a state.
        episodes = {run: experiment.take_episodes(run) for run, row in rows.items() if row}
        states = experiment.state_dicts(list(rows))
        writes = []
        for (run, row), state in zip(rows.items(), states, strict=True):
            folder = self._folders[members[run]]
            if row is None:
                writes.append(partial(folder.save, state))
            else:
                timing = clock.timing(run, row, folder.config.axes)
                writes.append(partial(_write_row, folder, row, timing, episodes[run], state))
        _in_parallel(writes)


class _Clock:
    """Time and progress of runs that are trained together, since the latest row of each.

    Args:
        experiment: Experiment of the runs.
        runs: Number of runs.
        stacked: Whether they are stacked, which their timings then tell.
    """

    def __init__(self, experiment: Experiment, runs: int, *, stacked: bool) -> None:
        self._experiment = experiment
        self._stacked = {"stacked": runs} if stacked else {}
        self._seconds = 0.0
        self._latest = [(0.0, experiment.progress)] * runs

    def timed(self, work: Callable[[], dict[int, dict[str, Any]]]) -> dict[int, dict[str, Any]]:
        """Do a part of the work for the next rows, and return what it returns."""
        started = time.perf_counter()
        done = work()
        self._seconds += time.perf_counter() - started
        return done

    def timing(self, run: int, row: Mapping[str, Any], axes: Sequence[str]) -> dict[str, float]:
        """Return the entry of `timings.jsonl` that belongs to a row, whose position has these keys."""
        now = (self._seconds, self._experiment.progress)
        seconds, progress = (new - old for new, old in zip(now, self._latest[run], strict=True))
        self._latest[run] = now
        return {
            **{axis: row[axis] for axis in axes},
            "seconds": seconds,
            f"{axes[-1]}s_per_second": progress / seconds,
            **self._stacked,
        }


def _write_row(
    folder: RunFolder,
    row: Mapping[str, Any],
    timing: Mapping[str, float],
    episodes: Sequence[Mapping[str, Any]],
    state: Mapping[str, Any],
) -> None:
    folder.append(row, timing, episodes)
    folder.save(state)


def _in_parallel(writes: Sequence[Callable[[], None]]) -> None:
    """Write in parallel; raise the first error, after all are done."""
    with ThreadPoolExecutor(FOLDERS_AT_ONCE) as threads:
        waiting = [threads.submit(write) for write in writes]
    for each in waiting:
        each.result()
