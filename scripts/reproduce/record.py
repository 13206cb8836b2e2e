"""Record of a figure's last result: what came out, with which command, and its picture beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from plasticity.scripts.reproduce.verdict import Check
from plasticity.scripts.run import atomic_files
from plasticity.scripts.run.atomic_files import explained


@dataclass(frozen=True)
class Record:
    """Result of a figure at one scale, as its file holds it."""

    figure: str
    """Name of the figure."""

    paper: str
    """Title and year of the paper."""

    number: str
    """Number in the paper."""

    claim: str
    """Statement of the paper that was tested."""

    scale: str
    """Size of the runs."""

    seeds: Sequence[int]
    """Seeds of the runs."""

    settings: Mapping[str, Any]
    """Settings that the command gave, by option."""

    outcome: str
    """Verdict, one of `plasticity.scripts.reproduce.verdict.OUTCOMES`."""

    requirements: Sequence[Check]
    """Conditions that the plain arm had to meet for the figure to mean anything."""

    claims: Sequence[Check]
    """Conditions for "holds"."""

    sentence: str
    """Sentence about what came out, with its numbers."""

    diverged: Sequence[str]
    """Folders of runs that diverged, and were left out."""

    minutes: float | None
    """Time of all runs, one after another, in minutes; None if a file with the times was deleted."""

    command: str
    """Command line that made the runs."""

    date: str
    """Day of the verdict, as YYYY-MM-DD."""

    versions: Mapping[str, str]
    """Versions of Python and of the packages."""

    git_commit: str | None
    """Commit of the code, if it was run from a repository."""

    @property
    def in_short(self) -> str:
        """Verdict, with its date, seeds and time."""
        time = "" if self.minutes is None else f", {self.minutes:.3g} minutes"
        return f"{self.outcome} ({self.date}, {len(self.seeds)} seeds{time})"


def folder_of(out: Path, figure: str, scale: str) -> Path:
    """Return the folder with a figure's runs, record and picture."""
    return out / figure / scale


def save(out: Path, record: Record, picture: bytes) -> list[Path]:
    """Write a record and its picture, and return both paths.

    Raises:
        RunError: if they cannot be written.
    """
    folder = folder_of(out, record.figure, record.scale)
    files = {
        folder / f"{record.figure}.png": picture,
        folder / f"{record.figure}.json": json.dumps(asdict(record), indent=2).encode() + b"\n",
    }
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for file, contents in files.items():
            atomic_files.write_whole(file, contents)
    return list(files)


def load(out: Path, figure: str, scale: str) -> tuple[Record, bytes] | None:
    """Return the last record of a figure with its picture, or None if there is none.

    Raises:
        ValueError: if a file cannot be read as one.
    """
    folder = folder_of(out, figure, scale)
    file = folder / f"{figure}.json"
    if not file.exists():
        return None
    try:
        saved = json.loads(file.read_text())
        for conditions in ("requirements", "claims"):
            saved[conditions] = [Check(**each) for each in saved[conditions]]
        record = Record(**saved)
        _require_readable(record, figure, scale)
        return record, (folder / f"{figure}.png").read_bytes()
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file} is not the result of a figure, with its picture beside it ({error}): remove it, and give"
            " the figure's command again, which skips finished runs."
        ) from error


def load_all(
    out: Path, figures: Iterable[str], scales: Sequence[str]
) -> tuple[list[tuple[Record, bytes]], list[str]]:
    """Return the last records of figures with their pictures, and a message for each that is broken.

    Args:
        out: Folder of all figures.
        figures: Names of the figures.
        scales: Sizes.
    """
    found, broken = [], []
    for figure in figures:
        for scale in scales:
            try:
                one = load(out, figure, scale)
            except ValueError as error:
                broken.append(str(error))
            else:
                found += [] if one is None else [one]
    return found, broken


def _require_readable(record: Record, figure: str, scale: str) -> None:
    """Raise an error unless all that the list and the page show of a record can be shown."""
    if (record.figure, record.scale) != (figure, scale):
        raise ValueError(f"it is that of {record.figure}, scale {record.scale}")
    for each in fields(record):
        value = getattr(record, each.name)
        if each.type == "str" and not isinstance(value, str):
            raise TypeError(f"{each.name} is {value!r}, not a text")
    for condition in (*record.requirements, *record.claims):
        str(condition)
    str((record.in_short, len(record.diverged)))
