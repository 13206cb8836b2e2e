"""Observations: against explicit loops, and from valid and invalid files."""

import os
import pickle

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from plasticity.scripts.probe import loading as probe_loading
from plasticity.scripts.probe.batch import (
    as_arguments,
    make_environment,
    play,
    play_randomly,
    read_observations,
    wrapped,
)
from plasticity.scripts.probe.loading import ProbeError


class Counting(gymnasium.Env):
    """Environment that shows the step and the last action, in one reused array; episodes have four steps."""

    observation_space = spaces.Box(-100, 100, (2,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, masked=False):
        self.masked = masked
        self.seeds = []
        self.shown = np.zeros(2, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.shown[:] = 0
        return self.shown, {}

    def step(self, action):
        if self.masked:
            assert action == self.shown[0] % 3, "an action that the mask forbids"
        self.shown += (1, 0)
        self.shown[1] = action
        return self.shown, 0.0, self.shown[0] == 4, False, {}


class Masked(Counting):
    """Environment that allows one action at a time."""

    def __init__(self):
        super().__init__(masked=True)

    def action_masks(self):
        return np.arange(3) == self.shown[0] % 3


def steps_of(observations):
    return observations[:, 0].tolist()


def test_policy_plays_like_an_explicit_loop():
    model = PPO("MlpPolicy", "CartPole-v1", seed=0, policy_kwargs={"net_arch": [4]})
    found = play(model.policy, wrapped(gymnasium.make("CartPole-v1"), None, trust=False), 60, 7)
    environment = gymnasium.make("CartPole-v1")
    expected = []
    torch.manual_seed(7)
    observation, _ = environment.reset(seed=7)
    for _ in range(60):
        expected.append(observation)
        action, _ = model.policy.predict(observation)
        observation, _, terminated, truncated, _ = environment.step(action)
        if terminated or truncated:
            observation, _ = environment.reset()
    assert found.shape == (60, 4)
    assert np.array_equal(found, np.array(expected))


def test_playing_preserves_the_random_state():
    model = PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [4]})
    venv = wrapped(gymnasium.make("CartPole-v1"), None, trust=False)
    before = torch.get_rng_state()
    play(model.policy, venv, 10, 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_observations_are_copies():
    model = PPO("MlpPolicy", Counting(), policy_kwargs={"net_arch": [4]})
    found = play(model.policy, wrapped(Counting(), None, trust=False), 9, 0)
    assert steps_of(found) == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    assert steps_of(play_randomly(Counting(), 9, 0)) == [0, 1, 2, 3, 0, 1, 2, 3, 0]


class Steered(Counting):
    """Environment that shows its last action, which is continuous."""

    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def step(self, action):
        return super().step(float(action[0]))


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_noise_of_gsde_is_that_of_the_loaded_deviations(algorithm):
    keywords = {"buffer_size": 10} if algorithm is SAC else {}
    model = algorithm("MlpPolicy", Steered(), use_sde=True, seed=0, **keywords)
    deviations = getattr(model.policy, "actor", model.policy).log_std
    with (
        torch.no_grad()
    ):  # as weights are loaded: after the noise of the first deviations was drawn
        deviations.fill_(-30)
    found = play(model.policy, wrapped(Steered(), None, trust=False), 8, 0)
    for step in (0, 1, 2, 4, 5, 6):  # 3 and 7 are the last of their episodes
        mean, _ = model.policy.predict(found[step], deterministic=True)
        assert found[step + 1, 1] == pytest.approx(float(mean[0]), abs=1e-5)


def test_action_masks_are_respected():
    contrib = pytest.importorskip("sb3_contrib")
    model = contrib.MaskablePPO("MlpPolicy", Masked(), policy_kwargs={"net_arch": [4]})
    found = play(model.policy, wrapped(Masked(), None, trust=False), 9, 0)
    assert found[:, 1].tolist() == [0, 0, 1, 2, 0, 0, 1, 2, 0]


def test_recurrent_policies_keep_their_memory_within_an_episode():
    contrib = pytest.importorskip("sb3_contrib")
    keywords = {"net_arch": [4], "lstm_hidden_size": 5}
    model = contrib.RecurrentPPO("MlpLstmPolicy", "CartPole-v1", seed=0, policy_kwargs=keywords)
    venv = wrapped(gymnasium.make("CartPole-v1"), None, trust=False)
    starts, predict = [], model.policy.predict

    def recording(observation, state, episode_start):
        starts.append((state is None, bool(episode_start[0])))
        return predict(observation, state, episode_start)

    model.policy.predict = recording
    found = play(model.policy, venv, 80, 3)
    resets = np.abs(found).max(1) < 0.05  # initial states of CartPole
    assert starts[0] == (True, True)
    assert all(not first for first, _ in starts[1:])
    assert sum(start for _, start in starts) > 1
    assert all(resets[step] for step, (_, start) in enumerate(starts) if start)


def test_random_actions_are_seeded():
    first, second, third = (play_randomly(Counting(), 30, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, third)
    environment = Counting()
    play_randomly(environment, 9, 5)
    assert environment.seeds == [5, None, None]


def test_dictionaries_stay_dictionaries():
    class Named(Counting):
        observation_space = spaces.Dict({"a": Counting.observation_space})

        def reset(self, *, seed=None, options=None):
            return {"a": super().reset(seed=seed)[0]}, {}

        def step(self, action):
            return {"a": super().step(action)[0]}, 0.0, False, False, {}

    assert steps_of(play_randomly(Named(), 3, 0)["a"]) == [0, 1, 2]
    model = PPO("MultiInputPolicy", Named(), policy_kwargs={"net_arch": [4]})
    assert steps_of(play(model.policy, wrapped(Named(), None, trust=False), 3, 0)["a"]) == [0, 1, 2]


def test_images_are_turned_channels_first():
    class Picture(Counting):
        observation_space = spaces.Box(0, 255, (36, 40, 3), np.uint8)

    space = wrapped(Picture(), None, trust=False).observation_space
    assert space.shape == (3, 36, 40)


# ---- VecNormalize -----------------------------------------------------------------------------------


@pytest.fixture
def statistics(tmp_path):
    normalized = VecNormalize(DummyVecEnv([Counting]), clip_obs=50.0)
    normalized.obs_rms.mean, normalized.obs_rms.var = np.array([1.0, 2.0]), np.array([4.0, 1.0])
    normalized.save(str(tmp_path / "vecnormalize.pkl"))
    return tmp_path / "vecnormalize.pkl"


def test_saved_statistics_are_used_and_not_updated(statistics):
    model = PPO("MlpPolicy", Counting(), policy_kwargs={"net_arch": [4]})
    venv = wrapped(Counting(), statistics, trust=True)
    found = play(model.policy, venv, 8, 0)
    # (step - 1) / sqrt(4 + 1e-8)
    assert found[:, 0] == pytest.approx([-0.5, 0, 0.5, 1.0] * 2, abs=1e-6)
    assert venv.obs_rms.mean.tolist() == [1.0, 2.0]


def test_statistics_are_a_pickle_and_need_trust(statistics, tmp_path):
    with pytest.raises(ProbeError, match=r"is a pickle.*--trust-pickle"):
        wrapped(Counting(), statistics, trust=False)
    with pytest.raises(OSError, match="nothing"):
        wrapped(Counting(), tmp_path / "nothing", trust=True)
    statistics.write_bytes(statistics.read_bytes()[:40])
    with pytest.raises(ProbeError, match="cannot be loaded"):
        wrapped(Counting(), statistics, trust=True)


# ---- environments by name ---------------------------------------------------------------------------


def test_environments_are_created_by_name(tmp_path, monkeypatch):
    made = make_environment("CartPole-v1", {"render_mode": "rgb_array"}, ())
    assert made.render_mode == "rgb_array"
    (tmp_path / "registering_one.py").write_text(
        "import gymnasium\n"
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "gymnasium.register('ProbeOwn-v0', entry_point=CartPoleEnv)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ProbeError, match=r"--env ProbeOwn-v0 cannot be created: .*--imports PACKAGE"
    ):
        make_environment("ProbeOwn-v0", {}, ())
    assert make_environment("registering_one:ProbeOwn-v0", {}, ()).spec.id == "ProbeOwn-v0"
    assert make_environment("ProbeOwn-v0", {}, ("registering_one",)).spec.id == "ProbeOwn-v0"


@pytest.mark.parametrize(
    ("name", "keywords", "imports", "message"),
    [
        ("NoSuch-v7", {}, (), "NoSuch"),
        ("CartPole-v1", {"nonsense": 1}, (), "nonsense"),
        ("CartPole-v1", {}, ("no_such_package",), "--imports no_such_package: No module named"),
        ("no_such_package:CartPole-v1", {}, (), "^--env no_such_package: No module named"),
    ],
)
def test_environments_that_cannot_be_created(name, keywords, imports, message):
    with pytest.raises(ProbeError, match=message):
        make_environment(name, keywords, imports)


class Failing(Counting):
    """Environment that fails at a given point."""

    def __init__(self, where):
        super().__init__()
        if where == "init":
            raise RuntimeError("no licence")
        self.where = where

    def reset(self, *, seed=None, options=None):
        if self.where == "reset":
            raise RuntimeError("no world")
        return super().reset(seed=seed)

    def step(self, action):
        shown, *rest = super().step(action)
        if self.shown[0] == 3 and self.where == "step":
            raise RuntimeError("simulator crashed")
        if self.shown[0] == 3 and self.where in ("nan", "inf"):
            shown = np.full(2, float(self.where), np.float32)
        return shown, *rest


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("reset", "The environment failed in its reset: RuntimeError: no world"),
        ("step", "The environment failed in step 2: RuntimeError: simulator crashed"),
        ("nan", "observation of the environment in step 3 contains NaN or infinite"),
        ("inf", "observation of the environment in step 3 contains NaN or infinite"),
    ],
)
def test_failures_of_the_environment_are_reported(where, message):
    policy = PPO("MlpPolicy", Counting(), policy_kwargs={"net_arch": [4]}).policy
    with pytest.raises(ProbeError, match=message):
        play(policy, wrapped(Failing(where), None, trust=False), 9, 0)
    with pytest.raises(ProbeError, match=message):
        play_randomly(Failing(where), 9, 0)


