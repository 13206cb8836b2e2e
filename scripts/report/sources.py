"""Sources of a report: folders and compressed files of runs, and the benchmarks that each of them has."""

from __future__ import annotations

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

    A source has the name of its folder or file, without the file's ending; if several have the same, all of
    the path.

    Args:
        paths: Folders, and files that `plasticity collect` wrote.

    Raises:
        ValueError: if there is no path, one is given twice, or a compressed file cannot be read.
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
        raise ValueError("Name a folder of runs: plasticity report runs/first.")
    where = [path.resolve() for path in paths]
    twice = next((path for path in paths if where.count(path.resolve()) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} is given twice: name each folder of runs once.")
    short = [_last_name(path).removesuffix(ARCHIVE) for path in paths]
    return [
        name if short.count(name) == 1 else str(path)
        for name, path in zip(short, paths, strict=True)
    ]


def _last_name(path: Path) -> str:
    return path.resolve().name if path.name in ("", "..") else path.name


def _folder(path: Path, opened: ExitStack) -> tuple[Path, bool]:
    if is_archive(path):
        return opened.enter_context(unpacked(path)), True
    return path, False
