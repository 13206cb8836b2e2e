"""One agent in vector environments: it stores rollouts correctly, learns, and depends only on its seed."""

import copy
import io
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from made_up_mitigations import Noise
from torch import nn

from plasticity import Tracker
from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.ppo.agent import PPO
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.evaluation import evaluate
from plasticity.mitigations import ReDo, Syre, WeightDecay

SMALL = PPOConfig(
    hidden=(16, 16), rollout_steps=64, minibatch_size=32, epochs=2, learning_rate=1e-3
)
SYRE = (Syre(strength=1e-2, sigma=0.3),)
DECAY = (WeightDecay(strength=1e-2),)


class Counter(gym.Env):
    """Counts its steps. An episode of task k has k + 2 steps; episodes of odd tasks end in death.

    Each task is one episode. The observation is (task, step), the reward 10 * task + step.
    """

    observation_space = spaces.Box(-100, 100, (2,))

    def __init__(self, discrete=False):
        self.action_space = (
            spaces.Discrete(3, start=5) if discrete else spaces.Box(-0.1, 0.1, (2, 1))
        )
        self.task, self.actions, self.seeds = -1, [], []

    def info(self):
        return {"task": self.task}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.task += 1
        self.steps = 0
        return np.array([self.task, 0], np.float32), self.info()

    def step(self, action):
        assert self.action_space.contains(action)
        self.actions.append(action)
        self.steps += 1
        ended = self.steps == self.task + 2
        died = ended and self.task % 2 == 1
        observation = np.array([self.task, self.steps], np.float32)
        reward = 10.0 * self.task + self.steps
        return observation, reward, died, ended and not died, self.info()


def vector(make, num_envs=2):
    return gym.vector.SyncVectorEnv(
        [make] * num_envs, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP
    )


def pendulums(num_envs=2, limit=20):
    return vector(lambda: gym.make("Pendulum-v1", max_episode_steps=limit), num_envs)


def weights(ppo):
    return torch.cat([p.detach().reshape(-1).cpu() for p in ppo.policy.parameters()])


# ---- rollouts --------------------------------------------------------------------------------


@pytest.mark.parametrize("discrete", [False, True])
def test_rollout_and_episodes_computed_by_hand(discrete):
    envs = vector(lambda: Counter(discrete))
    ppo = PPO(envs, SMALL, seed=0)
    first = ppo.iterate()
    # 32 steps of each environment: episodes of 2, 3, 4, 5, 6, 7 steps are 27, then 5 of task 6's 8
    assert [e.episode_length for e in first.episodes[::2]] == [2, 3, 4, 5, 6, 7]
    assert [e.environment for e in first.episodes] == [0, 1] * 6
    # both environments have done 2, 5, 9, 14, 20, 27 steps by then
    assert [e.step for e in first.episodes[::2]] == [4, 10, 18, 28, 40, 54]
    # task k: k + 2 steps of reward 10 k each, and 1 + 2 + … + (k + 2)
    expected = [10 * k * (k + 2) + (k + 2) * (k + 3) / 2 for k in range(6)]
    assert [e.episode_return for e in first.episodes[::2]] == expected
    assert [e.task for e in first.episodes[::2]] == list(range(6))
    assert first.task == 6
    assert (ppo.num_steps, first.diverged) == (64, False)
    rollout = ppo._rollout
    assert np.flatnonzero(rollout.truncated[:, 0]).tolist() == [1, 8, 19]  # tasks 0, 2, 4
    assert np.flatnonzero(rollout.terminated[:, 0]).tolist() == [4, 13, 26]  # tasks 1, 3, 5
    # the observation after an end belongs to the new episode; the final one is stored separately
    assert rollout.observations[2, 0].tolist() == [1, 0]
    finals = rollout.final_observations[[1, 8, 19], 0]
    assert finals.tolist() == [[0, 2], [2, 4], [4, 6]]
    assert ppo.observations.shape == (64, 2)
    assert torch.equal(ppo.observations[:2], rollout.observations[0])
    # episode 6 continues: its return and length include the parts in both rollouts
    second = ppo.iterate()
    assert second.episodes[0].episode_length == 8
    assert second.episodes[0].episode_return == 10 * 6 * 8 + 36
    assert rollout.observations[0, 0].tolist() == [6, 5]


