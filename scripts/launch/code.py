"""Code that makes a result: equal for the launcher, the machines, and what is in the folders already."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plasticity.scripts.run.atomic_files import RunError
from plasticity.scripts.run.jobs import Job
from plasticity.scripts.run.saved_run import saved_config


def require_same_code(launcher: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raise an error if a machine has other code than the launcher: its rows would be of two programs.

    Args:
        launcher: Versions and commit where the jobs were made, as `made_by` gives them.
        here: Those of this machine.

    Raises:
        RunError: if they differ; the message names all that do.
    """
    apart = _apart(here, launcher)
    if apart:
        raise RunError(
            f"{socket.gethostname()} has other code than the launcher ({apart}): install the same there,"
            " or use one environment on the shared file system; the same command continues."
        )


def _apart(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Return what differs of two codes, as text; empty if nothing does."""
    here, there = (
        {"commit": each.get("git_commit"), **(each.get("versions") or {})}
        for each in (ours, theirs)
    )
    return ", ".join(
        f"{name} {here.get(name)} instead of {there.get(name)}"
        for name in dict.fromkeys([*there, *here])
        if here.get(name) != there.get(name)
    )


def note_on_code(jobs: Sequence[Job], here: Mapping[str, Any]) -> str | None:
    """Return a remark on runs that other code began, None if there are none.

    Outside of a checkout there is no commit, which is compared with nothing.

    Args:
        jobs: Runs that are to be continued, or that nothing was done for yet.
        here: Versions and commit of this code, as `made_by` gives them.
    """
    apart = [text for job in jobs if (text := _apart_at_its_beginning(job.path, here))]
    if not apart:
        return None
    kinds = dict.fromkeys(apart)
    more = f", and {len(kinds) - 1} more" if len(kinds) > 1 else ""
    return (
        f"{len(apart)} of the runs were begun by other code ({apart[0]}{more}): continued rows may differ"
        " from those of a run without a break."
    )


def _apart_at_its_beginning(path: Path, here: Mapping[str, Any]) -> str:
    """Return what differs of the code that began a run; empty if nothing does, or it has not begun."""
    saved: Mapping[str, Any] = saved_config(path) or {}
    if "versions" not in saved or not (path / "checkpoint.pt").exists():
        return ""
    if None in (saved.get("git_commit"), here.get("git_commit")):
        saved, here = ({**each, "git_commit": None} for each in (saved, here))
    return _apart(saved, here)


def require_one_commit(jobs: Sequence[Job], commit: str | None) -> None:
    """Raise an error if runs were begun by another commit: half of their rows would be of each.

    Args:
        jobs: Runs that are to be continued.
        commit: Commit of this code; None, outside of a checkout, is compared with nothing.

    Raises:
        RunError: for the first such run, and the remedy.
    """
    for job in jobs:
        begun = (saved_config(job.path) or {}).get("git_commit")
        if None not in (begun, commit) and begun != commit:
            raise RunError(
                f"{job.path} was begun by commit {begun}, and this is {commit}: its rows would be of two"
                f" programs. Check out the former, give another --out, or continue it with --launcher local."
            )
