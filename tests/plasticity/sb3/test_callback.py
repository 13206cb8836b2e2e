"""PlasticityCallback leaves training unchanged; its rows have the right values, steps and destinations."""

import copy
import csv
import hashlib
import io
import json
import math
import pickle
import random
from contextlib import nullcontext

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.callbacks import ConvertCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from plasticity.metrics.dormancy import dead_fraction
from plasticity.metrics.ranks import effective_rank
from plasticity.metrics.registry import METRICS, Metric
from plasticity.sb3.callback import PlasticityCallback
from plasticity.sb3.policies import policy_kwargs

MEASURED = [name for name, metric in METRICS.items() if metric.kind not in ("step", "loss")]
"""Metrics that are measured for policies."""

EPISODE = 5
OFF_POLICY = (DQN, SAC, TD3, DDPG, TQC, CrossQ)


class Tasks(gymnasium.Env):
    """Environment with episodes of 5 steps and a reward of k + 1 in task k, changing as SlipperyAnt's."""

    def __init__(self, change_every=10**9, discrete=False, image=False, first_task=0):
        low, high = (0, 255) if image else (-3.0, 3.0)
        shape, dtype = ((36, 36, 1), np.uint8) if image else ((3,), np.float32)
        self.observation_space = spaces.Box(low, high, shape, dtype)
        self.action_space = (
            spaces.Discrete(2) if discrete else spaces.Box(-1.0, 1.0, (2,), np.float32)
        )
        self.change_every = change_every
        self.first_task = first_task
        self.steps = 0

    def observation(self):
        space = self.observation_space
        if space.dtype == np.uint8:
            return self.np_random.integers(0, 256, space.shape, np.uint8)
        return self.np_random.uniform(-3, 3, space.shape).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.task = self.first_task + self.steps // self.change_every
        self.begun = self.steps
        return self.observation(), self.info()

    def step(self, action):
        self.steps += 1
        ended = self.steps - self.begun == EPISODE
        return self.observation(), self.task + 1.0, ended, False, self.info()

    def info(self):
        return {"task": self.task, "friction": self.task / 10}

    def action_masks(self):
        return np.ones(2, dtype=bool)


class Disturbed(FlattenExtractor):
    """Features extractor with everything that a careless measurement would change."""

    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.2)

    def forward(self, observations):
        return self.drop(self.norm(super().forward(observations)))


def make(algorithm, env=None, *, policy="MlpPolicy", **settings):
    discrete = algorithm in (DQN, MaskablePPO)
    env = env or Tasks(change_every=60, discrete=discrete)
    policy_kwargs = {"net_arch": [16, 12], **settings.pop("policy_kwargs", {})}
    if algorithm is RecurrentPPO:
        policy = policy.replace("Policy", "LstmPolicy")
        policy_kwargs["lstm_hidden_size"] = 8
    if algorithm in OFF_POLICY:
        defaults = {"learning_starts": 20, "buffer_size": 400, "batch_size": 16}
    elif algorithm is A2C:
        defaults = {"n_steps": 16}
    else:
        defaults = {"n_steps": 64, "batch_size": 16}
        if algorithm is not TRPO:
            defaults["n_epochs"] = 2
    settings = {**defaults, **settings}
    return algorithm(policy, env, seed=0, device="cpu", policy_kwargs=policy_kwargs, **settings)


def short(**settings):
    return PlasticityCallback(**{"every": 50, "probe_size": 32, **settings})


def key_of(row, prefix):
    return [key for key in row if key.startswith(prefix)]


def random_states(model):
    """Return a digest of the state of every random generator, since their differences would fill pages."""
    states = {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "NumPy": pickle.dumps(np.random.get_state()),  # noqa: NPY002  (SB3 draws from it)
        "Python": pickle.dumps(random.getstate()),
        "actions": repr(model.action_space.np_random.bit_generator.state).encode(),
    }
    for index, env in enumerate(model.get_env().envs):
        states[f"environment {index}"] = repr(env.unwrapped.np_random.bit_generator.state).encode()
    return {name: hashlib.sha256(state).hexdigest() for name, state in states.items()}


