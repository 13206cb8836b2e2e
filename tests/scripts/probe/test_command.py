"""Command `plasticity probe`: options, output, and exit codes."""

import ctypes
import json
import os
import re

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import CartPoleEnv
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from plasticity import Tracker
from plasticity.scripts.main import main
from plasticity.scripts.probe.command import ProbeOptions
from plasticity.scripts.probe.sheet import THRESHOLDS


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    keywords = {"net_arch": [20, 12], "activation_fn": nn.ReLU}
    model = PPO("MlpPolicy", "CartPole-v1", seed=0, policy_kwargs=keywords)
    with torch.no_grad():  # 9 of 12 units of the critic die: 75 %
        model.policy.mlp_extractor.value_net[2].bias[:9] = -1e3
    file = tmp_path_factory.mktemp("models") / "model.zip"
    model.save(file)
    return file


@pytest.fixture
def call(capfd):
    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            main(["probe", *(str(argument) for argument in arguments)])
        printed = capfd.readouterr()
        assert "Traceback" not in printed.err
        return caught.value.code, printed.out, printed.err

    return call


def test_sheet_shows_every_layer_and_the_findings(call, model_file):
    code, out, err = call(model_file, "--env", "CartPole-v1", "--steps", 100)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("ActorCriticPolicy in ")
    for layer in ("actor.0", "actor.2", "critic.0", "critic.2", "action_net", "value_net"):
        assert any(re.match(rf" *{re.escape(layer)}\b", line) for line in lines), layer
    assert any(line.strip().startswith("12 relu, initially") for line in lines)
    assert "What is wrong, by rules of thumb:" in out
    assert re.search(
        r"^• critic\.2: 75 % of 12 units are dead \(\d+ % at initialisation\)", out, re.M
    )
    assert all(len(line) <= 100 for line in lines if not line.startswith(("•", "ActorCritic")))


def test_json_is_the_only_output_and_agrees_with_the_tracker(call, model_file, tmp_path):
    observations = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    np.save(tmp_path / "probe.npy", observations)
    code, out, err = call(model_file, "--data", tmp_path / "probe.npy", "--json")
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert record["probe"] == {"data": str(tmp_path / "probe.npy")}
    assert record["thresholds"]["dead"] == THRESHOLDS.dead
    assert [text[:8] for text in record["findings"]].count("critic.2") >= 1
    critic = PPO.load(model_file).policy.mlp_extractor.value_net
    expected = Tracker(critic, torch.from_numpy(observations)).measure()
    layers = {layer["layer"]: layer for layer in record["layers"]}
    for name, activation in (("critic.0", "1"), ("critic.2", "3")):
        for metric in (
            "effective_rank",
            "stable_rank",
            "srank",
            "dormant_fraction",
            "dead_fraction",
        ):
            found = layers[name]["measures"][metric]
            assert found == pytest.approx(expected[f"{metric}/{activation}"], rel=1e-6), metric
    assert layers["critic.2"]["weight_norm"] == pytest.approx(expected["weight_norm/2"])
    assert layers["critic.2"]["measures"]["dead_fraction"] == pytest.approx(0.75)
    assert layers["critic.0"]["symmetry"]["possible"] == 19
    assert layers["value_net"]["measures"] is None


def test_output_of_environments_does_not_mix_with_the_json(call, model_file):
    class Talking(CartPoleEnv):
        def reset(self, **keywords):
            print("from Python")
            os.write(1, b"from the system\n")
            ctypes.CDLL(None).puts(b"from C")
            return super().reset(**keywords)

    gymnasium.register("Talking-v0", entry_point=Talking)
    try:
        code, out, err = call(model_file, "--env", "Talking-v0", "--steps", 20, "--json")
        assert code == 0
        assert json.loads(out)["probe"] == {"env": "Talking-v0", "steps": 20, "seed": 0}
        for text in ("from Python", "from the system", "from C"):
            assert text in err
        code, out, _ = call(model_file, "--env", "CartPole-v1", "--steps", 20)
        assert out.startswith("ActorCriticPolicy")
    finally:
        del gymnasium.registry["Talking-v0"]


