"""Code that makes a result: equal for the launcher, the machines, and what is in the folders already."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
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
    ours, theirs = ({"commit": each["git_commit"], **each["versions"]} for each in (here, launcher))
    apart = [
        f"{name} {ours.get(name)} instead of {theirs.get(name)}"
        for name in dict.fromkeys([*theirs, *ours])
        if ours.get(name) != theirs.get(name)
    ]
    if apart:
        raise RunError(
            f"{socket.gethostname()} has other code than the launcher ({', '.join(apart)}): install the same"
            " there, or use one environment on the shared file system; the same command continues."
        )


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
