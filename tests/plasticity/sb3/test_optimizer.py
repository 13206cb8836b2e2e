"""Parameters are assigned to actor and critic, the policy is found, and classes pickle by name."""

import copy
import pickle

import cloudpickle
import pytest
import torch
from torch import nn

import plasticity.sb3.optimizer
from plasticity import regularized
from plasticity.sb3.optimizer import PolicyOptimizer, policy_optimizer, role_of

NONE = {"regularizer": "none"}
SYRE = {"regularizer": "syre", "strength": 0.5, "sigma": 0.3, "anchor_seed": 1}


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("features_extractor.extractors.image.cnn.0.weight", "actor"),
        ("mlp_extractor.policy_net.0.weight", "actor"),
        ("mlp_extractor.value_net.0.bias", "critic"),
        ("value_net.weight", "critic"),
        ("action_net.bias", "actor"),
        ("lstm_actor.weight_ih_l0", "actor"),
        ("lstm_critic.bias_hh_l0", "critic"),
        ("actor.features_extractor.cnn.0.weight", "actor"),
        ("critic.features_extractor.cnn.0.weight", "critic"),
        ("critic.qf0.0.weight", "critic"),
        ("vf_features_extractor.cnn.0.weight", "critic"),
        ("q_net.features_extractor.cnn.0.weight", "critic"),
        ("quantile_net.quantile_net.0.weight", "critic"),
        ("mlp_extractor.trunk.0.weight", None),
    ],
)
def test_role_is_the_first_known_name(name, role):
    assert role_of(name) == role


class Policy(nn.Module):
    """Policy that builds its optimizer as Stable-Baselines3's do."""

    def __init__(self, actor, critic, optimizer_class=None, **parts):
        super().__init__()
        self.action_net = nn.Linear(3, 2)
        self.log_std = nn.Parameter(torch.zeros(2))
        self.value_net = nn.Linear(3, 1)
        for name, part in parts.items():
            self.add_module(name, part)
        optimizer_class = optimizer_class or policy_optimizer(torch.optim.Adam)
        self.optimizer = optimizer_class(self.parameters(), lr=0.1, actor=actor, critic=critic)


def test_groups_hold_every_parameter_once_with_its_name():
    policy = Policy(SYRE, NONE, norm=nn.LayerNorm(3))
    held = {group["name"]: group["param_names"] for group in policy.optimizer.param_groups}
    assert held == {
        "actor": ["action_net.weight", "action_net.bias"],
        "critic": ["value_net.weight", "value_net.bias"],
        "left alone": ["log_std", "norm.weight", "norm.bias"],
    }
    named = dict(policy.named_parameters())
    for group in policy.optimizer.param_groups:
        for name, parameter in zip(group["param_names"], group["params"], strict=True):
            assert parameter is named[name]


def test_actor_and_critic_draw_from_different_seeds():
    optimizer = Policy(SYRE, SYRE).optimizer
    actor, critic, _ = optimizer.param_groups
    assert actor["anchor_seed"] != critic["anchor_seed"]
    torch.manual_seed(5)
    unseeded = SYRE | {"anchor_seed": None}
    seeds = [g["anchor_seed"] for g in Policy(unseeded, unseeded).optimizer.param_groups[:2]]
    explicit = SYRE | {"anchor_seed": 5}
    assert seeds == [
        g["anchor_seed"] for g in Policy(explicit, explicit).optimizer.param_groups[:2]
    ]


def test_a_name_of_neither_actor_nor_critic_is_rejected_if_they_differ():
    policy = Policy(SYRE, SYRE, trunk=nn.Linear(3, 3))  # accepted, as both have the same settings
    assert "trunk.weight" in policy.optimizer.param_groups[0]["param_names"]
    with pytest.raises(ValueError, match=r"'trunk\.weight' does not say whether it is the actor's"):
        Policy(SYRE, NONE, trunk=nn.Linear(3, 3))


