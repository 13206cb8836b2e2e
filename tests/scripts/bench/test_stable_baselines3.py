import gymnasium
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

from plasticity.agents import PPO, PRESETS, PPOConfig
from plasticity.scripts.bench.stable_baselines3 import stable_baselines3_ppo

PUBLISHED = PRESETS["standard"]


def pendulums(num_envs):
    return DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")] * num_envs)


def test_stable_baselines3_has_the_same_settings_and_shapes_of_weights():
    model = stable_baselines3_ppo(pendulums(8), PUBLISHED, seed=0)
    assert (model.n_steps, model.n_envs, model.n_steps * model.n_envs) == (256, 8, 2048)
    assert (model.batch_size, model.n_epochs) == (128, 10)
    assert (model.gamma, model.gae_lambda) == (0.99, 0.95)
    assert (model.clip_range(1.0), model.clip_range_vf, model.target_kl) == (0.2, None, None)
    assert (model.ent_coef, model.vf_coef, model.max_grad_norm) == (0.0, 1.0, float("inf"))
    (group,) = model.policy.optimizer.param_groups
    assert type(model.policy.optimizer) is torch.optim.Adam
    assert (group["lr"], group["betas"], group["eps"]) == (1e-4, (0.9, 0.999), 1e-8)
    envs = gymnasium.vector.SyncVectorEnv(
        [lambda: gymnasium.make("Pendulum-v1")],
        autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
    )
    ours = PPO(envs, PUBLISHED, seed=0)
    theirs = sorted(tuple(each.shape) for each in model.policy.parameters())
    assert theirs == sorted(tuple(each.shape) for each in ours.policy.parameters())
    activations = {type(each) for each in model.policy.modules() if not list(each.children())}
    assert torch.nn.ReLU in activations
    assert torch.nn.Tanh not in activations


def test_other_settings_are_passed_on():
    config = PPOConfig(
        activation="tanh",
        rollout_steps=64,
        minibatch_size=32,
        max_gradient_norm=0.5,
        epsilon=1e-5,
        learning_rate=1e-3,
        learning_rate_schedule="linear",
        total_steps=640,
    )
    model = stable_baselines3_ppo(pendulums(2), config, seed=0)
    assert model.max_grad_norm == 0.5
    assert model.policy.optimizer.param_groups[0]["eps"] == 1e-5
    assert torch.nn.Tanh in {type(each) for each in model.policy.modules()}
    # After two rollouts of ten, 0.8 is left; ours computes the rate before the second: 0.9
    assert model.lr_schedule(0.8) == pytest.approx(0.9e-3)
