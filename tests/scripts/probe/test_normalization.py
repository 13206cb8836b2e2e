"""Detection of models that were trained in a VecNormalize."""

import json

import gymnasium
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from plasticity.scripts.main import main
from plasticity.scripts.probe.policy import SavedPolicy

VECTOR = spaces.Box(-1, 1, (3,), np.float32)
DOUBLE = spaces.Box(-1, 1, (3,), np.float64)
BYTES = spaces.Box(0, 255, (3,), np.uint8)
STATES = spaces.Discrete(5)
NAMED = spaces.Dict({"joints": DOUBLE, "pixels": BYTES})
NAMED_SINGLE = spaces.Dict({"pixels": BYTES, "vector": VECTOR})
DISCRETE, CONTINUOUS = spaces.Discrete(2), spaces.Box(-1, 1, (1,), np.float32)


class Drawing(gymnasium.Env):
    """Environment with random observations from a space, in episodes of five steps."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space
        self.step_count = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.step_count = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.step_count += 1
        return self.observation_space.sample(), 1.0, self.step_count == 5, False, {}

    def action_masks(self):
        return np.ones(2, dtype=bool)


ON_POLICY = {
    "PPO": {"n_steps": 4, "batch_size": 4, "n_epochs": 1},
    "A2C": {"n_steps": 4},
    "TRPO": {"n_steps": 4, "batch_size": 4, "sub_sampling_factor": 1},
    "RecurrentPPO": {"n_steps": 4, "batch_size": 4, "n_epochs": 1},
    "MaskablePPO": {"n_steps": 4, "batch_size": 4, "n_epochs": 1},
    "ARS": {"n_delta": 1, "n_eval_episodes": 1},
}
OFF_POLICY = ["DQN", "SAC", "TD3", "DDPG", "TQC", "QRDQN", "CrossQ"]


def saved(name, wrap, file, observations=VECTOR, steps=8):
    algorithm = getattr(stable_baselines3, name, None) or getattr(sb3_contrib, name)
    keywords = dict(ON_POLICY.get(name, {"buffer_size": 50, "learning_starts": 5, "batch_size": 2}))
    kind = "MultiInput" if isinstance(observations, spaces.Dict) else "Mlp"
    policy = {"RecurrentPPO": f"{kind}LstmPolicy"}.get(name, f"{kind}Policy")
    has_discrete = name in (*ON_POLICY, "DQN", "QRDQN")
    actions = DISCRETE if has_discrete else CONTINUOUS
    env = wrap(DummyVecEnv([lambda: Drawing(observations, actions)]))
    model = algorithm(policy, env, seed=0, policy_kwargs={"net_arch": [4]}, **keywords)
    if steps:
        model.learn(steps)
    model.save(file)
    return model, env


def plain(venv):
    return venv


def rewards_only(venv):
    return VecNormalize(venv, norm_obs=False)


@pytest.mark.parametrize("name", ON_POLICY)
@pytest.mark.parametrize(
    ("wrap", "expected"), [(plain, False), (VecNormalize, True), (rewards_only, True)]
)
def test_files_of_on_policy_algorithms_are_conclusive(name, wrap, expected, tmp_path):
    saved(name, wrap, tmp_path / "model.zip")
    assert SavedPolicy(tmp_path / "model.zip").was_normalized is expected


@pytest.mark.parametrize("name", OFF_POLICY)
@pytest.mark.parametrize(
    ("wrap", "expected"), [(plain, None), (VecNormalize, None), (rewards_only, False)]
)
def test_files_of_off_policy_algorithms_are_conclusive_for_normalised_rewards_only(
    name, wrap, expected, tmp_path
):
    # They keep an "original" observation without a VecNormalize too: the one before the last. With one
    # it is the last, identical to it if observations are not normalised.
    saved(name, wrap, tmp_path / "model.zip")
    assert SavedPolicy(tmp_path / "model.zip").was_normalized is expected


@pytest.mark.parametrize("name", ["DQN", "QRDQN"])
@pytest.mark.parametrize(
    ("observations", "expected"),
    [(DOUBLE, False), (BYTES, False), (STATES, False), (NAMED, False), (NAMED_SINGLE, None)],
)
def test_observations_of_other_dtypes_were_not_normalized(name, observations, expected, tmp_path):
    # VecNormalize returns float32: a last observation of another dtype is not from it.
    saved(name, plain, tmp_path / "plain.zip", observations)
    assert SavedPolicy(tmp_path / "plain.zip").was_normalized is expected
    if observations is STATES:
        return  # Stable-Baselines3 cannot train these in a VecNormalize
    saved(name, VecNormalize, tmp_path / "normalized.zip", observations)
    assert SavedPolicy(tmp_path / "normalized.zip").was_normalized is None
    saved(name, rewards_only, tmp_path / "rewards.zip", observations)
    assert SavedPolicy(tmp_path / "rewards.zip").was_normalized is False


def normalized_below(venv):
    return VecFrameStack(VecNormalize(venv), 2)


def normalized_above(venv):
    return VecNormalize(VecFrameStack(venv, 2))


def stacked(venv):
    return VecFrameStack(venv, 2)


@pytest.mark.parametrize(
    ("name", "wrap", "observations", "expected"),
    [
        ("PPO", stacked, VECTOR, False),
        ("PPO", normalized_above, VECTOR, True),
        ("PPO", normalized_below, DOUBLE, True),  # frames are stacked as float64 again
        ("PPO", VecNormalize, NAMED, True),
        ("PPO", plain, NAMED, False),
        ("DQN", stacked, VECTOR, None),
        ("DQN", stacked, DOUBLE, False),
        ("DQN", normalized_above, DOUBLE, None),
    ],
)
def test_stacked_and_named_observations(name, wrap, observations, expected, tmp_path):
    saved(name, wrap, tmp_path / "model.zip", observations)
    assert SavedPolicy(tmp_path / "model.zip").was_normalized is expected


@pytest.mark.parametrize("name", ["PPO", "DQN"])
@pytest.mark.parametrize("wrap", [plain, VecNormalize])
def test_untrained_model_counts_as_not_normalized(name, wrap, tmp_path):
    saved(name, wrap, tmp_path / "model.zip", steps=0)
    assert SavedPolicy(tmp_path / "model.zip").was_normalized is False


@pytest.mark.parametrize("name", ["PPO", "DQN"])
def test_file_without_the_observation_is_inconclusive(name, tmp_path):
    model, _ = saved(name, plain, tmp_path / "model.zip")
    model.save(tmp_path / "less.zip", exclude=["_last_original_obs"])
    assert SavedPolicy(tmp_path / "less.zip").was_normalized is None


@pytest.mark.parametrize(("wrap", "expected"), [(plain, None), (VecNormalize, None)])
def test_off_policy_model_that_was_loaded_and_saved_again_is_inconclusive(wrap, expected, tmp_path):
    _, env = saved("DQN", wrap, tmp_path / "model.zip")
    # Loading with an environment drops the last observation, but not the one before it.
    stable_baselines3.DQN.load(tmp_path / "model.zip", env=env).save(tmp_path / "again.zip")
    assert SavedPolicy(tmp_path / "again.zip").was_normalized is expected


@pytest.mark.parametrize(
    ("name", "wrap", "start"),
    [
        ("DQN", plain, "The file does not say whether the model was trained in a VecNormalize"),
        ("DQN", rewards_only, None),
        ("PPO", plain, None),
        ("PPO", VecNormalize, "The model was trained in a VecNormalize"),
    ],
)
def test_note_states_what_is_known(name, wrap, start, tmp_path, capsys):
    gymnasium.register("Drawing-v0", lambda: Drawing(VECTOR, DISCRETE))
    try:
        saved(name, wrap, tmp_path / "model.zip")
        command = ["probe", str(tmp_path / "model.zip"), "--env", "Drawing-v0"]
        with pytest.raises(SystemExit) as end:
            main([*command, "--steps", "9", "--json"])
    finally:
        del gymnasium.registry["Drawing-v0"]
    assert end.value.code == 0
    notes = [note for note in json.loads(capsys.readouterr().out)["notes"] if "VecNorm" in note]
    assert len(notes) == (start is not None)
    assert not notes or notes[0].startswith(start)
