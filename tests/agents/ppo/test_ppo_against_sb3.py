"""A whole update compared with `PPO.train()` of Stable-Baselines3, from equal weights and data."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from plasticity.agents.ppo.agent import PPO
from plasticity.agents.ppo.config import PPOConfig

sb3 = pytest.importorskip("stable_baselines3")

NUM_ENVS, STEPS = 2, 32


def environments(name, limit):
    return gym.vector.SyncVectorEnv(
        [lambda: gym.make(name, max_episode_steps=limit)] * NUM_ENVS,
        autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,
    )


def make_theirs(name, config):
    model = sb3.PPO(
        "MlpPolicy",
        sb3.common.vec_env.DummyVecEnv([lambda: gym.make(name)] * NUM_ENVS),
        learning_rate=config.learning_rate,
        n_steps=STEPS,
        batch_size=config.minibatch_size,
        n_epochs=config.epochs,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        clip_range=config.clip_range,
        clip_range_vf=config.value_clip_range,
        ent_coef=config.entropy_coefficient,
        vf_coef=config.value_coefficient,
        max_grad_norm=config.max_gradient_norm or 1e9,
        target_kl=config.target_kl,
        policy_kwargs={
            "net_arch": {"pi": list(config.hidden), "vf": list(config.hidden)},
            "activation_fn": {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}[config.activation],
            "optimizer_kwargs": {"betas": config.betas, "eps": config.epsilon},
        },
        device="cpu",
    )
    model.set_logger(sb3.common.logger.Logger(None, []))
    return model


def their_parameters(policy):
    """List parameters in our order: log_std if there is one, the actor's layers, the critic's layers."""
    parts = [policy.mlp_extractor.policy_net, policy.action_net]
    parts += [policy.mlp_extractor.value_net, policy.value_net]
    own = [policy.log_std] if hasattr(policy, "log_std") else []
    return own + [parameter for part in parts for parameter in part.parameters()]


def final_values_of(model, rollout):
    """Return their critic's values of the last observations of episodes that reached their time limit."""
    found = np.zeros((STEPS, NUM_ENVS), np.float32)
    for step, env in (rollout.truncated & ~rollout.terminated).nonzero().tolist():
        with torch.no_grad():
            found[step, env] = model.policy.predict_values(
                rollout.final_observations[step, env][None]
            )
    return found


def fill(model, ppo):
    """Write our rollout into their buffer, as `collect_rollouts` would have stored it."""
    rollout = ppo._rollout
    final_values = final_values_of(model, rollout)
    model.rollout_buffer.reset()
    starts = np.ones(NUM_ENVS)
    for t in range(STEPS):
        observations = rollout.observations[t]
        actions = rollout.actions[t]
        with torch.no_grad():
            values, log_probabilities, _ = model.policy.evaluate_actions(observations, actions)
        rewards = rollout.rewards[t].numpy() + model.gamma * final_values[t]
        model.rollout_buffer.add(
            observations.numpy(),
            actions.numpy().reshape(NUM_ENVS, -1),
            rewards,
            starts,
            values,
            log_probabilities,
        )
        starts = (rollout.terminated[t] | rollout.truncated[t]).numpy()
    with torch.no_grad():
        last = model.policy.predict_values(rollout.observations[-1])
    model.rollout_buffer.compute_returns_and_advantage(last, starts)


def train_theirs(model, ppo, monkeypatch):
    """Run their update on our rollout, with the data orders that our next update will draw."""
    fill(model, ppo)
    count = ppo.config.rollout_steps
    generator = torch.Generator()
    generator.set_state(ppo.state_dict()["order_generator"])
    data_orders = [torch.randperm(count, generator=generator) for _ in range(ppo.config.epochs)]
    remaining = iter(data_orders)

    def their_permutation(asked):
        assert asked == count
        data_order = next(remaining).numpy()
        # convert: our indices are step-major, theirs environment-major
        return data_order % NUM_ENVS * STEPS + data_order // NUM_ENVS

    with monkeypatch.context() as patch:
        patch.setattr(np.random, "permutation", their_permutation)
        model.train()