@pytest.mark.parametrize(
    "algorithm",
    [PPO, A2C, DQN, SAC, TD3, DDPG, TRPO, RecurrentPPO, MaskablePPO, TQC, CrossQ],
    ids=lambda a: a.__name__,
)
def test_training_is_unchanged(algorithm):
    outcomes = []
    # CrossQ's renormalization cannot be followed, which a warning says.
    metrics = [name for name in MEASURED if algorithm is not CrossQ or name != "degree_of_symmetry"]
    for tracked in (False, True):
        random.seed(5)
        extractor = {"features_extractor_class": Disturbed}
        model = make(algorithm, policy_kwargs=extractor)
        callback = short(every=25, metrics=metrics) if tracked else None
        model.learn(128, callback=callback)
        modes = [module.training for module in model.policy.modules()]
        gradients = [p.grad for p in model.policy.parameters()]
        outcomes.append((model.policy.state_dict(), modes, gradients, random_states(model)))
    # measured before, between and after updates, and at the boundaries after 60 and 120
    assert [row["step"] for row in callback.rows if row["boundary"]] == [61, 121]
    assert len([row for row in callback.rows if "effective_rank" in str(row)]) >= 5
    without, with_ = outcomes
    assert without[0].keys() == with_[0].keys()
    for name, tensor in without[0].items():
        assert torch.equal(tensor, with_[0][name]), name
    assert without[1] == with_[1]
    for first, second in zip(without[2], with_[2], strict=True):
        assert (first is None) == (second is None)
        assert first is None or torch.equal(first, second)
    assert without[3] == with_[3]


def test_ranks_and_dead_units_equal_those_of_ppos_own_layers():
    model = make(PPO, policy_kwargs={"activation_fn": nn.Tanh})
    probe = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    callback = short(probe_batch=probe)
    model.learn(100, callback=callback)
    with torch.no_grad():
        # three of 16 units saturated: dead for tanh, though their outputs are 1
        model.policy.mlp_extractor.policy_net[0].bias[:3] = 100.0
        hidden = model.policy.mlp_extractor.policy_net[:2](torch.as_tensor(probe))
        values = model.policy.mlp_extractor.value_net(torch.as_tensor(probe))
    measured = callback.measure()
    assert measured["probe/effective_rank/actor.1"] == pytest.approx(float(effective_rank(hidden)))
    assert measured["probe/effective_rank/critic.3"] == pytest.approx(float(effective_rank(values)))
    assert measured["probe/dead_fraction/actor.1"] == 3 / 16
    assert measured["dead_fraction/actor.1"] == 3 / 16
    layer = model.policy.mlp_extractor.policy_net[0]
    norms = [float(p.detach().norm()) for p in layer.parameters()]
    assert measured["weight_norm/actor.0"] == pytest.approx(math.hypot(*norms))
    total = math.hypot(*(float(p.detach().norm()) for p in model.policy.parameters()))
    assert measured["weight_norm/total"] == pytest.approx(total, rel=1e-6)
    # norms of parameters do not depend on the batch, so they are measured once
    assert not any(key.startswith("probe/weight_norm") for key in measured)
    assert not any("saturating" in key for key in measured)


def test_dead_units_of_relu_are_zero_and_not_merely_constant():
    model = make(DQN)
    callback = short()
    model.learn(60, callback=callback)
    with torch.no_grad():
        layer = model.policy.q_net.q_net[0]
        layer.bias[:4] = -1e6
        layer.weight[4] = 0.0
        layer.bias[4] = 2.0  # a constant 2, which is not dead by the definition for the ReLU family
        hidden = model.policy.q_net.q_net[:2](callback._probe[0])
    assert float(dead_fraction(hidden)) >= 4 / 16
    assert callback.measure()["probe/dead_fraction/q_net.1"] == float(dead_fraction(hidden))


def test_critics_of_sac_see_the_actions_that_were_taken():
    model = make(SAC, learning_starts=40)
    callback = short(every=32, metrics=["effective_rank"])
    model.learn(32, callback=callback)
    buffer = model.replay_buffer
    observations = torch.as_tensor(buffer.observations[:32, 0])
    actions = torch.as_tensor(buffer.actions[:32, 0])
    with torch.no_grad():
        hidden = model.critic.qf1[:2](torch.cat([observations, actions], 1))
    row = callback.rows[-1]
    expected = pytest.approx(float(effective_rank(hidden)), rel=1e-5)
    assert (
        row["effective_rank/critic.qf1.1"] == row["probe/effective_rank/critic.qf1.1"] == expected
    )


def test_images_are_measured_as_the_policy_sees_them():
    env = DummyVecEnv([lambda: Tasks(image=True), lambda: Tasks(image=True)])
    model = make(PPO, env, policy="CnnPolicy", n_steps=16, policy_kwargs={"net_arch": []})
    callback = short(every=32, probe_size=8, metrics=["effective_rank"])
    model.learn(32, callback=callback)
    assert [row["step"] for row in callback.rows] == [32]
    observations = callback._probe[0]
    assert observations.dtype == torch.uint8
    assert observations.shape == (8, 1, 36, 36)
    extractor = model.policy.features_extractor
    torch.manual_seed(0)
    with torch.no_grad():
        hidden = extractor.cnn[:2](observations.float() / 255)
    rows = hidden.movedim(1, -1).reshape(-1, hidden.shape[1])
    measured = callback.measure()["probe/effective_rank/features_extractor.cnn.1"]
    assert measured == pytest.approx(float(effective_rank(rows)), rel=1e-5)


