"""Policies rebuilt from plain text: compared with the saved models, and from malicious files."""

import base64
import io
import json
import os
import pickle
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from plasticity.scripts.probe import loading as probe_loading
from plasticity.scripts.probe.loading import ProbeError
from plasticity.scripts.probe.policy import SavedPolicy, is_policy_file


class Space(gymnasium.Env):
    """Environment that has only spaces, for models that are never trained."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        raise NotImplementedError

    step = None


VECTOR = spaces.Box(-3, 3, (5,), np.float32)
IMAGE = spaces.Box(0, 255, (1, 40, 40), np.uint8)
BOTH = spaces.Dict({"image": IMAGE, "vector": VECTOR})
CONTINUOUS = spaces.Box(-2, 2, (2,), np.float32)
DISCRETE = spaces.Discrete(3)

CASES = {
    "PPO": (VECTOR, CONTINUOUS, {}),
    "PPO-sde": (VECTOR, CONTINUOUS, {"use_sde": True}),
    "PPO-networks": (
        VECTOR,
        DISCRETE,
        {
            "policy_kwargs": {
                "net_arch": {"pi": [7], "vf": [9, 8]},
                "activation_fn": nn.ELU,
                "share_features_extractor": False,
                "log_std_init": -0.5,
                "optimizer_class": torch.optim.AdamW,
                "optimizer_kwargs": {"betas": (0.9, 0.99)},
            }
        },
    ),
    "PPO-image": (IMAGE, spaces.MultiDiscrete([3, 2]), {}),
    "A2C": (spaces.Discrete(6), spaces.MultiBinary(4), {}),
    "DQN": (VECTOR, DISCRETE, {"policy_kwargs": {"net_arch": [11]}}),
    "SAC": (VECTOR, CONTINUOUS, {"policy_kwargs": {"net_arch": [16, 16], "n_critics": 1}}),
    "TD3": (VECTOR, CONTINUOUS, {"policy_kwargs": {"net_arch": {"pi": [8], "qf": [9]}}}),
    "DDPG": (VECTOR, CONTINUOUS, {"policy_kwargs": {"net_arch": [16]}}),
    "TQC": (VECTOR, CONTINUOUS, {"policy_kwargs": {"net_arch": [16], "n_quantiles": 7}}),
    "TRPO": (VECTOR, CONTINUOUS, {}),
    "RecurrentPPO": (VECTOR, DISCRETE, {"policy_kwargs": {"lstm_hidden_size": 6}}),
    "MaskablePPO": (VECTOR, DISCRETE, {}),
    "QRDQN": (VECTOR, DISCRETE, {"policy_kwargs": {"net_arch": [16], "n_quantiles": 5}}),
    "CrossQ": (VECTOR, CONTINUOUS, {"policy_kwargs": {"net_arch": [16]}}),
}


def algorithm(name):
    if hasattr(stable_baselines3, name):
        return getattr(stable_baselines3, name)
    return getattr(pytest.importorskip("sb3_contrib"), name)


def made(case, seed=3):
    name = case.partition("-")[0]
    observations, actions, keywords = CASES[case]
    policy = {"RecurrentPPO": "MlpLstmPolicy"}.get(name, "MlpPolicy")
    policy = "CnnPolicy" if observations is IMAGE else policy
    keywords = {**keywords, "policy_kwargs": dict(keywords.get("policy_kwargs", {}))}
    if hasattr(algorithm(name), "train_freq") or name in ("DQN", "SAC", "TD3", "DDPG"):
        keywords["buffer_size"] = 10
    if name in ("TQC", "QRDQN", "CrossQ"):
        keywords["buffer_size"] = 10
    return algorithm(name)(policy, Space(observations, actions), seed=seed, **keywords)


_found = None


def _record(event, arguments):
    if _found is not None and event == "pickle.find_class":
        _found.append(arguments)


sys.addaudithook(_record)  # Python reports every class that any unpickler looks up


@contextmanager
def nothing_unpickled():
    global _found  # noqa: PLW0603  (a hook cannot be removed)
    _found = []
    try:
        yield
        assert _found == []
    finally:
        _found = None


def test_unpickling_would_be_detected():
    with pytest.raises(AssertionError), nothing_unpickled():
        pickle.loads(pickle.dumps(Path()))


@pytest.mark.parametrize("case", CASES)
def test_policy_is_rebuilt_without_unpickling(case, tmp_path):
    model = made(case)
    model.save(tmp_path / "model")
    with nothing_unpickled():
        assert is_policy_file(tmp_path / "model.zip")
        policy, fresh = SavedPolicy(tmp_path / "model.zip").build()
    assert type(policy) is type(fresh) is type(model.policy)
    assert repr(policy) == repr(model.policy.cpu())  # layers, sizes, activations
    for name, tensor in model.policy.state_dict().items():
        assert torch.equal(policy.state_dict()[name], tensor), name
    # The fresh one has the same shapes and other weights.
    weights = [name for name, p in policy.named_parameters() if p.ndim > 1 and p.requires_grad]
    assert any(not torch.equal(fresh.state_dict()[n], policy.state_dict()[n]) for n in weights)


@pytest.mark.parametrize("case", ["PPO", "PPO-networks", "DQN", "SAC", "TD3"])
def test_rebuilt_policy_predicts_like_the_model(case, tmp_path):
    model = made(case)
    model.save(tmp_path / "model")
    observations, actions, _ = CASES[case]
    observations.seed(1)
    batch = np.stack([observations.sample() for _ in range(9)])
    expected, _ = model.predict(batch, deterministic=True)
    policy, _ = SavedPolicy(tmp_path / "model.zip").build(observations, actions)
    assert np.array_equal(policy.predict(batch, deterministic=True)[0], expected)


def test_fresh_policy_is_the_same_at_every_call(tmp_path):
    made("PPO").save(tmp_path / "model")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    _, first = SavedPolicy(tmp_path / "model.zip").build()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    _, second = SavedPolicy(tmp_path / "model.zip").build()
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor)


def test_plugged_in_regularizer_needs_no_trust(tmp_path):
    sb3 = pytest.importorskip("plasticity.sb3")
    keywords = sb3.policy_kwargs(
        stable_baselines3.PPO, regularizer="syre", strength=1e-3, sigma=0.3, net_arch=[8]
    )
    model = stable_baselines3.PPO("MlpPolicy", Space(VECTOR, DISCRETE), policy_kwargs=keywords)
    model.save(tmp_path / "model")
    with nothing_unpickled():
        policy, _ = SavedPolicy(tmp_path / "model.zip").build()
    assert repr(policy.mlp_extractor) == repr(model.policy.cpu().mlp_extractor)


# ---- entries without a description in plain text ----------------------------------------------------


class OwnPolicy(ActorCriticPolicy):
    """Policy class of the user."""


class OwnExtractor(BaseFeaturesExtractor):
    """Features extractor of the user."""

    def __init__(self, observation_space):
        super().__init__(observation_space, 4)
        self.linear = nn.Linear(5, 4)

    def forward(self, observations):
        return self.linear(observations)


@pytest.mark.parametrize(
    ("policy", "observations", "keywords", "message"),
    [
        (OwnPolicy, VECTOR, {}, r"its policy is .*:OwnPolicy"),
        (
            "MlpPolicy",
            VECTOR,
            {"features_extractor_class": OwnExtractor},
            "features_extractor_class",
        ),
        (
            "MultiInputPolicy",
            BOTH,
            {},
            "observation_space has no description in plain text",
        ),
    ],
)
def test_entries_that_need_a_pickle_need_trust(policy, observations, keywords, message, tmp_path):
    model = stable_baselines3.PPO(policy, Space(observations, DISCRETE), policy_kwargs=keywords)
    model.save(tmp_path / "model")
    with pytest.raises(ProbeError, match=rf"{message}.*--trust-pickle"):
        SavedPolicy(tmp_path / "model.zip").build()
    built, _ = SavedPolicy(tmp_path / "model.zip", trust=True).build()
    assert repr(built) == repr(model.policy.cpu())


def test_spaces_of_the_environment_replace_those_of_the_file(tmp_path):
    model = stable_baselines3.PPO("MultiInputPolicy", Space(BOTH, DISCRETE))
    model.save(tmp_path / "model")
    with nothing_unpickled():
        policy, _ = SavedPolicy(tmp_path / "model.zip").build(BOTH, DISCRETE)
    assert repr(policy) == repr(model.policy.cpu())


# ---- broken and malicious files ---------------------------------------------------------------------


def changed(source, target, change):
    """Copy a model's file with the members returned by `change`."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
    return target


