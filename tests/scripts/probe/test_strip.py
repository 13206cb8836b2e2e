"""Stripped models: compared with models trained without this package, and in a process without it."""

import base64
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from plasticity import regularized
from plasticity.sb3.policies import policy_kwargs
from plasticity.scripts.main import main
from plasticity.scripts.probe.loading import ProbeError
from plasticity.scripts.probe.pickled import references
from plasticity.scripts.probe.strip import StripOptions, strip

ON_POLICY = ["PPO", "A2C", "TRPO", "RecurrentPPO", "MaskablePPO"]
OFF_POLICY = ["DQN", "SAC", "TD3", "DDPG", "TQC", "QRDQN", "CrossQ"]
ALGORITHMS = ON_POLICY + OFF_POLICY
ENVIRONMENTS = dict.fromkeys(ALGORITHMS, "Pendulum-v1") | dict.fromkeys(
    ["DQN", "QRDQN"], "CartPole-v1"
)
SYRE = {"regularizer": "syre", "strength": 0.1, "sigma": 0.3}


class Masked(stable_baselines3.common.monitor.Monitor):
    """CartPole with an action mask that allows both actions."""

    def action_masks(self):
        return np.ones(2, dtype=bool)


def environment(name):
    import gymnasium

    if name == "MaskablePPO":
        return Masked(gymnasium.make("CartPole-v1"))
    return gymnasium.make(ENVIRONMENTS[name])


def algorithm(name):
    return getattr(stable_baselines3, name, None) or getattr(sb3_contrib, name)


def make(name, kwargs, **settings):
    settings = {"seed": 0, "device": "cpu"} | settings
    if name in ON_POLICY:
        settings = {"n_steps": 16} | settings
    else:
        settings = {"learning_starts": 8, "buffer_size": 64, "batch_size": 8} | settings
    if name in ("PPO", "TRPO", "RecurrentPPO", "MaskablePPO"):
        settings = {"batch_size": 8} | settings
    if name == "QRDQN":
        settings |= {
            "batch_size": 32
        }  # its eps depends on it, and policy_kwargs assumes this value
    policy = "MlpLstmPolicy" if name == "RecurrentPPO" else "MlpPolicy"
    return algorithm(name)(policy, environment(name), policy_kwargs=kwargs, **settings)


def small(name):
    # Networks of actor and critic that differ, so that swapped states would be noticed.
    return {"net_arch": [5]} | ({"lstm_hidden_size": 3} if name == "RecurrentPPO" else {})


def ours(name, **settings):
    if name == "TRPO" and settings.get("regularizer") != "none":
        settings["actor"] = {"regularizer": "none"}
    return policy_kwargs(algorithm(name), **settings, **small(name))


def content(file):
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def states(file):
    found = content(file).items()
    return {
        name: torch.load(io.BytesIO(each), weights_only=True)
        for name, each in found
        if name.endswith("optimizer.pth")
    }


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def weights(model):
    return dict(model.policy.state_dict())


# ---- comparison with plain models -------------------------------------------------------------------


@pytest.mark.parametrize("name", ALGORITHMS)
def test_model_without_a_regularizer_becomes_the_plain_model(name, tmp_path):
    # regularizer="none" trains bit for bit as without this package, and so must the stripped model.
    model = make(name, ours(name, regularizer="none")).learn(40)
    model.save(tmp_path / "model")
    plain = make(name, small(name)).learn(40)
    plain.save(tmp_path / "plain")
    assert same(weights(model), weights(plain))
    strip(StripOptions(tmp_path / "model.zip"))
    found, expected = states(tmp_path / "model_stripped.zip"), states(tmp_path / "plain.zip")
    assert found.keys() == expected.keys()
    for member in expected:
        assert expected[member]["state"] or name == "TRPO", member
        assert same(found[member], expected[member]), member
    again = [
        algorithm(name).load(tmp_path / file, env=environment(name), device="cpu")
        for file in ("model_stripped", "plain")
    ]
    base = torch.optim.RMSprop if name == "A2C" else torch.optim.Adam
    assert again[0].policy_kwargs["optimizer_class"] is base
    for each in again:
        each.set_random_seed(1)
        each.learn(40, reset_num_timesteps=False)
    assert same(weights(again[0]), weights(again[1]))
    assert not same(weights(again[0]), weights(model))