def test_a_guessed_fan_in_is_reported(caplog):
    class Extractor(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Parameter(torch.zeros(256, 16))
            self.log_std = nn.Parameter(torch.zeros(3, 3))  # not regularized, so nothing to guess

    Policy(SYRE, SYRE, features_extractor=Extractor())
    (warning,) = [r.getMessage() for r in caplog.records if "layout" in r.getMessage()]
    assert "features_extractor.mix (256, 16) gets 16" in warning
    assert "log_std" not in warning
    caplog.clear()
    Policy(NONE, SYRE, features_extractor=Extractor())  # its actor has no anchors
    assert "layout" not in caplog.text


def test_an_optimizer_outside_of_a_policy_is_rejected():
    with pytest.raises(
        ValueError, match=r"no calling module.*use regularized\(…\) and parameter_groups"
    ):
        policy_optimizer(torch.optim.Adam)(nn.Linear(2, 2).parameters(), actor=SYRE, critic=SYRE)


class Trainer(nn.Module):
    """Module whose method makes the optimizer, but which owns other parameters."""

    def __init__(self):
        super().__init__()
        self.other = nn.Linear(2, 2)

    def build(self, *args, **parts):
        return Policy(*args, **parts)

    def build_for_another(self, module):
        optimizer = policy_optimizer(torch.optim.Adam)
        return optimizer(module.parameters(), actor=SYRE, critic=SYRE)


def test_only_the_owner_of_the_parameters_is_accepted():
    policy = Trainer().build(SYRE, SYRE)
    assert policy.optimizer.param_groups[0]["param_names"][0] == "action_net.weight"
    with pytest.raises(ValueError, match="no calling module has these parameters"):
        Trainer().build_for_another(nn.Linear(2, 2))


class OtherBase(torch.optim.SGD):
    """Base class from another package."""


@pytest.mark.parametrize("base", [torch.optim.Adam, torch.optim.RMSprop, OtherBase])
def test_the_class_is_made_once_and_pickled_by_reference(base, monkeypatch):
    made = policy_optimizer(base)
    assert made is policy_optimizer(base) is policy_optimizer(made)
    assert made is policy_optimizer(regularized(base))
    assert issubclass(made, PolicyOptimizer)
    assert issubclass(made, regularized(base))
    for dumps in (pickle.dumps, cloudpickle.dumps):
        data = dumps(made)
        assert len(data) < 200  # a name, not a copy
        assert pickle.loads(data) is made
    # As in a new process, where no class has been made yet.
    monkeypatch.setattr(plasticity.sb3.optimizer, "_CLASSES", {})
    again = pickle.loads(data)
    assert again is not made
    assert again.__name__ == made.__name__
    assert again.base is base


def test_unknown_names_raise_attribute_errors():
    for name in ("PolicyNonsense", "nonsense"):
        with pytest.raises(AttributeError, match=name):
            getattr(plasticity.sb3.optimizer, name)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_split_a_plain_state(copied):
    policy = Policy(SYRE, NONE)
    plain = torch.optim.Adam(policy.parameters(), lr=0.5, weight_decay=0.0)
    for index, parameter in enumerate(policy.parameters()):
        parameter.grad = torch.full_like(parameter, index + 1.0)
    plain.step()
    twin = copied(policy)
    state = plain.state_dict()
    twin.optimizer.load_state_dict(state)
    assert len(state["param_groups"]) == 1  # the caller's state is unchanged
    first, *_ = twin.optimizer.param_groups
    assert (first["lr"], first["strength"], first["name"]) == (0.5, 0.5, "actor")
    assert first["param_names"] == ["action_net.weight", "action_net.bias"]
    names = {parameter: name for name, parameter in twin.named_parameters()}
    # module.parameters() yields a module's direct parameters first: log_std, action_net, value_net
    expected = {"log_std": 1, "action_net.weight": 2, "action_net.bias": 3}
    expected |= {"value_net.weight": 4, "value_net.bias": 5}
    found = {
        names[p]: round(state["exp_avg"].mean().item() * 10)  # (1 - 0.9) * gradient
        for p, state in twin.optimizer.state.items()
    }
    assert found == expected


def test_a_state_with_other_groups_is_rejected():
    optimizer = Policy(SYRE, NONE).optimizer
    first, second = nn.Linear(3, 2), nn.Linear(3, 1)
    groups = [{"params": first.parameters()}, {"params": second.parameters()}]
    with pytest.raises(ValueError, match="different number of parameter groups"):
        optimizer.load_state_dict(torch.optim.Adam(groups).state_dict())
    with pytest.raises(ValueError, match="different number of parameter groups"):
        optimizer.load_state_dict(torch.optim.Adam(first.parameters()).state_dict())


def test_the_state_dict_holds_only_numbers_strings_and_tensors(tmp_path):
    policy = Policy(SYRE, {"regularizer": "l2-init", "strength": 0.1})
    torch.save(policy.optimizer.state_dict(), tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)  # as Stable-Baselines3 reads it
    policy.optimizer.load_state_dict(loaded)
    assert [group["name"] for group in loaded["param_groups"]] == ["actor", "critic", "left alone"]


def test_an_optimizer_is_made_from_the_groups_of_another():
    policy = Policy(SYRE, {"regularizer": "l2-init", "strength": 0.1})
    again = type(policy.optimizer)(policy.optimizer.param_groups, lr=0.5)
    for parameter in (policy.action_net.weight, policy.value_net.weight):
        assert torch.equal(again.anchor(parameter), policy.optimizer.anchor(parameter))
    whole = torch.optim.Adam(policy.parameters(), lr=0.5).state_dict()  # Stable-Baselines3's own
    again.load_state_dict(whole)
    assert [group["name"] for group in again.param_groups] == ["actor", "critic", "left alone"]
    with pytest.raises(TypeError, match=r"actor=.*param_groups, lr="):
        type(again)(policy.parameters(), **again.defaults)