def test_failures_of_the_constructor_are_reported():
    gymnasium.register("Failing-v0", entry_point=Failing)
    try:
        with pytest.raises(
            ProbeError, match="--env Failing-v0 cannot be created: RuntimeError: no lic"
        ):
            make_environment("Failing-v0", {"where": "init"}, ())
    finally:
        del gymnasium.registry["Failing-v0"]


# ---- files ------------------------------------------------------------------------------------------


def test_files_of_observations(tmp_path):
    first, second = np.arange(6.0).reshape(3, 2), np.arange(3)
    np.save(tmp_path / "a.npy", first)
    np.savez(tmp_path / "one.npz", first)
    np.savez(tmp_path / "two.npz", x=first, y=second)
    torch.save((torch.ones(2), torch.zeros(2)), tmp_path / "pair.pt")
    assert np.array_equal(read_observations(tmp_path / "a.npy"), first)
    assert np.array_equal(read_observations(tmp_path / "one.npz"), first)
    both = read_observations(tmp_path / "two.npz")
    assert set(both) == {"x", "y"}
    assert np.array_equal(both["y"], second)
    pair = read_observations(tmp_path / "pair.pt")
    assert [tensor.tolist() for tensor in pair] == [[1, 1], [0, 0]]


def test_invalid_files_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(60.0))
    np.savez(tmp_path / "b.npz", x=np.arange(60.0))
    for name in ("a.npy", "b.npz"):
        cut = tmp_path / f"cut_{name}"
        cut.write_bytes((tmp_path / name).read_bytes()[:150])
        with pytest.raises(ProbeError, match="does not contain intact arrays"):
            read_observations(cut)
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(ProbeError, match=r"pass a \.npy, \.npz or \.pt file"):
        read_observations(tmp_path / "a.csv")
    with pytest.raises(OSError, match="nothing"):
        read_observations(tmp_path / "nothing.npy")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_files_with_numbers_that_are_not_finite_are_refused(bad, tmp_path):
    rows = np.zeros((3, 2))
    rows[1, 1] = bad
    np.save(tmp_path / "a.npy", rows)
    np.savez(tmp_path / "b.npz", x=np.zeros(3), y=rows)
    torch.save(torch.from_numpy(rows), tmp_path / "c.pt")
    torch.save((torch.from_numpy(rows), torch.zeros(2)), tmp_path / "d.pt")
    for name in ("a.npy", "b.npz", "c.pt", "d.pt"):
        with pytest.raises(ProbeError, match=f"--data .*{name} contains NaN or infinite numbers"):
            read_observations(tmp_path / name)
    torch.save((torch.zeros(2), torch.from_numpy(rows)), tmp_path / "mask.pt")  # an attention mask
    assert len(read_observations(tmp_path / "mask.pt")) == 2


