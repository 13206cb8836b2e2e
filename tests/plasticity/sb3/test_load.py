"""Plain models continue with a regularizer, compared with the same models continued without one."""

import io

import pytest
import torch
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from torch import nn

from plasticity.optim.anchors import syre_anchor
from plasticity.sb3.policies import load, policy_kwargs
from plasticity.seeds import child_seed

contrib = pytest.importorskip("sb3_contrib", reason="sb3-contrib is in the extra `dev`")
ALGORITHMS = [PPO, SAC, DQN, TD3, A2C, contrib.QRDQN, contrib.TQC, contrib.CrossQ]
SYRE = {"regularizer": "syre", "strength": 0.5, "sigma": 0.4, "decoupled": True, "anchor_seed": 7}


def environment(algorithm):
    return make_vec_env("CartPole-v1" if algorithm in (DQN, contrib.QRDQN) else "Pendulum-v1")


def make(algorithm, seed=0, **kwargs):
    settings = {"learning_starts": 8, "buffer_size": 64, "batch_size": 8}
    if algorithm in (PPO, A2C):
        settings = {"n_steps": 16} | ({"batch_size": 8} if algorithm is PPO else {})
    kwargs = {"net_arch": [5], "activation_fn": nn.ELU} | kwargs
    env = environment(algorithm)
    return algorithm("MlpPolicy", env, policy_kwargs=kwargs, seed=seed, device="cpu", **settings)


def optimizers(model):
    parts = [getattr(model, part, None) for part in ("actor", "critic")]
    parts = parts if None not in parts else [model.policy]
    return [part.optimizer for part in parts]


