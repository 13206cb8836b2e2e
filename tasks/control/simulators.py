"""Simulators: their imports, only where an environment needs them, and their errors."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


class SimulationError(RuntimeError):
    """Error of a simulator whose numbers are wrong from here on."""


def import_simulator(name: str, needed_by: str, remedy: str) -> Any:
    """Import and return a module.

    Args:
        name: Name of the module.
        needed_by: What needs it, for the error message.
        remedy: How to install it, for the error message.

    Raises:
        ModuleNotFoundError: if it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ModuleNotFoundError(
            f"{needed_by} needs {name}, which is not installed: {remedy}.", name=name
        ) from error


def load_before_opengl() -> None:
    """Load Triton, if it is installed, which has to be loaded before OpenGL.

    OpenGL on the CPU loads an LLVM. Triton, which torch loads for compiled models, has its own LLVM and
    aborts the process if another one is already loaded.
    """
    with suppress(ImportError):
        importlib.import_module("triton")


@contextmanager
def standard_error_closed() -> Iterator[None]:
    """Keep C code from printing to standard error: Bullet its build date, Warp that there is no GPU."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
