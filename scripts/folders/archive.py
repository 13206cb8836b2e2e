"""Configurations and rows of many runs in one compressed file, small enough to be published."""

from __future__ import annotations

import io
import lzma
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from plasticity.scripts.report.run_folders import ARCHIVE
from plasticity.scripts.run.atomic_files import write_whole

KEPT = ("config.json", "metrics.jsonl", "episodes.jsonl")
"""Files of a run that an archive holds: all that reports read."""

OTHER_ENDINGS = (".tar", ".gz", ".tgz", ".bz2", ".xz", ".txz", ".zst", ".zip", ".7z")
"""Endings of the names of compressed files that are no archives."""


def is_archive(path: Path) -> bool:
    """Return whether a path is that of an archive, by its name; a folder is none, whatever its name.

    Raises:
        ValueError: if the name is that of a compressed file of another kind.
    """
    if path.is_dir():
        return False
    if path.name.endswith(ARCHIVE):
        return True
    if path.name.lower().endswith(OTHER_ENDINGS):
        raise ValueError(
            f"{path} has the name of another kind of compressed file: runs are packed into one whose name"
            f" ends in {ARCHIVE}."
        )
    return False


def pack(folder: Path, archive: Path) -> None:
    """Write the runs of a folder into an archive; the same runs give the same bytes.

    Args:
        folder: Folder of runs, at any depth.
        archive: File to write, replaced as a whole if it exists.

    Raises:
        ValueError: if the file cannot be written.
    """
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:xz", preset=9) as packed:
        # Files of one kind beside each other: most of a configuration is that of the one before.
        for name in KEPT:
            for file in sorted(folder.rglob(name)):
                member = tarfile.TarInfo(file.relative_to(folder).as_posix())
                data = file.read_bytes()
                member.size = len(data)
                packed.addfile(member, io.BytesIO(data))
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        write_whole(archive, content.getvalue())
    except OSError as error:
        raise ValueError(
            f"Cannot write {archive} ({error.strerror}): pass --out a file that you can write."
        ) from error


def unpack(archive: Path, folder: Path) -> None:
    """Write the runs of an archive into a folder.

    Only files of runs are taken, and none is written outside the folder, whoever made the archive.

    Raises:
        ValueError: if the file cannot be read, is no archive, or holds anything else, or no run; if the
            folder cannot be written.
    """
    try:
        with tarfile.open(archive, mode="r:xz") as packed:
            for member in packed:
                content = packed.extractfile(member) if _is_of_a_run(member) else None
                if content is None:
                    raise ValueError(
                        f"{archive} holds {member.name!r}, which is no file of a run: give an archive that"
                        " plasticity collect wrote."
                    )
                _write(content, folder / member.name, archive)
    except (OSError, EOFError, tarfile.TarError, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"Cannot read {archive} ({reason}): give a file that plasticity collect wrote, and copy it again"
            " if it was cut short."
        ) from error
    if not any(folder.rglob("config.json")):
        raise ValueError(f"{archive} holds no run: give an archive that plasticity collect wrote.")


@contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """Provide a folder with the runs of an archive, until the end.

    Raises:
        ValueError: as `unpack`.
    """
    with temporary_folder(archive) as folder:
        unpack(archive, folder)
        yield folder


@contextmanager
def temporary_folder(archive: Path) -> Iterator[Path]:
    """Provide an empty folder until the end, whose name makes messages about runs in it readable."""
    with tempfile.TemporaryDirectory(prefix=f"{archive.name}-") as folder:
        yield Path(folder)


def _is_of_a_run(member: tarfile.TarInfo) -> bool:
    path = PurePosixPath(member.name)
    is_inside = not path.root and ".." not in path.parts and "\0" not in member.name
    return member.isfile() and path.name in KEPT and is_inside


def _write(content: IO[bytes], target: Path, archive: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            shutil.copyfileobj(content, file)
    except OSError as error:
        raise ValueError(
            f"Cannot unpack {archive} to {target} ({error.strerror or error}): free space there, or set"
            " TMPDIR to another folder."
        ) from error
