"""Regularized policies of every supported algorithm of Stable-Baselines3 and sb3-contrib."""

import copy
import io
import math
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn

from plasticity import describe_groups, regularized
from plasticity.optim.anchors import syre_anchor
from plasticity.optim.settings import SETTING_NAMES
from plasticity.sb3.policies import policy_kwargs
from plasticity.seeds import child_seed

contrib = pytest.importorskip("sb3_contrib", reason="sb3-contrib is in the extra `dev`")
CrossQ, MaskablePPO, QRDQN = contrib.CrossQ, contrib.MaskablePPO, contrib.QRDQN
RecurrentPPO, TQC, TRPO = contrib.RecurrentPPO, contrib.TQC, contrib.TRPO

ON_POLICY = [PPO, A2C, TRPO, RecurrentPPO, MaskablePPO]
OFF_POLICY = [DQN, SAC, TD3, DDPG, TQC]
ALGORITHMS = ON_POLICY + OFF_POLICY
KINDS = ["Mlp", "Cnn", "MultiInput"]
EVERY = [(algorithm, kind) for algorithm in ALGORITHMS for kind in KINDS]


class Tiny(gymnasium.Env):
    """Environment with five-step episodes of noise, and the observations that each kind of policy takes."""

    def __init__(self, kind, discrete):
        vector = spaces.Box(-1, 1, (3,), np.float32)
        image = spaces.Box(
            0, 255, (1, 36, 36), np.uint8
        )  # the smallest image that NatureCNN accepts
        self.observation_space = {
            "Mlp": vector,
            "Cnn": image,
            "MultiInput": spaces.Dict({"image": image, "vector": vector}),
        }[kind]
        self.action_space = spaces.Discrete(3) if discrete else spaces.Box(-1, 1, (2,), np.float32)
        self.count = 0

    def observe(self):
        vector = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        image = self.np_random.integers(0, 256, (1, 36, 36), dtype=np.uint8)
        if isinstance(self.observation_space, spaces.Dict):
            return {"image": image, "vector": vector}
        return vector if self.observation_space.shape == (3,) else image

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.observe(), {}

    def step(self, action):
        self.count += 1
        return self.observe(), self.np_random.normal(), self.count == 5, False, {}

    def action_masks(self):
        return np.ones(3, dtype=bool)


def environment(algorithm, kind="Mlp"):
    return Tiny(kind, discrete=algorithm in (DQN, QRDQN, MaskablePPO))


def small(algorithm, kind="Mlp"):
    """Return the keyword arguments of a small policy."""
    kwargs = {"net_arch": [8]}
    if kind == "Cnn":
        kwargs["features_extractor_kwargs"] = {"features_dim": 8}
    if kind == "MultiInput":
        kwargs["features_extractor_kwargs"] = {"cnn_output_dim": 8}
    if algorithm is RecurrentPPO:
        kwargs["lstm_hidden_size"] = 8
    return kwargs


def make(algorithm, kind="Mlp", kwargs=None, **settings):
    settings = {"seed": 0, "device": "cpu"} | settings
    if algorithm in ON_POLICY:
        settings = {"n_steps": 16} | settings
    else:
        settings = {"learning_starts": 8, "buffer_size": 64, "batch_size": 8} | settings
    if algorithm in (PPO, TRPO, RecurrentPPO, MaskablePPO):
        settings = {"batch_size": 8} | settings
    policy = f"{kind}LstmPolicy" if algorithm is RecurrentPPO else f"{kind}Policy"
    return algorithm(policy, environment(algorithm, kind), policy_kwargs=kwargs, **settings)


SYRE = {
    "regularizer": "syre",
    "strength": 0.5,
    "sigma": 0.4,
    "anchor_seed": 7,
    # Decoupled, so that a step without a gradient is lr * strength * (anchor - theta).
    "decoupled": True,
}


def syre_kwargs(algorithm, kind="Mlp", **changes):
    actor = {"regularizer": "none"} if algorithm is TRPO else {"strength": 0.25}
    if algorithm is not DQN:
        changes["actor"] = actor
    return policy_kwargs(algorithm, **{**SYRE, **small(algorithm, kind), **changes})


def optimizers(model):
    policy = model.policy
    if isinstance(model, (DQN, QRDQN)) or type(model) in ON_POLICY:
        return [policy.optimizer]
    return [policy.actor.optimizer, policy.critic.optimizer]


