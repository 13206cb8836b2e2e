"""Options of the launchers: their ranges, their place on the command line, and the device of a cluster."""

from dataclasses import replace

import pytest

from plasticity.scripts.config.command_line import parse_options
from plasticity.scripts.config.launchers import RayOptions, SlurmOptions
from plasticity.scripts.config.options import default_options


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (SlurmOptions, "minutes", 0),
        (SlurmOptions, "minutes", 4),
        (SlurmOptions, "memory", 0.0),
        (SlurmOptions, "gpus", -1),
        (SlurmOptions, "cores", 0),
        (RayOptions, "gpus", -0.5),
        (RayOptions, "cores", 0),
    ],
)
def test_a_value_out_of_range_is_named(kind, name, value):
    group = "slurm" if kind is SlurmOptions else "ray"
    with pytest.raises(ValueError, match=f"--{group}.{name} must be"):
        kind(**{name: value})


def test_the_command_line_fills_them_in():
    arguments = ["--launcher", "slurm", "--slurm.partition", "gpu", "--slurm.minutes", "30"]
    options, _, given = parse_options(
        default_options("permuted-digits"), arguments, program="run", description=""
    )
    assert options.launcher == "slurm"
    assert options.slurm == SlurmOptions(partition="gpu", minutes=30)
    assert options.ray == RayOptions()
    assert given == []  # none is a setting of the runs


@pytest.mark.parametrize(
    ("device", "gpus", "expected"),
    [("auto", 1, "cuda"), ("auto", 0, "cpu"), ("cuda:1", 0, "cuda:1")],
)
def test_the_device_is_that_of_the_jobs_whatever_this_machine_has(device, gpus, expected):
    options = default_options("permuted-digits")
    options = replace(options, launcher="slurm", device=device, slurm=SlurmOptions(gpus=gpus))
    assert options.run_config("none", 0).device == expected