def test_arrays_with_a_large_compression_ratio_are_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", np.zeros((300, 100)))  # 240 kB of zeros
    assert read_observations(tmp_path / "a.npz").shape == (300, 100)
    monkeypatch.setattr(probe_loading, "UNPACKED_BYTES", 100_000)
    with pytest.raises(ProbeError, match=r"a\.npz has \d+ bytes and would unpack to 240\d{3}"):
        read_observations(tmp_path / "a.npz")


def test_malicious_arrays_are_not_unpickled(tmp_path):
    mark = tmp_path / "mark"

    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(mark),))

    np.save(tmp_path / "a.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", x=np.array([Trap()], dtype=object))
    torch.save(Trap(), tmp_path / "c.pt")
    (tmp_path / "d.npy").write_bytes(pickle.dumps(Trap()))
    for name in ("a.npy", "b.npz", "c.pt", "d.npy"):
        with pytest.raises(ProbeError):
            read_observations(tmp_path / name)
    assert not mark.exists()


def test_arguments_have_the_dtype_of_the_weights():
    model = nn.Linear(2, 2).to(torch.bfloat16)
    (alone,) = as_arguments(np.ones((3, 2)), model)
    assert (alone.dtype, alone.shape) == (torch.bfloat16, (3, 2))
    numbers, image = as_arguments((torch.ones(3), np.ones(3, np.uint8)), model)
    assert (numbers.dtype, image.dtype) == (torch.bfloat16, torch.uint8)
    (named,) = as_arguments({"a": np.ones(3), "b": np.ones(3, np.int64)}, nn.ReLU())
    assert (named["a"].dtype, named["b"].dtype) == (torch.float32, torch.int64)