def groups(model):
    return [group for optimizer in optimizers(model) for group in optimizer.param_groups]


def anchors(model):
    found = []
    for optimizer in optimizers(model):
        for group in optimizer.param_groups:
            found += [optimizer.anchor(p) for p in group["params"]]
    return [anchor.clone() if anchor is not None else None for anchor in found]


def settings_of(model):
    keys = [*SETTING_NAMES, "name", "param_names", "fan_in", "anchor_position"]
    return [{key: group[key] for key in keys} for group in groups(model)]


def weights(model):
    return {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)


def step_without_gradient(model):
    for optimizer in optimizers(model):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()


def fan_in_by_layer(policy):
    """Compute the fan-in of each layer by hand: inputs times kernel size; vectors have their layer's."""
    found = {}
    for name, layer in policy.named_modules():
        if isinstance(layer, nn.Linear):
            inputs = {"weight": layer.in_features, "bias": layer.in_features}
        elif isinstance(layer, nn.Conv2d):
            inputs = dict.fromkeys(
                ("weight", "bias"), layer.in_channels * layer.kernel_size[0] ** 2
            )
        elif isinstance(layer, nn.LSTM):
            inputs = dict.fromkeys(("weight_ih_l0", "bias_ih_l0"), layer.input_size)
            inputs |= dict.fromkeys(("weight_hh_l0", "bias_hh_l0"), layer.hidden_size)
        else:
            continue
        found.update({f"{name}.{key}": value for key, value in inputs.items()})
    return found


def belongs_to_critic(name):
    """Return whether a parameter of a built-in policy with a shared features extractor is the critic's."""
    return name.startswith(("critic.", "value_net", "mlp_extractor.value_net", "q_net.", "lstm_cr"))


@pytest.mark.parametrize(("algorithm", "kind"), EVERY)
def test_a_step_without_gradients_moves_toward_the_anchors(algorithm, kind):
    model = make(algorithm, kind, syre_kwargs(algorithm, kind), learning_rate=0.125)
    before = weights(model)
    step_without_gradient(model)
    after = weights(model)
    fan_in = fan_in_by_layer(model.policy)
    owned = {name: p for name, p in model.policy.named_parameters() if "_target" not in name}
    found = [name for group in groups(model) for name in group["param_names"]]
    assert sorted(found) == sorted(owned)
    moved = 0
    for optimizer in optimizers(model):
        names = [name for group in optimizer.param_groups for name in group["param_names"]]
        for position, name in enumerate(names):
            if name == "log_std":
                continue
            role = "critic" if belongs_to_critic(name) else "actor"
            strength = {"critic": 0.5, "actor": 0.0 if algorithm is TRPO else 0.25}[role]
            anchor = syre_anchor(
                before[name],
                seed=child_seed(7, role),
                position=position,
                standard_deviation=0.4 / math.sqrt(fan_in[name]),
            )
            # lr * strength = 1/8 * 1/2 or 1/8 * 1/4
            expected = before[name] + 0.125 * strength * (anchor - before[name])
            torch.testing.assert_close(after[name], expected, rtol=1e-5, atol=1e-7)
            moved += strength > 0
    assert moved >= 4
    # Neither a separate log_std nor a target network has moved.
    untouched = [name for name in before if name == "log_std" or "_target" in name]
    assert all(torch.equal(before[name], after[name]) for name in untouched)
    assert bool(untouched) == (algorithm not in (MaskablePPO,))