def vector(num_envs, **settings):
    return DummyVecEnv([lambda: Monitor(Tasks(**settings))] * num_envs)


def test_latest_observations_are_the_normalized_ones_of_the_rollout():
    model = make(PPO, VecNormalize(vector(2)), n_steps=16, batch_size=32)
    callback = short(every=32, probe_size=32)
    model.learn(32, callback=callback)
    # SB3's buffer is ordered by environment, ours by step.
    buffer = torch.as_tensor(model.rollout_buffer.observations).reshape(2, 16, 3)
    latest = callback._recent.batch()[0]
    assert torch.equal(latest, buffer.transpose(0, 1).reshape(32, 3))
    # uniform between -3 and 3, with a standard deviation of sqrt(3) = 1.73; about 1 when normalized
    assert 0.5 < float(latest.std()) < 1.4


def test_states_of_recurrent_policies_are_those_of_the_rollout():
    model = make(RecurrentPPO, vector(2), n_steps=16, batch_size=32)
    callback = short(every=32, probe_size=32)
    seen = []

    class Watch(type(model.rollout_buffer)):
        def add(self, *args, lstm_states, **kwargs):
            starts = torch.as_tensor(args[3], dtype=torch.float32).view(1, -1, 1)
            seen.append((1 - starts) * lstm_states.pi[0])
            super().add(*args, lstm_states=lstm_states, **kwargs)

    model.rollout_buffer.__class__ = Watch
    model.learn(32, callback=callback)
    expected = torch.cat([states.transpose(0, 1) for states in seen])
    assert torch.equal(callback._recent.batch()[1], expected)
    assert bool(expected.any())


def test_rows_come_at_the_cadence_and_before_the_first_update():
    model = make(PPO, Tasks())
    callback = short(every=100)
    model.learn(256, callback=callback)
    # one rollout is 64 steps; its end is the last step before the first update
    assert [row["step"] for row in callback.rows] == [64, 100, 200]
    assert [row["boundary"] for row in callback.rows] == [False] * 3
    fresh = make(PPO, Tasks())
    expected = math.hypot(*(float(p.detach().norm()) for p in fresh.policy.parameters()))
    assert callback.rows[0]["weight_norm/total"] == pytest.approx(expected, rel=1e-6)
    assert callback.rows[1]["weight_norm/total"] != pytest.approx(expected, rel=1e-6)
    model = make(DQN, Tasks(discrete=True))
    callback = short(every=100)
    model.learn(256, callback=callback)
    assert [row["step"] for row in callback.rows] == [100, 200]
    # steps summed over all environments
    callback = short(every=50)
    make(PPO, vector(4), n_steps=16).learn(128, callback=callback)
    assert [row["step"] for row in callback.rows] == [52, 100]


def test_nothing_is_measured_on_too_few_observations():
    model = make(DQN, Tasks(change_every=10, discrete=True))
    callback = short(every=5, probe_size=32)
    with pytest.raises(RuntimeError, match="probe_size=32"):
        callback.measure()
    model.learn(40, callback=callback)
    early = [row for row in callback.rows if row["step"] < 32]
    assert [(row["step"], row["boundary"]) for row in early] == [(11, True), (21, True), (31, True)]
    assert not any(key_of(row, "effective_rank") for row in early)
    assert [row["step"] for row in callback.rows[3:]] == [35, 40]
    assert all(key_of(row, "effective_rank") for row in callback.rows[3:])
    assert not any(row["diverged"] for row in callback.rows)


def wrapped(kind):
    def one():
        return Tasks(change_every=50)

    if kind == "processes":
        return VecNormalize(VecFrameStack(VecMonitor(SubprocVecEnv([one, one])), 2))
    return VecNormalize(VecFrameStack(VecMonitor(DummyVecEnv([one, one])), 2))


@pytest.mark.parametrize("kind", ["one process", "processes"])
def test_tasks_are_followed_through_vector_environments_and_wrappers(kind):
    env = wrapped(kind)
    try:
        model = make(A2C, env)
        callback = short(every=60, info_keys=["friction"])
        model.learn(240, callback=callback)
    finally:
        env.close()
    # Both change after 50 of their own steps, seen in their 51st, which is step 102 of the two in total.
    assert [(row["step"], row["task"], row["boundary"]) for row in callback.rows] == [
        (32, 0, False),  # untrained
        (60, 0, False),
        (102, 0, True),
        (120, 1, False),
        (180, 1, False),
        (202, 1, True),
        (240, 2, False),
    ]
    # Episodes of 5 steps in task k return 5 (k + 1). Both environments end one at steps 10, 20, 30 |
    # 40, 50, 60 | 70, 80, 90, 100 | 110, 120 | 130 to 180 | 190, 200 | 210, 220, 230, 240.
    assert [row["episodes"] for row in callback.rows] == [6, 6, 8, 4, 12, 4, 8]
    for row in callback.rows:
        assert row["episode_return"] == pytest.approx(5.0 * (row["task"] + 1), rel=1e-6)
        assert row["episode_length"] == EPISODE
        assert row["friction"] == row["task"] / 10


