import json
import re
from dataclasses import replace

import pytest

import plasticity.scripts.config.benchmarks as benchmarks_module
from plasticity.mitigations import mitigation_names
from plasticity.scripts.config.benchmark import Benchmark, tuned_settings
from plasticity.scripts.config.benchmarks import (
    BENCHMARKS,
    completed,
    named_benchmark,
    read_config,
    register_benchmark,
    require_benchmark,
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
        assert benchmark.with_presets({option: presets.default}).config == benchmark.config


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