@pytest.mark.parametrize(("algorithm", "kind"), EVERY)
def test_save_load_and_set_parameters_keep_anchors_and_settings(algorithm, kind):
    # The anchors' seed is derived from the algorithm's, and a loaded model must keep it.
    model = make(algorithm, kind, syre_kwargs(algorithm, kind, anchor_seed=None), seed=3)
    step_without_gradient(model)
    archive = io.BytesIO()
    model.save(archive)
    other = make(algorithm, kind, syre_kwargs(algorithm, kind, sigma=0.7, anchor_seed=None), seed=4)
    assert settings_of(other) != settings_of(model)
    other.set_parameters(model.get_parameters())
    torch.manual_seed(99)
    for again in (algorithm.load(archive, device="cpu"), other):
        assert settings_of(again) == settings_of(model)
        assert_same(anchors(again), anchors(model))
    step_without_gradient(model)
    step_without_gradient(other)
    assert_same(weights(model).values(), weights(other).values())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_continued_training_keeps_anchors_and_settings(algorithm):
    model = make(algorithm, kwargs=syre_kwargs(algorithm))
    settings, points, start = settings_of(model), anchors(model), weights(model)
    model.learn(32)
    archive = io.BytesIO()
    model.save(archive)
    again = algorithm.load(archive, env=environment(algorithm), device="cpu")
    assert_same(weights(again).values(), weights(model).values())
    again.learn(32, reset_num_timesteps=False)
    assert settings_of(again) == settings_of(model) == settings
    assert_same(anchors(again), points)
    final = weights(again)
    assert all(torch.isfinite(tensor).all() for tensor in final.values())
    assert any(not torch.equal(start[name], final[name]) for name in start)


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, QRDQN, CrossQ])
def test_without_a_regularizer_training_equals_stable_baselines(algorithm):
    # The optimizer's defaults, the learning rate and the random numbers are the same.
    batch = {"batch_size": 32} if algorithm is QRDQN else {}
    start, trained = [], []
    for kwargs in (small(algorithm), policy_kwargs(algorithm, **small(algorithm))):
        model = make(algorithm, kwargs=kwargs, **batch)  # seeds torch and numpy
        start.append(weights(model))
        model.learn(48)
        trained.append(weights(model))
    assert any(not torch.equal(start[0][name], trained[0][name]) for name in start[0])
    assert_same(start[0].values(), start[1].values())
    assert_same(trained[0].values(), trained[1].values())


def defaults(model):
    # Our classes add group keys; all others must be Stable-Baselines3's.
    (group,) = optimizers(model)[0].param_groups[:1]
    ours = {*SETTING_NAMES, "params", "name", "param_names", "fan_in", "anchor_position"}
    return {key: value for key, value in group.items() if key not in ours}


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, QRDQN, CrossQ])
@pytest.mark.parametrize("base", [None, torch.optim.Adam, torch.optim.SGD])
def test_optimizer_settings_equal_those_of_stable_baselines(algorithm, base):
    given = {} if base is None else {"optimizer_class": base}
    batch = {"batch_size": 32} if algorithm is QRDQN else {}
    plain = make(algorithm, kwargs=given | small(algorithm), **batch)
    ours = make(algorithm, kwargs=policy_kwargs(algorithm, **given, **small(algorithm)), **batch)
    assert issubclass(type(optimizers(ours)[0]), type(optimizers(plain)[0]))
    assert defaults(ours) == defaults(plain)


def test_given_optimizer_settings_are_added():
    adam = policy_kwargs(PPO, optimizer_kwargs={"betas": (0.99, 0.99)})["optimizer_kwargs"]
    assert (adam["eps"], adam["betas"]) == (1e-5, (0.99, 0.99))
    model = make(A2C, kwargs=policy_kwargs(A2C, optimizer_kwargs={"alpha": 0.9}))
    assert model.policy.optimizer.param_groups[0]["alpha"] == 0.9
    assert model.policy.optimizer.param_groups[0]["eps"] == 1e-5


def test_a_given_regularized_class_is_replaced_by_its_base():
    kwargs = policy_kwargs(PPO, optimizer_class=regularized(torch.optim.Adam))
    assert kwargs == policy_kwargs(PPO)  # including Stable-Baselines3's eps for Adam


def test_coupled_decay_passes_through_adam():
    model = make(PPO, kwargs=policy_kwargs(PPO, **{**SYRE, "decoupled": None}, net_arch=[8]))
    optimizer = model.policy.optimizer
    parameter = model.policy.action_net.weight
    before, anchor = parameter.detach().double(), optimizer.anchor(parameter).double()
    step_without_gradient(model)
    decay = 0.5 * (before - anchor)  # the only gradient; Adam's first step is lr * g / (|g| + eps)
    expected = before - 3e-4 * decay / (decay.abs() + 1e-5)
    torch.testing.assert_close(parameter.detach().double(), expected, rtol=0, atol=1e-7)