def test_rows_without_tasks_and_without_monitor():
    env = DummyVecEnv([lambda: Tasks(change_every=20)])
    callback = short(task_key=None)
    make(A2C, env).learn(100, callback=callback)
    row = callback.rows[-1]
    assert (row["task"], row["boundary"], row["episodes"]) == (None, False, 0)
    assert row["episode_return"] is None
    assert not any(row["boundary"] for row in callback.rows)


def csv_rows(folder):
    """Return the rows of the callback in SB3's CSV file, and the others."""
    with (folder / "progress.csv").open() as file:
        table = list(csv.DictReader(file))
    ours = [entry for entry in table if any(entry[key] for key in key_of(entry, "plasticity"))]
    return ours, [entry for entry in table if entry not in ours]


@pytest.mark.parametrize("algorithm", [PPO, DQN], ids=lambda a: a.__name__)
def test_every_row_reaches_the_outputs_of_the_logger(algorithm, tmp_path):
    # More often than SB3 writes, and twice at consecutive steps.
    outcomes = []
    for callback in (None, short(every=62, metrics=["effective_rank"])):
        env = Monitor(Tasks(change_every=60, discrete=algorithm is DQN))
        model = make(algorithm, env, **({"n_steps": 128} if algorithm is PPO else {}))
        folder = tmp_path / str(len(outcomes))
        model.set_logger(configure(str(folder), ["csv"]))
        model.learn(256, callback=callback, log_interval=1 if algorithm is PPO else 7)
        model.logger.close()
        outcomes.append(csv_rows(folder))
    written = [
        (int(entry["time/total_timesteps"]), int(entry["plasticity/task"]))
        for entry in outcomes[1][0]
    ]
    assert written == [(row["step"], row["task"]) for row in callback.rows]
    # A boundary at each first step of a task, and every 62 steps.
    assert [step for step, _ in written] == [61, 62, 121, 124, 181, 186, 241, 248]
    (layer, *_) = key_of(callback.rows[-1], "effective_rank")
    ranks = [float(entry[f"plasticity/{layer}"]) for entry in outcomes[1][0]]
    assert ranks == [row[layer] for row in callback.rows]
    # SB3's own rows are the same as without the callback, except for times.
    assert outcomes[0][0] == []
    assert len(outcomes[0][1]) == len(outcomes[1][1]) >= 2
    for without, with_ in zip(outcomes[0][1], outcomes[1][1], strict=True):
        for key, value in without.items():
            assert key in ("time/fps", "time/time_elapsed") or with_[key] == value, key


def test_rows_go_to_the_file_and_the_logger(tmp_path, capsys):
    model = make(PPO, vector(2, change_every=50), n_steps=16)
    model.set_logger(configure(str(tmp_path), ["stdout", "csv", "json", "tensorboard", "log"]))
    names = ["effective_rank", "dead_fraction", "update_norm"]
    long = [Metric(f"a_name_too_long_for_the_table_of_the_console_{n}", nn.Module.parameters, "model")
            for n in (1, 2)]  # fmt: skip
    long = [Metric(m.name, lambda model: next(model.parameters()).norm(), "model") for m in long]
    callback = short(every=32, metrics=[*names, *long], path=tmp_path / "new" / "rows.jsonl")
    model.learn(160, callback=callback)
    model.logger.close()
    lines = [
        json.loads(line) for line in (tmp_path / "new" / "rows.jsonl").read_text().splitlines()
    ]
    assert lines == callback.rows
    # Separate from the rows that SB3 writes at the end of each rollout of 32 steps.
    table, of_training = csv_rows(tmp_path)
    assert len(of_training) == 5
    steps = [32, 64, 96, 102, 128, 160]  # at 102 a boundary
    assert [int(entry["time/total_timesteps"]) for entry in table] == steps
    for row, entry in zip(callback.rows, table, strict=True):
        assert float(entry["plasticity/effective_rank/actor.1"]) == row["effective_rank/actor.1"]
        fixed = float(entry["plasticity_probe/effective_rank/critic.3"])
        assert fixed == row["probe/effective_rank/critic.3"]
        assert int(entry["plasticity/task"]) == row["task"]
        assert not any(key.startswith("plasticity_mean") for key in entry)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    ranks = events.Scalars("plasticity/effective_rank/actor.1")
    assert [scalar.step for scalar in ranks] == steps
    # The first row has no earlier weights to compare with.
    assert [s.step for s in events.Scalars("plasticity/update_norm/total")] == steps[1:]
    console = capsys.readouterr().out
    assert "plasticity_mean/" in console
    assert "actor.1" not in console
    layers = key_of(callback.rows[-1], "effective_rank/")
    mean = np.mean([callback.rows[-1][layer] for layer in layers])
    assert f"| {'   effective_rank':{len('   total_timesteps    ')}}"[:18] in console
    assert f"{mean:<8.3g}".strip() in console


