"""Run folder: configuration, rows, checkpoint and lock; a killed run continues exactly."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

import torch

from plasticity.random_state import random_state, set_random_state
from plasticity.scripts.config.benchmarks import completed
from plasticity.scripts.config.nested import flattened
from plasticity.scripts.config.run_config import LENGTHS, differences
from plasticity.scripts.run import atomic_files, events
from plasticity.scripts.run.atomic_files import RunError, explained

__all__ = [
    "Experiment",
    "RunError",
    "RunFolder",
    "Stateful",
    "execute",
    "git_commit",
    "is_finished",
    "progress_made",
    "require_free",
    "require_same_config",
    "saved_config",
    "timing_of",
    "versions",
]

VERSIONED_PACKAGES = (
    "plasticity",
    "torch",
    "numpy",
    "gymnasium",
    "pybullet",
    "mujoco",
    "mujoco-warp",
    "scikit-learn",
)
"""Packages whose versions `config.json` records."""

# Errors of torch.load, and of unpacking its result, when a file is truncated or holds something else.
_UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    pickle.UnpicklingError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
)


class Stateful(Protocol):
    """Object whose state a checkpoint holds."""

    def state_dict(self) -> dict[str, Any]:
        """Return tensors, numbers, strings, and lists and dicts of them."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`."""


class Experiment(Stateful, Protocol):
    """Work of a run, done row by row."""

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""

    @property
    def diverged(self) -> bool:
        """Whether the run ended because something became NaN or infinite."""

    @property
    def progress(self) -> float:
        """Progress of the run, in the units of its rows."""

    def next_row(self, should_stop: Callable[[], bool]) -> dict[str, Any] | None:
        """Work until the next row of metrics and return it; None if stopped before it."""

    def take_episodes(self) -> list[dict[str, Any]]:
        """Return rows of the episodes that ended since the previous row; none if there are no episodes."""

    def close(self) -> None:
        """Stop all processes of the experiment."""


class RunFolder:
    """Run on disk, locked while it is open.

    Args:
        path: `<out>/<benchmark>/<method>/seed_<n>`; created if it does not exist.
        config: The configuration, as `RunConfig.to_json` returns it.

    Raises:
        RunError: if the folder cannot be written, is in use, or holds another configuration.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self.path = path
        self._config = dict(config)
        self._metrics = path / "metrics.jsonl"
        self._episodes = path / "episodes.jsonl"
        self._timings = path / "timings.jsonl"
        self._events = path / "tensorboard" / events.FILE_NAME
        self._checkpoint = path / "checkpoint.pt"
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> RunFolder:
        with explained(self.path):
            self._events.parent.mkdir(parents=True, exist_ok=True)
            self._lock = atomic_files.locked(self.path / "lock")
        try:
            with explained(self.path):
                self._settle_config()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._lock is not None:
            self._lock.close()

    def _settle_config(self) -> None:
        """Write the configuration, or raise a RunError if the folder holds another one."""
        saved = saved_config(self.path)
        require_same_config(self.path, saved, self._config)
        if saved is not None and _length(saved) >= _length(self._config):
            return
        written = {**self._config, **_made_by()}
        content = json.dumps(written, indent=2).encode() + b"\n"
        atomic_files.write_whole(self.path / "config.json", content)

    # ---- continuing -----------------------------------------------------------------------------

    def resume(self, experiment: Stateful) -> None:
        """Restore the experiment from the latest checkpoint, and truncate the rows to match.

        Raises:
            RunError: if the checkpoint cannot be read, or rows that it recorded are missing.
        """
        saved = _load_checkpoint(self.path)
        lengths: dict[str, int] = {}
        if saved is not None:
            lengths = saved["lengths"]
            try:
                experiment.load_state_dict(saved["experiment"])
                set_random_state(saved["random"])
            except _UNREADABLE as error:
                raise _unreadable(self._checkpoint, error) from error
        _require_rows(self._metrics, lengths.get("metrics"))
        with explained(self.path):
            for name, file in self._appended().items():
                # The timings and TensorBoard's copy of the rows may have been deleted.
                if file.exists():
                    os.truncate(file, min(atomic_files.size(file), lengths.get(name, 0)))

    def save(self, experiment: Stateful) -> None:
        """Write the checkpoint: to a temporary name, flushed, renamed."""
        saved = {
            "experiment": experiment.state_dict(),
            "random": random_state(),
            "lengths": {name: atomic_files.size(file) for name, file in self._appended().items()},
        }
        # In memory first: torch's error about a full disk says only that a write failed.
        content = io.BytesIO()
        torch.save(saved, content)
        with explained(self.path):
            atomic_files.write_whole(self._checkpoint, content.getbuffer())

    def append(
        self,
        row: Mapping[str, Any],
        timing: Mapping[str, float],
        episodes: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Append a row, its timing, its episodes and its TensorBoard events to their files."""
        numbers = {name: value for name, value in row.items() if name not in LENGTHS}
        points = [(int(row.get("step", row["task"])), numbers)]
        points += [
            (int(each["step"]), {f"episode/{name}": each[name] for name in each if name != "step"})
            for each in episodes
        ]
        with explained(self.path):
            atomic_files.append(self._metrics, _line(row))
            atomic_files.append(self._timings, _line(timing))
            if episodes:
                atomic_files.append(self._episodes, b"".join(_line(each) for each in episodes))
            first = atomic_files.size(self._events) == 0
            atomic_files.append(self._events, events.encoded(points, first=first))

    def _appended(self) -> dict[str, Path]:
        return {
            "metrics": self._metrics,
            "episodes": self._episodes,
            "timings": self._timings,
            "events": self._events,
        }


