"""Configurations and rows of many runs in one compressed file, small enough to be published."""

from __future__ import annotations

import io
import lzma
import tarfile
from pathlib import Path, PurePosixPath

from plasticity.scripts.run.atomic_files import write_whole

ENDING = ".tar.xz"
"""Ending of the name of an archive."""

KEPT = ("config.json", "metrics.jsonl", "episodes.jsonl")
"""Files of a run that an archive holds: all that reports read."""


def is_archive(path: Path) -> bool:
    """Return whether a path is that of an archive, by its name."""
    return path.name.endswith(ENDING)


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
        ValueError: if the file cannot be read, is no archive, or holds anything else.
    """
    try:
        with tarfile.open(archive, mode="r:xz") as packed:
            for member in packed:
                path = PurePosixPath(member.name)
                if not member.isfile() or path.name not in KEPT or ".." in path.parts or path.root:
                    raise ValueError(
                        f"{archive} holds {member.name}, which is no file of a run: give an archive that"
                        " plasticity collect wrote."
                    )
                content = packed.extractfile(member)
                assert content is not None  # a file
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read())
    except (OSError, EOFError, tarfile.TarError, lzma.LZMAError) as error:
        raise ValueError(f"Cannot read {archive} ({error}): copy it again.") from error
