"""Mitigations on Stable-Baselines3's networks: what is reset, what is saved, and how training continues."""

import base64
import io
import json
import logging
import pickle
import zipfile
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from plasticity.mitigations import (
    MITIGATIONS,
    Churn,
    CReLU,
    L2Init,
    Mitigation,
    ReDo,
    Shift,
    Syre,
    WeightDecay,
)
from plasticity.mitigations.method import SeededMethod, added_entries
from plasticity.mitigations.stacked_settings import overrides
from plasticity.random_state import random_state, set_random_state
from plasticity.sb3.callback import PlasticityCallback
from plasticity.sb3.mitigations import MitigationCallback

ALGORITHMS = [PPO, A2C, DQN, SAC, TD3, DDPG]
EVERY_UNIT = 1e9  # as tau: all units are below this share of the mean


class Noise(gymnasium.Env):
    """Environment with episodes of 5 steps and a task that changes every 40 steps."""

    def __init__(self, discrete=False, mixed=False):
        box = spaces.Box(-3.0, 3.0, (3,), np.float32)
        self.observation_space = spaces.Dict({"a": box, "b": box}) if mixed else box
        self.action_space = (
            spaces.Discrete(2) if discrete else spaces.Box(-1.0, 1.0, (2,), np.float32)
        )
        self.steps = 0

    def observe(self):
        drawn = {name: self.np_random.uniform(-3, 3, 3).astype(np.float32) for name in "ab"}
        return drawn if isinstance(self.observation_space, spaces.Dict) else drawn["a"]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observe(), {"task": self.steps // 40}

    def step(self, action):
        self.steps += 1
        reward = float(np.sum(action)) + self.np_random.normal()
        return self.observe(), reward, self.steps % 5 == 0, False, {"task": self.steps // 40}


def make(algorithm, policy="MlpPolicy", **settings):
    if algorithm in (PPO, A2C):
        defaults = {"n_steps": 16} | ({"batch_size": 8, "n_epochs": 2} if algorithm is PPO else {})
    else:
        defaults = {"learning_starts": 16, "buffer_size": 200, "batch_size": 8}
    if algorithm is DQN:
        defaults |= {"exploration_initial_eps": 0.1, "exploration_final_eps": 0.1}
    env = Noise(discrete=algorithm is DQN, mixed=policy == "MultiInputPolicy")
    network = {"net_arch": [8, 6], "activation_fn": nn.ReLU}
    settings = {"policy_kwargs": network, "seed": 0, "device": "cpu"} | defaults | settings
    return algorithm(policy, env, **settings)


def assert_equal(model, other):
    for name, each in model.policy.state_dict().items():
        assert torch.equal(each, other.policy.state_dict()[name]), name


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda each: each.__name__)
def test_mitigation_that_never_fires_leaves_the_trajectory(algorithm):
    plain = make(algorithm).learn(32)
    own = make(algorithm).learn(32, MitigationCallback(ReDo(every=10**6)))
    assert_equal(own, plain)
    assert not any(each._forward_pre_hooks for each in own.policy.modules())


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda each: each.__name__)
def test_saved_in_the_zip_and_continued_exactly(algorithm):
    """Interrupt PPO after 8 steps, A2C after 2, the others after 4 (TD3's actor 2): in mid-cadence."""
    frequency = {} if algorithm in (PPO, A2C) else {"train_freq": 4}
    method = ReDo(every=3, tau=0.5), Syre(strength=1e-2, sigma=0.5)
    whole = make(algorithm, **frequency)
    callback = MitigationCallback(*method)
    whole.learn(64, callback)
    counts = callback.take_counts()
    assert sum(counts.values()) > 0

    half = make(algorithm, **frequency)
    half.learn(32, MitigationCallback(*method))
    file = io.BytesIO()
    half.save(file)
    state = random_state()
    again = algorithm.load(file, env=half.get_env(), device="cpu", force_reset=False)
    assert type(again.plasticity_mitigations) is dict
    if hasattr(half, "replay_buffer"):
        again.replay_buffer = half.replay_buffer
    set_random_state(state)
    callback = MitigationCallback(*method)
    again.learn(32, callback, reset_num_timesteps=False)
    assert_equal(again, whole)
    assert callback.take_counts() == counts