def test_coupled_decay_passes_through_rmsprop():
    model = make(A2C, kwargs=policy_kwargs(A2C, **{**SYRE, "decoupled": None}, net_arch=[8]))
    optimizer = model.policy.optimizer
    parameter = model.policy.action_net.weight
    before, anchor = parameter.detach().double(), optimizer.anchor(parameter).double()
    step_without_gradient(model)
    decay = 0.5 * (before - anchor)  # the mean square is 0.01 * g^2 after one step: 0.1 * |g|
    expected = before - 7e-4 * decay / (0.1 * decay.abs() + 1e-5)
    torch.testing.assert_close(parameter.detach().double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_l2_init_decays_toward_the_initial_weights(algorithm):
    kwargs = policy_kwargs(algorithm, regularizer="l2-init", strength=0.1, **small(algorithm))
    model = make(algorithm, kwargs=kwargs)
    start = weights(model)
    model.learn(32)
    archive = io.BytesIO()
    model.save(archive)
    again = algorithm.load(archive, device="cpu")
    names = [name for group in groups(again) for name in group["param_names"]]
    for name, anchor in zip(names, anchors(again), strict=True):
        assert (anchor is None) == (name == "log_std")
        assert anchor is None or torch.equal(anchor, start[name])


FRESH = """
import sys
from stable_baselines3 import PPO, SAC
for algorithm, path in ((PPO, sys.argv[1]), (SAC, sys.argv[2])):
    model = algorithm.load(path, device="cpu")
    parts = [model.policy] if algorithm is PPO else [model.policy.actor, model.policy.critic]
    for part in parts:
        for group in part.optimizer.param_groups:
            first = part.optimizer.anchor(group["params"][0])
            point = "none" if first is None else first.double().sum().item().hex()
            print(group["name"], group["regularizer"], group["strength"], group["sigma"], point)
"""


def test_load_alone_restores_everything_in_a_new_process(tmp_path):
    expected = []
    for algorithm in (PPO, SAC):
        model = make(algorithm, kwargs=syre_kwargs(algorithm))
        model.learn(16)
        model.save(tmp_path / algorithm.__name__)
        for optimizer in optimizers(model):
            for group in optimizer.param_groups:
                first = optimizer.anchor(group["params"][0])
                point = "none" if first is None else first.double().sum().item().hex()
                found = [group[key] for key in ("name", "regularizer", "strength", "sigma")]
                expected.append(" ".join(map(str, [*found, point])))
    command = [sys.executable, "-c", FRESH, tmp_path / "PPO.zip", tmp_path / "SAC.zip"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == expected


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_a_matrix_of_deviations_is_left_alone(algorithm):
    """Use state-dependent exploration, which makes log_std a matrix of (features, actions)."""
    kwargs = policy_kwargs(algorithm, regularizer="weight-decay", strength=0.1, net_arch=[8])
    model = make(algorithm, kwargs=kwargs, use_sde=True)
    by_name = {g["name"]: g["param_names"] for g in groups(model) if g["name"] == "left alone"}
    (name,) = by_name["left alone"]
    assert name.endswith("log_std")
    log_std = dict(model.policy.named_parameters())[name]
    assert log_std.shape == (8, 2)
    before = log_std.detach().clone()
    step_without_gradient(model)
    assert torch.equal(log_std, before)


def test_separate_features_extractors_are_distinguished():
    kwargs = syre_kwargs(PPO, "Cnn", share_features_extractor=False)
    (optimizer,) = optimizers(make(PPO, "Cnn", kwargs))
    actor, critic, _ = (set(group["param_names"]) for group in optimizer.param_groups)
    assert "features_extractor.cnn.0.weight" in actor
    assert "vf_features_extractor.cnn.0.weight" in critic


@pytest.mark.parametrize("algorithm", [TD3, SAC])
def test_shared_features_extractor_is_decayed_once(algorithm):
    kwargs = syre_kwargs(algorithm, "Cnn", share_features_extractor=True)
    model = make(algorithm, "Cnn", kwargs, learning_rate=0.125)
    weight = model.policy.actor.features_extractor.cnn[0].weight
    assert weight is model.policy.critic.features_extractor.cnn[0].weight
    anchor = model.policy.actor.optimizer.anchor(weight).clone()
    before = weight.detach().clone()
    step_without_gradient(model)  # of both optimizers
    expected = before + 0.125 * 0.25 * (anchor - before)
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-5, atol=1e-7)


def test_trpo_does_not_update_its_actor_with_the_optimizer():
    with pytest.warns(UserWarning, match="TRPO updates its actor without the optimizer"):
        kwargs = policy_kwargs(TRPO, regularizer="weight-decay", strength=0.1, net_arch=[8])
    model = make(TRPO, kwargs=kwargs)
    optimizer = model.policy.optimizer
    assert [group["regularizer"] for group in optimizer.param_groups] == [
        "none",
        "weight-decay",
        "none",
    ]
    seen = set()
    step = optimizer.step

    def watched_step():
        for group in optimizer.param_groups:
            seen.update(group["name"] for p in group["params"] if p.grad is not None)
        step()

    optimizer.step = watched_step
    model.learn(16)
    assert seen == {"critic"}


def test_trpo_does_not_warn_if_the_actor_is_not_regularized(recwarn):
    policy_kwargs(TRPO, critic={"regularizer": "syre", "strength": 0.1})
    policy_kwargs(TRPO, regularizer="syre", strength=0.1, actor={"regularizer": "none"})
    policy_kwargs(TRPO, regularizer="syre", strength=0.0)
    assert not recwarn


@pytest.mark.parametrize("algorithm", [PPO, TD3, DQN])
def test_a_model_saved_without_policy_kwargs_continues_with_them(algorithm):
    plain = make(algorithm, kwargs=small(algorithm))
    plain.learn(32)
    archive = io.BytesIO()
    plain.save(archive)
    kwargs = syre_kwargs(algorithm)
    again = algorithm.load(
        archive,
        env=environment(algorithm),
        device="cpu",
        custom_objects={"policy_kwargs": kwargs},
    )
    assert_same(weights(again).values(), weights(plain).values())
    assert settings_of(again) == settings_of(make(algorithm, kwargs=kwargs))
    names = dict(plain.policy.named_parameters())
    compared = 0
    for old, new in zip(optimizers(plain), optimizers(again), strict=True):
        for group in new.param_groups:
            for name, parameter in zip(group["param_names"], group["params"], strict=True):
                expected, found = old.state[names[name]], new.state[parameter]
                assert expected.keys() == found.keys()
                assert torch.equal(expected["exp_avg"], found["exp_avg"])
                assert torch.equal(expected["exp_avg_sq"], found["exp_avg_sq"])
                compared += 1
    assert compared >= 4
    again.learn(32, reset_num_timesteps=False)


def test_l2_init_in_the_plain_form_continues_with_its_anchors():
    settings = {"regularizer": "l2-init", "strength": 0.1}
    bare = {"optimizer_class": regularized(torch.optim.Adam), "optimizer_kwargs": settings}
    model = make(PPO, kwargs=bare | small(PPO))
    start = weights(model)
    model.learn(16)
    again = make(PPO, kwargs=policy_kwargs(PPO, **settings, **small(PPO)), seed=1)
    again.set_parameters(model.get_parameters())
    for group in groups(again):
        for name, parameter in zip(group["param_names"], group["params"], strict=True):
            if group["name"] != "left alone":
                assert torch.equal(again.policy.optimizer.anchor(parameter), start[name])


def test_a_policy_can_be_saved_and_deep_copied(tmp_path):
    model = make(PPO, kwargs=syre_kwargs(PPO))
    model.policy.save(tmp_path / "policy.pth")
    loaded = type(model.policy).load(tmp_path / "policy.pth", device="cpu")
    for policy in (loaded, copy.deepcopy(model.policy)):
        assert type(policy.optimizer) is type(model.policy.optimizer)
        for group, expected in zip(policy.optimizer.param_groups, groups(model), strict=True):
            assert {k: group[k] for k in SETTING_NAMES} == {k: expected[k] for k in SETTING_NAMES}
            for one, other in zip(group["params"], expected["params"], strict=True):
                point, expected_point = (
                    policy.optimizer.anchor(one),
                    model.policy.optimizer.anchor(other),
                )
                assert_same([point], [expected_point])


def test_groups_are_described():
    text = describe_groups(make(PPO, kwargs=syre_kwargs(PPO)).policy.optimizer)
    actor, critic, alone = text.splitlines()
    # 3 x 8 + 8 + 8 x 2 + 2 = 50 and 3 x 8 + 8 + 8 x 1 + 1 = 41, and two deviations
    assert actor.startswith("group 0 (actor): syre, 4 tensors with 50 parameters, strength 0.25")
    assert critic.startswith("group 1 (critic): syre, 4 tensors with 41 parameters, strength 0.5")
    assert alone == "group 2 (left alone): none, 1 tensor with 2 parameters"


@pytest.mark.parametrize("algorithm", [PPO, A2C, SAC, TD3])
def test_the_plain_form_works(algorithm):
    settings = {"regularizer": "syre", "strength": 0.5, "sigma": 0.4, "decoupled": True}
    bare = {"optimizer_class": regularized(torch.optim.Adam), "optimizer_kwargs": settings}
    model = make(algorithm, kwargs=bare | small(algorithm), learning_rate=0.125)
    before, points = weights(model), anchors(model)
    step_without_gradient(model)
    owned = [p for group in groups(model) for p in group["params"]]
    names = {id(p): name for name, p in model.policy.named_parameters()}
    for parameter, anchor in zip(owned, points, strict=True):
        name = names[id(parameter)]
        assert (anchor is None) == (name == "log_std")
        start = before[name]
        expected = start if anchor is None else start + 0.125 * 0.5 * (anchor - start)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-7)
    archive = io.BytesIO()
    model.save(archive)
    assert_same(anchors(algorithm.load(archive, device="cpu")), points)


