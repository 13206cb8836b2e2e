"""Sources of a report: folders and compressed files of runs, and the benchmarks that each of them has."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from plasticity.scripts.folders.archive import is_archive, unpacked
from plasticity.scripts.report.run_folders import ARCHIVE, Run, find_runs


@dataclass(frozen=True)
class Source:
    """Folder of runs, or compressed file that was unpacked to one."""

    name: str
    """Name that tells it from other sources."""

    folder: Path
    """Folder that has the runs."""

    is_unpacked: bool
    """Whether the folder is a temporary one, whose runs cannot be continued."""


@contextmanager
def open_sources(paths: Sequence[Path]) -> Iterator[list[Source]]:
    """Provide the folders of runs; those of compressed files exist until the end.

    A source has the name of its folder or file, without the file's ending; if several have the same, as much
    of the path's end as no other has.

    Args:
        paths: Folders, and files that `plasticity collect` wrote.

    Raises:
        ValueError: if there is no path, one is given twice or is inside another, or a compressed file cannot
            be read.
    """
    names = _names(paths)
    with ExitStack() as opened:
        yield [
            Source(name, *_folder(path, opened)) for name, path in zip(names, paths, strict=True)
        ]


def runs_by_benchmark(sources: Sequence[Source]) -> Mapping[str, list[Run]]:
    """Read every run of the sources, by the names of their benchmarks.

    Of a benchmark that several sources have, the runs of each stay among themselves: its name is preceded by
    that of the source, as in narrow/permuted-mnist.

    Raises:
        ValueError: as `find_runs`.
    """
    groups: dict[tuple[Source, str], list[Run]] = {}
    for source in sources:
        for run in find_runs(source.folder):
            groups.setdefault((source, run.benchmark), []).append(run)
    times = Counter(benchmark for _, benchmark in groups)
    return {
        benchmark if times[benchmark] == 1 else f"{source.name}/{benchmark}": runs
        for (source, benchmark), runs in groups.items()
    }


def _names(paths: Sequence[Path]) -> list[str]:
    if not paths:
        raise ValueError(
            "Name a folder of runs, before options that take several values: plasticity report runs/first."
        )
    _require_apart(paths)
    # Not resolved: a link has the name that it was given.
    every = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100
    short = [path.name.removesuffix(ARCHIVE) for path in every]
    return [
        name if short.count(name) == 1 else _own_end(path, every)
        for name, path in zip(short, every, strict=True)
    ]


def _require_apart(paths: Sequence[Path]) -> None:
    """Raise an error if runs would be read twice."""
    for first, second in itertools.permutations(paths, 2):
        outer, inner = first.resolve(), second.resolve()
        if outer == inner:
            raise ValueError(f"{first} is given twice: name each folder of runs once.")
        if inner.is_relative_to(outer) and not is_archive(second):
            raise ValueError(
                f"{second} is inside {first}, and its runs would count twice: name folders beside each other."
            )


def _own_end(path: Path, every: Sequence[Path]) -> str:
    """Return the shortest end of a path that no other one has."""
    lengths = range(1, len(path.parts) + 1)
    own = next(n for n in lengths if [p.parts[-n:] for p in every].count(path.parts[-n:]) == 1)
    return Path(*path.parts[-own:]).as_posix()


def _folder(path: Path, opened: ExitStack) -> tuple[Path, bool]:
    if is_archive(path):
        return opened.enter_context(unpacked(path)), True
    return path, False
