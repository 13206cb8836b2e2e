"""Page of the settings: every dataclass of a configuration, with every field."""

from dataclasses import fields

from plasticity.agents import PPOConfig
from plasticity.agents.networks import NETWORKS
from plasticity.mitigations import MITIGATIONS, ReDo
from plasticity.scripts.config.benchmarks import BENCHMARKS
from plasticity.scripts.reference.settings import benchmarks, kinds_of, settings_page


def test_every_dataclass_has_its_heading_and_every_field_its_row():
    page = settings_page()
    lines = page.splitlines()
    for name in (*MITIGATIONS, *(f"--architecture {each}" for each in NETWORKS)):
        assert f"### {name}" in lines
    for kind in (PPOConfig, ReDo):
        for each in fields(kind):
            assert any(line.startswith(f"| `{each.name}` | ") for line in lines), each.name
    assert "| `tau` | `float` | `0.025` | " in page  # the published threshold (Sokar et al., 2023)
    for name in benchmarks():
        assert f"| `{name}` | " in page


def test_benchmarks_are_those_that_are_listed():
    assert {"permuted-mnist", "slippery-ant"} <= benchmarks().keys() < BENCHMARKS.keys()
    assert "identical-neurons" not in benchmarks()  # a figure


def test_a_dataclass_of_several_benchmarks_is_described_once():
    agents = kinds_of("agent")
    assert PPOConfig in agents
    assert len(agents) == len(set(agents)) < len(BENCHMARKS)
