"""Command `plasticity collect`: runs from several machines into one folder, or one compressed file."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import tyro

from plasticity.scripts.config.nested import flattened
from plasticity.scripts.config.run_config import FREE_TO_CHANGE, without_origin
from plasticity.scripts.folders.archive import (
    KEPT,
    is_archive,
    pack,
    temporary_folder,
    unpack,
    unpacked,
)
from plasticity.scripts.folders.kept_metrics import keep_metrics
from plasticity.scripts.report.run_folders import ARCHIVE, PARTIAL, Run, find_runs, read_run
from plasticity.scripts.run.locks import is_locked
from plasticity.scripts.run.progress import Messages

NOT_COPIED = ("lock", "lock.lease.*", "*.tmp")
"""Files of a run folder that belong to a process, and not to the run."""

CHECKPOINT = "checkpoint.pt"
"""File that a run continues from."""


@dataclass(frozen=True)
class CollectConfig:
    """Copy the runs of several folders into one, as from several machines, or into a compressed file.

    A name that ends in .tar.xz is that of a compressed file, among the folders or as --out. It has the
    configurations, rows and episodes of the runs, all that a report needs, but no checkpoints: they cannot be
    continued from it. To report them, collect them into a folder again. Runs that the file of --out has
    already stay in it.

    Of a run that is in two of them, the longer one stays, if the shorter one is its beginning, and of equal
    ones the one with a checkpoint; anything else is an error, and nothing is copied. Runs that a process is
    working on, there or here, are left out, and named. The same command again brings what has been added.
    --out may be inside one of the folders: what it holds is not collected again.
    """

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Folders that contain runs, each the --out of `plasticity run` somewhere, or compressed files."""

    out: Path = Path("runs/collected")
    """Folder to copy to, or file if its name ends in .tar.xz; created if missing."""

    metrics: tuple[str, ...] = ()
    """Metrics or families that a new compressed file keeps, as online_accuracy or effective_rank, to make it
    smaller; single episodes are left out then. None named: everything."""


def collect(config: CollectConfig) -> Counter[str]:
    """Copy the runs, and print how many.

    Returns:
        The numbers of runs that were copied, replaced, kept as they were, and left out as running.

    Raises:
        ValueError: if a folder has no runs, two hold different results of one run, a file cannot be read or
            written, or the chosen metrics are unknown or those of anything but a new compressed file.
    """
    if not config.folders:
        raise ValueError("Name the folders to collect: plasticity collect A B --out C.")
    is_packed = is_archive(config.out)
    if config.metrics:
        _require_new_archive(config.out, is_packed=is_packed)
    with ExitStack() as opened:
        folders = [
            opened.enter_context(unpacked(each)) if is_archive(each) else each
            for each in config.folders
        ]
        if is_packed:
            staging = opened.enter_context(temporary_folder(config.out))
            if config.out.exists():
                unpack(config.out, staging)
            counts = _collect(folders, staging, only_rows=True)
            if not any(staging.rglob("config.json")):
                raise ValueError(
                    f"Nothing to pack into {config.out}: all runs are still running. Give the same command"
                    " again when they have ended."
                )
            if config.metrics and (number := keep_metrics(staging, config.metrics)):
                Messages().print(f"{number} runs have none of {', '.join(config.metrics)}.")
            pack(staging, config.out)
        else:
            counts = _collect(folders, config.out, only_rows=False)
    Messages().print(
        f"{counts['copied']} runs copied to {config.out}, {counts['replaced']} replaced by longer ones or"
        f" ones with a checkpoint, {counts['kept']} there already."
    )
    return counts


def _require_new_archive(out: Path, *, is_packed: bool) -> None:
    """Raise an error unless rows without some metrics are written where no whole ones are."""
    if not is_packed:
        raise ValueError(
            f"--metrics is for a compressed file, and --out {out} is a folder, whose runs stay whole: give a"
            f" name that ends in {ARCHIVE}."
        )
    if out.exists():
        raise ValueError(
            f"{out} exists, and its rows may have other metrics than --metrics: remove it, or give another"
            " --out."
        )