def test_same_command_gives_the_same_output(call, model_file):
    first, second, other = (
        call(model_file, "--env", "CartPole-v1", "--steps", 30, "--seed", seed, "--json")[1]
        for seed in (3, 3, 4)
    )
    assert first == second
    assert json.loads(first)["layers"] != json.loads(other)["layers"]


def test_torch_checkpoint_with_its_network(call, tmp_path, monkeypatch):
    (tmp_path / "probed_nets.py").write_text(
        "from torch import nn\n"
        "def make(hidden): return nn.Sequential(nn.Linear(4, hidden), nn.Tanh(), nn.Linear(hidden, 2))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 2))
    torch.save({"model": net.state_dict(), "optimizer": {"step": 3}}, tmp_path / "net.pt")
    arguments = ["--module", "probed_nets:make", "--module-kwargs", '{"hidden": 9}']
    code, out, _ = call("net.pt", *arguments, "--env", "CartPole-v1", "--steps", 40)
    assert code == 0
    assert out.startswith("Sequential in net.pt, on 40 observations of CartPole-v1")
    assert "9 tanh, initially" in out
    assert "No findings" in out
    torch.save(net, tmp_path / "whole.pt")
    code, out, _ = call("whole.pt", "--env", "CartPole-v1", "--steps", 40, "--trust-pickle")
    assert code == 0
    assert "no freshly initialised network" in out
    assert ", initially" not in out


def test_recurrent_policy_has_a_note_on_its_memory(call, tmp_path):
    contrib = pytest.importorskip("sb3_contrib")
    keywords = {"net_arch": [4], "lstm_hidden_size": 5}
    contrib.RecurrentPPO("MlpLstmPolicy", "CartPole-v1", policy_kwargs=keywords).save(
        tmp_path / "model"
    )
    code, out, _ = call(tmp_path / "model.zip", "--env", "CartPole-v1", "--steps", 10)
    assert code == 0
    assert "lstm_actor" in out
    assert "memory is ignored" in out


@pytest.mark.parametrize("name", ["TD3", "DQN"])
def test_target_networks_and_action_bounds_are_not_layers(name, call, tmp_path):
    algorithms = __import__("stable_baselines3")
    environment = {"TD3": "Pendulum-v1", "DQN": "CartPole-v1"}[name]
    keywords = {"policy_kwargs": {"net_arch": [6]}, "buffer_size": 10}
    getattr(algorithms, name)("MlpPolicy", environment, **keywords).save(tmp_path / "model")
    _, out, _ = call(tmp_path / "model.zip", "--env", environment, "--steps", 10, "--json")
    layers = [layer["layer"] for layer in json.loads(out)["layers"]]
    expected = {
        "TD3": ["actor.mu.0", "actor.mu.2", *(f"critic.qf{n}.{m}" for n in (0, 1) for m in (0, 2))],
        "DQN": ["q_net.0", "q_net.2"],
    }
    assert layers == expected[name]


def test_normalised_model_on_unnormalised_observations_has_a_note(call, tmp_path):
    venv = VecNormalize(DummyVecEnv([lambda: gymnasium.make("CartPole-v1")]))
    sizes = {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "policy_kwargs": {"net_arch": [4]}}
    PPO("MlpPolicy", venv, **sizes).learn(8).save(tmp_path / "normalised")
    venv.save(str(tmp_path / "statistics.pkl"))
    PPO("MlpPolicy", "CartPole-v1", **sizes).learn(8).save(tmp_path / "plain")
    np.save(tmp_path / "probe.npy", np.random.default_rng(0).normal(size=(9, 4)))
    played = ("--env", "CartPole-v1", "--steps", 9)
    statistics = ("--vec-normalize", tmp_path / "statistics.pkl", "--trust-pickle")
    for model, arguments, has_note in (
        ("normalised", played, True),
        ("normalised", (*played, *statistics), False),
        ("normalised", ("--data", tmp_path / "probe.npy"), False),
        ("plain", played, False),
    ):
        code, out, _ = call(tmp_path / f"{model}.zip", *arguments, "--json")
        assert code == 0
        notes = json.loads(out)["notes"]
        assert any("was trained in a VecNormalize" in note for note in notes) == has_note, arguments


# ---- errors -----------------------------------------------------------------------------------------


def test_errors_end_with_code_2_and_one_message(call, model_file, tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "state.pt")
    (tmp_path / "text.zip").write_text("hello")
    (tmp_path / "cut.zip").write_bytes(model_file.read_bytes()[:2000])
    for arguments, expected in (
        ([model_file], "Pass the observations to probe on"),
        ([model_file, "--env", "A", "--data", "B"], "not both"),
        (
            [model_file.with_suffix(""), "--env", "A"],
            r"There is no file .*model\. Did you mean .*model\.zip",
        ),
        ([tmp_path / "no.zip", "--env", "A"], r"There is no file .*no\.zip\.$"),
        ([tmp_path, "--env", "A"], "is a folder"),
        ([tmp_path / "text.zip", "--env", "A"], "of another kind, or truncated"),
        ([tmp_path / "cut.zip", "--env", "A"], "of another kind, or truncated"),
        ([tmp_path / "state.pt", "--env", "A"], "pass --module"),
        ([model_file, "--env", "NoSuch-v0"], "--env NoSuch-v0 cannot be created"),
        ([model_file, "--env", "Pendulum-v1"], "do not fit ActorCriticPolicy"),
        ([model_file, "--env", "A", "--module", "a:b"], "needs no --module"),
        ([tmp_path / "state.pt", "--env", "A", "--vec-normalize", "x"], "Stable-Baselines3"),
        (
            [model_file, "--data", "a.npy", "--vec-normalize", "x"],
            "--vec-normalize needs --env",
        ),
        ([model_file, "--data", tmp_path / "no.npy"], r"no\.npy"),
        ([model_file, "--env", "A", "--steps", 1], "--steps must be at least 2"),
        ([model_file, "--env", "A", "--seed", -1], "--seed must be at least 0"),
        ([model_file, "--env", "A", "--env-kwargs", "{"], "--env-kwargs { is not JSON"),
        ([model_file, "--env", "A", "--env-kwargs", "[]"], "pass a JSON object"),
    ):
        code, out, err = call(*arguments)
        assert (code, out) == (2, ""), arguments
        # Errors of single options are printed in a box.
        message = re.sub(r"[│\s]+", " ", err).strip()
        assert re.search(expected, message), (arguments, message)


def test_diverged_model_is_refused_before_it_is_played(call, tmp_path):
    model = PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [4]})
    with torch.no_grad():
        model.policy.value_net.bias.fill_(float("nan"))
    model.save(tmp_path / "model")
    code, _, err = call(tmp_path / "model.zip", "--env", "CartPole-v1")
    assert code == 2
    assert "training diverged" in err


def test_policy_without_hidden_layers_is_refused(call, tmp_path):
    PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": []}).save(tmp_path / "model")
    code, _, err = call(tmp_path / "model.zip", "--env", "CartPole-v1", "--steps", 9)
    assert code == 2
    assert "no hidden layer (an empty net_arch?)" in err
    assert "layers=" not in err


def test_observations_of_another_shape_are_refused(call, model_file, tmp_path):
    np.save(tmp_path / "probe.npy", np.zeros((5, 7)))
    code, _, err = call(model_file, "--data", tmp_path / "probe.npy")
    assert code == 2
    assert "(5, 7)" in err


def test_help_names_every_option(call):
    code, out, _ = call("--help")
    assert code == 0
    for name in ProbeOptions.__dataclass_fields__:
        if name != "model":
            assert f"--{name.replace('_', '-')}" in out