def execute(
    folder: RunFolder,
    experiment: Experiment,
    should_stop: Callable[[], bool],
) -> bool:
    """Run an experiment to its end in an open folder, from its latest checkpoint.

    Args:
        folder: Folder of the run, open.
        experiment: The experiment at its beginning.
        should_stop: Called often; once it returns True, a checkpoint is written and the run stops.

    Returns:
        Whether the run is finished.

    Raises:
        RunError: if the folder cannot be read or written; the latest checkpoint is intact.
    """
    folder.resume(experiment)
    while not experiment.finished:
        begun, started = experiment.progress, time.perf_counter()
        row = experiment.next_row(should_stop)
        if row is None:
            folder.save(experiment)
            return False
        timing = timing_of(row, time.perf_counter() - started, experiment.progress - begun)
        folder.append(row, timing, experiment.take_episodes())
        folder.save(experiment)
    return True


def timing_of(row: Mapping[str, Any], seconds: float, progress: float) -> dict[str, float]:
    """Return the entry of `timings.jsonl` that belongs to a row.

    Args:
        row: Row of metrics.
        seconds: Duration of the work for the row.
        progress: Tasks or steps done in this time.
    """
    position = {axis: row[axis] for axis in LENGTHS if axis in row}
    speed = f"{list(position)[-1]}s_per_second"  # tasks_per_second or steps_per_second
    return {**position, "seconds": seconds, speed: progress / seconds}


# ---- the content of a folder --------------------------------------------------------------------


def saved_config(path: Path) -> dict[str, Any] | None:
    """Read the configuration of a run folder; None if it has none.

    Raises:
        RunError: if the file cannot be read or is not a configuration, or if there are rows without it.
    """
    file = path / "config.json"
    remedy = f"remove the folder {path} to start this run afresh, or give another --out"
    if not os.path.lexists(file):
        if os.path.lexists(path / "metrics.jsonl") or os.path.lexists(path / "checkpoint.pt"):
            raise RunError(f"{path} holds a run, but not its config.json: {remedy}.")
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{file} cannot be read ({error.strerror}): {remedy}.") from error
    except ValueError as error:
        raise RunError(f"{file} is not JSON ({error}): {remedy}.") from error
    if not isinstance(content, dict):
        raise RunError(f"{file} does not hold a JSON object: {remedy}.")
    flat = flattened(content)
    for key in LENGTHS.values():
        length = flat.get(key, 0)
        if isinstance(length, bool) or not isinstance(length, int):
            raise RunError(f"{file}: {key} must be a whole number, not {length!r}: {remedy}.")
    return content


def _length(config: Mapping[str, Any]) -> int:
    flat = flattened(config)
    return max(int(flat.get(key, 0)) for key in LENGTHS.values())


def require_same_config(
    path: Path, saved: Mapping[str, Any] | None, wanted: Mapping[str, Any]
) -> None:
    """Raise an error unless a run can be continued with a configuration.

    Raises:
        RunError: if a key differs that must not change when a run is continued; all such keys are named.
    """
    if saved is None:
        return
    try:
        changed = differences(completed(saved), wanted)
    except (ValueError, TypeError) as error:
        raise RunError(
            f"{path / 'config.json'}: {error} Restore the file, or give another --out."
        ) from error
    if changed:
        raise RunError(
            f"{path} holds a run of another configuration: {'; '.join(changed)}. Give another --out,"
            " or the same settings as before (--config takes its config.json)."
        )


