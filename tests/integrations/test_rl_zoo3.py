"""rl_zoo3: our policy_kwargs and callback from a YAML file, as its `train` reads them."""

import argparse

import gymnasium
import pytest
import torch

from plasticity import RegularizedOptimizer
from plasticity.sb3 import PlasticityCallback

# Importing it patches gymnasium for environments written for older versions of Gym.
exp_manager = pytest.importorskip("rl_zoo3.exp_manager")
stable_baselines3 = pytest.importorskip("stable_baselines3")

# Contents of a YAML file: rl_zoo3 evaluates the string, with `importlib` and `ALGOS` in scope.
POLICY = (
    "importlib.import_module('plasticity.sb3').policy_kwargs(ALGOS['ppo'], net_arch=[16],"
    " regularizer='syre', strength=1e-3, sigma=0.3)"
)


def write_yaml(folder, env_id, **others):
    lines = [f"{env_id}:", "  n_timesteps: !!float 256", "  policy: MlpPolicy", "  n_steps: 128"]
    lines += ["  batch_size: 64", "  n_epochs: 2", f'  policy_kwargs: "{POLICY}"']
    lines += [f"  {name}: {value}" for name, value in others.items()]
    path = folder / "ppo.yml"
    path.write_text("\n".join(lines) + "\n")
    return path


def manager_of(folder, env_id, config, **arguments):
    return exp_manager.ExperimentManager(
        argparse.Namespace(env=env_id),
        "ppo",
        env_id,
        str(folder / "logs"),
        eval_freq=-1,
        log_interval=-1,
        seed=3,
        verbose=0,
        device="cpu",
        config=str(config),
        **arguments,
    )


def trained(folder, env_id, config, **arguments):
    manager = manager_of(folder, env_id, config, **arguments)
    model, _ = manager.setup_experiment()
    manager.learn(model)
    manager.save_trained_model(model)
    return model, manager


def test_policy_kwargs_and_callback_in_yaml(tmp_path):
    callback = (
        "\n    - plasticity.sb3.PlasticityCallback:\n        every: 128\n        probe_size: 64"
    )
    config = write_yaml(tmp_path, "CartPole-v1", n_envs=1, callback=callback)
    model, manager = trained(tmp_path, "CartPole-v1", config)
    optimizer = model.policy.optimizer
    assert isinstance(optimizer, RegularizedOptimizer)
    assert [group["name"] for group in optimizer.param_groups] == ["actor", "critic"]
    assert {group["strength"] for group in optimizer.param_groups} == {1e-3}
    assert {group["eps"] for group in optimizer.param_groups} == {1e-5}  # Stable-Baselines3's own
    (ours,) = [each for each in manager.callbacks if isinstance(each, PlasticityCallback)]
    assert [row["step"] for row in ours.rows] == [128, 256]

    # By hand: the same algorithm with the same arguments and seed, without rl_zoo3.
    torch.manual_seed(0)
    by_hand = stable_baselines3.PPO(
        "MlpPolicy",
        exp_manager.make_vec_env("CartPole-v1", seed=3),
        n_steps=128,
        batch_size=64,
        n_epochs=2,
        policy_kwargs=model.policy_kwargs,
        seed=3,
        device="cpu",
    )
    by_hand.learn(256)
    for one, other in zip(model.policy.parameters(), by_hand.policy.parameters(), strict=True):
        assert torch.equal(one, other)

    loaded = stable_baselines3.PPO.load(f"{manager.save_path}/CartPole-v1.zip", device="cpu")
    for one, other in zip(model.policy.parameters(), loaded.policy.parameters(), strict=True):
        assert torch.equal(one, other)
        assert torch.equal(optimizer.anchor(one), loaded.policy.optimizer.anchor(other))


def test_a_trained_agent_continues_with_its_anchors(tmp_path):
    """Use `--trained-agent`: rl_zoo3 loads the zip and passes the hyperparameters again."""
    config = write_yaml(tmp_path, "CartPole-v1", n_envs=1)
    model, manager = trained(tmp_path, "CartPole-v1", config)
    zip_file = f"{manager.save_path}/CartPole-v1.zip"
    more, _ = trained(tmp_path, "CartPole-v1", config, trained_agent=zip_file)
    assert more._n_updates == 2 * model._n_updates
    for one, other in zip(model.policy.parameters(), more.policy.parameters(), strict=True):
        assert torch.equal(model.policy.optimizer.anchor(one), more.policy.optimizer.anchor(other))
        assert not torch.equal(one, other)


def test_the_slippery_ant(tmp_path):
    """Use `--env plasticity/SlipperyAntBullet-v0 --gym-packages plasticity.tasks`."""
    pytest.importorskip("pybullet", reason="Bullet is not installed")
    pytest.importorskip("plasticity.tasks")  # as --gym-packages does
    env_id = "plasticity/SlipperyAntBullet-v0"
    config = write_yaml(tmp_path, env_id, n_envs=2, normalize="true")
    model, manager = trained(
        tmp_path, env_id, config, env_kwargs={"task_seed": 0, "change_every": 64}
    )
    assert model.num_timesteps == 256
    env = manager.create_envs(2)
    env.reset()
    tasks = [(info["task"], info["friction"]) for info in env.unwrapped.reset_infos]
    env.close()
    # The friction of task 0 under task_seed 0, in every environment.
    friction = gymnasium.make(env_id, task_seed=0, change_every=64).reset(seed=0)[1]["friction"]
    assert tasks == [(0, friction)] * 2
    assert isinstance(model.policy.optimizer, RegularizedOptimizer)
    stable_baselines3.PPO.load(f"{manager.save_path}/{manager.env_name}.zip", device="cpu")