def changed_data(source, target, change):
    def edit(name, content):
        if name != "data":
            return content
        data = json.loads(content)
        change(data)
        return json.dumps(data)

    return changed(source, target, edit)


@pytest.fixture
def model_file(tmp_path):
    policy_kwargs = {"net_arch": [8], "activation_fn": nn.ReLU}
    model = stable_baselines3.PPO("MlpPolicy", Space(VECTOR, DISCRETE), policy_kwargs=policy_kwargs)
    model.save(tmp_path / "model")
    return tmp_path / "model.zip"


@pytest.fixture
def trap(tmp_path):
    """Return an object whose pickle creates a folder when loaded, and that folder."""
    mark = tmp_path / "mark"

    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(mark),))

    return Trap(), mark


def test_malicious_pickles_are_not_loaded(model_file, trap, tmp_path):
    malicious, mark = trap
    pickled = base64.b64encode(pickle.dumps(malicious)).decode()

    def spoil(data):
        spoiled = [entry for entry in data.values() if isinstance(entry, dict)]
        for entry in spoiled:
            if ":serialized:" in entry:
                entry[":serialized:"] = pickled
        assert len(spoiled) > 5

    file = changed_data(model_file, tmp_path / "malicious.zip", spoil)
    with pytest.raises(ProbeError, match="cannot be read without unpickling"):
        SavedPolicy(file).build()
    assert not mark.exists()
    with pytest.raises(ProbeError, match="policy class is None"):  # the result of mkdir
        SavedPolicy(file, trust=True).build()
    assert mark.exists()


