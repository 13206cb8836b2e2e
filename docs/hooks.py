"""Hooks of MkDocs: generated pages, optional ones, and the sources that docstrings are read from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from plasticity.scripts.reference.pages import reference_pages

ROOT = Path(__file__).parents[1]

SOURCES = ROOT / "build" / "docs"
"""Folder of the sources as they are installed: all rooms inside of the package."""

ROOMS = {"plasticity": "", "agents": "agents", "tasks": "tasks", "scripts": "scripts"}
"""Place inside the package of each folder at the top level."""


def on_startup(**_: Any) -> None:
    """Copy the sources into the tree in which they are installed, which tools that read sources expect."""
    shutil.rmtree(SOURCES, ignore_errors=True)
    for room, place in ROOMS.items():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(
            ROOT / room, SOURCES / "plasticity" / place, ignore=ignored, dirs_exist_ok=True
        )


OPTIONAL = {"cluster.md": "Run on a cluster"}
"""Titles of pages that are in the navigation, under How to, where their files exist."""


def on_config(config: Any) -> Any:
    """Add the optional pages that exist to the navigation."""
    (how_to,) = (each["How to"] for each in config.nav if "How to" in each)
    for path, title in OPTIONAL.items():
        if (ROOT / "docs" / path).exists():
            how_to[0]["Run and compare"].append({title: path})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    for path, text in reference_pages().items():
        files.append(File.generated(config, path, content=text))
    return files
