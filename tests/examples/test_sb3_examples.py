"""Small runs of the Stable-Baselines3 examples, as a user runs them, and checks of their output."""

import importlib.util
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run(monkeypatch, capsys):
    """Run an example with arguments, and return its module and the lines that it printed."""
    loaded = []

    def run(name, *arguments):
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        loaded.append(name)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        capsys.readouterr()
        module.main()
        return module, capsys.readouterr().out.splitlines()

    yield run
    for name in set(loaded):
        del sys.modules[name]


def test_slippery_ant(run, tmp_path):
    pytest.importorskip("pybullet", reason="PyBullet has wheels up to Python 3.11")
    picture = tmp_path / "ant.png"
    # 4 frictions of 128 steps, a row every 64 steps; episodes last up to 1000 steps, so the task changes
    # only if one ends early.
    module, lines = run("sb3_slippery_ant", "--steps", 512, "--seed", 1, "--out", picture)
    rows = [line.split() for line in lines if line.split()[0].isdigit()]
    assert [int(row[0]) for row in rows if "(end" not in row] == list(range(64, 513, 64))
    assert all(0.02 <= float(row[2]) <= 2 for row in rows)
    assert all("actor" in row and "critic" in row for row in rows)
    assert picture.read_bytes().startswith(b"\x89PNG")
    weights = [
        module.train(name, strength=1.0, steps=128, seed=0)[-1]["weight_norm/actor.2"]
        for name in ("none", "weight-decay", "syre")
    ]
    assert len(set(weights)) == 3  # each regularizer has an effect


def test_own_tasks(run, tmp_path):
    _, lines = run("sb3_own_tasks", "--steps", 2000, "--log", tmp_path)
    rows = [line.split() for line in lines[1:]]
    steps = [int(row[0]) for row in rows]
    # A row every 200 steps from the first 256 observations on, and one at each of three boundaries.
    assert {step for step in steps if step % 200 == 0} >= set(range(400, 2001, 200))
    assert [int(row[1]) for row in rows] == sorted(int(row[1]) for row in rows)
    assert {row[1] for row in rows} == {"0", "1", "2", "3"}
    header = (tmp_path / "progress.csv").read_text().splitlines()[0].split(",")
    assert "plasticity/effective_rank/q_net.3" in header
    assert "plasticity_probe/dead_fraction/q_net.1" in header
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_actor_and_critic_saved_and_continued(run, tmp_path):
    _, lines = run("sb3_actor_and_critic", "--folder", tmp_path, "--steps", 320)
    assert "weight-decay" in lines[1]
    assert "strength 0.0001" in lines[1]
    assert "syre" in lines[3]
    assert "sigma 0.3" in lines[3]
    first = [line.split() for line in lines[5:]]
    assert [row[0] for row in first] == ["80", "160", "240", "320"]
    _, again = run("sb3_actor_and_critic", "--folder", tmp_path, "--steps", 160, "--continue")
    assert again[:5] == lines[:5]  # the same groups, from the saved model alone
    rows = [line.split() for line in again[5:]]
    assert rows[:4] == first
    assert [row[0] for row in rows[4:]] == ["400", "480"]