def require_free(paths: Sequence[Path]) -> None:
    """Create run folders, and raise an error unless they can be written and no other process uses one.

    Raises:
        RunError: if one cannot be used after `LOCK_PATIENCE_SECONDS`, which is the wait for all in sum.
    """
    deadline = time.monotonic() + atomic_files.LOCK_PATIENCE_SECONDS
    for path in paths:
        with explained(path):
            path.mkdir(parents=True, exist_ok=True)
            patience = max(0.0, deadline - time.monotonic())
            atomic_files.locked(path / "lock", patience).close()


def is_finished(path: Path, length: int) -> bool:
    """Return whether a run has all its rows, or diverged, and its checkpoint covers every one of them.

    Args:
        path: Folder of the run.
        length: Requested number of tasks or steps.

    Raises:
        RunError: if the checkpoint cannot be read, or rows that it recorded are missing.
    """
    saved = _load_checkpoint(path)
    metrics = path / "metrics.jsonl"
    known = None if saved is None else saved["lengths"]["metrics"]
    _require_rows(metrics, known)
    if not known or atomic_files.size(metrics) != known:
        return False
    try:
        last = json.loads(metrics.read_bytes().splitlines()[-1])
        return bool(last.get("diverged")) or _reached(path, last) >= length
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunError(
            f"The last line of {metrics} is not a row ({error}): restore the file, or remove the"
            f" folder {path} to start this run afresh."
        ) from error


def progress_made(path: Path) -> int:
    """Return the number of tasks or steps that the rows of a run cover; 0 if it has not begun."""
    file = path / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    whole = [line for line in lines if line.endswith(b"\n")]
    try:
        return _reached(path, json.loads(whole[-1])) if whole else 0
    except (ValueError, LookupError, TypeError):
        return 0  # a damaged file, which is an error as soon as the run is continued


def _reached(path: Path, row: Mapping[str, Any]) -> int:
    """Return the progress of a run at its last row, without a row at a change of friction: it ends no run."""
    if "step" not in row:
        return int(row["task"]) + 1
    every = int(flattened(saved_config(path) or {}).get("tracking.measure_every", 1))
    return int(row["step"]) // every * every


def _load_checkpoint(path: Path) -> dict[str, Any] | None:
    file = path / "checkpoint.pt"
    if not os.path.lexists(file):
        return None
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)
        lengths = {str(name): int(length) for name, length in saved["lengths"].items()}
        return {"experiment": saved["experiment"], "random": saved["random"], "lengths": lengths}
    except _UNREADABLE as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: BaseException) -> RunError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    if isinstance(error, pickle.UnpicklingError):
        reason = "not a checkpoint, or a damaged one"  # torch's message advises to trust the file
    if isinstance(error, KeyError):
        reason = f"it lacks {reason}; another version of this program may have written it"
    return RunError(
        f"{file} cannot be read ({reason}): remove the folder {file.parent} to start this run afresh."
    )


def _require_rows(metrics: Path, known: int | None) -> None:
    """Raise an error where files have been lost, instead of continuing and truncating rows.

    Args:
        metrics: File of the rows.
        known: Bytes that the checkpoint recorded; None without a checkpoint. A first row may exist before
            the first checkpoint does.
    """
    remedy = f"Restore the file, or remove the folder {metrics.parent} to start this run afresh."
    if known is None and metrics.exists() and metrics.read_bytes().count(b"\n") > 1:
        raise RunError(f"{metrics} holds rows, but there is no checkpoint.pt beside it. {remedy}")
    if known is not None and atomic_files.size(metrics) < known:
        raise RunError(
            f"{metrics} has {atomic_files.size(metrics)} bytes, but its checkpoint recorded {known}: rows"
            f" were lost. {remedy}"
        )


def _line(row: Mapping[str, Any]) -> bytes:
    # JSON has no NaN and no infinity.
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }
    return json.dumps(finite, allow_nan=False).encode() + b"\n"


# ---- the origin of a result ---------------------------------------------------------------------


@cache
def _made_by() -> dict[str, Any]:
    """Return the versions and the commit, read once: a process keeps the code that it started with."""
    return {"versions": versions(), "git_commit": git_commit()}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on."""
    found = {"python": sys.version.split()[0]}
    for package in VERSIONED_PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # an optional package
            continue
    return found


def git_commit() -> str | None:
    """Return the commit of the checkout that holds this file, "-dirty" if changed; None outside of one."""
    here = Path(__file__).resolve()
    # An installed copy may be inside the checkout of another project, which does not track it.
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None
    return _git(here.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str | None:
    # A git hook that starts this program names its own repository in the environment.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
