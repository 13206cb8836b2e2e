"""Headlines: means, intervals and p-values by arithmetic on a few seeds."""

import pytest
from made_runs import write_runs

from plasticity.scripts.report.comparison import compare
from plasticity.scripts.report.headline import headline
from plasticity.scripts.report.run_folders import find_runs


def headline_of(root, values, metric="test_accuracy", baseline=None):
    runs = {method: [[value] for value in of_seeds] for method, of_seeds in values.items()}
    write_runs(root, "permuted-digits", runs, metric=metric)
    return headline(compare(find_runs(root), baseline, 0.95))


def test_few_seeds_are_not_evidence(tmp_path):
    text = headline_of(tmp_path, {"none": [0.5, 0.6, 0.4], "syre": [0.6, 0.7, 0.5]})
    # standard deviation 10 points, t(2) = 4.303: 4.303 * 10 / sqrt(3) = 24.8; p = 2 / 2³
    assert text == (
        "Of 2 methods, syre has the highest test accuracy at the last task (0): 60.0 % [35.2, 84.8];"
        " none, the baseline, has 50.0 % [25.2, 74.8]. The difference of syre to none, +10.0 points"
        " [+10.0, +10.0], is not certain: 3 seeds are too few to show any difference at the level 0.05"
        " (p = 0.25)."
    )


def test_enough_seeds_of_one_sign_are_significant(tmp_path):
    values = {"none": [0.5] * 7, "syre": [0.6, 0.61, 0.62, 0.63, 0.64, 0.65, 0.66]}
    text = headline_of(tmp_path, values | {"redo": [0.4, 0.6, 0.4, 0.6, 0.4, 0.6, 0.5]})
    # p = 2 / 2⁷ = 0.0156, times two methods
    assert text.endswith("is significant over 7 seeds (p = 0.031, adjusted for 2 comparisons).")


def test_a_difference_of_both_signs_may_be_chance(tmp_path):
    values = {"none": [0.5] * 6, "syre": [0.6, 0.4, 0.6, 0.4, 0.6, 0.5]}
    # Five differences of 10 points, whatever their signs, have a sum of at least 10, which is that seen.
    assert "is not significant over 6 seeds (p = 1)" in headline_of(tmp_path, values)


def test_the_baseline_may_be_the_best_and_lower_losses_are_better(tmp_path):
    values = {"none": [1.0, 1.0], "syre": [3.0, 3.0], "redo": [2.0, 2.0]}
    text = headline_of(tmp_path, values, metric="online_loss")
    assert text.startswith("Of 3 methods, none, the baseline, has the lowest online loss averaged")
    assert "; redo has 2.00" in text
    assert "The difference of redo to none, +1.00" in text


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"none": [0.5]},
            "none has a test accuracy of 50.0 % at the last task (0). There is nothing",
        ),
        ({"none": [0.5], "syre": [0.6]}, "has 50.0 %. That is one seed"),
        ({"redo": [0.5], "syre": [0.6]}, "redo has 50.0 %. No test was made, for there is no base"),
        ({"none": [None], "syre": [None]}, "No method has a value of test accuracy"),
    ],
)
def test_what_is_missing_is_said(tmp_path, values, expected):
    assert expected in headline_of(tmp_path, values)


def headline_of_runs(root, values, **settings):
    write_runs(root, "permuted-digits", values, **settings)
    return headline(compare(find_runs(root), None, 0.95))


def test_a_method_with_a_diverged_run_is_not_ranked(tmp_path):
    values = {
        "none": [[0.5, 0.5], [0.5, 0.5]],
        "syre": [[0.9, 0.9], [0.9, None]],  # 90 % by the run that is left
        "redo": [[0.8, None], [None]],
    }
    diverged = [("syre", 1), ("redo", 0), ("redo", 1)]
    text = headline_of_runs(tmp_path, values, diverged=diverged, tasks=2)
    assert text == (
        "none has a test accuracy of 50.0 % [50.0, 50.0] at the last task (1). No other method has sound runs"
        " with a value there. Not ranked, as runs of them diverged: syre (1 of 2), redo (2 of 2)."
    )


def test_where_every_method_diverged_the_rest_is_shown_and_said_to_flatter(tmp_path):
    values = {"none": [[0.5, 0.5], [0.5, None]], "syre": [[0.9, 0.9], [0.9, None]]}
    text = headline_of_runs(tmp_path, values, diverged=[("none", 1), ("syre", 1)], tasks=2)
    assert text.startswith("Of 2 methods, syre has the highest test accuracy at the last task (1)")
    assert text.endswith("the rest flatter it: none (1 of 2), syre (1 of 2).")


def test_an_early_task_is_not_called_the_last(tmp_path):
    values = {"none": [[0.5, 0.4, 0.3]], "syre": [[0.6, 0.7]]}
    text = headline_of_runs(tmp_path, values, tasks=30)
    assert "highest test accuracy at task 1, the last that all share, of 30 planned: 70.0 %" in text
