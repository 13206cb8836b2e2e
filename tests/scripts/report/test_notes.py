"""Notes of comparisons of made-up runs."""

from made_runs import write_runs

from plasticity.scripts.report.comparison import Criterion, compare
from plasticity.scripts.report.notes import gap_notes
from plasticity.scripts.report.run_folders import find_runs


def notes_of(root, by=None, confidence=0.95):
    return compare(find_runs(root), None, confidence, by).notes


def test_notes_say_which_interval_is_which(tmp_path):
    write_runs(tmp_path, "permuted-digits", {"none": [[0.5], [0.6], [0.7]]})
    brackets, parentheses = (note for note in notes_of(tmp_path, None, 0.9) if "seeds" in note)
    assert brackets.startswith("In brackets: 90 % t intervals")
    assert parentheses.startswith("In parentheses: 90 % percentile bootstrap intervals")
    assert "too narrow with few seeds" in parentheses
    assert "74, 84 and 90 % at 3, 5 and 10 seeds" in parentheses


def test_many_runs_of_a_kind_have_one_note(tmp_path):
    values = {"none": [[0.9, 0.8], [0.9], [], []], "syre": [[0.8, None], [None]]}
    diverged = {("syre", 0), ("syre", 1)}
    write_runs(tmp_path, "permuted-digits", values, tasks=5, diverged=diverged)
    assert notes_of(tmp_path)[:3] == (
        "none, seeds 0 and 1, are unfinished: their last tasks are 1 and 0, of 5 planned. The arm is"
        " summarised over the tasks that its runs share.",
        "none, seeds 2 and 3, have no row yet and are left out.",
        "syre, seeds 0 and 1, diverged at tasks 1 and 0: they are left out from there on, and from averages."
        " Means over the rest flatter the method.",
    )


def test_what_averages_leave_out(tmp_path):
    write_runs(tmp_path, "permuted-digits", {"none": [[0.5, 0.6, 0.7]]})
    assert not any("leave out" in note for note in notes_of(tmp_path))
    found = notes_of(tmp_path, Criterion((), "average", 2))
    assert "Averages leave out the first 2 tasks." in found


def test_each_kind_of_gap_has_its_explanation():
    (accuracy,) = gap_notes(["test_accuracy", "plasticity_gap"])
    (loss,) = gap_notes(["online_loss", "loss_gap"])
    assert accuracy.startswith("Plasticity gap: accuracy of a newly initialised network")
    assert "minus the run's own" in accuracy
    assert loss.startswith("Loss gap: the run's loss minus that of a newly initialised network")
    assert gap_notes(["test_accuracy"]) == []
