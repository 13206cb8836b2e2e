"""Settings that a search tries."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plasticity.scripts.config.grid import Axis
from plasticity.scripts.tune.candidates import GridSearch, axes_of, number_of_settings, search_of

AXES = [Axis("learning-rate", (0.1, 0.2)), Axis("syre.sigma", (1.0, 2.0, 3.0))]
EVERY = [
    {"learning-rate": rate, "syre.sigma": sigma}
    for rate, sigma in itertools.product((0.1, 0.2), (1.0, 2.0, 3.0))
]


def tried(search):
    return [settings for proposals in search.rounds() for settings in proposals]


def test_all_combinations_are_tried_where_the_budget_allows_it():
    for kind in ("random", "grid"):
        assert tried(search_of(kind, AXES, 6, "syre")) == EVERY
    assert tried(search_of("random", [], 3, "none")) == [{}]


def test_rounds_may_be_asked_for_again():
    for budget in (2, 6):
        search = GridSearch(AXES, budget, seed=0)
        assert tried(search) == tried(search)
        assert len(tried(search)) == budget


@given(st.integers(1, 7), st.integers(0, 2**40))
def test_a_draw_is_of_distinct_combinations_and_the_same_each_time(budget, seed):
    found = tried(GridSearch(AXES, budget, seed))
    assert len(found) == min(budget, 6)
    assert all(each in EVERY for each in found)
    assert len({tuple(each.items()) for each in found}) == len(found)
    assert tried(GridSearch(AXES, budget, seed)) == found


def test_draws_are_uniform_and_differ_between_methods():
    counts = dict.fromkeys(range(6), 0)
    for seed in range(600):
        for each in tried(GridSearch(AXES, 2, seed)):
            counts[EVERY.index(each)] += 1
    # 200 of each expected, standard deviation sqrt(600 * 1/3 * 2/3) = 11.5
    assert all(abs(count - 200) < 50 for count in counts.values())
    names = ("syre", "redo+syre", "layer-norm+syre", "syre+snr")
    assert len({str(tried(search_of("random", AXES, 3, name))) for name in names}) > 1


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(1, 30), st.integers(0, 99))
def test_each_value_is_drawn_about_as_often_as_its_others(sizes, budget, seed):
    axes = [Axis(str(number), tuple(range(size))) for number, size in enumerate(sizes)]
    found = tried(GridSearch(axes, budget, seed))
    every = number_of_settings(axes)
    assert len({str(each) for each in found}) == len(found) == min(budget, every)
    if (
        4 * budget <= every
    ):  # With few left to choose from, a value is drawn that has its share already.
        for axis in axes:
            counts = [sum(each[axis.option] == value for each in found) for value in axis.values]
            assert max(counts) - min(counts) <= 1


def test_ten_of_a_hundred_have_every_learning_rate():
    axes = [
        Axis("rate", (1, 2, 3, 4)),
        Axis("strength", tuple(range(5))),
        Axis("sigma", tuple(range(5))),
    ]
    for seed in range(50):
        found = tried(GridSearch(axes, 10, seed))
        for axis, counts in zip(axes, ([2, 2, 3, 3], [2] * 5, [2] * 5), strict=True):
            drawn = [each[axis.option] for each in found]
            assert sorted(drawn.count(value) for value in axis.values) == counts


def test_a_grid_beyond_the_budget_is_refused():
    with pytest.raises(ValueError, match="syre has 6 settings, more than --budget 5"):
        search_of("grid", AXES, 5, "syre")


def test_methods_have_their_own_axes():
    assert axes_of(AXES, "none") == AXES[:1]
    assert axes_of(AXES, "layer-norm+syre") == AXES
    assert number_of_settings(axes_of(AXES, "none")) == 2
    assert number_of_settings([]) == 1


def test_optuna_proposes_settings_by_their_scores():
    pytest.importorskip("optuna")
    axes = [Axis("a", tuple(range(10))), Axis("b", tuple(range(10)))]

    def search():
        found = search_of("optuna", axes, 40, "syre")
        settings = []
        for proposals in found.rounds():
            settings += proposals
            # the best is 9, 9; the worst diverge
            scores = [float(each["a"] + each["b"]) for each in proposals]
            found.learn([None if score < 3 else score for score in scores])
        return settings

    settings = search()
    assert settings == search()
    assert (
        len({str(each) for each in settings}) == len(settings) == 40
    )  # each method's budget is the same
    sums = [each["a"] + each["b"] for each in settings]
    assert max(sums) == 18
    # the first ten are random, 9 on average; in the end the good ones are tried already
    assert sum(sums[10:30]) / 20 > sum(sums[:10]) / 10 + 2


def test_optuna_tries_a_whole_grid_once():
    pytest.importorskip("optuna")
    axes = [Axis("a", (3, 1)), Axis("b", ("relu", "tanh")), Axis("c", ((8, 8), (4,)))]
    found = search_of("optuna", axes, 30, "syre")
    settings = []
    for proposals in found.rounds():
        settings += proposals
        found.learn([float(each["a"]) for each in proposals])
    every = [
        {"a": a, "b": b, "c": c} for a in (3, 1) for b in ("relu", "tanh") for c in ((8, 8), (4,))
    ]
    assert sorted(map(str, settings)) == sorted(map(str, every))


def test_optuna_is_an_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install \"plasticity\[tune\]\""):
        search_of("optuna", AXES, 3, "syre")
