"""Evidence for differences, of runs that are made up here."""

import json

import pytest
from scipy import stats

from plasticity.scripts.report.comparison import compare
from plasticity.scripts.report.run_folders import find_runs
from plasticity.scripts.report.significance import significance_notes, significance_table

NONE = [0.50, 0.52, 0.48, 0.51, 0.49, 0.50]
SYRE = [0.60, 0.62, 0.58, 0.61, 0.60, 0.59]  # above by 0.1 each, but for two
REDO = [0.51, 0.51, 0.49, 0.50, 0.50, 0.49]


def made(root, method, accuracies, tuned_on=(), metric="test_accuracy", settings=None):
    for seed, accuracy in enumerate(accuracies):
        folder = root / method / f"seed_{seed}"
        folder.mkdir(parents=True)
        config = {
            "benchmark": "permuted-digits",
            "method": {} if method == "none" else {method: settings or {}},
            "seed": seed,
            "stream": {"num_tasks": 1},
            "tuned_on": list(tuned_on),
        }
        (folder / "config.json").write_text(json.dumps(config))
        row = {"task": 0, metric: accuracy, "diverged": False}
        (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")


def comparison_of(root):
    return compare(find_runs(root), None, 0.95)


def test_differences_have_p_values_that_are_adjusted_for_their_number(tmp_path):
    made(tmp_path, "none", NONE)
    made(tmp_path, "syre", SYRE)
    made(tmp_path, "redo", REDO)
    table = significance_table(comparison_of(tmp_path))
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    # all six above: 2 / 2⁶; the lesser of two: twice that
    assert rows["syre"] == ["+10.0", "1.00", "0.031", "0.062"]
    # differences 1, -1, 1, -1, 1, -1 per cent: their mean is 0
    assert rows["redo"][0] == "+0.0"
    assert rows["redo"][2:] == ["1", "1"]
    better = stats.mannwhitneyu(REDO, NONE, method="asymptotic").statistic / 36
    assert float(rows["redo"][1]) == pytest.approx(better, abs=0.005)
    assert table.columns[-1] == "p, adjusted\nfor 2"
    (note,) = significance_notes(comparison_of(tmp_path))
    assert "6 seeds cannot show a difference at the level 0.05" in note


def test_lower_losses_are_improvements(tmp_path):
    made(tmp_path, "none", NONE, metric="online_loss")
    made(tmp_path, "syre", SYRE, metric="online_loss")
    (row,) = significance_table(comparison_of(tmp_path)).rows
    assert row[2].text == "0.00"


def test_the_best_setting_by_a_loss_has_the_lowest(tmp_path):
    for strength, values in ((0.1, [2.0, 3.0]), (0.2, [1.0, 1.5]), (0.3, [4.0, 5.0])):
        made(tmp_path / str(strength), "syre", values, (), "online_loss", {"strength": strength})
    comparison = comparison_of(tmp_path)
    assert (comparison.headline, comparison.moment) == ("online_loss", "average")
    assert [arm.settings["strength"] for arm in comparison.chosen] == [0.2]


def test_one_seed_or_one_method_gives_no_table(tmp_path):
    made(tmp_path / "a", "none", NONE)
    assert significance_table(comparison_of(tmp_path / "a")) is None
    assert significance_notes(comparison_of(tmp_path / "a")) == []
    made(tmp_path / "b", "none", NONE[:1])
    made(tmp_path / "b", "syre", SYRE[:1])
    assert significance_table(comparison_of(tmp_path / "b")) is None
    assert "One seed shows no difference" in significance_notes(comparison_of(tmp_path / "b"))[0]


@pytest.mark.parametrize(
    ("none", "syre", "message"),
    [
        ((100,), (100, 101), "tuned on the seeds 100, 101, none of which is shown here"),
        ((100,), (3, 4), "syre: the seeds 3, 4 also chose its settings, which biases them upwards"),
        ((), (100,), "The settings of none were not tuned, those of the others were"),
    ],
)
def test_notes_tell_on_which_seeds_settings_were_chosen(tmp_path, none, syre, message):
    made(tmp_path, "none", NONE, none)
    made(tmp_path, "syre", SYRE, syre)
    assert message in significance_notes(comparison_of(tmp_path))[-1]


def test_a_method_without_a_value_silences_no_note_and_is_no_comparison(tmp_path):
    made(tmp_path, "none", NONE)
    made(tmp_path, "syre", SYRE)
    made(tmp_path, "redo", [None] * 6)
    (note,) = significance_notes(comparison_of(tmp_path))
    # 2 / 2⁶, of the one method that is tested
    assert "6 seeds can show differences" in note
    assert "among one comparison: 0.031" in note
