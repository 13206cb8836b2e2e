"""Small run of the comparison: steps that agree and steps that do not, episodes, and the statistics."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mujoco_warp", reason="needs plasticity[gpu]")

EXAMPLE = Path(__file__).parents[2] / "examples" / "warp_against_mujoco.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("warp_against_mujoco", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["warp_against_mujoco"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["warp_against_mujoco"]


@pytest.mark.parametrize("friction", [0.02, 1.0])
def test_steps_agree_but_the_variants_do_not(example, friction):
    found = example.compare_steps(friction, 150, seed=0)
    assert 0.3 < found.touched.mean() < 0.95
    assert found.velocities["rounded"].max() < example.LARGE
    assert found.velocities["warp"].max() < example.LARGE
    assert found.positions["warp"].max() < 5e-6
    assert (found.velocities["as is"] > example.LARGE).mean() > 0.2
    worse = (found.velocities["one solution"] > example.LARGE).mean()
    assert worse > 0.2 if friction == 0.02 else worse == 0


def test_neighbours_are_the_next_float32(example):
    numbers = np.float32([1.5, -3e-5, 700]).astype(float)
    found = example.neighbour(numbers, np.random.default_rng(0)).astype(np.float32)
    up, down = (np.nextafter(np.float32(numbers), np.float32(end)) for end in (np.inf, -np.inf))
    assert ((found == up) | (found == down)).all()


def test_statistics(example):
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, 400), rng.normal(0, 1, 400)
    mean, other, low, high, p_value = example.compare_samples(first, second)
    assert (mean, other) == (first.mean(), second.mean())
    assert low < 0 < high
    assert p_value > 0.01
    _, _, low, high, p_value = example.compare_samples(first, second + 0.5)
    assert low < -0.5 < high < 0
    assert p_value < 1e-4


def test_episodes_are_alike_and_the_table_shows_it(example, capsys):
    """Use fixed seeds, as a p-value may also be small by chance."""
    example.main(["--states", "20", "--episodes", "40", "--limit", "60", "--frictions", "2"])
    steps, episodes = capsys.readouterr().out.split("40 episodes")
    assert [line.split()[2] for line in steps.splitlines()[2:]] == ["rounded", "warp", "one", "as"]
    for name, line in zip(("return", "length"), episodes.splitlines()[2:], strict=True):
        assert line.split()[1] == name
        assert float(line.split()[-1]) > 0.01
