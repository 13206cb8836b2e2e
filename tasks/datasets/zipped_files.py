"""Files inside zip archives, which are read as those of a folder are."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from plasticity.tasks.datasets.file_kinds import recognized

_REMEDY = "Replace it with an intact copy of the original file."


@dataclass(frozen=True)
class ZippedFile:
    """File inside a zip archive, with those parts of a `Path` that readers use."""

    archive: Path
    """The archive."""

    member: str
    """Path of the file inside it."""

    def __str__(self) -> str:
        return f"{self.archive}/{self.member}"

    @property
    def name(self) -> str:
        """Name without folders."""
        return PurePosixPath(self.member).name

    @property
    def stem(self) -> str:
        """Name without its last suffix."""
        return PurePosixPath(self.member).stem

    @property
    def suffix(self) -> str:
        """Last suffix of the name, such as ".gz"."""
        return PurePosixPath(self.member).suffix

    def read_bytes(self) -> bytes:
        """Return the content.

        Raises:
            ValueError: if the archive is damaged; the message names it and says what to do.
            OSError: if the archive cannot be opened.
        """
        with self.archive.open("rb") as stream:
            try:
                with zipfile.ZipFile(stream) as archive:
                    return archive.read(self.member)
            except Exception as error:  # Damaged bytes may raise nearly any.
                raise ValueError(
                    f"{self}: expected an intact file in a zip archive, found a corrupt one ({error})."
                    f" {_REMEDY}"
                ) from error


def find_zipped(archives: Iterable[Path], file_name: str) -> ZippedFile | None:
    """Return the first file of this name in any folder of these archives; None if there is none.

    Raises:
        ValueError: if a file that is searched is no zip archive; the message names it and says what to do.
        OSError: if an archive cannot be opened.
    """
    for archive in archives:
        for member in _members(archive):
            if PurePosixPath(member).name == file_name:
                return ZippedFile(archive, member)
    return None


def _members(path: Path) -> list[str]:
    with path.open("rb") as stream:
        start = stream.read(1024)
        try:
            with zipfile.ZipFile(stream) as archive:
                return archive.namelist()
        except Exception as error:  # Damaged bytes may raise nearly any.
            kind = recognized(start)
            found, remedy = f"a corrupt or truncated file ({error})", _REMEDY
            if kind is not None and not start.startswith(b"PK"):
                found, remedy = kind.name, kind.remedy
            raise ValueError(f"{path}: expected a zip archive, found {found}. {remedy}") from error
