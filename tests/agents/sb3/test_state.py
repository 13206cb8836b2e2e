"""State of a model: everything that its next steps depend on, and nothing of the buffer's empty part."""

import numpy as np
import pytest
import torch
from small_agents import make_agent, small

from plasticity.agents.sb3.state import load_model_state, model_state


@pytest.fixture
def agent():
    found = make_agent(small("sb3:sac"), stop_every=30)
    while found.num_steps < 30:
        found.iterate_all()
    return found


def test_the_buffer_is_saved_as_far_as_it_is_filled(agent):
    state = model_state(agent.model)["replay_buffer"]
    assert {name: len(each) for name, each in state.items() if isinstance(each, torch.Tensor)} == (
        dict.fromkeys(
            ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"), 30
        )
    )
    assert (state["position"], state["capacity"]) == (30, 50)
    # Episodes are cut at 9 steps, and none ends otherwise.
    assert state["timeouts"].flatten().nonzero().flatten().tolist() == [8, 17, 26]


def test_a_full_buffer_continues_where_it_was(agent):
    while agent.num_steps < 60:
        agent.iterate_all()
    other = make_agent(small("sb3:sac"))
    load_model_state(other.model, model_state(agent.model))
    found, expected = other.model.replay_buffer, agent.model.replay_buffer
    assert (found.pos, found.full) == (expected.pos, expected.full) == (10, True)
    for name in ("observations", "actions", "rewards", "dones", "timeouts"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_the_learned_entropy_coefficient_is_part_of_it(agent):
    other = make_agent(small("sb3:sac"))
    assert not torch.equal(other.model.log_ent_coef, agent.model.log_ent_coef)
    load_model_state(other.model, model_state(agent.model))
    assert torch.equal(other.model.log_ent_coef, agent.model.log_ent_coef)
    (moments,) = other.model.ent_coef_optimizer.state.values()
    (expected,) = agent.model.ent_coef_optimizer.state.values()
    assert torch.equal(moments["exp_avg"], expected["exp_avg"])
    # The optimizer trains the variable that the model reads.
    (trained,) = other.model.ent_coef_optimizer.param_groups[0]["params"]
    assert trained is other.model.log_ent_coef


def test_a_state_does_not_follow_the_model(agent):
    state = model_state(agent.model)
    before = {name: each.clone() for name, each in state["policy"].items()}
    rewards = state["replay_buffer"]["rewards"].clone()
    while agent.num_steps < 90:
        agent.iterate_all()
    assert all(torch.equal(before[name], each) for name, each in state["policy"].items())
    assert torch.equal(rewards, state["replay_buffer"]["rewards"])


def test_a_buffer_of_another_size_is_refused(agent):
    other = make_agent(small("sb3:sac", buffer_size=40))
    with pytest.raises(
        ValueError, match="for 50 steps of 1 environments, but here it is for 40 of"
    ):
        load_model_state(other.model, model_state(agent.model))
