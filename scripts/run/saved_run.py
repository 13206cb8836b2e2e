"""Content of a run folder, as it is read: the configuration, the checkpoint, and how far they reach."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from plasticity.agents.execution.random_state import set_random_state
from plasticity.scripts.config.benchmarks import completed
from plasticity.scripts.config.nested import flattened
from plasticity.scripts.config.run_config import RunConfig, differences
from plasticity.scripts.run import atomic_files
from plasticity.scripts.run.atomic_files import RunError
from plasticity.scripts.run.experiment import Experiment, experiment_class

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


# ---- the configuration --------------------------------------------------------------------------


def saved_config(path: Path) -> dict[str, Any] | None:
    """Read the configuration of a run folder; None if it has none.

    Raises:
        RunError: if the file cannot be read or is not a configuration, or if there are rows without it.
    """
    file = path / "config.json"
    if not os.path.lexists(file):
        if os.path.lexists(path / "metrics.jsonl") or os.path.lexists(path / "checkpoint.pt"):
            raise RunError(f"{path} holds a run, but not its config.json: {_remedy(path)}.")
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{file} cannot be read ({error.strerror}): {_remedy(path)}.") from error
    except ValueError as error:
        raise RunError(f"{file} is not JSON ({error}): {_remedy(path)}.") from error
    if not isinstance(content, dict):
        raise RunError(f"{file} does not hold a JSON object: {_remedy(path)}.")
    return content


def _remedy(path: Path) -> str:
    return f"remove the folder {path} to start this run afresh, or give another --out"


def saved_length(path: Path, saved: Mapping[str, Any], config: RunConfig) -> int:
    """Return the length that a saved configuration requests; 0 if it has none.

    Args:
        path: Folder of the run.
        saved: Its configuration.
        config: Configuration of the same kind, which knows where the length stands.

    Raises:
        RunError: if it is not a whole number.
    """
    length = flattened(saved).get(config.length_path, 0)
    if isinstance(length, bool) or not isinstance(length, int):
        raise RunError(
            f"{path / 'config.json'}: {config.length_path} must be a whole number, not {length!r}:"
            f" {_remedy(path)}."
        )
    return length


def require_same_config(path: Path, saved: Mapping[str, Any] | None, wanted: RunConfig) -> None:
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


# ---- the checkpoint -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """State of a run at its latest row, or where it was stopped."""

    file: Path
    """File of the checkpoint, for messages."""

    state: dict[str, Any]
    """State of the experiment."""

    random: Mapping[str, Any]
    """State of the process's global random generators."""

    lengths: Mapping[str, int]
    """Bytes of each file of rows that the state covers."""

    def restore(self, experiment: Experiment, run: int) -> None:
        """Continue a run of an experiment from here.

        Raises:
            RunError: if the state is of another experiment.
        """
        with _readable(self.file):
            experiment.load_state_dict(run, self.state)
            set_random_state(self.random)

    def progress(self, config: RunConfig) -> float:
        """Return the progress of the run; raises as `restore`."""
        with _readable(self.file):
            return experiment_class(config).progress_of(self.state)

    def is_finished(self, config: RunConfig) -> bool:
        """Return whether the run has all rows that a configuration requests; raises as `restore`."""
        with _readable(self.file):
            return experiment_class(config).is_finished_at(self.state, config)

    @property
    def diverged(self) -> bool:
        """Whether the run ended because something became NaN or infinite."""
        return bool(self.state["diverged"])


def load_checkpoint(path: Path) -> Checkpoint | None:
    """Read the checkpoint of a run folder; None if it has none.

    Raises:
        RunError: if it cannot be read, or rows that it covers are missing.
    """
    file, checkpoint = path / "checkpoint.pt", None
    if os.path.lexists(file):
        with _readable(file):
            saved = torch.load(file, map_location="cpu", weights_only=True)
            lengths = {str(name): int(length) for name, length in saved["lengths"].items()}
            checkpoint = Checkpoint(file, saved["experiment"], saved["random"], lengths)
    _require_rows(path / "metrics.jsonl", checkpoint)
    return checkpoint


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Turn errors about the content of a checkpoint into a RunError."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:  # a RuntimeError that does not concern the file
        raise
    except _UNREADABLE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, pickle.UnpicklingError):
            reason = (
                "not a checkpoint, or a damaged one"  # torch's message advises to trust the file
            )
        if isinstance(error, KeyError):
            reason = f"it lacks {reason}; another version of this program may have written it"
        raise RunError(
            f"{file} cannot be read ({reason}): remove the folder {file.parent} to start this run"
            " afresh."
        ) from error


def _require_rows(metrics: Path, checkpoint: Checkpoint | None) -> None:
    """Raise an error where files have been lost, instead of continuing and truncating rows."""
    remedy = f"Restore the file, or remove the folder {metrics.parent} to start this run afresh."
    if checkpoint is None:
        # A first row may exist before the first checkpoint does.
        if metrics.exists() and metrics.read_bytes().count(b"\n") > 1:
            raise RunError(
                f"{metrics} holds rows, but there is no checkpoint.pt beside it. {remedy}"
            )
        return
    found, known = atomic_files.size(metrics), checkpoint.lengths.get("metrics", 0)
    if found < known:
        raise RunError(
            f"{metrics} has {found} bytes, but its checkpoint recorded {known}: rows were lost."
            f" {remedy}"
        )


# ---- progress -----------------------------------------------------------------------------------


def is_finished(path: Path, config: RunConfig) -> bool:
    """Return whether a run has all its rows, or diverged, and its checkpoint covers every one of them.

    Args:
        path: Folder of the run.
        config: Requested configuration.

    Raises:
        RunError: if the checkpoint cannot be read, or rows that it recorded are missing.
    """
    checkpoint = load_checkpoint(path)
    if checkpoint is None:
        return False
    is_covered = atomic_files.size(path / "metrics.jsonl") == checkpoint.lengths.get("metrics", 0)
    return is_covered and checkpoint.is_finished(config)


def progress_made(path: Path, config: RunConfig) -> float:
    """Return the progress of a run at its checkpoint, 0 if it has none; raises as `is_finished`."""
    checkpoint = load_checkpoint(path)
    return 0.0 if checkpoint is None else checkpoint.progress(config)
