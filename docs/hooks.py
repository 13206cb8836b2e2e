"""Hooks of MkDocs: generated pages, and the sources that docstrings are read from."""

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


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    for path, text in reference_pages().items():
        files.append(File.generated(config, path, content=text))
    return files