@pytest.mark.parametrize("settings", [SYRE, {"regularizer": "l2-init", "strength": 0.1}])
@pytest.mark.parametrize("name", ["PPO", "SAC", "TD3", "DQN"])
def test_moments_are_kept_by_parameter(name, settings, tmp_path):
    model = make(name, ours(name, **settings)).learn(40)
    model.save(tmp_path / "model")
    strip(StripOptions(tmp_path / "model.zip"))
    plain = algorithm(name).load(tmp_path / "model_stripped", device="cpu")
    pairs = [(model.policy, plain.policy)]
    if name in ("SAC", "TD3"):
        pairs = [(getattr(model, part), getattr(plain, part)) for part in ("actor", "critic")]
    names = dict(model.policy.named_parameters())
    for old, new in pairs:
        assert type(new.optimizer) is torch.optim.Adam
        compared = 0
        for parameter_name, parameter in plain.policy.named_parameters():
            if parameter in new.optimizer.state:
                expected = old.optimizer.state[names[parameter_name]]
                assert same(dict(new.optimizer.state[parameter]), dict(expected))
                compared += 1
        assert compared == len(new.optimizer.param_groups[0]["params"]) >= 4


@pytest.mark.parametrize("base", [torch.optim.AdamW, torch.optim.NAdam, torch.optim.SGD])
def test_other_optimizers_keep_their_settings(base, tmp_path):
    given = {"momentum": 0.5} if base is torch.optim.SGD else {"betas": (0.8, 0.9)}
    kwargs = ours("PPO", **SYRE, optimizer_class=base, optimizer_kwargs=given)
    make("PPO", kwargs).learn(16).save(tmp_path / "model")
    strip(StripOptions(tmp_path / "model.zip"))
    again = stable_baselines3.PPO.load(tmp_path / "model_stripped")
    assert type(again.policy.optimizer) is base
    decay = {"weight_decay": 0.0} if base is torch.optim.AdamW else {}  # its own default is 0.01
    assert again.policy_kwargs["optimizer_kwargs"] == given | decay
    (group,) = again.policy.optimizer.param_groups
    assert {name: group[name] for name in given} == given
    assert group["weight_decay"] == 0


def test_regularized_optimizer_is_stripped_too(tmp_path):
    kwargs = {"optimizer_class": regularized(torch.optim.Adam), "optimizer_kwargs": SYRE}
    model = make("PPO", kwargs | small("PPO")).learn(16)
    model.save(tmp_path / "model")
    strip(StripOptions(tmp_path / "model.zip"))
    again = stable_baselines3.PPO.load(tmp_path / "model_stripped")
    assert type(again.policy.optimizer) is torch.optim.Adam
    assert again.policy_kwargs == {
        **small("PPO"), "optimizer_class": torch.optim.Adam, "optimizer_kwargs": {}
    }  # fmt: skip
    pairs = zip(model.policy.parameters(), again.policy.parameters(), strict=True)
    for old, new in pairs:
        old_state, new_state = model.policy.optimizer.state[old], again.policy.optimizer.state[new]
        assert same(dict(old_state), dict(new_state))


class OwnOptimizer(torch.optim.Adam):
    """Optimizer of the user."""


def test_custom_optimizer_is_kept_by_reference(tmp_path):
    kwargs = ours("PPO", **SYRE, optimizer_class=OwnOptimizer)
    make("PPO", kwargs).save(tmp_path / "model")
    strip(StripOptions(tmp_path / "model.zip"))
    data = json.loads(content(tmp_path / "model_stripped.zip")["data"])["policy_kwargs"]
    found = list(references(base64.b64decode(data[":serialized:"])))
    assert [(each.module, each.name) for each in found] == [(__name__, "OwnOptimizer")]
    assert data["optimizer_class"] == f"<class '{__name__}.OwnOptimizer'>"


class OwnExtractor(BaseFeaturesExtractor):
    """Features extractor of the user."""

    def __init__(self, observation_space):
        super().__init__(observation_space, 3)

    def forward(self, observations):
        return observations


