"""Stable-Baselines3's PPO with the settings of ours."""

from __future__ import annotations

from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from plasticity.agents import PPOConfig

_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}


def stable_baselines3_ppo(envs: VecEnv, config: PPOConfig, *, seed: int) -> PPO:
    """Return Stable-Baselines3's PPO with the same settings as ours, as far as it has them.

    Args:
        envs: Environments to learn in.
        config: Settings of our PPO, with "relu" or "tanh" as the activation.
        seed: Seed of the weights and the actions.
    """

    def learning_rate(progress_remaining: float) -> float:
        # It computes the rate after the rollout, we before it.
        steps = round((1 - progress_remaining) * (config.total_steps or 0))
        return config.learning_rate_at(steps - config.rollout_steps)

    return PPO(
        "MlpPolicy",
        envs,
        learning_rate=learning_rate,
        n_steps=config.rollout_steps // envs.num_envs,
        batch_size=config.minibatch_size,
        n_epochs=config.epochs,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        clip_range=config.clip_range,
        ent_coef=config.entropy_coefficient,
        vf_coef=config.value_coefficient,
        # Without a bound, its norm is computed all the same.
        max_grad_norm=config.max_gradient_norm or float("inf"),
        policy_kwargs={
            "net_arch": list(config.hidden),
            "activation_fn": _ACTIVATIONS[config.activation],
            "optimizer_kwargs": {"betas": config.betas, "eps": config.epsilon},
        },
        seed=seed,
        device="cpu",
    )