def test_actions_are_clipped_only_for_the_environment():
    envs = vector(Counter)
    ppo = PPO(envs, SMALL, seed=0)
    ppo.collect()
    stored = ppo._rollout.actions[:, 0].numpy().reshape(32, 2, 1)
    assert np.abs(stored).max() > 1
    given = np.stack(envs.envs[0].actions)
    np.testing.assert_array_equal(given, stored.clip(-0.1, 0.1))


def test_discrete_actions_start_where_the_space_does():
    envs = vector(lambda: Counter(discrete=True))
    ppo = PPO(envs, SMALL, seed=0)
    ppo.collect()
    stored = ppo._rollout.actions[:, 1]
    assert set(stored.tolist()) == {0, 1, 2}
    assert [int(action) for action in envs.envs[1].actions] == (stored + 5).tolist()


def test_time_limits_bootstrap_and_deaths_do_not():
    ppo = PPO(vector(Counter), SMALL, seed=0)
    with torch.no_grad():  # a critic that returns 7 everywhere
        ppo.policy.critic.head.weight.zero_()
        ppo.policy.critic.head.bias.fill_(7.0)
    ppo.collect()
    batch, _ = evaluate(ppo._rollout, ppo.policies, SMALL)
    returns = batch.returns.view(32, 2)[:, 0]
    rewards = ppo._rollout.rewards[:, 0].tolist()
    assert returns[26].item() == pytest.approx(rewards[26])  # died
    assert returns[19].item() == pytest.approx(rewards[19] + 0.99 * 7)  # time limit
    # the step before: r + gamma * 7 + gamma * lambda * A_19, A_19 = r_19 + gamma * 7 - 7
    advantage = rewards[19] + 0.99 * 7 - 7
    expected = rewards[18] + 0.99 * 7 + 0.99 * 0.95 * advantage
    assert returns[18].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("discrete", [False, True])
def test_actions_follow_the_policys_distribution(discrete):
    config = PPOConfig(hidden=(4,), rollout_steps=20_000, minibatch_size=20_000, initial_log_std=-1)
    ppo = PPO(vector(lambda: Counter(discrete)), config, seed=0)
    outputs = [0.5, -0.3, 1.0] if discrete else [0.5, -0.3]
    with torch.no_grad():
        ppo.policy.actor.head.weight.zero_()
        ppo.policy.actor.head.bias.copy_(torch.tensor(outputs))
    ppo.collect()
    actions = ppo._rollout.actions.flatten(0, 1)
    batch, statistics = evaluate(ppo._rollout, ppo.policies, config)
    found, entropy = batch.log_probabilities, statistics["policy_entropy"]
    if discrete:
        policy = torch.distributions.Categorical(logits=torch.tensor(outputs))
        shares = torch.bincount(actions) / 20_000
        torch.testing.assert_close(shares, policy.probs, atol=0.015, rtol=0)  # 4 deviations
    else:
        policy = torch.distributions.Independent(
            torch.distributions.Normal(torch.tensor(outputs), torch.tensor(-1.0).exp()), 1
        )
        torch.testing.assert_close(actions.mean(0), policy.mean, atol=0.011, rtol=0)
        torch.testing.assert_close(actions.std(0), policy.stddev, atol=0.008, rtol=0)
    torch.testing.assert_close(found, policy.log_prob(actions))
    torch.testing.assert_close(entropy, policy.entropy())


def test_environments_without_tasks():
    result = PPO(pendulums(), SMALL, seed=0).iterate()
    assert result.task is None
    assert {e.task for e in result.episodes} == {None}
    assert len(result.episodes) == 2  # 32 steps, one end at 20 each


def test_normalized_observations_and_rewards():
    config = PPOConfig(
        hidden=(8,),
        rollout_steps=64,
        minibatch_size=32,
        normalize_observations=True,
        normalize_rewards=True,
    )
    ppo, plain = (PPO(vector(Counter), c, seed=0) for c in (config, SMALL))
    ppo.collect()
    plain.collect()
    # after the last rollout step, all 33 x 2 observations were seen, but not the final ones
    seen = plain._rollout.observations[:33].double().flatten(0, 1).numpy()
    statistics = ppo._observation_normalizer.statistics
    np.testing.assert_allclose(statistics.mean, seen.mean(0), rtol=1e-4)
    np.testing.assert_allclose(statistics.variance, seen.var(0), rtol=1e-4)
    expected = (seen[-1] - seen.mean(0)) / seen.std(0)
    np.testing.assert_allclose(ppo._rollout.observations[-1, 1].numpy(), expected, rtol=1e-3)
    ratios = (ppo._rollout.learnt_rewards / plain._rollout.learnt_rewards).numpy()
    assert np.all(ratios[:, 0] == ratios[:, 1])
    np.testing.assert_allclose(
        ratios[-1] * ppo._reward_normalizer.statistics.variance**0.5, 1.0, rtol=1e-5
    )
    returns = [e.episode_return for e in plain.update().episodes]
    assert [
        e.episode_return for e in ppo.update().episodes
    ] == returns  # as the environment gave them