def test_custom_classes_and_functions_are_kept(tmp_path):
    scale = 2.0
    own = {"features_extractor_class": OwnExtractor, "activation_fn": lambda: nn.Softplus(scale)}
    kwargs = ours("PPO", **SYRE) | own
    model = make("PPO", kwargs).learn(16)
    model.save(tmp_path / "model")
    strip(StripOptions(tmp_path / "model.zip"))
    again = stable_baselines3.PPO.load(tmp_path / "model_stripped")
    assert type(again.policy.features_extractor) is OwnExtractor
    assert again.policy_kwargs["activation_fn"]().beta == 2.0
    observations = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    found, expected = (each.predict(observations, deterministic=True)[0] for each in (again, model))
    assert np.array_equal(found, expected)


# ---- in a process that cannot import this package -----------------------------------------------------

ELSEWHERE = """
import json, sys, warnings

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "plasticity":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
warnings.simplefilter("ignore")
import gymnasium, numpy, sb3_contrib, stable_baselines3, torch

torch.set_num_threads(1)
found = {}
for name, file, env, seen in json.loads(sys.stdin.read()):
    algorithm = getattr(stable_baselines3, name, None) or getattr(sb3_contrib, name)
    try:
        model = algorithm.load(file, env=gymnasium.make(env), device="cpu")
        actions = model.predict(numpy.array(seen, numpy.float32), deterministic=True)[0].tolist()
        if name != "MaskablePPO":
            model.learn(40, reset_num_timesteps=False)
        found[file] = [actions, model.num_timesteps]
    except Exception as error:
        found[file] = repr(error)
assert "plasticity" not in sys.modules
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Return the actions of each algorithm's model, original and stripped, without this package installed."""
    folder = tmp_path_factory.mktemp("elsewhere")
    cases, expected = [], {}
    for name in ALGORITHMS:
        model = make(name, ours(name, **SYRE)).learn(40)
        model.save(folder / name)
        strip(StripOptions(folder / f"{name}.zip"))
        shape = (3, *model.observation_space.shape)
        seen = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        expected[name] = model.predict(seen, deterministic=True)[0].tolist()
        env = "CartPole-v1" if name == "MaskablePPO" else ENVIRONMENTS[name]
        for file in (folder / f"{name}.zip", folder / f"{name}_stripped.zip"):
            cases.append((name, str(file), env, seen.tolist()))
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    found = {Path(file).stem: each for file, each in json.loads(done.stdout).items()}
    return found, expected


@pytest.mark.parametrize("name", ALGORITHMS)
def test_stripped_model_acts_and_learns_without_the_package(name, elsewhere):
    found, expected = elsewhere
    assert "No module named 'plasticity'" in found[name]  # of the original model
    actions, steps = found[f"{name}_stripped"]
    assert actions == expected[name]
    assert name == "MaskablePPO" or steps > 40


# ---- the command ------------------------------------------------------------------------------------


@pytest.fixture
def model_file(tmp_path):
    make("PPO", ours("PPO", **SYRE)).save(tmp_path / "model")
    return tmp_path / "model.zip"


def call(*arguments):
    with pytest.raises(SystemExit) as end:
        main(["strip", *map(str, arguments)])
    return end.value.code


def test_command_prints_what_it_wrote(model_file, capsys):
    before = model_file.read_bytes()
    assert call(model_file) == 0
    out = capsys.readouterr().out
    assert "model_stripped.zip loads without plasticity" in out
    assert "its optimizer is torch.optim.adam.Adam" in out
    assert "without syre of strength 0.1." in " ".join(out.split())
    assert model_file.read_bytes() == before


def test_files_are_overwritten_only_with_force(model_file, tmp_path, capsys):
    out = tmp_path / "out.zip"
    out.write_text("precious")
    assert call(model_file, "--out", out) == 2
    assert "out.zip already exists" in " ".join(capsys.readouterr().err.split())
    assert out.read_text() == "precious"
    assert call(model_file, "--out", out, "--force") == 0
    assert zipfile.is_zipfile(out)
    assert call(model_file, "--out", model_file, "--force") == 0  # in place
    assert content(model_file) == content(out)


def test_failed_write_keeps_the_old_file(model_file, tmp_path, monkeypatch):
    out = tmp_path / "out.zip"
    out.write_text("precious")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert call(model_file, "--out", out, "--force") == 2
    assert out.read_text() == "precious"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.zip", "out.zip"]