def often(name):
    """Return a mitigation that acts after every third step, if it has a cadence, and clips little."""
    made, wanted = MITIGATIONS[name](), {"every": 3, "kappa": 10.0}
    return replace(
        made, **{each.name: wanted[each.name] for each in fields(made) if each.name in wanted}
    )


@pytest.mark.parametrize(
    "name", [name for name in MITIGATIONS if not overrides(often(name), "network")]
)
def test_every_mitigation_continues_exactly(name):
    """Eight steps, interrupted after four; or it is refused, for what it adds to a network."""
    model = make(A2C)
    if added_entries(model.policy, SeededMethod((often(name),), 0)):
        with pytest.raises(ValueError, match=f"{name} adds .* to policy"):
            model.learn(16, MitigationCallback(often(name)))
        return
    outcomes = []
    for parts in ((32,), (16, 16)):
        model = make(A2C, n_steps=4)
        for position, steps in enumerate(parts):
            if position:
                file = io.BytesIO()
                model.save(file)
                state = random_state()
                model = A2C.load(file, env=model.get_env(), device="cpu", force_reset=False)
                set_random_state(state)
            callback = MitigationCallback(often(name), verbose=0)
            model.learn(steps, callback, reset_num_timesteps=not position)
        outcomes.append((model, callback.take_counts()))
    (whole, counts), (again, own_counts) = outcomes
    assert_equal(again, whole)
    assert own_counts == counts


def test_zip_needs_nothing_of_this_package():
    model = make(PPO)
    model.learn(16, MitigationCallback(ReDo(every=5)))
    file = io.BytesIO()
    model.save(file)
    with zipfile.ZipFile(file) as archive:
        entry = json.loads(archive.read("data"))["plasticity_mitigations"]
    assert b"plasticity." not in base64.b64decode(entry[":serialized:"])
    again = PPO.load(file, env=model.get_env(), device="cpu")
    with pytest.raises(ValueError, match=r"belongs to the mitigations \['redo'\], but these are"):
        again.learn(16, MitigationCallback(Syre()))
    del again.plasticity_mitigations
    again.learn(16, MitigationCallback(Syre()))


@pytest.mark.parametrize("mitigation", [Shift(sigma=0.5), L2Init(strength=0.1)])
def test_initial_weights_are_those_of_the_first_training(mitigation):
    """A second `learn` neither shifts the weights again, nor takes new anchors."""
    both = make(A2C)
    both.learn(16, MitigationCallback(mitigation))
    both.learn(16, MitigationCallback(mitigation), reset_num_timesteps=False)
    once = make(A2C)
    callback = MitigationCallback(mitigation)
    once.learn(32, callback)
    assert_equal(both, once)


def test_ppo_has_one_network_with_the_names_of_the_rows():
    model = make(PPO)  # 4 steps for each rollout of 16
    callback = MitigationCallback(ReDo(every=4, tau=EVERY_UNIT))
    model.learn(16, callback)
    assert callback.take_counts() == {
        "reset_units/actor.0": 8.0,
        "reset_units/actor.2": 6.0,
        "reset_units/critic.0": 8.0,
        "reset_units/critic.2": 6.0,
    }
    assert torch.equal(model.policy.action_net.weight, torch.zeros(2, 6))
    moments = model.policy.optimizer.state[model.policy.action_net.weight]
    assert torch.equal(moments["exp_avg"], torch.zeros(2, 6))
    assert moments["step"] == 4


def test_dqn_target_follows_at_its_next_update():
    model = make(DQN, train_freq=1, target_update_interval=40)  # 24 steps at environment step 40
    callback = MitigationCallback(ReDo(every=24, tau=EVERY_UNIT))
    model.learn(40, callback)
    assert callback.take_counts() == {"reset_units/q_net.0": 8.0, "reset_units/q_net.2": 6.0}
    assert torch.equal(model.q_net.q_net[4].weight, torch.zeros(2, 6))
    assert model.q_net_target.q_net[4].weight.abs().sum() > 0
    model.learn(40, MitigationCallback(ReDo(every=24)), reset_num_timesteps=False)
    assert model.q_net_target.q_net[4].weight.abs().sum() != 0


