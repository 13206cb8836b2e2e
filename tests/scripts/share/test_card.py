"""Model cards: what they say, and what is refused."""

import json
import re

import pytest
import yaml

from plasticity.scripts.main import main
from plasticity.scripts.share.card import CardConfig, card


def test_a_card_has_results_sheet_and_settings(run_folder, rows):
    path = run_folder(rows)
    written = card(CardConfig(path))
    text = written[0].read_text()
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head) == {
        "library_name": "plasticity",
        "tags": ["plasticity", "continual-learning", "permuted-digits", "syre", "digits"],
    }
    assert "# syre on permuted-digits, seed 4" in body
    assert "| test accuracy (%) | 50 | 75 | 62.5 |" in body  # the mean of 50 and 75
    assert "| layer | effective rank | dead fraction (%) |" in body
    assert "| fc1 | 2 | 50 |" in body
    assert "| `agent.learning_rate` | `0.125` |" in body
    assert "`stream.dataset`" not in body  # as the benchmark has it
    assert 'git_commit: "abc"' in body
    assert {each.name for each in written} == {"README.md", *re.findall(r"\]\((\S+)\)", body)}
    assert all(each.read_bytes()[1:4] == b"PNG" for each in written[1:])
    assert written[1:]


def test_a_row_that_is_not_finite_is_left_out_of_the_means(run_folder, rows):
    rows[1]["test_accuracy"] = None
    text = card(CardConfig(run_folder(rows)))[0].read_text()
    assert "| test accuracy (%) | 50 | 50 | 50 |" in text


def test_another_learner_than_the_benchmarks_is_named(run_folder, rows):
    path = run_folder(rows)
    config = json.loads((path / "config.json").read_text())
    config["agent"]["algorithm"] = "sb3:dqn"
    (path / "config.json").write_text(json.dumps(config))
    assert "Here the learner is `sb3:dqn`." in card(CardConfig(path))[0].read_text()


def test_an_unfinished_run_says_how_far_it_is(run_folder, rows):
    assert "2 of 9 tasks" in card(CardConfig(run_folder(rows, num_tasks=9)))[0].read_text()


def test_a_diverged_run_says_so(run_folder, rows):
    rows[1] |= {"test_accuracy": None, "diverged": True}
    text = card(CardConfig(run_folder(rows, num_tasks=9)))[0].read_text()
    assert "It diverged in task 1 of 9: its loss was no longer finite." in text


def test_a_card_that_may_have_been_edited_is_replaced_only_on_demand(run_folder, rows):
    path = run_folder(rows)
    (path / "README.md").write_text("mine")
    with pytest.raises(ValueError, match=r"README\.md exists.*--force"):
        card(CardConfig(path))
    assert (path / "README.md").read_text() == "mine"
    assert "Results" in card(CardConfig(path, force=True))[0].read_text()


def test_several_runs_and_no_rows_are_refused(run_folder, rows, capsys):
    path = run_folder(rows)
    run_folder([], seed=5)
    with pytest.raises(ValueError, match=r"holds 2 runs, and this is about one.*seed_4"):
        card(CardConfig(path.parent))
    with pytest.raises(SystemExit) as ended:
        main(["card", str(path.parent / "seed_5")])
    assert ended.value.code == 2
    assert "has no rows yet" in " ".join(capsys.readouterr().err.split())
