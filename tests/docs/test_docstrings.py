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

# Take a name off when it gets an example, and add none.
LACKING = {
    "plasticity.agents.networks.actor_critic.ActorCritic",
    "plasticity.agents.networks.base.Network",
    "plasticity.agents.networks.base.network",
    "plasticity.agents.ppo.agent.PPO",
    "plasticity.agents.ppo.agent.StackedPPO",
    "plasticity.agents.ppo.base_agent.Iteration",
    "plasticity.agents.ppo.environments.Environments",
    "plasticity.agents.ppo.episodes.Episode",
    "plasticity.agents.ppo.host_environments.HostEnvironments",
    "plasticity.agents.supervised.stacked.StackedClassifier",
    "plasticity.mitigations.base.Mitigation",
    "plasticity.mitigations.base.mitigation",
    "plasticity.mitigations.method.SeededMethod",
    "plasticity.modules.hyperspherical.HypersphericalLayer",
    "plasticity.tasks.control.ant.bullet.SlipperyAntBulletEnv",
    "plasticity.tasks.control.ant.engines.slippery_ant_vector",
    "plasticity.tasks.control.ant.mujoco.SlipperyAntMujocoEnv",
    "plasticity.tasks.control.humanoid.mujoco.SlipperyHumanoidEnv",
    "plasticity.tasks.datasets.downloads.DownloadError",
    "plasticity.tasks.streams.base.Stream",
    "plasticity.tasks.streams.base.SupervisedStream",
    "plasticity.tasks.streams.base.stack",
    "plasticity.tasks.streams.permuted_images.ImageTask",
}


def test_the_list_of_names_without_an_example_only_gets_shorter():
    assert OBJECTS.keys() - WITH_EXAMPLE.keys() == LACKING


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
