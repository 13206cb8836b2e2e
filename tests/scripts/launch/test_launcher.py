"""Choice of the launcher."""

from dataclasses import replace
from pathlib import Path

from plasticity.scripts.config.options import default_options
from plasticity.scripts.launch.launcher import launcher_of
from plasticity.scripts.launch.ray import RayLauncher
from plasticity.scripts.launch.slurm import SlurmLauncher


def test_each_name_has_its_launcher():
    options = replace(default_options("permuted-digits"), out=Path("runs/a"), jobs=3)
    assert launcher_of(options) is None
    slurm = launcher_of(replace(options, launcher="slurm"))
    assert isinstance(slurm, SlurmLauncher)
    assert (slurm.folder, slurm.most) == (Path("runs/a/slurm"), 3)
    ray = launcher_of(replace(options, launcher="ray"))
    assert isinstance(ray, RayLauncher)
    assert ray.most == 3
