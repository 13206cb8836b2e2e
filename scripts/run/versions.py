"""Origin of a result: the versions of its packages, and the commit of this code."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

VERSIONED_PACKAGES = (
    "plasticity",
    "torch",
    "numpy",
    "gymnasium",
    "pybullet",
    "mujoco",
    "mujoco-warp",
    "stable-baselines3",
    "sb3-contrib",
    "scikit-learn",
)
"""Packages whose versions `config.json` records."""


@cache
def made_by() -> dict[str, Any]:
    """Return the versions and the commit, read once: a process keeps the code that it started with."""
    return {"versions": versions(), "git_commit": git_commit()}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on."""
    found = {"python": sys.version.split()[0]}
    for package in VERSIONED_PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # an optional package
            continue
    return found


def git_commit() -> str | None:
    """Return the commit of the checkout that holds this file, "-dirty" if changed; None outside of one."""
    here = Path(__file__).resolve()
    # An installed copy may be inside the checkout of another project, which does not track it.
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None
    return _git(here.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str | None:
    # A git hook that starts this program names its own repository in the environment.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