def test_the_plain_form_differs_as_documented():
    adam = regularized(torch.optim.Adam)
    settings = {"regularizer": "weight-decay", "strength": 0.5}
    bare = {"optimizer_class": adam, "optimizer_kwargs": settings, **small(PPO)}
    model = make(PPO, kwargs=bare)
    assert model.policy.optimizer.param_groups[0]["eps"] == 1e-8
    assert isinstance(make(A2C, kwargs=bare).policy.optimizer, adam)
    nn.init.ones_(model.policy.log_std)
    step_without_gradient(model)
    assert (model.policy.log_std < 1).all()  # weight decay applies to it


class Custom(FlattenExtractor):
    """Custom features extractor with a normalisation layer."""

    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.norm = nn.LayerNorm(self.features_dim)
        self.critic = nn.Linear(self.features_dim, self.features_dim)

    def forward(self, observations):
        return self.critic(self.norm(super().forward(observations)))


def test_a_custom_features_extractor_is_regularized():
    kwargs = syre_kwargs(PPO, features_extractor_class=Custom)
    (optimizer,) = optimizers(make(PPO, kwargs=kwargs))
    actor, _, alone = (set(group["param_names"]) for group in optimizer.param_groups)
    assert "features_extractor.critic.weight" in actor  # shared, whatever its parts are named
    assert {"features_extractor.norm.weight", "features_extractor.norm.bias"} < alone


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"strenght": 1e-3}, TypeError, "'strenght' for PPO.* Did you mean 'strength'"),
        ({"net_arhc": [8]}, TypeError, "Did you mean 'net_arch'"),
        ({"actor": {"sigmaa": 0.1}}, TypeError, "'sigmaa' in actor=.*Did you mean 'sigma'"),
        ({"strength": 1e-3}, ValueError, "^strength=0.001 does nothing without a regularizer"),
        ({"critic": {"strength": 0.1}}, ValueError, "critic's strength=0.1 does nothing"),
        ({"regularizer": "syre"}, ValueError, "actor's regularizer='syre' needs a strength"),
        ({"critic": {"regularizer": "syre"}}, ValueError, "critic's regularizer='syre' needs"),
        ({"regularizer": "sire"}, ValueError, "Did you mean 'syre'"),
        ({"regularizer": "syre", "strength": -1}, ValueError, "strength must be"),
        ({"regularizer": "syre", "strength": 1, "sigma": "1"}, TypeError, "sigma must be"),
    ],
)
def test_invalid_arguments_raise_errors_with_value_and_remedy(given, error, message):
    with pytest.raises(error, match=message):
        policy_kwargs(PPO, **given)