def test_repeated_functional_layers_get_tags_valid_in_tensorboard(tmp_path):
    class Functional(FlattenExtractor):
        def forward(self, observations):
            return torch.relu(torch.relu(super().forward(observations)) - 0.1)

    model = make(PPO, Tasks(), policy_kwargs={"features_extractor_class": Functional})
    model.set_logger(configure(str(tmp_path), ["tensorboard"]))
    callback = short(every=64, metrics=["effective_rank"])
    model.learn(64, callback=callback)
    model.logger.close()
    assert "effective_rank/relu-2" in callback.rows[0]
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert "plasticity/effective_rank/relu-2" in events.Tags()["scalars"]


@pytest.mark.parametrize("algorithm", [PPO, DQN, SAC], ids=lambda a: a.__name__)
def test_two_calls_of_learn_equal_one(algorithm):
    metrics = ["effective_rank", "update_norm", "weight_norm"]
    discrete = algorithm is DQN
    # A learning rate that does not depend on the training progress.
    settings = {"exploration_fraction": 1e-6} if discrete else {}
    one, two = (short(every=40, metrics=metrics) for _ in range(2))
    whole = make(algorithm, Tasks(change_every=70, discrete=discrete), **settings)
    whole.learn(256, callback=one)
    parts = make(algorithm, Tasks(change_every=70, discrete=discrete), **settings)
    parts.learn(128, callback=two)
    probe = two._probe
    parts.learn(128, callback=two, reset_num_timesteps=False)
    assert two._probe is probe
    assert len(one.rows) > 6
    assert one.rows == two.rows


def test_a_trained_model_that_counts_from_zero_adds_rows():
    model = make(PPO, Tasks())
    callback = short(every=60)
    model.learn(64, callback=callback)
    model.learn(128, callback=callback)
    assert [row["step"] for row in callback.rows] == [60, 60, 120]


def test_a_pickled_callback_continues_with_the_saved_model(tmp_path):
    metrics = ["effective_rank", "update_norm"]
    model = make(PPO, Tasks(change_every=70))
    callback = short(every=40, metrics=metrics, path=tmp_path / "rows.jsonl")
    model.learn(128, callback=callback)
    model.save(tmp_path / "model.zip")
    written = pickle.dumps(callback)
    before = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    again = pickle.loads(written)
    assert len(written) < 100_000  # it contains no model
    assert again.rows == callback.rows
    loaded = PPO.load(
        tmp_path / "model.zip", env=Tasks(change_every=70, first_task=1), device="cpu"
    )
    loaded.learn(128, callback=again, reset_num_timesteps=False)
    assert again.rows[: len(callback.rows)] == callback.rows
    assert torch.equal(again._probe[0], callback._probe[0])
    assert [row["step"] for row in again.rows[len(callback.rows) :]][:2] == [160, 199]
    # update_norm is relative to the weights at the last row, at step 120, which are those of the second
    # rollout: there is one update, at step 128, between the pickled weights and row 160
    change = again.rows[len(callback.rows)]["update_norm/total"]
    after_first = make(PPO, Tasks(change_every=70))
    after_first.learn(64)
    names = [name for name, _ in model.policy.named_parameters()]
    state = after_first.policy.state_dict()
    expected = math.hypot(*(float((before[name] - state[name]).norm()) for name in names))
    assert change == pytest.approx(expected, rel=1e-4)
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [row["step"] for row in again.rows]


@pytest.mark.parametrize("how", ["loaded", "set_env", "going on"])
def test_episodes_after_a_reset_belong_to_the_task_they_began_under(how):
    callback = short(every=10**9)
    model = make(PPO, Monitor(Tasks(change_every=60)))
    model.learn(64, callback=callback)  # task 1 since step 61, in the middle of an episode
    # another environment, at task 3
    env = Monitor(Tasks(change_every=60, first_task=3))
    if how == "loaded":
        archive = io.BytesIO()
        model.save(archive)
        model, callback = (
            PPO.load(archive, env=env, device="cpu"),
            pickle.loads(pickle.dumps(callback)),
        )
    elif how == "set_env":
        model.set_env(env)
    model.learn(64, callback=callback, reset_num_timesteps=False)
    found = [
        (row["step"], row["task"], row["episodes"]) for row in callback.rows if row["boundary"]
    ]
    if how == "going on":
        # Boundaries after 60 and 120 steps, with 12 episodes of 5 steps each.
        assert found == [(61, 0, 12), (121, 1, 12)]
    else:
        # Task 3 begins immediately; its 12 episodes end at step 64 + 60.
        assert found == [(61, 0, 12), (65, 1, 0), (125, 3, 12)]