def test_sac_resets_each_network_at_its_own_steps():
    model = make(SAC, tau=0.25)
    before = model.critic_target.qf0[4].weight.detach().clone()
    callback = MitigationCallback(ReDo(every=1, tau=EVERY_UNIT))
    model.learn(17, callback)  # one step of each
    assert callback.take_counts() == {
        **{f"reset_units/actor/latent_pi.{layer}": units for layer, units in ((0, 8.0), (2, 6.0))},
        **{
            f"reset_units/critic/qf{critic}.{layer}": units
            for critic in (0, 1)
            for layer, units in ((0, 8.0), (2, 6.0))
        },
    }
    for layer in (model.actor.mu, model.actor.log_std, model.critic.qf0[4], model.critic.qf1[4]):
        # the critics' outputs are 0, and the actor's step is the last one
        assert torch.equal(layer.weight, torch.zeros_like(layer.weight))
    # target = 0.75 * target + 0.25 * 0
    torch.testing.assert_close(model.critic_target.qf0[4].weight, 0.75 * before)


@pytest.mark.parametrize(
    ("algorithm", "settings", "expected"),
    [
        # 16 environment steps, 2 epochs of 2 minibatches: 20 steps take 80
        (PPO, {}, "80 of policy"),
        (A2C, {"n_steps": 2}, "40 of policy"),
        (DQN, {"train_freq": 4, "gradient_steps": 2}, "40 of q_net"),
        (TD3, {"policy_delay": 2}, "40 of actor, 20 of critic"),
    ],
)
def test_environment_steps_of_a_cadence_are_printed(algorithm, settings, expected, capsys):
    model = make(algorithm, **settings)
    model.learn(64, MitigationCallback(ReDo(every=20), Syre()))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("redo: every=20 optimizer steps")
    assert line.endswith(f": {expected}.")


@dataclass(frozen=True, kw_only=True)
class Ends(Mitigation):
    name: ClassVar[str] = "ends"
    seen: list

    def boundary(self, context):
        self.seen.append((context.task, context.step))


def test_boundaries_are_where_the_task_changes():
    model, seen = make(A2C), []
    callback = MitigationCallback(Ends(seen=seen))
    model.learn(96, callback)
    # at environment steps 40 and 80, after the updates at 16 and 32, and 48 and 64
    assert seen == [(1, 2), (2, 4)]
    seen.clear()
    make(A2C).learn(96, MitigationCallback(Ends(seen=seen), task_key=None))
    assert seen == []


@dataclass(frozen=True, kw_only=True)
class Pull(Mitigation):
    """Penalty on the output layer's weights, and on the features of the first, times the batch's mean."""

    name: ClassVar[str] = "pull"
    reads_units: ClassVar[bool] = True
    penalizes_features: ClassVar[bool] = True
    seen: list

    def penalty(self, context):
        inputs = context.inputs
        features = context.features("q_net.0")
        outputs = context.forward(inputs)
        self.seen.append((inputs, features, outputs))
        return outputs.square().sum() + features.sum()


def test_penalties_join_the_gradients():
    seen, gradients = [], []
    model = make(DQN, learning_rate=0.0, max_grad_norm=0.0, train_freq=1)
    # clipped to a norm of 0 by the loop, so that only the penalty is left
    model.policy.optimizer.register_step_post_hook(
        lambda *_: gradients.append([each.grad.clone() for each in model.q_net.parameters()])
    )
    model.learn(18, MitigationCallback(Pull(seen=seen)))
    (inputs, features, outputs) = seen[0]
    assert inputs.shape == (8, 3)
    torch.testing.assert_close(features, model.q_net.q_net[:2](inputs))
    torch.testing.assert_close(outputs, model.q_net(inputs))
    loss = model.q_net(inputs).square().sum() + model.q_net.q_net[:2](inputs).sum()
    expected = torch.autograd.grad(loss, list(model.q_net.parameters()))
    torch.testing.assert_close(gradients[0], list(expected), rtol=1e-5, atol=1e-6)