@pytest.mark.parametrize(
    "key", ["policy_kwargs", "observation_space", "action_space", "lr_schedule"]
)
def test_pickles_that_are_not_needed_are_not_loaded_even_from_trusted_files(
    key, model_file, trap, tmp_path
):
    malicious, mark = trap
    pickled = base64.b64encode(pickle.dumps(malicious)).decode()
    file = changed_data(
        model_file,
        tmp_path / "malicious.zip",
        lambda data: data[key].update({":serialized:": pickled}),
    )
    SavedPolicy(file, trust=True).build()
    assert not mark.exists()


@pytest.mark.parametrize("trust", [False, True])
def test_malicious_weights_are_refused(trust, model_file, trap, tmp_path):
    malicious, mark = trap
    weights = io.BytesIO()
    torch.save({"actor": malicious}, weights)
    file = changed(
        model_file,
        tmp_path / "malicious.zip",
        lambda name, content: weights.getvalue() if name == "policy.pth" else content,
    )
    with pytest.raises(ProbeError, match=r"policy.pth in .* calls posix.mkdir"):
        SavedPolicy(file, trust=trust)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "system"), ("builtins", "eval"), ("stable_baselines3.common.utils", "set_random_seed")],
)
def test_named_callables_that_are_not_policies_are_not_called(module, name, model_file, tmp_path):
    reference = base64.b64encode(f"c{module}\n{name}\n.".encode()).decode()
    file = changed_data(
        model_file,
        tmp_path / "malicious.zip",
        lambda data: data["policy_class"].update({":serialized:": reference}),
    )
    with pytest.raises(ProbeError, match=f"{name}"):
        SavedPolicy(file).build()


def test_error_on_a_missing_module_names_it(model_file, tmp_path):
    for package, trust in (("sb3_contrib.nowhere", False), ("gone_away.policies", True)):
        reference = base64.b64encode(f"c{package}\nOther\n.".encode()).decode()
        file = changed_data(
            model_file,
            tmp_path / "model2.zip",
            lambda data, reference=reference: data["policy_class"].update(
                {":serialized:": reference}
            ),
        )
        with pytest.raises(ProbeError, match=r"needs the module .*: install"):
            SavedPolicy(file, trust=trust).build()


