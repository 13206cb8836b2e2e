"""States of runs that are made up here."""

import os
import time

import pytest

from plasticity.scripts.folders.status import StatusConfig, status
from plasticity.scripts.main import main
from plasticity.scripts.run.locks import locked


def states(found):
    return {f"{each.run.method}/{each.run.seed}": each.state for each in found}


def test_every_state(tmp_path, make_run, capsys):
    make_run(tmp_path, seed=0)
    make_run(tmp_path, seed=1, rows=2, diverged=True)
    stopped = make_run(tmp_path, "syre", 0, rows=1, tasks=4)
    stale = make_run(tmp_path, "syre", 1, rows=2, tasks=4)
    running = make_run(tmp_path, "syre", 2, rows=2, tasks=4)
    begun = make_run(tmp_path, "syre", 3, rows=0, tasks=4)
    for path in (stopped, running, begun):
        (path / "lock").touch()
    for name in ("metrics.jsonl", "config.json"):
        os.utime(stale / name, (time.time() - 90_000,) * 2)
    with locked(running / "lock"):
        found = status(StatusConfig(tmp_path))
    assert states(found) == {
        "none/0": "finished",
        "none/1": "diverged",
        "syre/0": "stopped",
        "syre/1": "stale",
        "syre/2": "running",
        "syre/3": "stopped",
    }
    by_seed = {each.run.seed: each for each in found if each.run.method == "syre"}
    # a row of four took 60 s: three more are left; of two in 120 s, two
    assert [by_seed[seed].seconds_left for seed in (0, 1, 3)] == [180.0, 120.0, None]
    printed = capsys.readouterr().out
    assert "Left: about 7 min of computing" in printed
    assert "plasticity run --config" in printed
    assert "--seeds 0 1 3" in printed  # not of the one that is running
    (line,) = [line for line in printed.splitlines() if "permuted-digits, syre" in line]
    # 1 + 2 + 2 + 0 rows of 16
    assert line.split() == ["permuted-digits,", "syre", "4", "1", "2", "1", "31", "%", "?"]


def test_a_failure_is_reported_once_for_all_runs_that_it_ended(tmp_path, make_run, capsys):
    for seed in range(3):
        path = make_run(tmp_path, seed=seed, rows=1, tasks=2)
        (path / "failure.txt").write_text(
            "Traceback:\n  [x]\nKeyError: 'a[b]'\n" if seed < 2 else "no file\n"
        )
    make_run(tmp_path, seed=3)
    found = status(StatusConfig(tmp_path))
    assert states(found) == dict.fromkeys(("none/0", "none/1", "none/2"), "failed") | {
        "none/3": "finished"
    }
    printed = capsys.readouterr().out
    first = tmp_path / "permuted-digits" / "none" / "seed_0"
    assert f"failed: {first} and 1 more: KeyError: 'a[b]'" in printed
    assert "seed_2: no file" in printed
    assert "--seeds 0 1 2" in printed


def test_what_is_finished_leaves_nothing(tmp_path, make_run, capsys):
    make_run(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["status", str(tmp_path)])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert "100 %" in printed
    assert "Left" not in printed
    assert "plasticity run" not in printed


def test_timings_may_be_missing_or_cut(tmp_path, make_run):
    path = make_run(tmp_path, rows=1)
    (path / "timings.jsonl").write_text('{"task": 0, "seconds": 30.0}\n{"task": 1, "sec')
    assert status(StatusConfig(tmp_path))[0].seconds == 30.0
    (path / "timings.jsonl").unlink()
    assert status(StatusConfig(tmp_path))[0].seconds == 0.0


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="No runs in"):
        status(StatusConfig(tmp_path))
