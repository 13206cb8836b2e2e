"""Small run of the plain torch loop: weight decay collapses, syre at the same strength does not."""

import importlib.util
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "torch_loop.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("torch_loop", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["torch_loop"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["torch_loop"]


def test_weight_decay_loses_rank_and_syre_keeps_it(example):
    last = {
        name: example.train(name, strength=3e-3, tasks=6, steps=300, seed=0).rows[-1]
        for name in ("weight-decay", "syre")
    }
    # With 100 units, over five seeds: rank at most 7.4 with weight decay and at least 17 with syre; at
    # least 84 % and at most 33 % dead units.
    assert last["weight-decay"]["effective_rank/1"] < 12 < last["syre"]["effective_rank/1"]
    assert last["syre"]["dead_fraction/1"] < 0.4 < last["weight-decay"]["dead_fraction/1"]


def test_command_prints_a_row_for_each_task(example, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["torch_loop.py", "--tasks", "3", "--steps", "20"])
    example.main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[0] for row in rows] == ["0", "1", "2"]
