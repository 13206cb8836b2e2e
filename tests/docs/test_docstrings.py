"""Examples in docstrings: each runs, and the public names that have none yet are listed.

They read as if torch, nn and the names at the top of plasticity, its agents and its tasks were imported.
"""

import doctest
import importlib
import inspect

import pytest
import torch

import plasticity
from plasticity.scripts.reference.interface import PACKAGES, public_names

OBJECTS = {
    f"{found.__module__}.{found.__qualname__}": found
    for package in PACKAGES
    for name in public_names(package)
    if inspect.isroutine(found := getattr(importlib.import_module(package), name))
    or inspect.isclass(found)
} | {f"plasticity.{name}": getattr(plasticity, name) for name in ("Attached", "attach", "convert")}

WITH_EXAMPLE = {path: found for path, found in OBJECTS.items() if ">>>" in (found.__doc__ or "")}

# Mitigations are settings, whose example is their default; the others lack one still: take a name off when
# it gets one, and add none.
LACKING: set[str] = set()


def test_the_list_of_names_without_an_example_only_gets_shorter():
    lacking = {path for path in OBJECTS if path not in WITH_EXAMPLE}
    lacking = {path for path in lacking if not path.startswith("plasticity.mitigations.")}
    assert lacking == LACKING


@pytest.mark.parametrize("path", WITH_EXAMPLE)
def test_an_example_runs(path):
    found = WITH_EXAMPLE[path]
    torch.manual_seed(0)
    names = {"torch": torch, "nn": torch.nn}
    for package in ("plasticity.tasks", "plasticity.agents", "plasticity"):
        module = importlib.import_module(package)
        names |= {name: getattr(module, name) for name in module.__all__}
    names[found.__name__] = found
    tests = doctest.DocTestFinder(recurse=False).find(found, path, module=False, globs=names)
    assert tests
    for test in tests:
        printed = []
        result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=printed.append)
        assert result.failed == 0, "".join(printed)
