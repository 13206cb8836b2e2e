"""Games in turn: the published numbers, the lengths of the presets, and a run that continues exactly."""

import copy
import importlib.util

import pytest
import torch

from plasticity.mitigations.redo import ReDo
from plasticity.scripts.config.benchmarks import BENCHMARKS
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.run.control_experiment import ControlExperiment

MINATAR = BENCHMARKS["minatar-sequence"]


def test_the_order_and_the_length_of_c_chain():
    stream = MINATAR.with_presets({"preset": "c-chain"}).config.stream
    assert stream.games == ("space_invaders", "asterix", "seaquest")
    assert (stream.num_steps, stream.change_every) == (3 * 2_000_000, 2_000_000)


@pytest.mark.parametrize("preset", ["small", "quick"])
def test_every_game_is_played_once(preset):
    config = MINATAR.with_presets({"preset": preset}).config
    assert config.stream.num_steps == 3 * config.stream.change_every
    assert config.length == config.stream.num_steps


@pytest.mark.skipif(importlib.util.find_spec("minatar") is None, reason="needs the extra minatar")
@pytest.mark.parametrize("method", ["none", "redo"])
def test_a_run_continues_exactly_from_its_state(method):
    config = with_values(
        MINATAR.config,
        {
            "stream.num_steps": 384,
            "stream.change_every": 96,
            "stream.num_envs": 2,
            "agent.hidden": (8,),
            "agent.rollout_steps": 64,
            "agent.minibatch_size": 32,
            "tracking.measure_every": 64,
            "method": () if method == "none" else (ReDo(every=3, tau=0.5),),
        },
    )
    whole = ControlExperiment([config], stacked=False)
    rows = [whole.next_rows(lambda: False)[0] for _ in range(2)]
    assert whole._agent.observations.dtype == torch.uint8
    parts = ControlExperiment([config], stacked=False)
    parts.load_state_dict(0, copy.deepcopy(whole.state_dicts([0])[0]))
    while not whole.is_finished(0):
        rows.append(whole.next_rows(lambda: False)[0])
        assert parts.next_rows(lambda: False)[0] == rows[-1]
    assert {row["game"] for row in rows} >= {"space_invaders", "asterix"}
    if method == "redo":
        assert sum(row.get("reset_units/actor.conv1", 0) for row in rows) > 0