def weights(model):
    return {name: each.clone() for name, each in model.policy.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(params=ALGORITHMS, ids=lambda algorithm: algorithm.__name__)
def saved(request, tmp_path):
    model = make(request.param).learn(40)
    model.save(tmp_path / "plain")
    return model, tmp_path / "plain.zip"


def test_policy_optimizer_and_moments_are_the_saved_ones(saved):
    plain, path = saved
    model = load(type(plain), path, env=environment(type(plain)), device="cpu", **SYRE)
    assert same(weights(model), weights(plain))
    assert model.policy_kwargs["net_arch"] == [5]
    assert model.policy_kwargs["activation_fn"] is nn.ELU
    by_name = dict(plain.policy.named_parameters())
    for old, new in zip(optimizers(plain), optimizers(model), strict=True):
        assert new.base is type(old)
        compared = 0
        for group in new.param_groups:
            assert group["regularizer"] == ("none" if group["name"] == "left alone" else "syre")
            for name in ("lr", "betas", "eps", "alpha"):
                assert group.get(name) == old.param_groups[0].get(name)
            for name, parameter in zip(group["param_names"], group["params"], strict=True):
                expected, found = old.state[by_name[name]], new.state[parameter]
                assert expected.keys() == found.keys()
                assert all(torch.equal(expected[key], found[key]) for key in expected)
                compared += bool(expected)
        assert compared >= 4


def test_strength_0_continues_bit_for_bit_as_without_a_regularizer(saved):
    plain, path = saved
    algorithm = type(plain)
    ended = []
    for model in (
        algorithm.load(path, env=environment(algorithm), device="cpu"),
        load(algorithm, path, env=environment(algorithm), device="cpu", **SYRE | {"strength": 0.0}),
    ):
        model.set_random_seed(1)
        model.learn(40, reset_num_timesteps=False)
        ended.append(weights(model))
    assert same(*ended)
    assert not same(ended[0], weights(plain))


@pytest.mark.parametrize("algorithm", [PPO, SAC, DQN])
def test_a_step_without_gradients_moves_toward_the_anchors(algorithm, tmp_path):
    # SGD has no state that would move a weight, so the whole step is lr * strength * (anchor - theta).
    make(algorithm, optimizer_class=torch.optim.SGD).learn(40).save(tmp_path / "plain")
    model = load(algorithm, tmp_path / "plain", device="cpu", **SYRE)
    for optimizer in optimizers(model):
        for group in optimizer.param_groups:
            if group["name"] == "left alone":
                continue
            seed = child_seed(7, group["name"])
            for index, parameter in enumerate(group["params"]):
                parameter.grad = torch.zeros_like(parameter)
                anchor = syre_anchor(
                    parameter,
                    seed=seed,
                    position=group["anchor_position"] + index,
                    standard_deviation=0.4 / group["fan_in"][index] ** 0.5,
                )
                parameter.expected = parameter + group["lr"] * 0.5 * (anchor - parameter)
        optimizer.step()
        for group in optimizer.param_groups:
            for parameter in group["params"] if group["name"] != "left alone" else []:
                torch.testing.assert_close(parameter.data, parameter.expected.data)


@pytest.mark.parametrize("algorithm", [PPO, SAC, DQN])
def test_a_model_saved_again_is_restored_by_load_alone(algorithm, tmp_path):
    make(algorithm).save(tmp_path / "plain")
    model = load(algorithm, tmp_path / "plain", env=environment(algorithm), **SYRE).learn(40)
    model.save(tmp_path / "again")
    again = algorithm.load(tmp_path / "again", device="cpu")
    for old, new in zip(optimizers(model), optimizers(again), strict=True):
        for one, other in zip(old.param_groups, new.param_groups, strict=True):
            assert {**one, "params": 0} == {**other, "params": 0}
    with pytest.raises(ValueError, match=r"is already regularized: .*\.load\(path\)"):
        load(algorithm, tmp_path / "again", **SYRE)


def test_actor_and_critic_may_differ(tmp_path):
    make(SAC).save(tmp_path / "plain")
    model = load(SAC, tmp_path / "plain", critic=dict(SYRE), actor={"regularizer": "none"})
    assert [each.param_groups[0]["regularizer"] for each in optimizers(model)] == ["none", "syre"]


def test_open_files_and_custom_objects_are_accepted(tmp_path):
    archive = io.BytesIO()
    make(PPO).save(archive)
    model = load(PPO, archive, custom_objects={"n_epochs": 3}, learning_rate=0.5, **SYRE)
    assert (model.n_epochs, model.learning_rate) == (3, 0.5)
    kwargs = {"net_arch": [5], "activation_fn": nn.Tanh}
    model = load(PPO, archive, custom_objects={"policy_kwargs": kwargs}, **SYRE)
    assert model.policy_kwargs["activation_fn"] is nn.Tanh


def test_weight_decay_of_the_saved_optimizer_is_never_dropped_silently(tmp_path):
    decayed = {"weight_decay": 0.01, "betas": (0.8, 0.9)}
    make(PPO, optimizer_kwargs=decayed).learn(16).save(tmp_path / "plain")
    with pytest.raises(ValueError, match=r"trained with weight_decay=0\.01, .*optimizer_kwargs="):
        load(PPO, tmp_path / "plain", **SYRE)
    model = load(PPO, tmp_path / "plain", optimizer_kwargs={"weight_decay": 0}, **SYRE)
    for group in optimizers(model)[0].param_groups:
        assert (group["weight_decay"], group["betas"]) == (0, (0.8, 0.9))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"regularizer": "l2-init", "strength": 0.1}, ValueError, "initial weights, which .* not"),
        ({"regularizer": "syre"}, ValueError, "needs a strength"),
        ({"regularizer": "syre", "strenght": 0.1}, TypeError, "Did you mean 'strength'"),
    ],
)
def test_invalid_arguments_are_rejected(given, error, message, tmp_path):
    make(PPO).save(tmp_path / "plain")
    with pytest.raises(error, match=message):
        load(PPO, tmp_path / "plain", **given)


def test_other_files_are_rejected(tmp_path):
    (tmp_path / "text.zip").write_text("hello")
    with pytest.raises(ValueError, match="is not a Stable-Baselines3 model"):
        load(PPO, tmp_path / "text.zip", **SYRE)
    assert policy_kwargs(PPO, **SYRE)["optimizer_kwargs"]["eps"] == 1e-5
