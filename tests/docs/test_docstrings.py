"""Examples in docstrings: every public name has one, and each runs.

They read as if torch, nn and the names at the top of plasticity, its agents and its tasks were imported.
"""

import doctest
import importlib
import inspect

import pytest
import torch

from plasticity.scripts.reference.interface import PACKAGES

MODULES = [importlib.import_module(package) for package in (*PACKAGES, "plasticity")]

OBJECTS = {
    f"{found.__module__}.{found.__qualname__}": found
    for module in MODULES
    for name in module.__all__
    if inspect.isroutine(found := getattr(module, name)) or inspect.isclass(found)
}

NEEDS = {
    "ant.bullet": "pybullet",
    "ant.mujoco": "mujoco",
    "ant.engines": "mujoco",
    "humanoid": "mujoco",
}
"""Packages that the examples of some modules need, by a part of their names."""


@pytest.mark.parametrize("path", OBJECTS)
def test_an_example_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = OBJECTS[path]
    assert ">>>" in (found.__doc__ or ""), f"Add an example of about three lines to {path}."
    for part, package in NEEDS.items():
        if part in path:
            pytest.importorskip(package)
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