def test_an_episode_continues_after_a_callback_ended_training_within_it():
    callback = short(every=10**9)
    model = make(PPO, Monitor(Tasks(change_every=7)), n_steps=64)
    # Training ends at step 7; the second episode has made 2 of its 5 steps and began under task 0.
    stop = ConvertCallback(lambda _locals, _globals: model.num_timesteps < 7)
    with pytest.warns(UserWarning, match="measured nothing"):
        model.learn(64, callback=[callback, stop])
    model.learn(4, callback=callback, reset_num_timesteps=False)
    (row, *_) = callback.rows
    # The task changes when that episode ends, at step 10; by then, two episodes have ended.
    assert (row["step"], row["task"], row["episodes"]) == (11, 0, 2)


def spied(optimizer):
    """Record the norm of each parameter's gradient at every step of an optimizer, in float64."""
    seen, step = [], optimizer.step

    def watched_step(*args, **kwargs):
        seen.append(
            {
                p: float(p.grad.double().norm())
                for group in optimizer.param_groups
                for p in group["params"]
                if p.grad is not None
            }
        )
        return step(*args, **kwargs)

    optimizer.step = watched_step
    return seen


@pytest.mark.parametrize("algorithm", [SAC, TD3, DDPG, PPO, TRPO, A2C], ids=lambda a: a.__name__)
def test_gradient_norms_are_those_received_by_the_optimizers(algorithm):
    model = make(algorithm, max_grad_norm=0.1) if algorithm in (PPO, A2C) else make(algorithm)
    off_policy = algorithm in OFF_POLICY
    owners = [model.policy.actor, model.policy.critic] if off_policy else [model.policy]
    seen = [spied(owner.optimizer) for owner in owners]
    callback = short(every=10**9, metrics=["gradient_norm"])
    model.learn(131, callback=callback)
    measured = callback.measure()
    last = {parameter: norm for steps in seen for parameter, norm in steps[-1].items()}
    names = {parameter: name for name, parameter in callback._networks.named_parameters()}
    layers = {}
    for parameter, norm in last.items():
        layer = names[parameter].rpartition(".")[0] or names[parameter]
        layers.setdefault(layer, []).append(norm)
    expected = {f"gradient_norm/{layer}": math.hypot(*norms) for layer, norms in layers.items()}
    expected["gradient_norm/total"] = math.hypot(*last.values())
    assert measured == pytest.approx(expected, rel=1e-5)
    assert len(expected) >= 4
    if algorithm in (PPO, A2C):
        assert expected["gradient_norm/total"] == pytest.approx(0.1, rel=1e-3)  # clipped
    # No hook remains on an optimizer.
    assert not any(owner.optimizer._optimizer_step_pre_hooks for owner in owners)


def test_gradient_norms_are_taken_before_the_decay_is_added():
    kwargs = policy_kwargs(DQN, regularizer="weight-decay", strength=1e6, decoupled=False)
    model = make(DQN, Tasks(discrete=True), policy_kwargs=kwargs, max_grad_norm=0.1)
    callback = short(every=64, metrics=["gradient_norm"])
    model.learn(64, callback=callback)
    assert callback.measure()["gradient_norm/total"] == pytest.approx(0.1, rel=1e-3)


def test_deep_copies_are_independent():
    model = make(PPO, Tasks())
    callback = short(every=60)
    model.learn(64, callback=callback)
    twin = copy.deepcopy(callback)
    model.learn(128, callback=callback)
    assert len(twin.rows) == 1
    assert len(callback.rows) == 3


