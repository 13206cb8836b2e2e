"""Notebooks made of the pages under docs/start: their prose and their code, and a first cell that installs.

After a change of a page, `python -m plasticity.scripts.reference.notebooks docs` writes them again.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from plasticity.scripts.reference.blocks import Block, parts_of

START = "start"
"""Folder of the pages, below that of the documentation."""

NOTEBOOKS = "notebooks"
"""Folder of the notebooks, below that of the documentation."""

INSTALL = """\
# On Colab: first upload the wheel that `make package` writes. (`plasticity` on PyPI is another project.)
import importlib.util
from pathlib import Path

if importlib.util.find_spec("plasticity") is None:
    wheels = sorted(Path().glob("plasticity-*.whl"))
    if not wheels:
        raise FileNotFoundError("Upload plasticity-….whl, of `make package`, next to this notebook.")
    %pip install --quiet {wheels[-1]}
"""


def notebook_of(page: str, name: str) -> dict[str, Any]:
    """Return the notebook of a page, without outputs.

    Commands of the shell become cells too. The replacements that make a cell small enough for a test are in
    its metadata.

    Args:
        page: The page in Markdown.
        name: Name of the page, which the names of the cells begin with.

    Raises:
        ValueError: if a comment about a block is wrong.
    """
    cells = [_cell("code", INSTALL, f"{name}-install")]
    for number, part in enumerate(parts_of(page)):
        identity = f"{name}-{number}"
        if isinstance(part, Block):
            code = part.code if part.language == "python" else _shell(part.code)
            metadata = {"small": dict(part.small)} if part.small else {}
            cells.append(_cell("code", code, identity, **metadata))
        elif prose := _without_pictures(part.markdown).strip():
            cells.append(_cell("markdown", prose, identity))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def write_notebooks(docs: Path) -> list[Path]:
    """Write the notebook of each page, and return their paths.

    Args:
        docs: Folder of the documentation.
    """
    written = []
    (docs / NOTEBOOKS).mkdir(exist_ok=True)
    for page in sorted((docs / START).glob("*.md")):
        path = docs / NOTEBOOKS / f"{page.stem}.ipynb"
        path.write_text(notebook_text(page))
        written.append(path)
    return written


def notebook_text(page: Path) -> str:
    """Return the content of the notebook's file.

    Args:
        page: File of the page.
    """
    notebook = notebook_of(page.read_text(), page.stem)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _cell(kind: str, source: str, identity: str, **metadata: Any) -> dict[str, Any]:
    cell = {"cell_type": kind, "id": identity, "metadata": metadata, "source": source.strip()}
    return {**cell, "execution_count": None, "outputs": []} if kind == "code" else cell


def _shell(code: str) -> str:
    """Mark commands of the shell, of several lines each, as a notebook does: `!command`."""
    whole = re.sub(r"\\\n *", "", code)
    return "\n".join(f"!{line}" for line in whole.splitlines() if line.strip())


def _without_pictures(markdown: str) -> str:
    """Leave out pictures, which the cells draw, and links to other pages, which a notebook does not have."""
    lines = [line for line in markdown.splitlines() if not line.startswith("![")]
    kept = "\n".join(lines)
    return re.sub(r"\[([^\]]+)\]\((?!http)[^)]*\)", r"\1", kept)


if __name__ == "__main__":
    print(*write_notebooks(Path(sys.argv[1])), sep="\n")
