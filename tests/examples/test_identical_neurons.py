"""Small run of the example: gradient descent and weight decay keep the copies, syre separates them."""

import importlib.util
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "identical_neurons.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("identical_neurons", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["identical_neurons"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["identical_neurons"]


def test_only_syre_leaves_the_symmetric_state(example):
    runs = {
        name: example.train(name, share=0.75, seed=1, steps=[0, 1500])
        for name in ("none", "weight-decay", "syre")
    }
    # 24 of 32 neurons are identical: 23 pairs of neighbours, and 1 + 8 different neurons
    for run in runs.values():
        assert run.copies[0] == 23
        assert run.ranks[0] <= 9
    for name in ("none", "weight-decay"):
        assert runs[name].copies[-1] >= 23
        assert runs[name].ranks[-1] <= 9
        assert runs[name].losses[-1] > 1.05 * runs["syre"].losses[-1]
    assert runs["syre"].copies[-1] == 0
    assert runs["syre"].ranks[-1] == 32


def test_command_writes_the_picture(example, tmp_path, monkeypatch, capsys):
    picture = tmp_path / "picture.png"
    arguments = ["identical_neurons.py", "--steps", "20", "--out", str(picture)]
    monkeypatch.setattr(sys, "argv", arguments)
    example.main()
    assert picture.read_bytes().startswith(b"\x89PNG")
    table = capsys.readouterr().out
    assert all(name in table for name in ("none", "weight-decay", "syre"))
