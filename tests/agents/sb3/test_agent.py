"""The agent learns what the algorithm learns by itself, continues exactly, and disturbs nobody."""

import io
import math
import random
import re

import numpy as np
import pytest
import torch
from gymnasium.wrappers import TimeLimit
from small_agents import make_agent, make_environments, small, stream_for
from stable_baselines3.common.vec_env import DummyVecEnv

from plasticity.agents.ppo.environments import environment_seeds
from plasticity.agents.sb3 import SB3PPOConfig
from plasticity.agents.sb3.agent import SB3Agent
from plasticity.agents.sb3.model import algorithm_class
from plasticity.mitigations import HareTortoise, HeadReset, ReDo, Syre
from plasticity.seeds import child_seed

METHOD = (ReDo(every=3, tau=0.3), Syre(strength=0.01, sigma=0.5))
STEPS = 64


def learn(agent, steps):
    """Iterate until the agent has made some steps, and return its iterations."""
    found = []
    while agent.num_steps < steps:
        found += agent.iterate_all()
    return found


def weights(agent):
    return {name: each.detach().clone() for name, each in agent.policies.parameters.items()}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


# ---- against the algorithm by itself ----------------------------------------------------------------


def learned_by_itself(config, num_envs, steps):
    """Return a model that learned by Stable-Baselines3's `learn`, in its own vector environment."""
    stream = stream_for(config, num_envs)

    def make():
        env = stream.make_env(task_seed=5, change_every=stream.env_change_every)
        return TimeLimit(env, 9)

    envs = DummyVecEnv([make] * num_envs)
    policy = {**config.policy_arguments(), "net_arch": [8, 8]}
    if "qf" in str(config.policy_arguments()):
        policy["net_arch"] = {"pi": [8, 8], "qf": [8, 8]}
    arguments = config.arguments(num_envs)
    if isinstance(config, SB3PPOConfig):
        policy["activation_fn"] = torch.nn.Tanh
    if config.algorithm == "sb3:td3":
        from stable_baselines3.common.noise import NormalActionNoise

        arguments["action_noise"] = NormalActionNoise(np.zeros(1), np.full(1, 0.1))
    seed = child_seed(1, "stable-baselines3") >> 32
    model = algorithm_class(config)(
        "MlpPolicy", envs, policy_kwargs=policy, seed=seed, device="cpu", **arguments
    )
    envs._seeds = environment_seeds(3, num_envs)
    model.learn(steps)
    return model


# With two environments that cut episodes after nine steps: the replay buffer wraps, values bootstrap.
def test_it_learns_what_the_algorithm_learns_by_itself(config):
    if hasattr(
        config, "exploration_steps"
    ):  # `learn` takes the share of its own length, which is 1
        config = small(config.algorithm, exploration_steps=STEPS)
    agent = make_agent(config, num_envs=2, stop_every=STEPS)
    learn(agent, STEPS)
    expected = learned_by_itself(config, 2, STEPS)
    assert agent.num_steps == expected.num_timesteps == STEPS
    assert agent.model._n_updates == expected._n_updates > 0
    assert_equal(agent.model.policy.state_dict(), expected.policy.state_dict())


# ---- continuing -------------------------------------------------------------------------------------


