"""Runs from several folders in one, of runs that are made up here."""

import errno
import json
import re
import shutil
from collections import Counter

import pytest

from plasticity.scripts.folders import collect as module
from plasticity.scripts.folders.collect import CollectConfig, collect
from plasticity.scripts.main import main
from plasticity.scripts.report.run_folders import PARTIAL, find_runs
from plasticity.scripts.run.locks import locked


def content(root):
    return {str(f.relative_to(root)): f.read_bytes() for f in root.rglob("*") if f.is_file()}


def test_runs_come_together_and_longer_ones_replace_shorter_ones(tmp_path, make_run):
    first, second, out = (tmp_path / name for name in ("a", "b", "out"))
    make_run(first, seed=0)
    make_run(first, seed=1, rows=1)
    make_run(second, seed=1, rows=2)
    make_run(second, "syre", seed=1)
    held = make_run(second, "syre", seed=2)
    for name in ("lock", "lock.lease.7", "checkpoint.pt.tmp"):
        (held / name).write_bytes(b"\0")
    counts = collect(CollectConfig((first, second), out))
    assert counts == Counter({"copied": 4, "kept": 0})
    assert [len(run.rows) for run in find_runs(out)] == [3, 2, 3, 3]
    found = content(out)
    assert not [name for name in found if "lock" in name or name.endswith("tmp")]
    for name, each in content(second).items():
        assert "lock" in name or name.endswith("tmp") or found[name] == each
    assert collect(CollectConfig((first, second), out)) == Counter({"copied": 0, "kept": 4})
    assert content(out) == found
    path = second / "permuted-digits" / "none" / "seed_1"
    row = {"task": 2, "test_accuracy": 0.7, "diverged": False}
    with (path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    assert collect(CollectConfig((second,), out)) == Counter({"replaced": 1, "kept": 2})
    assert len(find_runs(out)[1].rows) == 3
    # the shorter one does not come back
    assert collect(CollectConfig((first,), out)) == Counter({"kept": 2})


def test_a_run_in_use_is_left_out(tmp_path, make_run, capsys):
    path = make_run(tmp_path / "a")
    make_run(tmp_path / "a", seed=1)
    with locked(path / "lock"):
        assert collect(CollectConfig((tmp_path / "a",), tmp_path / "out"))["running"] == 1
    assert "running, left out" in capsys.readouterr().err
    assert [run.seed for run in find_runs(tmp_path / "out")] == [1]


def test_a_run_in_use_is_not_replaced(tmp_path, make_run, capsys):
    path = make_run(tmp_path / "out", rows=1)
    make_run(tmp_path / "a", rows=2)
    with locked(path / "lock"):
        assert collect(CollectConfig((tmp_path / "a",), tmp_path / "out"))["running"] == 1
        assert f"running, left out: {path}\n" in capsys.readouterr().err
    assert len(find_runs(tmp_path / "out")[0].rows) == 1
    assert collect(CollectConfig((tmp_path / "a",), tmp_path / "out"))["replaced"] == 1


def test_a_run_that_begins_while_it_is_copied_is_left_out(tmp_path, make_run, monkeypatch):
    path = make_run(tmp_path / "a", rows=2)
    copytree = shutil.copytree

    def slow(*arguments, **options):
        copytree(*arguments, **options)
        with (path / "metrics.jsonl").open("a") as file:
            file.write('{"task": 2, "test_accuracy": 0.7}\n')

    monkeypatch.setattr(module.shutil, "copytree", slow)
    assert collect(CollectConfig((tmp_path / "a",), tmp_path / "out")) == Counter(
        {"running": 1, "kept": 0}
    )
    assert not content(tmp_path / "out")


def test_a_place_inside_of_the_folder_is_not_collected_again(tmp_path, make_run):
    make_run(tmp_path / "runs" / "a")
    config = CollectConfig((tmp_path / "runs",), tmp_path / "runs" / "collected")
    assert collect(config)["copied"] == 1
    assert collect(config) == Counter({"copied": 0, "kept": 1})
    assert len(find_runs(tmp_path / "runs")) == 2


def test_half_a_copy_is_no_run(tmp_path, make_run):
    path = make_run(tmp_path)
    shutil.copytree(path, path.with_name(path.name + PARTIAL))
    assert [run.path for run in find_runs(tmp_path)] == [path]


def test_the_rest_of_an_interruption_is_replaced(tmp_path, make_run):
    make_run(tmp_path / "a")
    partial = tmp_path / "out" / "permuted-digits" / "none" / f"seed_0{PARTIAL}"
    partial.mkdir(parents=True)
    (partial / "half").touch()
    collect(CollectConfig((tmp_path / "a",), tmp_path / "out"))
    assert not partial.exists()
    assert len(find_runs(tmp_path / "out")) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offset": 0.01}, "differ in row 1, with the same settings"),
        ({"rate": 0.02}, "differ in agent.learning_rate: collect into folders of their own"),
    ],
)
def test_different_results_of_one_run_are_refused_and_nothing_is_copied(
    tmp_path, make_run, changes, message
):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", seed=1)
    make_run(tmp_path / "b", **changes)
    with pytest.raises(ValueError, match=re.escape(message)):
        collect(CollectConfig((tmp_path / "a", tmp_path / "b"), tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    collect(CollectConfig((tmp_path / "a",), tmp_path / "out"))
    with pytest.raises(ValueError, match=re.escape(message)):
        collect(CollectConfig((tmp_path / "b",), tmp_path / "out"))
    assert len(find_runs(tmp_path / "out")) == 1


@pytest.mark.parametrize("name", ["out", "out.tar.xz"])
def test_a_single_run_does_not_take_the_place_of_all(tmp_path, make_run, name):
    make_run(tmp_path / "a")
    path = make_run(tmp_path / "b", seed=1)
    collect(CollectConfig((tmp_path / "a",), tmp_path / name))
    before = content(tmp_path)
    with pytest.raises(ValueError, match=r"seed_1 is a single run: name the folder above"):
        collect(CollectConfig((path,), tmp_path / name))
    assert content(tmp_path) == before


def test_a_run_does_not_take_the_place_of_other_files(tmp_path, make_run):
    path = make_run(tmp_path / "a")
    there = tmp_path / "out" / path.relative_to(tmp_path / "a") / "notes" / "mine.txt"
    there.parent.mkdir(parents=True)
    there.write_text("mine")
    with pytest.raises(ValueError, match=r"seed_0 exists and is no run"):
        collect(CollectConfig((tmp_path / "a",), tmp_path / "out"))
    assert there.read_text() == "mine"
    there.unlink()
    (there.parents[1] / "lock").touch()  # of a run that was killed at its beginning
    assert collect(CollectConfig((tmp_path / "a",), tmp_path / "out"))["replaced"] == 1


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("out", "give another --out"), ("a.tar.xz", "set TMPDIR to another folder")],
)
def test_a_full_disk_is_named_once(tmp_path, make_run, monkeypatch, name, remedy):
    def full(source, target, **_):
        raise OSError(errno.ENOSPC, "No space left on device", str(source))

    copytree = shutil.copytree

    def failing(source, target, *inner, **options):  # a folder inside gets its function from above
        own = {} if inner else {"copy_function": full}
        return copytree(source, target, *inner, **options, **own)

    monkeypatch.setattr(module.shutil, "copytree", failing)
    make_run(tmp_path / "a")
    message = rf"Cannot copy \S+ to \S+ \([^()]*No space left[^()]*\): free space, or {remedy}"
    with pytest.raises(ValueError, match=message):
        collect(CollectConfig((tmp_path / "a",), tmp_path / name))
    assert not list(tmp_path.rglob(f"*{PARTIAL}"))


def test_bad_input(tmp_path, make_run, capsys):
    with pytest.raises(SystemExit) as end:
        main(["collect", "--out", str(tmp_path / "out")])
    assert end.value.code == 2
    assert "collect" in capsys.readouterr().err
    make_run(tmp_path / "a")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"Cannot copy .*the same command continues"):
        collect(CollectConfig((tmp_path / "a",), tmp_path / "file"))