def steps_in(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_a_model_loaded_between_multiples_is_measured_at_multiples():
    model = make(DQN, Tasks(discrete=True))
    model.learn(250)
    archive = io.BytesIO()
    model.save(archive)
    loaded = DQN.load(archive, env=Tasks(discrete=True), device="cpu")
    callback = short(every=100, probe_size=20)
    loaded.learn(300, callback=callback, reset_num_timesteps=False)
    # The 20 observations are complete at step 270.
    assert [row["step"] for row in callback.rows] == [300, 400, 500]
    # with several environments: the first step at or after a multiple
    model = make(PPO, vector(4), n_steps=25, batch_size=50)
    model.learn(100)
    callback = short(every=90, probe_size=20)
    model.learn(200, callback=callback, reset_num_timesteps=False)
    assert [row["step"] for row in callback.rows] == [180, 272]


def test_training_from_an_earlier_step_writes_rows_once(tmp_path, caplog):
    path = tmp_path / "rows.jsonl"
    model = make(DQN, Tasks(discrete=True))
    callback = short(every=40, path=path)
    model.learn(100, callback=callback)
    archive, pickled = io.BytesIO(), pickle.dumps(callback)
    model.save(archive)
    model.learn(150, callback=callback, reset_num_timesteps=False)
    assert steps_in(path) == [40, 80, 120, 160, 200, 240]
    with path.open("a") as file:
        file.write('{"step": 280, "ta')  # interrupted while writing
    # A new process, with the earlier callback or a new one, which does not have 32 observations at step 120.
    for again, expected in (
        (pickle.loads(pickled), [40, 80, 120, 160, 200]),
        (short(every=40, path=path), [40, 80, 160, 200]),
    ):
        loaded = DQN.load(archive, env=Tasks(discrete=True), device="cpu")
        loaded.learn(100, callback=again, reset_num_timesteps=False)
        assert steps_in(path) == expected
    assert "rows, of step 120 to 240" in caplog.text
    # The present callback, with the loaded model.
    loaded = DQN.load(archive, env=Tasks(discrete=True), device="cpu")
    loaded.learn(100, callback=callback, reset_num_timesteps=False)
    assert [row["step"] for row in callback.rows] == [40, 80, 120, 160, 200]
    # A new model starts the file over.
    make(DQN, Tasks(discrete=True)).learn(50, callback=short(every=40, path=path))
    assert steps_in(path) == [40]


def test_counting_from_zero_again_keeps_earlier_rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    model = make(DQN, Tasks(discrete=True))
    model.learn(100, callback=short(every=40, path=path))
    model.learn(60, callback=short(every=40, path=path))
    archive = io.BytesIO()
    model.save(archive)
    model.learn(60, callback=short(every=40, path=path), reset_num_timesteps=False)
    assert steps_in(path) == [40, 80, 40, 120]
    # Resumed during the second count: rows of the first count are not later ones.
    loaded = DQN.load(archive, env=Tasks(discrete=True), device="cpu")
    loaded.learn(60, callback=short(every=30, path=path, probe_size=8), reset_num_timesteps=False)
    assert steps_in(path) == [40, 80, 40, 90, 120]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"step 100: it saw fewer than probe_size=512 observations.*smaller probe_size="),
        ({"probe_size": 20, "every": 101}, r"multiples of every=101 steps.*Pass a smaller every="),
    ],
)
def test_a_callback_that_measured_nothing_warns_why(settings, message):
    model = make(DQN, Tasks(discrete=True))
    with pytest.warns(UserWarning, match=message):
        model.learn(100, callback=PlasticityCallback(**settings))


def test_a_callback_that_measured_does_not_warn():
    callback = short(every=60)
    model = make(DQN, Tasks(discrete=True))
    model.learn(70, callback=callback)
    model.learn(
        20, callback=callback, reset_num_timesteps=False
    )  # no row in these steps, but an earlier one
    assert len(callback.rows) == 1


def whole_compiled(model):
    model.policy = torch.compile(model.policy, backend="eager")


def compiled_in_place(model):
    model.policy.compile(backend="eager")


def parts_compiled(model):
    policy = model.policy
    name = "mlp_extractor" if hasattr(policy, "mlp_extractor") else "q_net"
    setattr(policy, name, torch.compile(getattr(policy, name), backend="eager"))


@pytest.mark.parametrize("wrap", [whole_compiled, compiled_in_place, parts_compiled])
@pytest.mark.parametrize("algorithm", [PPO, DQN], ids=lambda a: a.__name__)
def test_compiled_policies_have_the_same_rows_as_plain_ones(algorithm, wrap):
    rows, weights = [], []
    for compiled, tracked in ((False, True), (True, True), (True, False)):
        model = make(algorithm)
        if compiled:
            wrap(model)
        callback = short(metrics=MEASURED)
        model.learn(128, callback=callback if tracked else None)
        if tracked:
            rows.append(callback.rows)
        weights.append([parameter.detach().clone() for parameter in model.policy.parameters()])
    assert len(rows[0]) >= 3
    for plain, of_compiled in zip(*rows, strict=True):
        assert list(of_compiled) == list(plain)
        assert of_compiled == pytest.approx(plain, rel=1e-4, abs=1e-6, nan_ok=True)
    for first, second in zip(weights[1], weights[2], strict=True):
        assert torch.equal(first, second)
    torch._dynamo.reset()


