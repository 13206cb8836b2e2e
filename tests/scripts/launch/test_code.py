"""One code for all: other versions on a machine, another commit in a folder."""

import json

import pytest

from plasticity.scripts.config.options import default_options
from plasticity.scripts.launch.code import note_on_code, require_one_commit, require_same_code
from plasticity.scripts.run.atomic_files import RunError
from plasticity.scripts.run.jobs import Job

HERE = {"git_commit": "abc", "versions": {"torch": "2.13.0", "numpy": "2.4.6"}}


def test_equal_code_passes():
    require_same_code(HERE, dict(HERE))


def test_all_that_differs_is_named():
    other = {"git_commit": "def", "versions": {"torch": "2.12.0", "numpy": "2.4.6"}}
    message = r"other code than the launcher \(commit def instead of abc, torch 2.12.0 instead of 2.13.0\)"
    with pytest.raises(RunError, match=message):
        require_same_code(HERE, other)


def test_runs_that_other_code_began_are_named_once(tmp_path):
    config = default_options("permuted-digits").run_config("none", 0)
    others = {
        "a": HERE,
        "b": {**HERE, "git_commit": "def"},
        "c": {**HERE, "git_commit": "012"},
        "d": {},
    }
    for name, made_by in others.items():
        (tmp_path / name).mkdir()
        saved = {**config.to_json(), **made_by}
        (tmp_path / name / "config.json").write_text(json.dumps(saved))
        (tmp_path / name / "checkpoint.pt").touch()
    jobs = [Job(tmp_path / name, config) for name in (*others, "new")]
    assert note_on_code(jobs, HERE) == (
        "2 of the runs were begun by other code (commit def instead of abc, and 1 more): continued rows"
        " may differ from those of a run without a break."
    )
    assert note_on_code([jobs[0], jobs[3], jobs[4]], HERE) is None
    assert note_on_code(jobs, {**HERE, "git_commit": None}) is None  # installed, not a checkout
    (tmp_path / "b" / "checkpoint.pt").unlink()  # begins anew, by this code
    assert note_on_code(jobs[:2], HERE) is None


def test_a_run_that_another_commit_began_is_refused(tmp_path):
    config = default_options("permuted-digits").run_config("none", 0)
    (tmp_path / "config.json").write_text(json.dumps({**config.to_json(), "git_commit": "abc"}))
    jobs = [Job(tmp_path / "new", config), Job(tmp_path, config)]
    require_one_commit(jobs, "abc")
    require_one_commit(jobs, None)  # installed, not a checkout
    with pytest.raises(RunError, match=r"begun by commit abc, and this is def.*another --out"):
        require_one_commit(jobs, "def")
