"""Chains as a family: what their runs need, and the exact continuation of a stopped one."""

import json

import pytest
import torch

from plasticity.agents.ppo.config import PPOConfig
from plasticity.scripts.config.benchmarks import BENCHMARKS
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.run.folder import RunFolder
from plasticity.scripts.run.runner import Runner
from plasticity.tasks.control.dmc.config import DMCChainConfig
from plasticity.tasks.control.dmc.environment import MAX_EPISODE_STEPS, DMCChainEnv, import_suite

WHOLE = {"num_steps": 4096, "change_every": 1024}


def test_the_family_says_what_its_runs_need():
    config = DMCChainConfig(domain="dog", **WHOLE)
    assert not config.on_device
    assert config.described == ("target_speed",)
    assert config.view.steps_per_frame * config.view.step_seconds == pytest.approx(0.045)
    assert [config.make_stream(5, 0)[k].name for k in range(5)] == [
        *("stand", "walk", "run", "trot"),
        "stand",
    ]
    assert DMCChainConfig(domain="dog", chain=("run",), **WHOLE).make_stream(2, 0)[1].name == "run"


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"domain": "dgo"}, ValueError, "Did you mean 'dog'"),
        ({"domain": "dog", "chain": ("fly",)}, ValueError, "Unknown task of the chain 'fly'"),
        ({"domain": "dog", "change_every": 1023}, ValueError, "a multiple of num_envs, 8"),
    ],
)
def test_wrong_values_are_refused(values, error, message):
    with pytest.raises(error, match=message):
        DMCChainConfig(**WHOLE | values)


def test_a_stopped_run_continues_to_the_byte(tmp_path, monkeypatch):
    """Stop in the middle of an episode; normalization goes on across the change of the task."""
    try:
        import_suite()
    except ModuleNotFoundError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(DMCChainEnv, "max_episode_steps", 60)
    assert MAX_EPISODE_STEPS == 1000
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    config = with_values(
        BENCHMARKS["dmc-chain"].config,
        {
            "seed": 3,
            "stream.num_steps": 512,
            "stream.change_every": 128,
            "stream.num_envs": 2,
            "agent": PPOConfig(
                hidden=(16,),
                rollout_steps=64,
                minibatch_size=32,
                epochs=2,
                normalize_observations=True,
                normalize_rewards=True,
            ),
            "tracking.measure_every": 64,
            "tracking.metrics": ("weight_norm",),
        },
    )

    def train(path, calls):
        count = iter(range(calls))
        with RunFolder(path, config) as folder:
            return Runner([folder]).execute(lambda: next(count, None) is None)

    assert train(tmp_path / "whole", 10**9)
    assert not train(tmp_path / "stopped", 5)
    assert train(tmp_path / "stopped", 10**9)
    torch.set_num_threads(before)
    for file in ("metrics.jsonl", "episodes.jsonl"):
        whole, stopped = ((tmp_path / run / file).read_bytes() for run in ("whole", "stopped"))
        assert whole
        assert stopped == whole
    rows = [
        json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()
    ]
    assert {row["target_speed"] for row in rows} >= {0.0, 1.0}
