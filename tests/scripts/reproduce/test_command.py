"""Command `plasticity reproduce`: runs, verdict, picture, list."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import walk_figure

from plasticity.scripts.main import main
from plasticity.scripts.report.command import ReportConfig, report
from plasticity.scripts.reproduce.arms import Arm
from plasticity.scripts.reproduce.command import reproduce
from plasticity.scripts.reproduce.estimate import estimate_times
from plasticity.scripts.reproduce.figure import FIGURES
from plasticity.scripts.reproduce.verdict import FAILS, HOLDS, NOT_JUDGED, NOT_SEEN
from plasticity.scripts.run.jobs import Job

QUICK = ("--device", "cpu", "--jobs", "2")


def record(out, scale="small"):
    return json.loads((out / f"walks/{scale}/walks.json").read_text())


def test_a_figure_is_run_judged_and_drawn(tmp_path, capsys):
    assert reproduce(["walks", "--out", str(tmp_path), *QUICK]) == 0
    saved, said = record(tmp_path), capsys.readouterr().out
    assert saved["outcome"] == HOLDS
    assert (saved["scale"], saved["seeds"]) == ("small", [0, 1, 2])
    assert "Came out: walks end at" in said
    assert "The paper: a walk goes where its drift points" in said
    assert saved["command"] == "plasticity reproduce walks --seeds 0 1 2"
    assert saved["minutes"] > 0
    page = (tmp_path / "figures.html").read_text()
    assert "walks: holds" in page
    assert "with one, it is 50 farther" in page
    assert "data:image/png;base64,iVBOR" in page
    assert f"Verdict: {HOLDS}" in said
    assert "yes  with one, it is 50 farther (mean " in said
    assert (tmp_path / "walks/small/walks.png").read_bytes().startswith(b"\x89PNG")
    runs = tmp_path / "walks/small"
    folders = sorted(str(file.parent.relative_to(runs)) for file in runs.rglob("metrics.jsonl"))
    assert folders == [
        f"drift={drift}/walks/{method}/seed_{seed}"
        for drift in (0, 10)
        for method in ("none", "syre")
        for seed in range(3)
    ]

    # Again: nothing is run, and the verdict is the same. The report reads the runs too.
    before = {file: file.stat().st_mtime_ns for file in runs.rglob("metrics.jsonl")}
    assert reproduce(["walks", "--out", str(tmp_path), *QUICK]) == 0
    assert before == {file: file.stat().st_mtime_ns for file in runs.rglob("metrics.jsonl")}
    assert "12 of 12 runs are already finished" in capsys.readouterr().err
    written = report(ReportConfig((runs,), out=tmp_path / "report"))
    assert written[0].name == "report.html"
    assert "(step 6)" in capsys.readouterr().out

    next(runs.rglob("timings.jsonl")).unlink()  # as anybody may
    assert reproduce(["walks", "--out", str(tmp_path), *QUICK]) == 0
    assert record(tmp_path)["minutes"] is None

    assert reproduce(["list", "--out", str(tmp_path)]) == 0
    listed = capsys.readouterr().out
    assert "walks\n  Fig. 1 of: A Paper (1905)\n  claim: a walk goes where its" in listed
    assert f"  small: {HOLDS} (" in listed
    assert "  full: " not in listed


@pytest.mark.parametrize(
    ("options", "outcome"),
    [
        (["--noise", "1000"], NOT_SEEN),  # no interval is below 50
        (["--num-steps", "3"], FAILS),  # 30 farther
        (["--seeds", "0", "1"], NOT_JUDGED),
    ],
)
def test_other_outcomes(tmp_path, options, outcome):
    assert reproduce(["walks", "--out", str(tmp_path), *QUICK, *options]) == 0
    assert record(tmp_path)["outcome"] == outcome


def test_the_full_scale_has_its_own_settings_and_folder(tmp_path):
    arguments = ["walks", "--scale", "full", "--stack", "3", "--out", str(tmp_path), *QUICK]
    assert reproduce([*arguments, "--pause", "0.001"]) == 0
    assert record(tmp_path, "full")["settings"] == {"pause": 0.001}
    rows = (tmp_path / "walks/full/drift=20/walks/syre/seed_1/metrics.jsonl").read_text()
    assert [json.loads(row)["step"] for row in rows.splitlines()] == [3, 6, 9, 12]


def test_part_of_the_methods_has_no_verdict(tmp_path, capsys):
    assert reproduce(["walks", "--methods", "none", "--out", str(tmp_path), *QUICK]) == 0
    assert "No verdict: walks compares none, syre." in capsys.readouterr().out
    assert not (tmp_path / "walks/small/walks.json").exists()


def test_settings_that_the_arms_differ_in_are_refused(tmp_path):
    with pytest.raises(ValueError, match="--drift is what the arms of walks differ in"):
        reproduce(["walks", "--drift", "1", "--out", str(tmp_path)])


def test_a_diverged_run_is_left_out_and_named(tmp_path, capsys):
    arguments = ["walks", "--out", str(tmp_path), *QUICK, "--noise", "1e308"]
    assert reproduce(arguments) == 0
    saved = record(tmp_path)
    assert saved["diverged"]
    assert f"diverged, and left out: {saved['diverged'][0]}" in capsys.readouterr().out


def test_all_figures_run_one_after_another(tmp_path, capsys, monkeypatch):
    class Needy(walk_figure.WalkFigure):
        requires = "--weights PATH"

    figures = {"walks": FIGURES["walks"], "needy": Needy()}
    monkeypatch.setattr("plasticity.scripts.reproduce.command.FIGURES", figures)
    assert reproduce(["all", "--seeds", "0", "1", "--out", str(tmp_path), *QUICK]) == 0
    said = capsys.readouterr().out
    assert "needy is left out: it needs --weights PATH." in said
    assert "Verdict: not judged" in said
    assert record(tmp_path)["seeds"] == [0, 1]
    with pytest.raises(ValueError, match="drift is what the arms of walks differ in"):
        reproduce(["all", "--drift", "1", "--out", str(tmp_path)])
    assert reproduce(["list", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "  needs: --weights PATH" in said
    assert "  time: 0.01 core-minutes (small)" in said


def test_an_estimate_is_of_the_whole_run(tmp_path, capsys):
    config = replace(walk_figure.WalkConfig(benchmark="walks"), stream=walk_figure.Walk(pause=0.02))
    arm = Arm("none", {"drift": 0.0})
    (found,) = estimate_times([(arm, [Job(tmp_path, config)] * 3)])
    assert found.num_runs == 3
    assert found.seconds == pytest.approx(6 * 0.02, rel=0.5)  # 6 steps

    words = ["walks", "--estimate", "--seeds", "0", "--out", str(tmp_path), "--device", "cpu"]
    assert reproduce(words) == 0
    said = capsys.readouterr().out
    assert "none drift=10.0: 1 runs of " in said
    assert "walks, scale small, on cpu: about " in said
    assert not list(tmp_path.iterdir())


def test_a_broken_result_is_named(tmp_path, capsys):
    file = tmp_path / "walks/full/walks.json"
    file.parent.mkdir(parents=True)
    file.write_text("[]")
    assert reproduce(["list", "--out", str(tmp_path)]) == 0
    assert f"broken: {file} is not the result of a figure" in capsys.readouterr().out
    # Those of other figures and scales do not keep one from its verdict.
    assert reproduce(["walks", "--seeds", "0", "--out", str(tmp_path), *QUICK]) == 0
    assert "is not the result of a figure" in (tmp_path / "figures.html").read_text()


def test_methods_that_are_no_arms_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no arm of dropout: .* run walks --methods dropout\."):
        reproduce(["walks", "--methods", "none", "dropout", "--out", str(tmp_path)])


def test_usage_and_unknown_figures(capsys):
    assert reproduce([]) == 0
    assert "plasticity reproduce NAME" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", "walk"])
    assert ended.value.code == 2
    assert "walks" in capsys.readouterr().err


def test_a_killed_figure_continues_exactly(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    slow = [*QUICK, "--pause", "0.02", "--num-steps", "30"]
    assert reproduce(["walks", "--out", str(whole), *slow]) == 0
    words = ["reproduce", "walks", "--import", "walk_figure", "--out", str(killed), *slow]
    command = [sys.executable, "-m", "plasticity.scripts.main", *words]
    process = subprocess.Popen(command, cwd=Path(walk_figure.__file__).parent)
    deadline = time.monotonic() + 60
    while not list(killed.rglob("checkpoint.pt")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert reproduce(["walks", "--out", str(killed), *slow]) == 0
    for file in whole.rglob("metrics.jsonl"):
        assert (killed / file.relative_to(whole)).read_bytes() == file.read_bytes()
