"""The best settings of sweeps that are made up here."""

import json
import re

import pytest

from plasticity.mitigations import Syre
from plasticity.scripts.config import benchmark
from plasticity.scripts.config.benchmark import tuned_settings
from plasticity.scripts.config.benchmarks import BENCHMARKS
from plasticity.scripts.main import main
from plasticity.scripts.report.tune import TuneConfig, tune


def write_run(root, method, accuracy, *, seed=0, tasks=1, benchmark="permuted-digits", rate=0.01):
    (name,) = method or ("none",)
    path = (
        root / f"{sorted(method.get(name, {}).items())}_{rate}" / benchmark / name / f"seed_{seed}"
    )
    path.mkdir(parents=True)
    config = {
        "benchmark": benchmark,
        "method": method,
        "seed": seed,
        "stream": {"num_tasks": tasks},
        "agent": {"learning_rate": rate},
    }
    (path / "config.json").write_text(json.dumps(config))
    row = {"task": 0, "test_accuracy": accuracy, "diverged": False}
    (path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    return path


def syre(strength, sigma, anisotropy=0.0):
    return {
        "syre": {"strength": strength, "sigma": sigma, "anisotropy": anisotropy, "decoupled": None}
    }


def sweep(root):
    for seed in (0, 1):
        write_run(root, {}, 0.99, seed=seed)
        write_run(root, {"weight-decay": {"strength": 0.1, "decoupled": None}}, 0.4, seed=seed)
        write_run(root, syre(0.1, 0.3), 0.5 + seed / 10, seed=seed)  # mean 0.55
        write_run(root, syre(0.2, 0.3, 0.1), 0.6, seed=seed)  # mean 0.6: the best
        write_run(root, syre(0.2, 0.5), 0.7 - seed / 2, seed=seed)  # mean 0.45


def test_the_best_setting_is_written_and_others_are_kept(tmp_path, capsys):
    sweep(tmp_path / "runs")
    out = tmp_path / "tuned.json"
    kept = {"slippery-ant": {"syre": {"sigma": 9}}, "permuted-digits": {"l2-init": {"strength": 3}}}
    out.write_text(json.dumps(kept))
    expected = {"strength": 0.2, "sigma": 0.3, "anisotropy": 0.1}
    assert tune(TuneConfig(tmp_path / "runs", out)) == {"permuted-digits": {"syre": expected}}
    assert json.loads(out.read_text()) == {
        "slippery-ant": {"syre": {"sigma": 9}},
        "permuted-digits": {"l2-init": {"strength": 3}, "syre": expected},
    }
    printed = capsys.readouterr().out
    assert (
        "permuted-digits, syre: strength 0.2, sigma 0.3, anisotropy 0.1 by test accuracy" in printed
    )
    assert "before: nothing" in printed


def test_the_command_changes_the_defaults_of_the_benchmark(tmp_path, monkeypatch):
    sweep(tmp_path / "runs")
    file = tmp_path / "tuned_settings.json"
    file.write_bytes(benchmark.TUNED_SETTINGS.read_bytes())
    monkeypatch.setattr(benchmark, "TUNED_SETTINGS", file)
    monkeypatch.setattr("plasticity.scripts.report.tune.TUNED_SETTINGS", file)
    tuned_settings.cache_clear()
    fashion = BENCHMARKS["permuted-fashion"].mitigation("syre")
    try:
        with pytest.raises(SystemExit) as end:
            main(["tune", str(tmp_path / "runs")])
        assert end.value.code == 0
        tuned_settings.cache_clear()
        found = BENCHMARKS["permuted-digits"].mitigation("syre")
        assert found == Syre(strength=0.2, sigma=0.3, anisotropy=0.1)
        assert BENCHMARKS["permuted-fashion"].mitigation("syre") == fashion
    finally:
        tuned_settings.cache_clear()


def test_a_benchmark_of_its_own_search_no_longer_borrows(tmp_path, monkeypatch):
    file = tmp_path / "tuned_settings.json"
    found = json.loads(benchmark.TUNED_SETTINGS.read_text())
    file.write_text(json.dumps({**found, "permuted-fashion": {"syre": {"sigma": 7.0}}}))
    monkeypatch.setattr(benchmark, "TUNED_SETTINGS", file)
    tuned_settings.cache_clear()
    try:
        assert BENCHMARKS["permuted-fashion"].mitigation("syre") == Syre(sigma=7.0)
        borrowed = BENCHMARKS["permuted-fashion"].mitigation("weight-decay")
        assert borrowed == BENCHMARKS["permuted-mnist"].mitigation("weight-decay")
    finally:
        tuned_settings.cache_clear()


def test_one_setting_is_no_search(tmp_path):
    write_run(tmp_path, syre(0.1, 0.3), 0.5)
    with pytest.raises(
        ValueError, match=r"No method in .* was run with several settings: plasticity sweep"
    ):
        tune(TuneConfig(tmp_path, tmp_path / "out.json"))
    assert not (tmp_path / "out.json").exists()


def test_unfinished_runs_are_refused(tmp_path):
    write_run(tmp_path, syre(0.1, 0.3), 0.5)
    path = write_run(tmp_path, syre(0.2, 0.3), 0.5, tasks=2)
    with pytest.raises(ValueError, match=re.escape(f"{path} is unfinished: continue the sweep")):
        tune(TuneConfig(tmp_path))


def test_arms_that_differ_in_other_settings_are_refused(tmp_path):
    write_run(tmp_path, syre(0.1, 0.3), 0.5)
    write_run(tmp_path, syre(0.1, 0.3), 0.6, rate=0.1)
    with pytest.raises(ValueError, match="syre differ in learning_rate too"):
        tune(TuneConfig(tmp_path))


def test_runs_of_an_unknown_benchmark_are_refused(tmp_path):
    write_run(tmp_path, syre(0.1, 0.3), 0.5, benchmark="another")
    with pytest.raises(ValueError, match="another is not a benchmark of this version"):
        tune(TuneConfig(tmp_path))


def test_a_file_that_cannot_be_used_is_refused(tmp_path):
    sweep(tmp_path / "runs")
    with pytest.raises(ValueError, match=r"Cannot write .*pass --out a file"):
        tune(TuneConfig(tmp_path / "runs", tmp_path / "nowhere" / "out.json"))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=r"broken\.json cannot be read"):
        tune(TuneConfig(tmp_path / "runs", tmp_path / "broken.json"))