@pytest.mark.parametrize("given", [{"actor": "syre"}, {"critic": 0.1}])
def test_settings_of_one_network_must_be_a_dictionary(given):
    (role,) = given
    with pytest.raises(TypeError, match=f"^{role}=.* must be a dictionary of settings"):
        policy_kwargs(PPO, **given)


def test_the_learning_rate_must_come_from_the_algorithm():
    with pytest.raises(
        TypeError, match=r"lr=0\.1, but the learning rate comes from .*learning_rate=0\.1"
    ):
        policy_kwargs(PPO, optimizer_kwargs={"lr": 0.1})


class Own(torch.optim.Adam):
    """Custom base class in an importable module."""


def test_a_base_that_a_saved_model_could_not_find_is_rejected(monkeypatch):
    class Local(torch.optim.Adam):
        pass

    with pytest.raises(ValueError, match=r"Local is defined in a function.*separate module"):
        policy_kwargs(PPO, optimizer_class=Local)
    with pytest.raises(ValueError, match=r"Local is defined in a function.*separate module"):
        policy_kwargs(PPO, optimizer_class=regularized(Local))
    assert policy_kwargs(PPO, optimizer_class=Own)["optimizer_class"].base is Own
    monkeypatch.setattr(Own, "__module__", "__main__")
    with pytest.raises(ValueError, match=r"Own is defined in a script.*separate module"):
        policy_kwargs(PPO, optimizer_class=Own)


