"""File of rows as JSON lines, which a run that is resumed from an earlier point truncates."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plasticity.containers import finite_or_none, mapped

__all__ = ["RowFile", "encoded", "made_again"]

_log = logging.getLogger(__name__)


class RowFile:
    """Rows of one run, one line of JSON each.

    Lines that other writers add to the file in the meantime are left alone.

    Args:
        path: Path of the file; made if missing, with its folder.
        counter: Entry of a row that counts the progress of the run: "task" or "step".

    Raises:
        OSError: if the file cannot be written.
        ValueError: if it holds something other than JSON lines.
    """

    def __init__(self, path: str | Path, counter: str) -> None:
        self.path = Path(path).absolute()
        self._counter = counter
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Fail now rather than after the first task if rows cannot be written.
        self.path.open("ab").close()
        self._lines: list[bytes] = []
        self._counts: list[int] = []
        for line in self._read():
            self._remember(line, json.loads(line))

    @property
    def counts(self) -> Sequence[int]:
        """Progress of the run at each of its rows, in the order of the file."""
        return tuple(self._counts)

    def append(self, row: Mapping[str, Any]) -> None:
        """Append a row; numbers that are not finite are written as null.

        A last line that a killed process left unfinished is removed first.
        """
        line = encoded(row)
        if not self._ends_with_newline():
            self._write(self._read())
        with self.path.open("ab") as file:
            file.write(line + b"\n")
        self._remember(line, row)

    def remove(self, positions: Sequence[int]) -> None:
        """Remove the rows at these positions in `counts`, all or none, with a log message."""
        if not positions:
            return
        removed = Counter(self._lines[position] for position in positions)
        kept = []
        for line in reversed(self._read()):  # the last ones of equal rows
            if removed[line]:
                removed[line] -= 1
            else:
                kept.append(line)
        self._write(kept[::-1])
        counts = [self._counts[position] for position in positions]
        _log.warning(
            "%s: removed %d rows, of %s %d to %d, which the run repeats",
            self.path, len(counts), self._counter, min(counts), max(counts),
        )  # fmt: skip
        for position in sorted(positions, reverse=True):
            del self._lines[position], self._counts[position]

    def _remember(self, line: bytes, row: object) -> None:
        count = row.get(self._counter) if isinstance(row, Mapping) else None
        if isinstance(count, int) and not isinstance(count, bool):
            self._lines.append(line)
            self._counts.append(count)

    def _read(self) -> list[bytes]:
        """Return the lines without line ends, and without an unfinished last line."""
        if not self.path.is_file():
            return []  # a pipe
        *lines, last = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            if line.strip() and not _is_json(line):
                raise ValueError(
                    f"line {number} of {self.path} is not a row in JSON: {line[:60]!r}; pass another file as "
                    "path=, or remove that line"
                )
        unfinished = last and not _is_json(last)
        if unfinished and not last.startswith((b"{", b"\0")):
            raise ValueError(
                f"{self.path} does not hold rows in JSON: it ends with {last[:60]!r}; pass another file "
                "as path="
            )
        return [line for line in (*lines, b"" if unfinished else last) if line.strip()]

    def _write(self, lines: Sequence[bytes]) -> None:
        target = self.path.resolve()  # keep a link a link
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with temporary.open("wb") as file:
                file.write(b"".join(line + b"\n" for line in lines))
                file.flush()
                os.fsync(file.fileno())
            shutil.copymode(target, temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def _ends_with_newline(self) -> bool:
        if not self.path.is_file() or self.path.stat().st_size == 0:
            return True
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"


def encoded(row: Mapping[str, Any]) -> bytes:
    """Return a row as JSON, without a line end; numbers that are not finite are null."""
    return json.dumps(mapped(finite_or_none, row), allow_nan=False).encode()


def made_again(counts: Sequence[int], first: int, *, anew: bool = False) -> list[int]:
    """Return the positions of the rows that a run repeats if it continues at a count.

    These are the rows at this count or later at the end of the file: rows from before the count last went
    back (a cyclic stream) are not included.

    Args:
        counts: Progress of the run at each of its rows.
        first: Progress at the next row.
        anew: Whether the run starts over, so that it repeats all of them.
    """
    start = 0 if anew else len(counts)
    while start > 0 and counts[start - 1] >= first:
        start -= 1
        if start > 0 and counts[start - 1] > counts[start]:
            break
    return list(range(start, len(counts)))


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:  # includes text that is not UTF-8
        return False
    return True
