"""Command `plasticity collect`: runs from several machines into one folder, or one compressed file."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import tyro

from plasticity.scripts.config.nested import flattened
from plasticity.scripts.config.run_config import FREE_TO_CHANGE, without_origin
from plasticity.scripts.folders.archive import KEPT, is_archive, pack, unpack
from plasticity.scripts.report.run_folders import PARTIAL, Run, find_runs, read_run
from plasticity.scripts.run.locks import is_locked
from plasticity.scripts.run.progress import Messages

NOT_COPIED = ("lock", "lock.lease.*", "*.tmp")
"""Files of a run folder that belong to a process, and not to the run."""

Ignored = Callable[[str, list[str]], set[str]]
"""Function that returns which names in a folder are not copied, as `shutil.copytree` takes it."""


@dataclass(frozen=True)
class CollectConfig:
    """Copy the runs of several folders into one, as from several machines, or into a compressed file.

    A name that ends in .tar.xz is that of a compressed file, among the folders or as --out. It has the
    configurations, rows and episodes of the runs, all that a report needs, but no checkpoints. To report
    them, collect them into a folder again. Runs that the file of --out has already stay in it.

    Of a run that is in two of them, the longer one stays, if the shorter one is its beginning; anything else
    is an error, and nothing is copied. Runs that a process is working on, there or here, are left out, and
    named. The same command again brings what has been added. --out may be inside one of the folders: what it
    holds is not collected again.
    """

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Folders that contain runs, each the --out of `plasticity run` somewhere, or compressed files."""

    out: Path = Path("runs/collected")
    """Folder to copy to, or file if its name ends in .tar.xz; created if missing."""


def collect(config: CollectConfig) -> Counter[str]:
    """Copy the runs, and print how many.

    Returns:
        The numbers of runs that were copied, replaced, kept as they were, and left out as running.

    Raises:
        ValueError: if a folder has no runs, two hold different results of one run, or a file cannot be read
            or written.
    """
    if not config.folders:
        raise ValueError("Name the folders to collect: plasticity collect A B --out C.")
    with ExitStack() as opened:
        folders = [_unpacked(each, opened) if is_archive(each) else each for each in config.folders]
        if not is_archive(config.out):
            return _collect(folders, config.out, config.out, shutil.ignore_patterns(*NOT_COPIED))
        staging = _temporary(config.out, opened)
        if config.out.exists():
            unpack(config.out, staging)
        counts = _collect(folders, staging, config.out, _all_but_rows)
        pack(staging, config.out)
    return counts


def _unpacked(archive: Path, opened: ExitStack) -> Path:
    folder = _temporary(archive, opened)
    unpack(archive, folder)
    return folder


def _temporary(archive: Path, opened: ExitStack) -> Path:
    """Return a folder that messages about its runs can be read with; it is deleted at the end."""
    return Path(opened.enter_context(tempfile.TemporaryDirectory(prefix=f"{archive.name}-")))


def _all_but_rows(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if name not in KEPT}


def _collect(folders: Sequence[Path], out: Path, shown: Path, ignored: Ignored) -> Counter[str]:
    """Copy the runs of folders to `out`, which messages name as `shown`."""
    messages = Messages()
    counts: Counter[str] = Counter()
    planned: dict[Path, Run] = {}
    running: list[Path] = []
    for folder in folders:
        for run in find_runs(folder):
            if _is_collected(run.path, folder, out):
                continue
            if is_locked(run.path / "lock"):
                running.append(run.path)
                continue
            target = out / run.path.relative_to(folder)
            planned[target] = _longer(planned.get(target), run)
    work = {target: run for target, run in planned.items() if _is_new(target, run)}
    counts["kept"] = len(planned) - len(work)
    for target, run in work.items():
        is_there = target.exists()
        if is_there and is_locked(target / "lock"):
            running.append(target)
        elif _copied(run, target, ignored):
            counts["replaced" if is_there else "copied"] += 1
        else:
            running.append(run.path)
    for path in running:
        messages.print(f"running, left out: {path}")
    if running:
        counts["running"] = len(running)
    messages.print(
        f"{counts['copied']} runs copied to {shown}, {counts['replaced']} replaced by longer ones,"
        f" {counts['kept']} there already."
    )
    return counts


def _is_collected(path: Path, folder: Path, out: Path) -> bool:
    """Return whether a run that was found in a folder is one of those that were copied, to a place inside."""
    path, folder, out = (each.resolve() for each in (path, folder, out))
    return out != folder and out.is_relative_to(folder) and path.is_relative_to(out)


def _is_new(target: Path, run: Run) -> bool:
    """Return whether a run is to be copied: it is not there, or shorter there."""
    if not (target / "config.json").exists():
        return True
    return _longer(read_run(target), run) is run


def _longer(first: Run | None, second: Run) -> Run:
    """Return the run with more rows, the first of equal ones.

    Raises:
        ValueError: if they are not the same run.
    """
    if first is None:
        return second
    ours, theirs = (_settings(run) for run in (first, second))
    apart = [key for key in dict.fromkeys([*ours, *theirs]) if ours.get(key) != theirs.get(key)]
    if apart:
        raise ValueError(
            f"{first.path} and {second.path} differ in {', '.join(apart)}: collect into folders of their own."
        )
    shared = min(len(first.rows), len(second.rows))
    for position in range(shared):
        if first.rows[position] != second.rows[position]:
            raise ValueError(
                f"{first.path} and {second.path} differ in row {position + 1}, with the same settings: they"
                " were made by different versions or machines. Collect into folders of their own."
            )
    return second if len(second.rows) > len(first.rows) else first


def _settings(run: Run) -> dict[str, object]:
    free = (*FREE_TO_CHANGE, run.axis.length)
    return {
        path: value
        for path, value in flattened(without_origin(run.config)).items()
        if path not in free
    }


def _copied(run: Run, target: Path, ignored: Ignored) -> bool:
    """Copy a run; return False, and leave what was there, if a process has changed it meanwhile."""
    partial = target.with_name(target.name + PARTIAL)
    try:
        before = _state(run.path)
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(run.path, partial, ignore=ignored)
        if _state(run.path) != before:
            shutil.rmtree(partial)
            return False
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ValueError(
            f"Cannot copy {run.path} to {target} ({error.strerror or error}): free space, or give another"
            " --out; the same command continues."
        ) from error
    return True


def _state(path: Path) -> list[tuple[str, int, int]]:
    """Return the names, lengths and times of the files that change while a run goes on."""
    files = [path / name for name in ("config.json", "metrics.jsonl", "checkpoint.pt")]
    found = [(file.name, file.stat()) for file in files if file.exists()]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found]