def make_both(name, limit, config):
    ppo = PPO(environments(name, limit), config, seed=3)
    model = make_theirs(name, config)
    for source, target in zip(ppo.policy.parameters(), their_parameters(model.policy), strict=True):
        target.data.copy_(source.data)
    return ppo, model


COMBINATIONS = [
    {},
    {"max_gradient_norm": 0.5},
    {"value_clip_range": 0.1},
    {"entropy_coefficient": 0.1},
    {"target_kl": 2e-5},
    {
        "max_gradient_norm": 0.1,
        "value_clip_range": 0.2,
        "entropy_coefficient": 0.02,
        "value_coefficient": 0.5,
        "betas": (0.99, 0.99),
    },
]


@pytest.mark.parametrize("extra", COMBINATIONS, ids=lambda extra: "+".join(extra) or "plain")
@pytest.mark.parametrize(("name", "limit"), [("Pendulum-v1", 13), ("CartPole-v1", 9)])
def test_one_update_equals_theirs(name, limit, extra, monkeypatch):
    config = PPOConfig(
        hidden=(32, 16),
        initialization="orthogonal",
        rollout_steps=NUM_ENVS * STEPS,
        minibatch_size=16,
        epochs=3,
        learning_rate=5e-3,
        epsilon=1e-5,
        clip_range=0.01,
        normalize_advantages="minibatch",
        **extra,
    )
    ppo, model = make_both(name, limit, config)
    ours, theirs = list(ppo.policy.parameters()), their_parameters(model.policy)
    before = [parameter.detach().clone() for parameter in ours]
    ppo.collect()
    assert ppo._rollout.truncated.any()  # the data include time limits
    assert ppo._rollout.terminated.any() == (name == "CartPole-v1")
    train_theirs(model, ppo, monkeypatch)
    result = ppo.update()
    statistics = result.statistics
    assert not result.diverged
    (steps, *_) = (each["step"] for each in ppo.state_dict()["actor_optimizer"]["state"].values())
    assert (steps < 12) == (config.target_kl is not None)
    assert statistics["clip_fraction"] > 0
    moved = False
    for start, mine, other in zip(before, ours, theirs, strict=True):
        moved |= not torch.equal(start, mine.detach())
        # Adam moves each weight by about 5e-3 a step for 12 steps: rounding is 1e-4 of that
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=2e-6)
    assert moved
    logged = model.logger.name_to_value
    for key, theirs_name in (
        ("policy_loss", "policy_gradient_loss"),
        ("value_loss", "value_loss"),
        ("approximate_kl", "approx_kl"),
        ("clip_fraction", "clip_fraction"),
        ("explained_variance", "explained_variance"),
    ):
        assert statistics[key] == pytest.approx(logged[f"train/{theirs_name}"], rel=2e-3, abs=1e-5)


@pytest.mark.parametrize(("name", "limit"), [("Pendulum-v1", 25), ("CartPole-v1", 15)])
def test_several_iterations_equal_theirs(name, limit, monkeypatch):
    """State carried from one iteration to the next is the same too, on our rollouts."""
    config = PPOConfig(
        hidden=(16, 16),
        activation="tanh",
        initialization="orthogonal",
        rollout_steps=NUM_ENVS * STEPS,
        minibatch_size=32,
        epochs=4,
        learning_rate=1e-3,
        epsilon=1e-5,
        gamma=0.98,
        gae_lambda=0.8,
        value_coefficient=0.5,
        max_gradient_norm=0.5,
        normalize_advantages="minibatch",
    )
    ppo, model = make_both(name, limit, config)
    ended = 0
    for _ in range(8):
        ppo.collect()
        train_theirs(model, ppo, monkeypatch)
        ended += len(ppo.update().episodes)
    assert ended > 16
    for mine, other in zip(ppo.policy.parameters(), their_parameters(model.policy), strict=True):
        # 64 steps of about 1e-3
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=2e-5)
