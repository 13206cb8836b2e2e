"""Searches of settings, with runs of a second."""

import json

import pytest

from plasticity.mitigations import Syre
from plasticity.scripts.config import benchmark
from plasticity.scripts.config.benchmark import tuned_settings
from plasticity.scripts.config.benchmarks import BENCHMARKS
from plasticity.scripts.report.statistics import Estimate
from plasticity.scripts.tune import command
from plasticity.scripts.tune.command import MethodSearch, Tried


@pytest.fixture
def tune(on_digits):
    def call(out, *words):
        return on_digits("tune", "--tasks 20 --seeds 7 8 --out", out, *words)

    return call


def online(out, settings, method, seed):
    file = out / settings / "permuted-digits" / method / f"seed_{seed}" / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [row["online_accuracy"] for row in rows]


def test_the_best_setting_of_each_method_is_found_on_the_first_tasks(tune, tmp_path, capsys):
    grid = "--grid learning-rate=1e-6,0.05 weight-decay.strength=1e-3,10"
    assert tune(tmp_path, "--methods none weight-decay", grid, "--fraction 0.1") == 0
    found = json.loads((tmp_path / "tuned.json").read_text())
    assert found["benchmark"] == "permuted-digits"
    assert (found["measure"], found["num_tasks"], found["seeds"]) == ("online_accuracy", 2, [7, 8])
    none, decay = found["methods"]["none"], found["methods"]["weight-decay"]
    assert none["settings"] == {"learning-rate": 0.05}
    assert decay["settings"] == {"learning-rate": 0.05, "weight-decay.strength": 0.001}
    assert [len(each["tried"]) for each in (none, decay)] == [2, 4]
    rows = [online(tmp_path, "learning-rate=0.05", "none", seed) for seed in (7, 8)]
    assert [len(each) for each in rows] == [2, 2]  # a tenth of 20 tasks
    best = next(each for each in none["tried"] if each["settings"] == none["settings"])
    assert best["score"] == pytest.approx(sum(map(sum, rows)) / 4)
    printed = capsys.readouterr().err
    assert "none: learning-rate=0.05 (online accuracy" in printed
    assert "; 2 tried)" in printed
    before = (tmp_path / "tuned.json").read_bytes()
    assert tune(tmp_path, "--methods none weight-decay", grid) == 0
    assert "12 of 12 runs are already finished" in capsys.readouterr().err
    assert (tmp_path / "tuned.json").read_bytes() == before


def test_every_method_tries_at_most_the_budget(tune, tmp_path):
    words = "--methods none weight-decay --fraction 0.05 --budget 2"
    assert (
        tune(tmp_path, words, "--grid learning-rate=0.01,0.02,0.03 weight-decay.strength=1e-3,1")
        == 0
    )
    methods = json.loads((tmp_path / "tuned.json").read_text())["methods"]
    assert [len(each["tried"]) for each in methods.values()] == [2, 2]


def test_the_best_settings_can_become_defaults(tune, tmp_path, monkeypatch):
    file = tmp_path / "tuned_settings.json"
    file.write_bytes(benchmark.TUNED_SETTINGS.read_bytes())
    monkeypatch.setattr(benchmark, "TUNED_SETTINGS", file)
    monkeypatch.setattr(command, "TUNED_SETTINGS", file)
    tuned_settings.cache_clear()
    fashion = BENCHMARKS["permuted-fashion"].mitigation("syre")
    words = "--methods syre --fraction 0.05 --defaults True"
    try:
        assert tune(tmp_path, words, "--grid syre.sigma=0.25 syre.strength=0.125") == 0
        tuned_settings.cache_clear()
        assert BENCHMARKS["permuted-digits"].mitigation("syre") == Syre(strength=0.125, sigma=0.25)
        assert BENCHMARKS["permuted-fashion"].mitigation("syre") == fashion
        before = file.read_bytes()
        assert tune(tmp_path, words, "--grid own learning-rate=0.01") == 2
        assert not list(tmp_path.glob("learning-rate=*"))  # refused before anything runs
        assert file.read_bytes() == before
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


def searched(*means):
    tried = [
        Tried({"a": position}, (), None if mean is None else Estimate(mean, 2, None, None))
        for position, mean in enumerate(means)
    ]
    return MethodSearch("syre", None, tried)


def test_the_best_is_the_highest_accuracy_or_the_lowest_loss():
    assert searched(0.3, None, 0.5, 0.5).best("online_accuracy").settings == {"a": 2}
    assert searched(0.3, None, 0.5).best("online_loss").settings == {"a": 0}
    with pytest.raises(ValueError, match="syre diverged with all 2 settings: give a --grid"):
        searched(None, None).best("online_accuracy")


def test_bad_input(tune, tmp_path, capsys):
    assert tune(tmp_path, "--methods none --tuned x.json") == 2
    assert "--tuned x.json is for plasticity run" in capsys.readouterr().err
    assert tune(tmp_path, "--methods syre --search grid --budget 2 --grid syre.sigma=1,2,3") == 2
    assert "more than --budget 2" in capsys.readouterr().err
    assert not (tmp_path / "tuned.json").exists()