def test_each_vector_step_transfers_once_each_way(crossings, monkeypatch):
    """Policy, storage, advantages and updates stay on the device."""
    ppo = PPO(
        pendulums(), replace(SMALL, rollout_steps=48, minibatch_size=16), device="meta", seed=0
    )
    crossings.into.clear()
    ppo.collect()
    # the first block of observations and tasks, the rollout's noise, then 24 steps, the 20th with an end
    (first, noise), steps = crossings.into[:2], crossings.into[2:]
    assert len(first) == 1
    assert noise == (24, 2, 1)
    assert len(steps) == 24
    assert steps[19] > steps[0]
    assert len(set(steps)) == 2
    assert crossings.out == [(2, 1)] * 24


# ---- randomness --------------------------------------------------------------------------------


def test_a_run_depends_only_on_its_seed():
    first = PPO(pendulums(), SMALL, SYRE, DECAY, seed=4)
    first.iterate()
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    before = torch.get_rng_state()
    second = PPO(pendulums(), SMALL, SYRE, DECAY, seed=4)
    second.iterate()
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(weights(first), weights(second))
    other = PPO(pendulums(), SMALL, SYRE, DECAY, seed=5)
    assert not torch.equal(other.policy.actor.fc1.weight, second.policy.critic.fc1.weight)
    other.iterate()
    assert not torch.equal(weights(first), weights(other))


def test_methods_differ_only_in_the_decay():
    """Initial weights, noise, data orders and environments are the same under any regularizer."""
    plain, syre = (PPO(pendulums(), SMALL, method, seed=4) for method in ((), SYRE))
    assert torch.equal(weights(plain), weights(syre))
    plain.iterate()
    syre.iterate()
    assert torch.equal(plain.observations, syre.observations)
    assert not torch.equal(weights(plain), weights(syre))
    state, other = plain.state_dict(), syre.state_dict()
    for name in ("noise_generator", "order_generator"):
        assert torch.equal(state[name], other[name])


def test_every_environment_has_its_own_seed():
    envs = vector(Counter, 4)
    PPO(envs, SMALL, seed=0).collect()
    seeds = [env.seeds for env in envs.envs]
    assert len({first for first, *_ in seeds}) == 4
    assert all(0 <= first < 2**31 and set(rest) == {None} for first, *rest in seeds)


def test_actor_and_critic_are_regularized_separately():
    ppo = PPO(pendulums(), SMALL, SYRE, (Syre(strength=0.5, sigma=0.1),), seed=0)
    actor, critic = (each.ordinary for each in ppo.policies._optimizers.values())
    assert [g["strength"] for g in actor.param_groups] == [0.01, 0.0]
    assert actor.param_groups[1]["params"] == [ppo.policy.log_std]
    assert actor.anchor(ppo.policy.log_std) is None
    assert (critic.param_groups[0]["strength"], critic.param_groups[0]["sigma"]) == (0.5, 0.1)
    ours = 0.1 / 0.3 * actor.anchor(ppo.policy.actor.fc1.weight)
    assert not torch.allclose(ours, critic.anchor(ppo.policy.critic.fc1.weight))


def test_a_state_belongs_to_the_seed_of_its_anchors():
    saved = PPO(pendulums(), SMALL, SYRE, SYRE, seed=0).state_dict()
    with pytest.raises(ValueError, match=r"actor_optimizer: anchor_seed=.* \(here "):
        PPO(pendulums(), SMALL, SYRE, SYRE, seed=1).load_state_dict(saved)


# ---- continuing --------------------------------------------------------------------------------

FULL = PPOConfig(
    hidden=(16,),
    rollout_steps=64,
    minibatch_size=16,
    epochs=2,
    learning_rate=1e-3,
    learning_rate_schedule="linear",
    total_steps=640,
    entropy_coefficient=0.01,
    max_gradient_norm=0.5,
    normalize_observations=True,
    normalize_rewards=True,
    normalize_advantages="minibatch",
)


