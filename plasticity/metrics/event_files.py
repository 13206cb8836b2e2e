"""TensorBoard events of a tracker, which a run that is resumed from an earlier task truncates."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plasticity.metrics.row_file import made_again

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["EventFiles", "write_scalars"]

_SUFFIX = ".plasticity"
"""Suffix of our files' names: files of other writers in the folder are left alone.

TensorBoard's own `purge_step` would also hide everything that other writers in the folder logged at later
steps, whatever the unit of their steps.
"""


class EventFiles:
    """Scalars of one run in a folder.

    Args:
        log_dir: Folder of the event files; made if missing.

    Raises:
        ImportError: if tensorboard is not installed.
        OSError: if the folder cannot be written.
    """

    def __init__(self, log_dir: str | Path) -> None:
        # Imported here, as it takes a second and requires tensorboard.
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415

        self._open_writer = SummaryWriter
        self._folder = Path(log_dir).absolute()
        self._folder.mkdir(parents=True, exist_ok=True)
        # Fail now rather than after the first task.
        with tempfile.TemporaryFile(dir=self._folder):
            pass
        self._writer: SummaryWriter | None = None
        self._files = sorted(self._present(), key=_begin)  # names resolve seconds only
        self._latest = max(self._steps(), default=-1)

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Write scalars by tag, and flush them."""
        if self._writer is None:
            before = self._present()
            self._writer = self._open_writer(str(self._folder), filename_suffix=_SUFFIX)
            self._files += [file for file in self._present() if file not in before]
        write_scalars(self._writer, scalars, step)
        self._latest = max(self._latest, step)

    def cut(self, step: int, *, anew: bool = False) -> None:
        """Remove what this tracker and an earlier one wrote at this step or later, as in `made_again`.

        Args:
            step: Step at which the run continues.
            anew: Whether the run starts over, so that all events are removed.
        """
        if step > self._latest:
            return
        self.close()
        steps = self._steps()
        removed = made_again(steps, step, anew=anew)
        start = 0
        for file in self._files:
            count = len(_steps(file))
            _rewrite(file, [each - start for each in removed if start <= each < start + count])
            start += count
        self._latest = max(self._steps(), default=-1)

    def close(self) -> None:
        """Close the file; a later `write` opens another."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _steps(self) -> list[int]:
        return [step for file in self._files for step in _steps(file)]

    def _present(self) -> list[Path]:
        return sorted(self._folder.glob(f"*tfevents*{_SUFFIX}"))


def write_scalars(writer: SummaryWriter, scalars: Mapping[str, float], step: int) -> None:
    """Write scalars by tag, and flush them."""
    for tag, value in scalars.items():
        writer.add_scalar(tag, value, global_step=step)
    writer.flush()


def _records(file: Path) -> list[tuple[bytes, Any]]:
    """Return each complete record and the event in it."""
    from tensorboard.backend.event_processing.event_file_loader import (  # noqa: PLC0415
        RawEventFileLoader,
    )
    from tensorboard.compat.proto.event_pb2 import Event  # noqa: PLC0415

    return [(record, Event.FromString(record)) for record in RawEventFileLoader(str(file)).Load()]


def _begin(file: Path) -> float:
    """Return the time of the first event."""
    return next((float(event.wall_time) for _, event in _records(file)), 0.0)


def _steps(file: Path) -> list[int]:
    return [event.step for _, event in _records(file) if event.HasField("summary")]


def _rewrite(file: Path, removed: Sequence[int]) -> None:
    """Remove the summaries at these positions among all summaries of a file."""
    from tensorboard.summary.writer.record_writer import RecordWriter  # noqa: PLC0415

    if not removed:
        return
    kept, position = [], 0
    for record, event in _records(file):
        is_summary = event.HasField("summary")
        if not (is_summary and position in removed):
            kept.append(record)
        position += is_summary
    temporary = file.with_name(".unfinished")  # a name that TensorBoard does not read
    with temporary.open("wb") as opened:
        writer = RecordWriter(opened)
        for record in kept:
            writer.write(record)
        writer.flush()
    temporary.replace(file)