def test_plasticity_callback_with_mitigations_does_the_same():
    method = ReDo(every=5, tau=0.5), Syre(strength=1e-2, sigma=0.5)
    own = make(SAC).learn(40, MitigationCallback(*method))
    callback = PlasticityCallback(every=8, probe_size=8, mitigations=method)
    other = make(SAC).learn(40, callback)
    assert_equal(other, own)
    counted = sum(row.get("reset_units/critic/qf0.0", 0.0) for row in callback.rows)
    assert counted > 0
    assert "effective_rank/critic.qf0.1" in callback.rows[-1]
    kept = pickle.loads(pickle.dumps(callback))
    other.learn(8, kept, reset_num_timesteps=False)
    assert [row["step"] for row in kept.rows][-1] == 48


class Sum(BaseFeaturesExtractor):
    """Features extractor whose two layers' units are added."""

    def __init__(self, observation_space):
        super().__init__(observation_space, features_dim=4)
        self.first, self.second = nn.Linear(3, 4), nn.Linear(3, 4)

    def forward(self, observations):
        return (self.first(observations) + self.second(observations)).relu()


def test_layers_that_cannot_be_followed_are_left_alone(caplog):
    model = make(A2C, policy_kwargs={"net_arch": [5], "features_extractor_class": Sum})
    callback = MitigationCallback(ReDo(every=1, tau=EVERY_UNIT))
    with caplog.at_level(logging.INFO, "plasticity"):
        model.learn(16, callback)
    assert "Left alone in policy: The units of 'features_extractor.first'" in caplog.text
    assert callback.take_counts() == {"reset_units/actor.0": 5.0, "reset_units/critic.0": 5.0}


def test_network_without_hidden_layers_is_left_alone(caplog):
    """Decays still act on it: weights times 1 - 0.1 * 1 in one step, whose gradients are clipped to 0."""
    network = {"net_arch": [], "optimizer_class": torch.optim.SGD}
    settings = {"policy_kwargs": network, "learning_rate": 0.1, "max_grad_norm": 0.0}
    model, plain = (make(A2C, **settings) for _ in range(2))
    method = ReDo(every=1, tau=EVERY_UNIT), WeightDecay(strength=1.0)
    callback = MitigationCallback(*method)
    with caplog.at_level(logging.INFO, "plasticity"):
        model.learn(16, callback)
    assert "leave policy alone: it has no hidden layer" in caplog.text
    assert callback.take_counts() == {}
    before, after = (each.policy.action_net.weight for each in (plain, model))
    torch.testing.assert_close(after, 0.9 * before)


def test_observations_in_a_dictionary():
    callback = MitigationCallback(ReDo(every=1, tau=EVERY_UNIT))
    make(A2C, "MultiInputPolicy").learn(16, callback)
    assert callback.take_counts()["reset_units/actor.2"] == 6.0


def test_what_cannot_be_attached_is_refused():
    with pytest.raises(ValueError, match="redo and redo both set"):
        MitigationCallback(ReDo(), ReDo())
    model = make(A2C)
    with pytest.raises(ValueError, match="crelu changes the architecture"):
        model.learn(16, MitigationCallback(CReLU()))
    assert not model.policy.optimizer._optimizer_step_pre_hooks
    contrib = pytest.importorskip("sb3_contrib")
    model = contrib.RecurrentPPO("MlpLstmPolicy", Noise(), n_steps=16, batch_size=8)
    with pytest.raises(TypeError, match="recurrent"):
        model.learn(16, MitigationCallback(ReDo()))


def test_evaluation_parameters():
    @dataclass(frozen=True, kw_only=True)
    class Zeros(Mitigation):
        name: ClassVar[str] = "zeros"

        def evaluation_parameters(self, context):
            return {name: torch.zeros_like(each) for name, each in context.parameters.items()}

    model = make(SAC)
    callback = MitigationCallback(Zeros())
    model.learn(32, callback)
    weight = model.actor.mu.weight
    with callback.evaluating():
        assert not weight.any()
        assert not model.critic.qf1[0].weight.any()
    assert weight.any()


def test_outputs_that_are_no_logits_have_no_divergence():
    with pytest.raises(
        ValueError, match=r"Churn\(.*needs networks whose outputs are logits of one dist"
    ):
        MitigationCallback(Churn(distance="kl"))
