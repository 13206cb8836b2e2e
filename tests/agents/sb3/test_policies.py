"""Inputs that the networks are measured on, and the names of what mitigations counted."""

import numpy as np
import torch
from small_agents import make_agent, small

from plasticity.agents.execution.measuring import measured
from plasticity.agents.sb3 import policies as module
from plasticity.mitigations import ReDo


def learn(agent, steps):
    while agent.num_steps < steps:
        agent.iterate_all()
    return agent


def test_ppo_is_measured_on_its_latest_rollout():
    agent = learn(make_agent(small("sb3:ppo"), num_envs=2), 32)
    found = agent.observations
    assert found.shape == (32, 4)
    last = np.ravel(agent.model._last_obs)  # of the next rollout
    assert not any(np.array_equal(row, last[:4]) for row in found.numpy())
    assert agent.policies.hidden_layers == ("actor.1", "actor.3", "critic.1", "critic.3")


def test_critics_are_measured_on_the_actions_taken(monkeypatch):
    monkeypatch.setattr(module, "PROBE_STEPS", 30)
    agent = learn(make_agent(small("sb3:td3"), stop_every=70), 70)  # the buffer of 50 has wrapped
    observations, actions = agent.observations
    buffer = agent.model.replay_buffer
    assert (buffer.pos, buffer.full) == (20, True)
    # Steps 40 to 69 lie at 40 to 49, and at 0 to 19.
    latest = [*range(40, 50), *range(20)]
    np.testing.assert_array_equal(observations, buffer.observations[latest, 0])
    np.testing.assert_array_equal(actions, buffer.actions[latest, 0])


def test_before_the_buffer_is_full_there_are_fewer():
    agent = learn(make_agent(small("sb3:dqn"), num_envs=2, stop_every=40), 40)
    assert agent.observations.shape == (40, 4)  # not a tuple: its network sees no actions


def test_metrics_of_every_algorithm(config):
    agent = learn(make_agent(config, num_envs=2, stop_every=64), 64)
    policies = agent.policies
    before = {name: each.detach().clone() for name, each in policies.parameters.items()}
    with policies.evaluating():
        (found,) = measured(
            policies.networks,
            agent.observations,
            ("effective_rank", "gradient_norm"),
            policies.hidden_layers,
            indices=[0],
            previous=None,
        ).values()
    assert all(1 <= found[f"effective_rank/{each}"] <= 8 for each in policies.hidden_layers)
    for part in ("actor", "critic") if hasattr(agent.model, "actor") else ():
        # sums over the gradients that the optimizers' latest steps received
        kept = policies.gradients.state_dict(policies.parameters)
        own = [each for name, each in kept.items() if name.startswith(f"{part}.")]
        squares = torch.stack([each.square().sum() for each in own]).sum()
        layers = [v**2 for k, v in found.items() if k.startswith(f"gradient_norm/{part}.")]
        np.testing.assert_allclose(sum(layers), float(squares), rtol=1e-4)
    assert all(torch.equal(before[name], each) for name, each in policies.parameters.items())


def test_counts_have_the_names_of_layers():
    names = {
        "sb3:ppo": "reset_units/actor.0",
        "sb3:dqn": "reset_units/q_net.2",
        "sb3:sac": "reset_units/critic.qf1.2",
    }
    for name, expected in names.items():
        agent = learn(make_agent(small(name), (ReDo(every=2),), stop_every=32), 32)
        (found,) = agent.policies.take_counts()
        assert expected in found
