import importlib.util
import json
from functools import partial

import pytest

from plasticity.scripts.bench import comparison as bench_comparison
from plasticity.scripts.bench.comparison import Comparison, Effort, both, goal_if, goal_on_cores

QUICK = Effort(quick=True)


def test_effort_chooses_sizes_and_rounds():
    calls = []
    contenders = {"a": partial(calls.append, "a"), "b": partial(calls.append, "b")}
    assert Effort().size(10, 3) == 10
    assert QUICK.size(10, 3) == 3
    QUICK.in_turns(contenders, rounds=9, calls=5)  # 1 round untimed, then 2 rounds of single calls
    assert calls == ["a", "b"] * 3
    calls.clear()
    Effort(rounds=4).in_turns(contenders, rounds=9, calls=2)
    assert calls == ["a", "a", "b", "b"] * 5


def test_the_row_of_a_comparison(monkeypatch):
    monkeypatch.setattr(
        bench_comparison, "in_turns", lambda contenders, **_: {"ours": (2.0,), "theirs": (3.0,)}
    )
    sides = both(lambda: "ours", lambda: "theirs")
    assert sides() == ("ours", "theirs")
    comparison = Comparison(case="c", unit="speed", sides=sides, rounds=1, goal=1.4, note="n")
    row = comparison.measured(QUICK)
    assert (row.case, row.unit, row.value, row.goal, row.note) == ("c", "speed", 1.5, 1.4, "n")


def test_what_is_missing_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    assert QUICK.unmeasured("c", "speed", 2.0, "pybullet") is None
    assert Effort(device="cuda").unmeasured("c", "speed", 2.0, "cuda") is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert "plasticity[bullet]" in QUICK.unmeasured("c", "speed", 2.0, "pybullet").note
    needs = ("cuda", "pybullet_envs_gymnasium")
    # Neither side is set up.
    comparison = Comparison(case="c", unit="speed", sides=None, rounds=1, goal=2.0, needs=needs)
    row = comparison.measured(QUICK)
    assert row.note == "not measured: needs --device cuda"
    assert (row.value, row.goal, row.met) == (None, 2.0, None)  # neither met nor missed
    assert json.loads(json.dumps(row.to_json(), allow_nan=False))["value"] is None
    row = comparison.measured(Effort(device="cuda"))
    assert row.note == "not measured: needs pip install pybullet_envs_gymnasium"


def test_a_goal_that_does_not_apply_says_why():
    assert goal_if(True, 2.0, "…") == {"goal": 2.0, "note": ""}
    assert goal_if(False, 2.0, "why") == {"goal": None, "note": "no goal: why"}


@pytest.mark.parametrize(("cores", "goal"), [(2, 2.5), (16, None)])
def test_goals_apply_to_two_cores(cores, goal, monkeypatch):
    monkeypatch.setattr(bench_comparison, "available_cores", lambda: cores)
    found = goal_on_cores(2.5)
    assert found["goal"] == goal
    assert ("applies to 2 cores" in found["note"]) == (goal is None)
    assert ("not to 16" in found["note"]) == (goal is None)