@pytest.mark.parametrize("metrics", [["effective_rank"], ["dead_fraction"], MEASURED])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_network_that_diverges_is_recorded_without_an_error(metrics, number, tmp_path):
    # With DQN, which continues with NaN; PPO's distributions reject it.
    model = make(DQN, Tasks(discrete=True))
    callback = short(every=40, metrics=metrics, path=tmp_path / "rows.jsonl")
    model.learn(88, callback=callback)
    healthy = callback.rows[-1]
    assert not healthy["diverged"]
    with torch.no_grad():
        model.policy.q_net.q_net[0].weight[0, 0] = number
    model.learn(40, callback=callback, reset_num_timesteps=False)
    row = callback.rows[-1]
    assert row["diverged"] is True
    assert row["step"] == 120
    assert list(row) == list(healthy)
    for key in key_of(row, "effective_rank"):
        assert math.isnan(row[key]), key
    assert json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[-1])["diverged"] is True
    with pytest.raises(ValueError, match="layer") if "effective_rank" in metrics else nullcontext():
        callback.measure()


def test_an_error_in_a_metric_is_not_a_divergence():
    def wrong(_features):
        raise ValueError("of my own making")

    callback = short(metrics=[Metric("wrong", wrong, "features")])
    with pytest.raises(ValueError, match="of my own making"):
        make(A2C, Tasks()).learn(100, callback=callback)


def test_chosen_layers_and_custom_metrics():
    metrics = [Metric("largest", lambda features: features.max(), "features"), "weight_norm"]
    callback = short(metrics=metrics, layers=["action_net", "critic.1"])
    make(PPO, Tasks()).learn(64, callback=callback)
    row = callback.rows[-1]
    assert key_of(row, "largest") == ["largest/critic.1", "largest/action_net"] or key_of(
        row, "largest"
    ) == ["largest/action_net", "largest/critic.1"]
    assert key_of(row, "probe/") == [f"probe/{key}" for key in key_of(row, "largest")]
    callback = short(metrics=["weight_norm"])
    make(PPO, Tasks()).learn(64, callback=callback)
    assert not key_of(callback.rows[-1], "probe/")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"every": 0}, ValueError, "every must be at least 1"),
        ({"every": 10.5}, TypeError, "every must be an integer"),
        ({"probe_size": 1}, ValueError, "probe_size must be at least 2"),
        ({"metrics": "srank"}, TypeError, "brackets"),
        ({"metrics": ["sranc"]}, ValueError, "Did you mean 'srank'"),
        ({"metrics": [3]}, TypeError, "a name or a Metric"),
        ({"metrics": []}, ValueError, "metrics is empty"),
        ({"info_keys": "friction"}, TypeError, "brackets"),
    ],
)
def test_invalid_settings_raise_immediately(settings, error, message):
    with pytest.raises(error, match=message):
        PlasticityCallback(**settings)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"layers": ["actor.11"]}, ValueError, "no layer 'actor.11'.*Did you mean 'actor.1'"),
        ({"layers": ["actor"], "metrics": ["weight_norm", "srank"]}, None, ""),
        ({"probe_batch": np.zeros((4, 5), np.float32)}, ValueError, "observation"),
        ({"probe_batch": np.zeros(3, np.float32)}, ValueError, "at least two observations"),
    ],
)
def test_settings_that_do_not_fit_the_model_raise_before_the_first_step(settings, error, message):
    model = make(PPO, Tasks())
    if error is None:
        model.learn(1, callback=short(**settings))
        return
    with pytest.raises(error, match=message):
        model.learn(100, callback=short(**settings))
    assert model.num_timesteps == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("algorithm", [SAC, RecurrentPPO, DQN], ids=lambda a: a.__name__)
def test_numbers_on_a_gpu_equal_those_on_the_cpu(algorithm, tmp_path):
    env = Tasks(discrete=algorithm is DQN)
    probe = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    model = make(algorithm, env, device="cuda")
    callback = short(probe_batch=probe)
    model.learn(100, callback=callback)
    assert not callback.rows[-1]["diverged"]
    model.save(tmp_path / "model.zip")
    again = algorithm.load(tmp_path / "model.zip", env=env, device="cpu")
    other = short(every=10**9, probe_batch=probe)
    again.set_env(env)
    other.init_callback(again)
    again._last_obs = model._last_obs
    other.on_training_start({}, {})
    other._recent = callback._recent
    expected = other.measure()
    for key, value in callback.measure().items():
        assert value == pytest.approx(expected[key], rel=1e-3, abs=1e-3), key


@pytest.mark.parametrize("metric", ["churn", "hessian_rank"])
def test_metrics_of_a_single_step_and_of_labels_are_refused(metric):
    with pytest.raises(ValueError, match=f"'{metric}' is not measured for policies"):
        PlasticityCallback(metrics=["srank", metric])