def test_plain_model_is_not_written(tmp_path, capsys):
    make("DQN", small("DQN")).save(tmp_path / "plain")
    assert call(tmp_path / "plain.zip") == 0
    assert "already plain" in capsys.readouterr().out
    assert [each.name for each in tmp_path.iterdir()] == ["plain.zip"]
    assert strip(StripOptions(tmp_path / "plain.zip")) is None


def test_stripped_model_is_plain(model_file, capsys):
    call(model_file)
    capsys.readouterr()
    assert call(model_file.with_name("model_stripped.zip")) == 0
    assert "already plain" in capsys.readouterr().out


def test_nothing_is_unpickled(model_file, tmp_path):
    mark = tmp_path / "mark"

    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(mark),))

    members = content(model_file)
    data = json.loads(members["data"])
    for key, entry in data.items():
        if isinstance(entry, dict) and ":serialized:" in entry and key != "policy_kwargs":
            entry[":serialized:"] = base64.b64encode(pickle.dumps(Trap())).decode()
    entry = data["policy_kwargs"]
    opcodes = base64.b64decode(entry[":serialized:"])
    trap = pickle.dumps({"trap": Trap(), "optimizer_class": ours("PPO")["optimizer_class"]})
    assert b"PolicyAdam" in opcodes
    entry[":serialized:"] = base64.b64encode(trap).decode()
    with zipfile.ZipFile(model_file, "w") as archive:
        for name, each in (members | {"data": json.dumps(data).encode()}).items():
            archive.writestr(name, each)
    strip(StripOptions(model_file))
    assert not mark.exists()


def rewritten(file, change):
    members = content(file)
    data = json.loads(members["data"])
    change(data, members)
    members["data"] = json.dumps(data).encode()
    with zipfile.ZipFile(file, "w") as archive:
        for name, each in members.items():
            archive.writestr(name, each)


def other_entry(data, _):
    pickled = pickle.dumps(policy_kwargs)
    data["lr_schedule"] = {":serialized:": base64.b64encode(pickled).decode()}


def other_class(data, _):
    pickled = pickle.dumps({"features_extractor_class": StripOptions})
    data["policy_kwargs"] = {":serialized:": base64.b64encode(pickled).decode()}


def no_pickle(data, _):
    data["policy_kwargs"][":serialized:"] = "Kg=="


def no_text(data, _):
    data["policy_kwargs"]["optimizer_kwargs"] = "{'eps': tensor(1e-5)}"


def other_names(_, members):
    weights = torch.load(io.BytesIO(members["policy.pth"]))
    written = io.BytesIO()
    torch.save({f"x.{name}": each for name, each in weights.items()}, written)
    members["policy.pth"] = written.getvalue()


def uneven_groups(_, members):
    state = torch.load(io.BytesIO(members["policy.optimizer.pth"]))
    state["param_groups"][1]["eps"] = 0.5
    written = io.BytesIO()
    torch.save(state, written)
    members["policy.optimizer.pth"] = written.getvalue()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            other_entry,
            r"cannot be loaded without plasticity: its lr_schedule contains plasticity\.sb3\.",
        ),
        (other_class, r"its policy_kwargs contains .*StripOptions"),
        (no_pickle, "a pickle in it is not intact"),
        (no_text, "does not have its optimizer_kwargs in plain text"),
        (other_names, "does not fit the policy"),
        (uneven_groups, "groups with eps 1e-05, 0.5"),
    ],
)
def test_models_that_cannot_be_stripped_are_refused(change, message, model_file):
    rewritten(model_file, change)
    with pytest.raises(ProbeError, match=message):
        strip(StripOptions(model_file))
    assert not model_file.with_name("model_stripped.zip").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.zip", "There is no file"),
        ("model", r"There is no file .*model\. Did you mean .*model\.zip"),
        (".", "is a folder"),
        ("text.zip", "not a model of Stable-Baselines3"),
    ],
)
def test_other_files_are_refused(name, message, model_file, tmp_path):
    (tmp_path / "text.zip").write_text("hello")
    with pytest.raises(ProbeError, match=message):
        strip(StripOptions(tmp_path / name))


def test_help_lists_the_options(capsys):
    assert call("--help") == 0
    printed = " ".join(capsys.readouterr().out.split())
    for word in ("--out", "--force", "model_stripped.zip", "Nothing in the file is unpickled"):
        assert word in printed