def test_two_processes_give_the_same_bits_and_state():
    one, two = (
        PPO(pendulums(), SMALL, SYRE, DECAY, seed=4, update_threads=count) for count in (1, 2)
    )
    assert [one.iterate() for _ in range(2)] == [two.iterate() for _ in range(2)]
    assert torch.equal(weights(one), weights(two))
    for mine, other in zip(one.policy.parameters(), two.policy.parameters(), strict=True):
        assert torch.equal(mine.grad, other.grad)
    # a run may continue with another number of processes
    state, other_state = copy.deepcopy((two.state_dict(), one.state_dict()))
    envs = [copy.deepcopy(one.envs) for _ in range(2)]
    expected = one.iterate()
    resumed = PPO(envs[0], SMALL, SYRE, DECAY, seed=4)
    resumed.load_state_dict(state)
    assert resumed.iterate() == expected
    two.envs = envs[1]
    two.load_state_dict(other_state)
    assert two.iterate() == expected
    two.close()


def test_measuring_changes_nothing():
    one, tracked = (PPO(pendulums(), SMALL, SYRE, DECAY, seed=4) for _ in range(2))
    tracker = Tracker(
        tracked.policy,
        tracked.observations,
        ["effective_rank", "dead_fraction", "gradient_norm", "weight_norm"],
        layers=tracked.policy.hidden_layers,
    )
    for step in range(2):
        result = one.iterate()
        assert tracked.iterate() == result
        row = tracker.boundary(step, tracked.observations)
        gradient = tracked.policy.critic.fc1.weight.grad
        assert gradient.any()
    assert row["effective_rank/actor.fc2"] > 1
    total = torch.cat([p.grad.reshape(-1) for p in tracked.policy.parameters()]).norm().item()
    assert row["gradient_norm/total"] == pytest.approx(total, rel=1e-5)
    assert torch.equal(weights(one), weights(tracked))


# ---- divergence and errors ------------------------------------------------------------------------


def test_divergence_is_reported_once_and_then_an_error():
    ppo = PPO(pendulums(), SMALL, seed=0)
    assert not ppo.iterate().diverged
    with torch.no_grad():
        ppo.policy.critic.fc1.weight[0, 0] = torch.inf
    assert ppo.iterate().diverged
    with pytest.raises(RuntimeError, match=r"diverged before step 128.*smaller learning rate"):
        ppo.iterate()


@pytest.mark.parametrize(
    ("settings", "arguments", "error", "message"),
    [
        (
            {"rollout_steps": 63, "minibatch_size": 21},
            {},
            ValueError,
            "not a multiple of the 2 env",
        ),
        ({}, {"update_threads": 3}, ValueError, "update_threads must be at least 1 and at most 2"),
        ({"max_gradient_norm": 0.5}, {"update_threads": 2}, ValueError, "couples actor and critic"),
        ({"target_kl": 0.5}, {"update_threads": 2}, ValueError, "target_kl=0.5 couples"),
        ({}, {"seed": -1}, ValueError, "seed must be at least 0"),
        (
            {},
            {"update_threads": 2, "device": "meta"},
            ValueError,
            "works on a CPU only, not on meta",
        ),
    ],
)
def test_wrong_arguments(settings, arguments, error, message):
    config = PPOConfig(**({"hidden": (4,), "rollout_steps": 64, "minibatch_size": 32} | settings))
    with pytest.raises(error, match=message):
        PPO(pendulums(), config, **({"seed": 0} | arguments))


@pytest.mark.parametrize(
    ("make", "config", "message"),
    [
        (lambda: pendulums(4), SMALL, "state has 2 environments, but there are 4 here"),
        (pendulums, FULL, "saved with normalize_observations=False, but here it is True"),
    ],
)
def test_a_state_of_another_run_is_rejected(make, config, message):
    state = PPO(pendulums(), SMALL, seed=0).state_dict()
    with pytest.raises(ValueError, match=message):
        PPO(make(), config, seed=0).load_state_dict(state)


