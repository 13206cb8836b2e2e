"""The schedule, against a simulation with one age for each unit."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity.mitigations.replacement_schedule import (
    HORIZON,
    Replacements,
    initial_schedule,
    next_due,
    take_due,
)


def numbers(rules, sizes, steps):
    """Return the numbers of each layer after each step, as a mitigation asks for them."""
    state = initial_schedule(sizes, ())
    found = []
    for step in range(1, steps + 1):
        is_due = next_due(state) <= step
        found.append(take_due(state, step, rules) if is_due else [0] * len(sizes))
    return found


def simulated(rate, maturity, size, steps, choose):
    """Return the numbers of one layer, whose units have an age each; `choose` picks those to replace."""
    ages, rest, found = [0] * size, 0.0, []
    for _ in range(steps):
        ages = [age + 1 for age in ages]
        old = [unit for unit, age in enumerate(ages) if age > maturity]
        rest += rate * len(old)
        number = int(rest)
        rest -= number
        for unit in choose(old, number):
            ages[unit] = 0
        found.append(number)
    return found


def test_parts_of_a_unit_add_up():
    # three units that are always old enough, 0.75 of one in each step
    assert numbers([Replacements(0.25, 0)], [3], 8) == [[0], [1], [1], [1], [0], [1], [1], [1]]


@given(
    rate=st.floats(0.0, 1.0),
    maturity=st.integers(0, 20),
    size=st.integers(1, 12),
    seed=st.integers(0, 100),
)
@settings(deadline=None, max_examples=25)
def test_numbers_are_those_of_a_simulation_whichever_units_are_replaced(rate, maturity, size, seed):
    draws = random.Random(seed)
    expected = simulated(rate, maturity, size, 60, draws.sample)
    found = numbers([Replacements(rate, maturity), Replacements(0.0, 0)], [size, 2], 60)
    assert found == [[each, 0] for each in expected]


def test_a_replacement_far_ahead_is_found():
    steps = 3 * HORIZON + 100
    found = numbers([Replacements(1 / 2048, 1000)], [1], steps)
    # old after 1001 steps; 2048 steps of 1 / 2048, which has no rounding
    assert [step for step, each in enumerate(found, 1) if each[0]] == [1000 + 2048]


def test_drawn_parts_have_the_expected_mean():
    draws = random.Random(0)
    rule = Replacements(0.3, 0, lambda step: draws.random())
    steps = 2000
    found = [each[0] for each in numbers([rule], [5], steps)]
    # 1.5 units in each step: 1 or 2
    assert set(found) == {1, 2}
    assert abs(sum(found) / steps - 1.5) < 3 * math.sqrt(0.25 / steps)


def test_networks_that_are_stacked_have_schedules_of_their_own():
    state = initial_schedule([3, 2], (2,))
    assert state["schedule/born"].shape == (2, 2, 3)
    rows = [{name: each[run] for name, each in state.items()} for run in range(2)]
    assert take_due(rows[0], 1, [Replacements(1.0, 0)] * 2) == [3, 2]
    assert take_due(rows[1], 1, [Replacements(0.5, 0)] * 2) == [1, 1]
    assert next_due(state) == 2


@pytest.mark.parametrize("stop", range(1, 8))
def test_a_saved_schedule_continues(stop):
    rules, steps = [Replacements(0.23, 2)], 20
    state = initial_schedule([4], ())
    found = [take_due(state, step, rules) for step in range(1, stop + 1)]
    again = initial_schedule([4], ())
    for name, each in again.items():
        each.copy_(state[name].clone())
    found += [take_due(again, step, rules) for step in range(stop + 1, steps + 1)]
    assert found == numbers(rules, [4], steps)
    assert all(each.device == torch.device("cpu") for each in again.values())
