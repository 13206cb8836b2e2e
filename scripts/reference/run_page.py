"""Run the code of a page, in order, in a folder: Python in one namespace, and commands of `plasticity`.

Figures of the pages under docs/start are what their code draws at its full size:

    python -m plasticity.scripts.reference.run_page docs/start/own-loop.md runs/pages
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plasticity.scripts.main import main
from plasticity.scripts.reference.blocks import Block, parts_of


def run_page(page: str, folder: Path, *, small: bool, commands: bool = True) -> dict[str, Any]:
    """Run every block of Python, and every command of `plasticity`.

    A block that is a file (`# my_module.py` in its first line) is written there, and not run. Other commands
    of the shell are left out.

    Args:
        page: The page in Markdown.
        folder: Working directory of the code.
        small: Whether to make the blocks small enough for a test.
        commands: Whether to run commands of the shell at all.

    Returns:
        The names that the blocks of Python have defined.

    Raises:
        RuntimeError: if a command fails.
        Exception: what the code raises.
    """
    names: dict[str, Any] = {"__name__": "__page__"}
    with _working_directory(folder):
        for part in parts_of(page):
            if not isinstance(part, Block):
                continue
            code = part.smaller() if small else part.code
            if part.file is not None:
                Path(part.file).write_text(code)
            elif part.language == "python":
                exec(compile(code, "<page>", "exec"), names)
            elif part.language == "bash" and commands:
                _run_commands(code)
    return names


def _run_commands(code: str) -> None:
    for line in code.replace("\\\n", " ").splitlines():
        program, *words = shlex.split(line, comments=True) or [""]
        if program != "plasticity":
            continue
        try:
            main(words)
        except SystemExit as end:
            if end.code:
                raise RuntimeError(f"{line} ended with exit code {end.code}.") from end


@contextlib.contextmanager
def _working_directory(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


if __name__ == "__main__":
    text, target = Path(sys.argv[1]).read_text(), Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    run_page(text, target, small=False)
