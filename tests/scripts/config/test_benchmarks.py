import json
import re
from dataclasses import replace

import pytest

import plasticity.scripts.config.benchmarks as benchmarks_module
from plasticity.agents.ppo.config import PRESETS
from plasticity.mitigations import MITIGATIONS, Syre, mitigation_names
from plasticity.scripts.config.benchmarks import (
    BENCHMARKS,
    Benchmark,
    completed,
    named_benchmark,
    presets_of,
    read_config,
    register_benchmark,
    require_benchmark,
    tuned_settings,
)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_is_whole(name):
    benchmark = BENCHMARKS[name]
    assert benchmark.config.benchmark == name
    assert benchmark.config.method == ()
    for method in benchmark.methods if benchmark.tuned_as is not None else ():
        for each in mitigation_names(method):
            assert each in tuned_settings()[benchmark.tuned_as]
    assert read_config(json.loads(json.dumps(benchmark.config.to_json()))) == benchmark.config
    for option, presets in benchmark.presets.items():
        assert presets_of(benchmark, {option: presets.default}) == benchmark.config


def test_tuned_settings_are_settings_of_mitigations():
    for searched in tuned_settings().values():
        for name, values in searched.items():
            MITIGATIONS[name](**values)


def test_a_mitigation_has_its_tuned_settings():
    # strength 3e-3 and sigma 0.5: the best of 21 settings with 10 seeds (docs/results.md)
    assert BENCHMARKS["permuted-digits"].mitigation("syre") == Syre(strength=3e-3, sigma=0.5)
    assert BENCHMARKS["permuted-fashion"].mitigation("syre") == Syre(strength=3e-3, sigma=1.0)
    with pytest.raises(ValueError, match=re.escape("Unknown method 'sire'. Did you mean 'syre'")):
        BENCHMARKS["permuted-digits"].mitigation("sire")


def test_a_benchmark_that_was_not_tuned_has_the_mitigations_own_settings():
    plain = Benchmark(description="one", config=BENCHMARKS["permuted-mnist"].config)
    other = replace(plain, config=replace(plain.config, benchmark="other"))
    assert other.mitigation("syre") == Syre()
    assert plain.mitigation("syre") != Syre()


def test_a_benchmark_is_registered_once(monkeypatch):
    monkeypatch.setattr(benchmarks_module, "BENCHMARKS", dict(BENCHMARKS))
    config = replace(BENCHMARKS["permuted-digits"].config, benchmark="mine")
    mine = Benchmark(description="digits of mine", config=config)
    assert register_benchmark(mine) is mine
    assert require_benchmark("mine") is mine
    assert read_config(config.to_json()) == config
    with pytest.raises(
        ValueError, match=r"benchmark named 'mine' \(digits of mine\): give another"
    ):
        register_benchmark(mine)


def test_presets_change_their_values_and_nothing_else():
    ant = BENCHMARKS["slippery-ant"]
    found = presets_of(ant, {"preset": "nature", "agent": "non-stationary"})
    assert found.stream.change_every == 2_000_000
    assert found.agent == PRESETS["non-stationary"]
    assert found.tracking == ant.config.tracking
    for chosen, message in (
        ({"preset": "natur"}, "Unknown preset 'natur'. Did you mean 'nature'?"),
        ({"agents": "standard"}, "--agents standard means nothing to slippery-ant: leave it out."),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            presets_of(ant, chosen)


def test_unknown_benchmarks_are_refused():
    with pytest.raises(
        ValueError, match=re.escape("Unknown benchmark 'permuted-mnits'. Did you mean")
    ):
        require_benchmark("permuted-mnits")
    with pytest.raises(TypeError, match="benchmark must be a name, not 3"):
        named_benchmark({"benchmark": 3})
    assert named_benchmark({}, "slippery-ant") == "slippery-ant"


def test_a_saved_configuration_is_completed_with_the_defaults_of_its_dataclasses():
    config = BENCHMARKS["permuted-digits"].config
    saved = json.loads(json.dumps(config.to_json()))
    del saved["agent"]["momentum"]  # the benchmark's is 0.9
    found = completed({**saved, "git_commit": "abc"})
    assert found["agent"]["momentum"] == 0.0
    assert found["git_commit"] == "abc"
    with pytest.raises(ValueError, match=re.escape("Unknown key of the configuration 'sed'")):
        completed({**saved, "sed": 3})
    foreign = {"benchmark": "of a later version", "x": 1}
    assert completed(foreign) == foreign
