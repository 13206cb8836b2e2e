"""States that fit and states that do not, checked without an agent."""

import copy

import pytest
import torch

from plasticity.agents.ppo.state import require_complete, require_fitting


def make_state():
    group = {
        "regularizer": "none",
        "strength": 0.0,
        "sigma": 0.01,
        "anisotropy": 0.0,
        "decoupled": False,
        "anchor_seed": 1,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "lr": 1e-3,
        "fused": True,
        "params": [0, 1],
    }
    optimizer = {"state": {}, "param_groups": [group]}
    return {
        "policy": {"weight": torch.zeros(3, 2)},
        "observations": torch.zeros(4, 2),
        "observation_statistics": {"mean": torch.zeros(2), "count": 1.0},
        "reward_normalizer": None,
        "actor_optimizer": copy.deepcopy(optimizer),
        "critic_optimizer": copy.deepcopy(optimizer),
    }


def test_entries_that_may_differ():
    state = make_state()
    group = state["critic_optimizer"]["param_groups"][0]
    # differs by schedule, by device, and a seed from which nothing is drawn
    group |= {"lr": 0.5, "fused": False, "anchor_seed": 2}
    state["actor_optimizer"]["state"] = {0: {"exp_avg": torch.zeros(3, 2)}}
    state["observation_statistics"]["count"] = 9.0
    require_complete(state, make_state())
    require_fitting(state, make_state())


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            ("policy", "weight"),
            torch.zeros(2, 3),
            r"policy\.weight has shape \(2, 3\) in the state",
        ),
        (
            ("policy", "bias"),
            torch.zeros(2),
            r"policy\.bias .* but None here \(None: it does not exist\)",
        ),
        (("observations",), torch.zeros(4, 3), r"observations has shape \(4, 3\)"),
        (("observation_statistics", "mean"), torch.zeros(3), r"observation_statistics\.mean has"),
        (("observation_statistics",), None, "normalize_observations=False, but here it is True"),
        (("reward_normalizer",), {}, "normalize_rewards=True, but here it is False"),
        (
            ("critic_optimizer", "param_groups", 0, "params"),
            [0],
            r"critic_optimizer has groups of \[1\] parameters in the state, but of \[2\] here",
        ),
        (
            ("critic_optimizer", "param_groups", 0, "decoupled"),
            True,
            r"other settings of the critic_optimizer: decoupled=True \(here False\)",
        ),
        (
            ("actor_optimizer", "param_groups", 0, "anisotropy"),
            0.5,
            r"other settings of the actor_optimizer: anisotropy=0.5 \(here 0.0\)",
        ),
    ],
)
def test_entries_that_may_not_differ(path, value, message):
    state = parent = make_state()
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    with pytest.raises(ValueError, match=message):
        require_fitting(state, make_state())


def test_an_anchor_seed_matters_only_under_syre():
    state, own = make_state(), make_state()
    for each, seed in ((state, 1), (own, 2)):
        group = each["actor_optimizer"]["param_groups"][0]
        group |= {"regularizer": "syre", "anchor_seed": seed}
    with pytest.raises(ValueError, match=r"anchor_seed=1 \(here 2\)"):
        require_fitting(state, own)


def test_a_missing_entry_is_named():
    state = make_state()
    del state["policy"]
    with pytest.raises(ValueError, match=r"no 'policy': give one of PPO\.state_dict\(\)"):
        require_complete(state, make_state())
