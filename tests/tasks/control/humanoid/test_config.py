"""Humanoids as a family: what their runs need, and the exact continuation of one."""

import numpy as np
import pytest
import torch

from plasticity.agents.ppo.config import PPOConfig
from plasticity.scripts.config.benchmarks import BENCHMARKS
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.run.folder import RunFolder
from plasticity.scripts.run.runner import Runner
from plasticity.tasks import SlipperyHumanoidEnv, task_friction
from plasticity.tasks.control.humanoid.config import SlipperyHumanoidConfig, humanoid_speed

WHOLE = {"num_steps": 4096, "change_every": 1024}


def test_the_family_says_what_its_runs_need():
    config = SlipperyHumanoidConfig(**WHOLE)
    assert (config.engine, config.on_device) == ("mujoco", False)  # of folders from before Warp's
    assert SlipperyHumanoidConfig(engine="warp", **WHOLE).on_device
    assert config.view.steps_per_frame * config.view.step_seconds == pytest.approx(0.045)
    stream = config.make_stream(3, seed=5)
    assert stream.describe(2) == {"friction": task_friction(5, 2)}
    with pytest.raises(ValueError, match="Unknown engine 'bullet'"):
        SlipperyHumanoidConfig(engine="bullet", **WHOLE)
    with pytest.raises(ValueError, match="change_every must be a multiple of num_envs, 8"):
        SlipperyHumanoidConfig(num_steps=4096, change_every=1023)


def test_the_speed_is_that_of_the_torso():
    pytest.importorskip("mujoco")
    env = SlipperyHumanoidEnv()
    env.reset(seed=1)
    env._velocities[0] = 1.0  # pushed
    start, distance = env._data.qpos[0], 0.0
    for _ in range(15):
        observation, *_ = env.step(np.full(17, 0.1))
        distance += humanoid_speed(observation) * 0.015
    moved = env._data.qpos[0] - start
    env.close()
    assert moved > 0.1
    # The speed at the end of each 15 ms is taken for the whole step, which is not exact.
    assert distance == pytest.approx(moved, rel=0.2)


@pytest.mark.parametrize(
    ("name", "package"),
    [("slippery-humanoid", "mujoco"), ("slippery-humanoid-warp", "mujoco_warp")],
)
def test_a_stopped_run_continues_to_the_byte(tmp_path, name, package):
    pytest.importorskip(package)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    config = with_values(
        BENCHMARKS[name].config,
        {
            "seed": 3,
            "stream.num_steps": 768,
            "stream.change_every": 256,
            "stream.num_envs": 4,
            "agent": PPOConfig(
                hidden=(16,),
                rollout_steps=64,
                minibatch_size=32,
                epochs=2,
                normalize_observations=True,
            ),
            "tracking.measure_every": 128,
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
    assert b'"task": 1' in whole