def saved(state):
    """Return a state as it comes back from a file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def numbers(iterations):
    """Return the latest statistics and all episodes of some iterations."""
    return iterations[-1].statistics, [each for one in iterations for each in one.episodes]


def test_two_parts_equal_one(config):
    whole = make_agent(config, METHOD, num_envs=2, stop_every=STEPS)
    parts = [learn(whole, STEPS), learn(whole, 2 * STEPS)]
    first = make_agent(config, METHOD, num_envs=2, stop_every=STEPS)
    learn(first, STEPS)
    state, environments = saved(first.state_dict()), first._envs.envs.state_dict()
    second = make_agent(config, METHOD, num_envs=2, stop_every=STEPS)
    second.load_state_dict(state)
    second._envs.envs.load_state_dict(environments)
    assert second.num_steps == STEPS
    gradients = [
        each.policies.gradients.state_dict(each.policies.parameters) for each in (second, first)
    ]
    assert_equal(*gradients)
    assert_statistics_equal(numbers(learn(second, 2 * STEPS)), numbers(parts[1]))
    assert_equal(weights(second), weights(whole))
    assert second.policies.take_counts() == whole.policies.take_counts() != [{}]
    ours, theirs = saved(second.state_dict()), saved(whole.state_dict())
    assert_same_tree(ours, theirs)


def assert_statistics_equal(found, expected):
    assert found[1] == expected[1]
    assert found[0].keys() == expected[0].keys()
    np.testing.assert_equal(found[0], expected[0])  # where nan is nan


def assert_same_tree(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_same_tree(value, other[key])
    elif isinstance(one, list | tuple):
        for own, theirs in zip(one, other, strict=True):
            assert_same_tree(own, theirs)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        np.testing.assert_equal(one, other)


def test_before_the_first_step_there_is_little_to_save():
    config = small("sb3:sac")
    state = saved(make_agent(config).state_dict())
    assert (state["started"], state["num_steps"]) == (False, 0)
    agent, other = make_agent(config, stop_every=20), make_agent(config, seed=9, stop_every=20)
    other.load_state_dict(state)
    learn(agent, 20)
    learn(other, 20)
    # The generators are those of the other seed; the initial weights are not in the state.
    assert agent.state_dict()["generators"]["python"] == other.state_dict()["generators"]["python"]


def test_a_state_that_does_not_fit_is_refused():
    agent = make_agent(small("sb3:td3"))
    learn(agent, 20)
    state = agent.state_dict()
    with pytest.raises(RuntimeError, match="The agent has begun to learn"):
        agent.load_state_dict(state)
    with pytest.raises(
        ValueError, match="The state is one of 'sb3:td3', and this agent is sb3:sac"
    ):
        make_agent(small("sb3:sac")).load_state_dict(state)
    with pytest.raises(ValueError, match="replay buffer for 50 steps of 1 environments"):
        make_agent(small("sb3:td3", buffer_size=60)).load_state_dict(state)


# ---- generators -------------------------------------------------------------------------------------


def test_two_agents_in_turn_learn_as_each_alone():
    config = small("sb3:td3")
    alone = make_agent(config, stop_every=8)
    learn(alone, 48)
    one, other = (make_agent(config, seed=seed, stop_every=8) for seed in (1, 2))
    torch.manual_seed(0), np.random.seed(0), random.seed(0)  # noqa: NPY002
    for steps in range(8, 49, 8):
        learn(one, steps)
        learn(other, steps)
    drawn = torch.rand(()).item(), np.random.rand(), random.random()  # noqa: NPY002
    assert_equal(weights(one), weights(alone))
    torch.manual_seed(0), np.random.seed(0), random.seed(0)  # noqa: NPY002
    # nothing was drawn from the process's own generators
    assert drawn == (torch.rand(()).item(), np.random.rand(), random.random())  # noqa: NPY002


# ---- iterations -------------------------------------------------------------------------------------


def test_an_iteration_ends_at_multiples_and_at_a_new_task():
    agent = make_agent(small("sb3:td3"), stop_every=50)
    ends, tasks = [], []
    for iteration in learn(agent, 100):
        ends.append(iteration.num_steps)
        tasks.append(iteration.task)
    # Episodes of 9 steps, and a change at the first end after 20, 40, …: 27, 45, 63, 81; and at 100.
    assert ends == [27, 45, 50, 63, 81, 100]
    assert tasks == [1, 2, 2, 3, 4, 4]


def test_an_update_of_minus_one_has_a_step_for_each_of_all_environments():
    agent = make_agent(small("sb3:sac", train_freq=2, gradient_steps=-1), num_envs=2, stop_every=20)
    learn(agent, 20)
    # rounds of 2 steps in each of 2 environments; learning starts after 10 steps: at 12, 16 and 20
    assert agent.model._n_updates == 3 * 4


def test_before_the_first_update_the_statistics_are_nan():
    agent = make_agent(small("sb3:sac", learning_starts=30), stop_every=20)
    (iteration,) = agent.iterate_all()
    assert set(iteration.statistics) == {
        *("policy_loss", "value_loss", "entropy_coefficient", "learning_rate")
    }
    assert all(map(math.isnan, list(iteration.statistics.values())[:3]))
    assert iteration.statistics["learning_rate"] == 3e-4
    assert all(map(math.isfinite, learn(agent, 60)[-1].statistics.values()))


def test_mitigations_act_between_two_tasks_and_after_the_row():
    config = small("sb3:td3", learning_starts=1000)  # only the mitigation changes weights
    agent = make_agent(config, (HeadReset(),), stop_every=50)
    before = weights(agent)
    learn(agent, 27)  # the first end of an episode after 20 steps
    assert_equal(weights(agent), before)  # measured as the task left it
    agent.iterate_all()
    after = weights(agent)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    heads = {"actor.mu.4.weight", "critic.qf0.4.weight", "critic.qf1.4.weight"}
    assert heads <= changed <= heads | {name.replace("weight", "bias") for name in heads}


def test_decays_alone_need_no_hooks():
    agent = make_agent(small("sb3:dqn"), METHOD[1:])
    assert agent._callback is None
    assert agent.policies.take_counts() == [{}]


def test_networks_are_measured_with_their_evaluation_parameters():
    agent = make_agent(small("sb3:td3"), (HareTortoise(),), stop_every=50)
    learn(agent, 50)
    trained = weights(agent)
    with agent.policies.evaluating():
        slow = weights(agent)
    assert not all(torch.equal(trained[name], slow[name]) for name in trained)
    assert_equal(weights(agent), trained)


# ---- what goes wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sb3:ppo", "sb3:dqn", "sb3:sac"])
def test_a_run_whose_weights_are_not_finite_has_diverged(name):
    # The decay multiplies weights by a huge number in each step.
    agent = make_agent(small(name), (Syre(strength=1e30, sigma=0.3, decoupled=True),))
    iterations = []
    for _ in range(20):
        iterations += agent.iterate_all()
        if iterations[-1].diverged:
            break
    assert iterations[-1].diverged
    with pytest.raises(RuntimeError, match="The agent diverged before step"):
        agent.iterate_all()
    assert agent.state_dict()["diverged"] is True


def test_an_interrupted_iteration_is_not_saved(monkeypatch):
    agent = make_agent(small("sb3:td3"), stop_every=20)
    learn(agent, 20)

    def interrupt(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(agent.model, "train", interrupt)
    with pytest.raises(KeyboardInterrupt):
        agent.iterate_all()
    for call in (agent.iterate_all, agent.state_dict):
        with pytest.raises(RuntimeError, match="The agent was interrupted within an iteration"):
            call()


def test_an_algorithm_for_other_actions_is_refused():
    envs = make_environments(small("sb3:dqn"))
    with pytest.raises(ValueError, match=re.escape("sb3:td3 needs continuous actions")):
        SB3Agent(envs, small("sb3:td3"), seed=0)


def test_closing_takes_the_mitigations_off():
    agent = make_agent(small("sb3:td3"), METHOD)
    learn(agent, 20)
    optimizer = agent.model.actor.optimizer
    assert len(optimizer._optimizer_step_pre_hooks) == 2  # the mitigations', and that of gradients
    agent.close()
    assert len(optimizer._optimizer_step_pre_hooks) == 0
