"""Modules of the user's own that register mitigations, networks, benchmarks, environments or figures."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

OPTION = "--import"
"""Option of the commands that takes the names of such modules."""


def take_imports(
    arguments: Sequence[str], program: str = "plasticity"
) -> tuple[tuple[str, ...], list[str]]:
    """Read the option `--import MODULE …`, and import the modules.

    Args:
        arguments: Words of the command line.
        program: Name of the command, for messages.

    Returns:
        The names of the modules, and all other words.

    Raises:
        ValueError: if a module cannot be imported.
        SystemExit: if the option names none; the message is printed.
    """
    parser = argparse.ArgumentParser(prog=program, add_help=False, allow_abbrev=False)
    parser.add_argument(OPTION, dest="modules", metavar="MODULE", nargs="+", action="extend")
    known, rest = parser.parse_known_args(list(arguments))
    modules = tuple(known.modules or ())
    import_modules(modules)
    return modules, rest


def import_modules(names: Sequence[str]) -> None:
    """Import modules, which register what they hold; one that was imported before is not run again.

    They may be in the current directory, as for `python -m`, but do not replace installed ones of the same
    name.

    Args:
        names: Names of the modules, such as "my_module" or "my_package.networks".

    Raises:
        ValueError: if there is no module of a name, or it raises an error while it is imported.
    """
    here = str(Path.cwd())
    if names and here not in sys.path:
        sys.path.append(here)
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise _failed(name, error) from error  # a module that it imports
            raise ValueError(
                f"{OPTION} {name}: there is no module {error.name!r} in {here}, nor is one installed."
                " Give its name as an import statement has it, after the name of the benchmark, and run the"
                " command in its folder, or add that to PYTHONPATH."
            ) from error
        except (Exception, SystemExit) as error:  # whatever a user's module raises
            raise _failed(name, error) from error


def _failed(name: str, error: BaseException) -> ValueError:
    return ValueError(
        f"{OPTION} {name}: the module raised {type(error).__name__} while it was imported ({error})."
        f" `python -c 'import {name}'` shows where: mend it, or leave it out."
    )


def import_saved(saved: Mapping[str, Any]) -> None:
    """Import the modules that a saved configuration names.

    Raises:
        ValueError: if one cannot be imported.
        TypeError: if they are not a list of names.
    """
    names = saved.get("imports", ())
    is_list = isinstance(names, (list, tuple))
    if not is_list or not all(isinstance(each, str) for each in names):
        raise TypeError(f"imports must be a list of names of modules, not {names!r}.")
    import_modules(names)