def test_environment_with_actions_of_another_kind_is_refused(tmp_path):
    made("DQN").save(tmp_path / "model")
    message = (
        r"DQNPolicy cannot be built .*actions Box.*is this the environment that it was trained in"
    )
    with pytest.raises(ProbeError, match=message):
        SavedPolicy(tmp_path / "model.zip").build(VECTOR, CONTINUOUS)


def test_wrong_environment_is_refused(model_file):
    other = spaces.Box(-1, 1, (9,), np.float32)
    with pytest.raises(ProbeError, match=r"do not fit ActorCriticPolicy .*same wrappers"):
        SavedPolicy(model_file).build(other, DISCRETE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("policy_class"), "has no policy_class"),
        (lambda data: data.update(policy_class=3), "has no policy_class"),
        (lambda data: data["policy_class"].update({":serialized:": "*"}), "without unpickling"),
        (lambda data: data.update(policy_kwargs=[1]), "policy_kwargs are"),
        (lambda data: data.pop("observation_space"), "has no observation_space"),
        (
            lambda data: data["observation_space"].update(_shape=[-2]),
            "no description in plain text",
        ),
        (lambda data: data.update(policy_kwargs={"net_arch": "x"}), "cannot be built"),
        (lambda data: data.update(policy_kwargs={"nonsense": 1}), "cannot be built"),
        (
            lambda data: data["policy_kwargs"].update(activation_fn="<class 'os.Bad'>"),
            "activation_fn",
        ),
        (lambda data: data["policy_kwargs"].update(activation_fn="<lambda>"), "activation_fn"),
    ],
)
def test_broken_descriptions_are_refused(change, message, model_file, tmp_path):
    file = changed_data(model_file, tmp_path / "broken.zip", change)
    with pytest.raises(ProbeError, match=message):
        SavedPolicy(file).build()


@pytest.mark.parametrize(
    "change",
    [
        lambda name, content: None if name == "data" else content,
        lambda name, content: b"[1]" if name == "data" else content,
        lambda name, content: b"{" if name == "data" else content,
        lambda name, content: content[:50] if name == "policy.pth" else content,
    ],
)
def test_files_with_broken_members_are_refused(change, model_file, tmp_path):
    file = changed(model_file, tmp_path / "broken.zip", change)
    with pytest.raises(ProbeError, match=r"an intact (model|torch checkpoint)"):
        SavedPolicy(file)


@pytest.mark.parametrize("member", ["data", "policy.pth"])
def test_archives_with_a_large_compression_ratio_are_refused(
    member, model_file, tmp_path, monkeypatch
):
    monkeypatch.setattr(probe_loading, "UNPACKED_BYTES", 2_000_000)
    SavedPolicy(model_file)
    file = tmp_path / "packed.zip"
    with (
        zipfile.ZipFile(model_file) as old,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, b" " * 5_000_000 if name == member else old.read(name))
    with pytest.raises(ProbeError, match=r"packed\.zip has \d+ bytes and would unpack to 5\d{6}"):
        SavedPolicy(file)


def test_weights_with_a_large_compression_ratio_are_refused(model_file, tmp_path, monkeypatch):
    monkeypatch.setattr(probe_loading, "UNPACKED_BYTES", 2_000_000)
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(5_000_000))
    file = changed(
        model_file,
        tmp_path / "packed.zip",
        lambda name, content: inner.getvalue() if name == "policy.pth" else content,
    )
    with pytest.raises(ProbeError, match=r"policy\.pth in .* would unpack to 5000000"):
        SavedPolicy(file)


def test_other_files_are_not_policies(tmp_path, model_file):
    (tmp_path / "text").write_text("hello")
    torch.save({"a": torch.zeros(2)}, tmp_path / "torch.pt")
    (tmp_path / "cut.zip").write_bytes(model_file.read_bytes()[:3000])
    for name in ("text", "torch.pt", "cut.zip"):
        assert not is_policy_file(tmp_path / name)
    with pytest.raises(OSError, match="nothing"):
        is_policy_file(tmp_path / "nothing")
