"""Examples in docstrings: each runs, and the public names that have none yet are listed.

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

WITH_EXAMPLE = {path: found for path, found in OBJECTS.items() if ">>>" in (found.__doc__ or "")}

NEEDS = {
    "ant.bullet": "pybullet",
    "ant.mujoco": "mujoco",
    "ant.engines": "mujoco",
    "humanoid": "mujoco",
}
"""Packages that the examples of some modules need, by a part of their names."""

# Take a name off when it gets an example, and add none.
LACKING = {
    "plasticity.agents.networks.base.Network",
    "plasticity.agents.ppo.base_agent.Iteration",
    "plasticity.agents.ppo.environments.Environments",
    "plasticity.agents.ppo.episodes.Episode",
    "plasticity.mitigations.base.Mitigation",
    "plasticity.tasks.datasets.downloads.DownloadError",
    "plasticity.tasks.streams.base.SupervisedStream",
}


def test_the_list_of_names_without_an_example_only_gets_shorter():
    assert OBJECTS.keys() - WITH_EXAMPLE.keys() == LACKING


@pytest.mark.parametrize("path", WITH_EXAMPLE)
def test_an_example_runs(path):
    found = WITH_EXAMPLE[path]
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