def _collect(folders: Sequence[Path], out: Path, *, only_rows: bool) -> Counter[str]:
    """Copy the runs of folders to `out`, whole or without what reports do not read."""
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
            target = out / _place(run, folder)
            planned[target] = _better(planned.get(target), run, only_rows=only_rows)
    work = {t: run for t, run in planned.items() if _is_new(t, run, only_rows=only_rows)}
    for target, run in work.items():
        _require_no_loss(target, run, only_rows=only_rows)
    counts["kept"] = len(planned) - len(work)
    for target, run in work.items():
        is_there = target.exists()
        if is_there and is_locked(target / "lock"):
            running.append(target)
        elif _copied(run, target, only_rows=only_rows):
            counts["replaced" if is_there else "copied"] += 1
        else:
            running.append(run.path)
    for path in running:
        messages.print(f"running, left out: {path}")
    if running:
        counts["running"] = len(running)
    return counts


def _place(run: Run, folder: Path) -> Path:
    """Return the path of a run below a folder.

    Raises:
        ValueError: if the folder is itself the run, whose copy would take the place of everything.
    """
    if run.path == folder:
        raise ValueError(
            f"{folder} is a single run: name the folder above its benchmark, the --out that it was made with."
        )
    return run.path.relative_to(folder)


def _is_collected(path: Path, folder: Path, out: Path) -> bool:
    """Return whether a run that was found in a folder is one of those that were copied, to a place inside."""
    path, folder, out = (each.resolve() for each in (path, folder, out))
    return out != folder and out.is_relative_to(folder) and path.is_relative_to(out)


def _is_new(target: Path, run: Run, *, only_rows: bool) -> bool:
    """Return whether a run is to be copied: it is not there, or shorter there, or without its checkpoint."""
    if not (target / "config.json").exists():
        return True
    return _better(read_run(target), run, only_rows=only_rows) is run


def _require_no_loss(target: Path, run: Run, *, only_rows: bool) -> None:
    """Raise an error if a copy would take the place of anything but less of the same run."""
    if not (target / "config.json").exists() and any(map(_is_kept, target.rglob("*"))):
        raise ValueError(
            f"{target} exists and is no run, so that {run.path} cannot be copied there: give another --out."
        )
    if not only_rows and _has_checkpoint(target) and not _has_checkpoint(run.path):
        raise ValueError(
            f"{run.path} has more rows than {target}, but no checkpoint, which would be lost there: give"
            " another --out."
        )


def _is_kept(path: Path) -> bool:
    """Return whether a path is a file that does not belong to a process."""
    return path.is_file() and not any(map(path.match, NOT_COPIED))


def _has_checkpoint(path: Path) -> bool:
    return (path / CHECKPOINT).exists()


def _better(first: Run | None, second: Run, *, only_rows: bool) -> Run:
    """Return the run with more rows; of equal ones one with a checkpoint, unless only rows count.

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
                " were made by different versions or machines, or one has fewer metrics. Collect into folders"
                " of their own."
            )
    if len(first.rows) != len(second.rows) or only_rows:
        return second if len(second.rows) > len(first.rows) else first
    is_more = _has_checkpoint(second.path) and not _has_checkpoint(first.path)
    return second if is_more else first


def _settings(run: Run) -> dict[str, object]:
    free = (*FREE_TO_CHANGE, run.axis.length)
    return {
        path: value
        for path, value in flattened(without_origin(run.config)).items()
        if path not in free
    }


def _ignored_but_rows(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if name not in KEPT}


def _copied(run: Run, target: Path, *, only_rows: bool) -> bool:
    """Copy a run; return False, and leave what was there, if a process has changed it meanwhile."""
    ignored = _ignored_but_rows if only_rows else shutil.ignore_patterns(*NOT_COPIED)
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
        other = "set TMPDIR to another folder" if only_rows else "give another --out"
        raise ValueError(
            f"Cannot copy {run.path} to {target} ({_reason(error)}): free space, or {other}; the same command"
            " continues."
        ) from error
    return True


def _reason(error: OSError) -> str:
    """Return why a copy failed: of several files that failed, the reason of the first."""
    if isinstance(error, shutil.Error):
        _, _, reason = error.args[0][0]
        return str(reason)
    return error.strerror or str(error)


def _state(path: Path) -> list[tuple[str, int, int]]:
    """Return the names, lengths and times of the files that change while a run goes on."""
    files = [path / name for name in ("config.json", "metrics.jsonl", CHECKPOINT)]
    found = [(file.name, file.stat()) for file in files if file.exists()]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found]
