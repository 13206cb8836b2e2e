import json

import pytest
import torch

from plasticity.scripts.bench import turns as bench_turns
from plasticity.scripts.bench.turns import (
    fastest,
    goal_on_cores,
    in_turns,
    missing,
    rate_row,
    torch_threads,
    unmeasured_row,
)


def test_every_contender_takes_a_turn_in_every_round(monkeypatch):
    now, log = [100.0], []
    monkeypatch.setattr(bench_turns.time, "perf_counter", lambda: now[0])

    def contender(name, *durations):
        remaining = list(durations)

        def turn():
            log.append(name)
            now[0] += remaining.pop(0)

        return turn

    # The first turn of each is the untimed one.
    times = in_turns({"a": contender("a", 9, 1, 2), "b": contender("b", 9, 3, 4)}, rounds=2)
    assert times == {"a": (1.0, 2.0), "b": (3.0, 4.0)}
    assert log == ["a", "b"] * 3


def test_the_fastest_has_the_smallest_median():
    # Means: 4 and 3.
    assert fastest({"a": (1.0, 2.0, 9.0), "b": (3.0, 3.0, 3.0)}) == "a"


def test_a_row_of_rates():
    row = rate_row("m", "c", ours=(2.0, 4.0, 3.0), theirs=(4.0, 4.0, 9.0), steps=100, goal=1.5)
    # Pair by pair, ours is 2, 1 and 3 times as fast; a median turn has 100 / 3 and 100 / 4 steps a second.
    assert (row.value, row.lower, row.upper) == pytest.approx((2.0, 1.5, 2.5))
    assert (row.ours, row.theirs) == pytest.approx((0.03, 0.04))
    assert (row.unit, row.bound, row.met, row.note) == (
        "speed",
        "at least",
        True,
        "33 / 25 steps/s",
    )
    row = rate_row("m", "c", (1.0,), (1.0,), steps=7, note="the best")
    assert (row.goal, row.note) == (None, "the best; 7 / 7 steps/s")


def test_goals_apply_to_two_cores(monkeypatch):
    monkeypatch.setattr(bench_turns, "available_cores", lambda: 2)
    assert goal_on_cores(2.5) == (2.5, "")
    monkeypatch.setattr(bench_turns, "available_cores", lambda: 16)
    goal, note = goal_on_cores(2.5)
    assert goal is None
    assert "applies to 2 cores" in note
    assert "not to 16" in note


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setattr(bench_turns.importlib.util, "find_spec", lambda _: object())
    assert missing("pybullet") == ""
    monkeypatch.setattr(bench_turns.importlib.util, "find_spec", lambda _: None)
    assert "plasticity[bullet]" in missing("pybullet")
    assert missing("pybullet_envs_gymnasium") == "pip install pybullet_envs_gymnasium"
    row = unmeasured_row("m", "c", 2.0, missing("pybullet_envs_gymnasium"))
    assert row.note == "not measured: needs pip install pybullet_envs_gymnasium"
    assert (row.value, row.met) == (None, None)  # neither met nor missed
    assert json.loads(json.dumps(row.to_json(), allow_nan=False))["value"] is None


def test_torchs_threads_are_restored_even_after_an_error():
    before, seen = torch.get_num_threads(), []

    def fail():
        with torch_threads(before + 1):
            seen.append(torch.get_num_threads())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == [before + 1]
    assert torch.get_num_threads() == before
