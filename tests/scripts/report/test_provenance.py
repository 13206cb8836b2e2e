"""How runs were made, and the commands that continue them."""

import json
import shlex

from made_runs import write_run

from plasticity.scripts.report.comparison import compare
from plasticity.scripts.report.provenance import common_settings, continue_commands, recorded
from plasticity.scripts.report.run_folders import find_runs

ROW = {"task": 0, "test_accuracy": 0.5}


def compared(root):
    return compare(find_runs(root), None, 0.95)


def test_the_command_continues_all_unfinished_seeds_of_an_arm(tmp_path):
    root = tmp_path / "my runs"
    for seed, rows in enumerate(([ROW], [], [ROW, ROW | {"task": 1}])):
        write_run(root, "permuted-digits", "syre", seed, rows, tasks=2)
    (command,) = continue_commands(compared(root).unfinished)
    config = root / "permuted-digits" / "syre" / "seed_0" / "config.json"
    assert shlex.split(command) == (
        ["plasticity", "run", "--config", str(config), "--seeds", "0", "1", "--out", str(root)]
    )


def test_common_settings_are_those_that_all_arms_share(tmp_path):
    for strength in (0.1, 0.2):
        folder, settings = tmp_path / str(strength), {"strength": strength, "sigma": 0.5}
        write_run(folder, "permuted-digits", "syre", 0, [ROW], settings=settings)
    assert common_settings(compared(tmp_path)) == {"sigma": 0.5}


def test_versions_and_commits_are_named_once(tmp_path):
    commits = ("0123abcd", "0123abcd", "4567ef", None)
    for seed, commit in enumerate(commits):
        write_run(tmp_path, "permuted-digits", "none", seed, [ROW])
        file = tmp_path / "permuted-digits" / "none" / f"seed_{seed}" / "config.json"
        config = json.loads(file.read_text())
        if commit is not None:
            config |= {"git_commit": commit, "versions": {"python": "3.11.7", "torch": "2.13.0"}}
        file.write_text(json.dumps(config))
    comparison = compared(tmp_path)
    assert recorded(comparison, "git_commit") == ["0123abcd", "4567ef", "not recorded"]
    assert recorded(comparison, "versions") == ["python 3.11.7, torch 2.13.0", "not recorded"]
    # Runs without it count as one kind more.
    assert "The runs were made with 3 different git_commit: see their folders." in comparison.notes