def test_a_strength_can_be_changed_after_loading():
    model = make(PPO, kwargs=syre_kwargs(PPO), learning_rate=0.125)
    archive = io.BytesIO()
    model.save(archive)
    again = PPO.load(archive, device="cpu")
    for group in again.policy.optimizer.param_groups:
        group["strength"] = 1.0
    weight = again.policy.action_net.weight
    before, anchor = weight.detach().clone(), again.policy.optimizer.anchor(weight).clone()
    step_without_gradient(again)
    torch.testing.assert_close(weight.detach(), before + 0.125 * (anchor - before))


def test_a_strength_with_an_explicit_none_is_not_an_error():
    none = policy_kwargs(PPO, regularizer="none", strength=1e-3)  # one of several methods
    assert none["optimizer_kwargs"]["actor"]["regularizer"] == "none"
    half = policy_kwargs(PPO, strength=1e-3, actor={"regularizer": "syre"})["optimizer_kwargs"]
    assert [half[role]["regularizer"] for role in ("actor", "critic")] == ["syre", "none"]


@pytest.mark.parametrize("algorithm", [contrib.ARS, "PPO", torch.optim.Adam, None])
def test_algorithms_without_an_optimizer_are_rejected(algorithm):
    with pytest.raises(TypeError, match="takes a Stable-Baselines3 algorithm"):
        policy_kwargs(algorithm, regularizer="syre", strength=0.1)


def test_q_networks_have_no_actor():
    with pytest.raises(ValueError, match="DQN has no actor"):
        policy_kwargs(DQN, actor={"regularizer": "syre", "strength": 0.1})


def test_weight_decay_of_the_base_is_rejected():
    kwargs = policy_kwargs(PPO, optimizer_kwargs={"weight_decay": 0.1})
    with pytest.raises(ValueError, match=r"weight_decay=0\.1 was given"):
        make(PPO, kwargs=kwargs)


@pytest.mark.parametrize("misplaced", [{"sigma": 0.1}, {"actor": {}}])
def test_a_misplaced_setting_is_rejected(misplaced):
    (name,) = misplaced
    with pytest.raises(TypeError, match=f"pass {name}=.* to policy_kwargs"):
        policy_kwargs(PPO, optimizer_kwargs=misplaced)


def test_optimizer_class_must_be_an_optimizer():
    with pytest.raises(TypeError, match="takes an optimizer class"):
        policy_kwargs(PPO, optimizer_class="Adam")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("algorithm", [PPO, SAC, DQN])
def test_results_on_cuda_equal_those_on_the_cpu(algorithm):
    kwargs = syre_kwargs(algorithm)
    models = [make(algorithm, kwargs=kwargs, device=device) for device in ("cpu", "cuda")]
    models[1].set_parameters(models[0].get_parameters())
    for model in models:
        step_without_gradient(model)
    for one, other in zip(*(weights(model).values() for model in models), strict=True):
        assert other.is_cuda
        torch.testing.assert_close(one, other.cpu(), rtol=1e-5, atol=1e-7)
    archive = io.BytesIO()
    models[1].learn(32)
    models[1].save(archive)
    for device in ("cuda", "cpu"):
        again = algorithm.load(archive, env=models[1].get_env(), device=device)
        assert settings_of(again) == settings_of(models[0])
        for one, other in zip(anchors(models[0]), anchors(again), strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                assert other.device.type == device
                torch.testing.assert_close(one, other.cpu(), rtol=1e-6, atol=1e-7)
        again.learn(32, reset_num_timesteps=False)  # a model saved on a GPU continues