def parts(ppo):
    """Serialize everything that loading a state could change."""
    buffer = io.BytesIO()
    torch.save(ppo.state_dict(), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("changes", "critic", "message"),
    [
        (
            {"hidden": (16, 9)},
            SYRE,
            r"policy\.actor\.fc2\..* \(16,\) in the state, but \(9,\) here",
        ),
        ({"hidden": (16,)}, SYRE, r"policy\.actor\.fc2\.bias has .* but None here"),
        (
            {"betas": (0.99, 0.99)},
            SYRE,
            r"actor_optimizer: betas=\(0.9, 0.999\) \(here \(0.99, 0.99",
        ),
        ({"epsilon": 1e-5}, SYRE, r"actor_optimizer: eps=1e-08 \(here 1e-05\)"),
        ({}, DECAY, r"critic_optimizer: regularizer='syre' \(here 'weight-decay'\), sigma=0.3"),
        ({}, (Syre(strength=0.5, sigma=0.3),), r"critic_optimizer: strength=0.01 \(here 0.5\)\."),
        ({}, (*SYRE, ReDo()), r"The state has no 'critic_mitigations'"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(changes, critic, message):
    saved = PPO(pendulums(), SMALL, SYRE, SYRE, seed=0)
    saved.iterate()
    ppo = PPO(pendulums(), replace(SMALL, **changes), SYRE, critic, seed=0)
    before = parts(ppo)
    with pytest.raises(ValueError, match=message):
        ppo.load_state_dict(saved.state_dict())
    assert parts(ppo) == before


@pytest.mark.parametrize(
    ("here", "message"),
    [
        (SYRE, r"belongs to the mitigations \['redo'\], but these are \[\]"),
        ((Noise(),), r"belongs to the mitigations \['redo'\], but these are \['noise'\]"),
    ],
)
@pytest.mark.parametrize("update_threads", [1, 2])
def test_a_state_of_other_mitigations_changes_nothing(here, message, update_threads):
    saved = PPO(pendulums(), SMALL, (), (ReDo(),), seed=0)
    saved.iterate()
    ppo = PPO(pendulums(), SMALL, (), here, seed=0, update_threads=update_threads)
    before = parts(ppo)
    with pytest.raises(ValueError, match=message):
        ppo.load_state_dict(saved.state_dict())
    assert parts(ppo) == before
    ppo.close()


def test_a_state_with_another_learning_rate_and_global_seed_fits():
    torch.manual_seed(1)
    state = PPO(pendulums(), SMALL, SYRE, DECAY, seed=0).state_dict()
    torch.manual_seed(2)
    ppo = PPO(pendulums(), replace(SMALL, learning_rate=1e-4), SYRE, DECAY, seed=0)
    ppo.load_state_dict(state)
    assert ppo.iterate().statistics["learning_rate"] == 1e-4


def test_an_incomplete_state_is_rejected():
    ppo = PPO(pendulums(), SMALL, seed=0)
    state = ppo.state_dict()
    del state["num_steps"], state["episodes"]
    with pytest.raises(ValueError, match="The state has no 'num_steps', 'episodes'"):
        ppo.load_state_dict(state)


@pytest.mark.parametrize("update_threads", [1, 2])
def test_an_agent_continues_after_an_interrupted_update(update_threads, monkeypatch):
    """The critic's process may still be busy with it."""
    ppo = PPO(pendulums(), SMALL, SYRE, DECAY, seed=4, update_threads=update_threads)
    ppo.iterate()
    state, envs = copy.deepcopy((ppo.state_dict(), ppo.envs))
    expected = ppo.iterate()

    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ppo.policies._actor, "begin_epoch", interrupt)
        with pytest.raises(KeyboardInterrupt):
            ppo.iterate()
    ppo.envs = envs
    ppo.load_state_dict(state)
    assert ppo.iterate() == expected
    ppo.close()


def test_equal_returns_have_no_variance_to_explain():
    ppo = PPO(pendulums(), replace(SMALL, gamma=0.0), seed=0)
    ppo.collect()
    ppo._rollout.learnt_rewards[:] = 0.0  # with gamma 0 a return is the reward
    result = ppo.update()
    assert np.isnan(result.statistics["explained_variance"])
    assert not result.diverged
    assert np.isfinite(ppo.iterate().statistics["explained_variance"])


class Named(Counter):
    """Reports its task as a name."""

    def info(self):
        return {"task": f"task {self.task}"}


def test_tasks_that_are_not_integers_are_ignored():
    result = PPO(vector(Named), SMALL, seed=0).iterate()
    assert result.task is None
    assert {e.task for e in result.episodes} == {None}


class Squared(nn.Module):
    """Network that is not dense layers one after the other."""

    def __init__(self, outputs):
        super().__init__()
        self.fc1, self.head = nn.Linear(3, 8), nn.Linear(8, outputs)
        self.hidden_layers = ("fc1",)

    def forward(self, inputs):
        return self.head(self.fc1(inputs).tanh().square())


def test_networks_of_ones_own_are_trained():
    torch.manual_seed(0)
    policy = ActorCritic(3, 1, SMALL, actor=Squared(1), critic=Squared(1))
    before = [parameter.detach().clone() for parameter in policy.parameters()]
    ppo = PPO(pendulums(), SMALL, seed=0, policy=policy)
    assert not ppo.iterate().diverged
    assert ppo.policy is policy
    assert not any(map(torch.equal, before, policy.parameters()))


class Side(gym.Env):
    """Episodes of one step; the right action is the side of the image on which a pixel is bright."""

    observation_space = spaces.Box(0, 255, (1, 6, 6), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.image = np.zeros((1, 6, 6), np.uint8)
        row, column = self.np_random.integers(6, size=2)
        self.image[0, row, column], self.right = 255, column > 2
        return self.image, {}

    def step(self, action):
        return self.image, float(action == self.right), True, False, {}


IMAGES = replace(SMALL, image_network="minatar", rollout_steps=256, epochs=4, learning_rate=3e-3)


def test_learns_from_images():
    ppo = PPO(vector(Side, num_envs=8), IMAGES, seed=0)
    episodes = [ppo.iterate().episodes for _ in range(12)]
    assert ppo.observations.dtype == torch.uint8
    first, last = (np.mean([each.episode_return for each in episodes[k]]) for k in (0, -1))
    assert first < 0.7  # chance is 0.5
    assert last > 0.9


def test_a_network_for_images_needs_images():
    with pytest.raises(ValueError, match="needs observations of uint8 and of shape"):
        PPO(pendulums(), replace(SMALL, image_network="nature"), seed=0)


def test_images_continue_exactly_from_a_state():
    ppo = PPO(vector(Side), IMAGES, seed=0)
    ppo.iterate()
    other = PPO(vector(Side), IMAGES, seed=0)
    other.load_state_dict(copy.deepcopy(ppo.state_dict()))
    for mine, theirs in zip(ppo.envs.envs.envs, other.envs.envs.envs, strict=True):
        theirs.reset()
        theirs.image, theirs.right = mine.image.copy(), mine.right
        theirs.np_random.bit_generator.state = mine.np_random.bit_generator.state
    for agent in (ppo, other):
        agent.iterate()
    assert all(map(torch.equal, ppo.policy.parameters(), other.policy.parameters()))


# ---- learning ------------------------------------------------------------------------------------


class Target(gym.Env):
    """Episodes of one step; the reward is highest if the action equals the observation (or its sign)."""

    observation_space = spaces.Box(-1, 1, (1,))

    def __init__(self, discrete):
        self.action_space = spaces.Discrete(2) if discrete else spaces.Box(-2, 2, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.target = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.target, {}

    def step(self, action):
        wanted = self.target[0] > 0 if isinstance(self.action_space, spaces.Discrete) else None
        error = abs(float(action[0]) - self.target[0]) if wanted is None else int(action) != wanted
        return self.target, -float(error), True, False, {}


@pytest.mark.parametrize("discrete", [False, True])
def test_learns(discrete):
    config = PPOConfig(
        hidden=(32,),
        activation="tanh",
        rollout_steps=512,
        minibatch_size=64,
        learning_rate=2e-3,
        initial_log_std=-0.5,
    )
    ppo = PPO(vector(lambda: Target(discrete), 8), config, seed=0)
    returns = [np.mean([e.episode_return for e in ppo.iterate().episodes]) for _ in range(12)]
    before, after = (-0.25, -0.08) if discrete else (-0.8, -0.2)
    assert returns[0] < before
    assert returns[-1] > after


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("config", [SMALL, FULL], ids=["small", "full"])
def test_a_gpu_gives_nearly_the_same_results(config):
    there, here = (PPO(pendulums(), config, SYRE, DECAY, seed=4, device=d) for d in ("cuda", "cpu"))
    assert torch.equal(weights(there), weights(here))
    first, expected = there.iterate(), here.iterate()
    for name, number in expected.statistics.items():
        assert first.statistics[name] == pytest.approx(number, rel=0.05, abs=1e-3)
    torch.testing.assert_close(weights(there), weights(here), atol=2e-3, rtol=1e-3)
