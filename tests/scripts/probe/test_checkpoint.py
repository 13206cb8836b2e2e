"""Checkpoints of other programs: Lightning, safetensors, and names changed by wrappers."""

import argparse
import json
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from plasticity.scripts.main import main
from plasticity.scripts.probe.checkpoint import largest_state_dict, load_module
from plasticity.scripts.probe.loading import ProbeError

safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is in the extra `dev`")


def make():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


@pytest.fixture
def trained():
    torch.manual_seed(5)
    return make()


def same(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(n == m and torch.equal(a, b) for (n, a), (m, b) in pairs)


class Lit(nn.Module):
    """Module with the network as an attribute, like a LightningModule."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


def lightning(module, file, **entries):
    """Save a checkpoint with the entries of Lightning 2, and return the weights."""
    optimizer = torch.optim.Adam(module.parameters())
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    state = {name: each.clone() for name, each in module.state_dict().items()}
    optimizer.step()
    content = {
        "epoch": 3,
        "global_step": 120,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": state,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {"ready": 3}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.1)}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 1e-3, "hidden": 4},
    }
    torch.save(content | entries, file)
    return state


@pytest.mark.parametrize(
    "wrap",
    [
        lambda network: Lit(model=network),
        lambda network: Lit(net=network, loss=nn.BCEWithLogitsLoss(pos_weight=torch.ones(2))),
        lambda network: Lit(head=nn.Linear(7, 1), model=network),
        lambda network: Lit(model=Lit(module=network)),  # distributed data parallel
        lambda network: Lit(model=Lit(_orig_mod=network)),  # compiled
        lambda network: Lit(module=Lit(_orig_mod=Lit(model=network))),
        lambda network: Lit(agent=Lit(policy=Lit(net=network))),
        nn.DataParallel,
        AveragedModel,  # with a counter next to the network
    ],
)
@pytest.mark.parametrize("form", ["lightning", "safetensors"])
def test_network_is_found_under_the_name_of_the_attribute(form, wrap, trained, tmp_path):
    wrapped = wrap(trained)
    network = next(
        module for module in wrapped.modules() if isinstance(module, nn.Sequential)
    )  # AveragedModel copies
    expected = {name: each.clone() for name, each in network.state_dict().items()}
    file = tmp_path / "model.ckpt"
    if form == "lightning":
        lightning(wrapped, file)
    else:
        file = tmp_path / "model.safetensors"
        safetensors.save_file(wrapped.state_dict(), file)
    model, fresh = load_module(file, make)
    assert all(torch.equal(expected[name], each) for name, each in model.state_dict().items())
    assert not same(model, fresh)


class Parted(nn.Module):
    """Network with two submodules."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
        self.head = nn.Linear(4, 2)


@pytest.mark.parametrize("wrapper", ["_orig_mod", "module"])
def test_wrapped_submodules_are_found(wrapper, tmp_path):
    torch.manual_seed(5)
    network = Parted()
    state = {
        name.replace("encoder.", f"encoder.{wrapper}."): each
        for name, each in network.state_dict().items()
    }
    for content in (state, {f"model.{name}": each for name, each in state.items()}):
        torch.save({"state_dict": content}, tmp_path / "model.ckpt")
        assert same(load_module(tmp_path / "model.ckpt", Parted)[0], network)


def test_several_networks_are_distinguished_by_their_prefix(trained, tmp_path):
    torch.manual_seed(6)
    file = tmp_path / "model.ckpt"
    lightning(Lit(model=make(), ema_model=trained), file)
    trained_state = torch.load(file)["state_dict"]
    message = (
        r"2 sets of weights with the names of the network: choose one with --prefix\."
        r" Prefixes: 'model\.' in state_dict, 'ema_model\.' in state_dict\."
    )
    with pytest.raises(ProbeError, match=message):
        load_module(file, make)
    for prefix in ("ema_model.", "ema_model"):
        model, _ = load_module(file, make, prefix=prefix)
        for name, each in model.state_dict().items():
            assert torch.equal(each, trained_state[f"ema_model.{name}"])


@pytest.mark.parametrize(
    ("before", "prefix", "several"),
    [
        ("", "", r"'student\.' in the file itself"),
        ("run.", "run", r"'run\.student\.' in the file itself"),
    ],
)
def test_prefix_of_several_networks_is_ambiguous(before, prefix, several, trained, tmp_path):
    state = {
        f"{before}{name}.{key}": each
        for name in ("student", "teacher")
        for key, each in trained.state_dict().items()
    }
    file = tmp_path / "model.pt"
    torch.save(state, file)

    with pytest.raises(ProbeError, match=several):
        load_module(file, make, prefix=prefix)


def test_wrapped_submodules_below_a_prefix_are_found(trained, tmp_path):
    state = {
        **{f"student._orig_mod.{key}": each for key, each in trained.state_dict().items()},
        **{f"teacher.{key}": each for key, each in make().state_dict().items()},
    }
    file = tmp_path / "model.pt"
    torch.save(state, file)

    model, _ = load_module(file, make, prefix="student")

    assert same(model, trained)


def test_error_on_an_unknown_prefix_suggests_the_nearest(trained, tmp_path):
    lightning(Lit(model=trained), tmp_path / "model.ckpt")
    with pytest.raises(ProbeError, match=r"--prefix modle\.: .*Did you mean 'model\.'"):
        load_module(tmp_path / "model.ckpt", make, prefix="modle")


def test_error_on_weights_of_another_network_names_the_missing_ones(tmp_path):
    other = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    lightning(Lit(model=other), tmp_path / "model.ckpt")
    with pytest.raises(ProbeError, match=r'Missing key.*"2\.weight", "2\.bias"\.'):
        load_module(tmp_path / "model.ckpt", make)


def test_pickled_hyper_parameters_need_trust(trained, tmp_path):
    file = tmp_path / "model.ckpt"
    hyper = {"hyper_parameters": {"args": argparse.Namespace(lr=1e-3)}}
    state = lightning(Lit(model=trained), file, **hyper)
    with pytest.raises(ProbeError, match=r"calls argparse\.Namespace.*--trust-pickle"):
        load_module(file, make)
    model, _ = load_module(file, make, trust=True)
    assert torch.equal(model[0].weight, state["model.0.weight"])


# ---- safetensors ------------------------------------------------------------------------------------


class Tied(nn.Module):
    """Network with one matrix for embedding and output."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.output = nn.Linear(3, 5, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, tokens):
        return self.output(self.embedding(tokens))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tied_weights_are_saved_once(dtype, tmp_path):
    torch.manual_seed(5)
    network = Tied().to(dtype)
    safetensors.save_model(network, str(tmp_path / "model.safetensors"))
    assert len(safetensors.load_file(tmp_path / "model.safetensors")) == 1
    model, _ = load_module(tmp_path / "model.safetensors", Tied)
    assert torch.equal(model.output.weight, network.output.weight.float())
    assert model.output.weight is model.embedding.weight


def test_file_without_suffix_is_recognised_by_its_content(trained, tmp_path):
    safetensors.save_file(trained.state_dict(), tmp_path / "blob")
    assert same(load_module(tmp_path / "blob", make)[0], trained)


def test_error_on_a_missing_package_says_how_to_install_it(trained, tmp_path, monkeypatch):
    safetensors.save_file(trained.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ProbeError, match="pip install safetensors"):
        load_module(tmp_path / "model.safetensors", make)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.95])
def test_truncated_files_are_refused(share, trained, tmp_path):
    file = tmp_path / "model.safetensors"
    safetensors.save_file(trained.state_dict(), file)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ProbeError, match="not an intact safetensors file"):
        load_module(file, make)


def test_weights_without_a_network_need_one(trained, tmp_path):
    safetensors.save_file(trained.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(ProbeError, match="contains weights but no network: pass --module"):
        load_module(tmp_path / "model.safetensors", None)


@pytest.mark.parametrize("form", ["ckpt", "safetensors"])
def test_command_probes_them(form, tmp_path, monkeypatch, capsys):
    (tmp_path / "checkpoint_nets.py").write_text(
        "from torch import nn\n\n\ndef make():\n"
        "    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))\n"
    )
    monkeypatch.chdir(tmp_path)
    module = Lit(model=make(), ema=make())
    if form == "ckpt":
        lightning(module, tmp_path / "model.ckpt")
    else:
        safetensors.save_file(module.state_dict(), tmp_path / "model.safetensors")
    np.save(tmp_path / "probe.npy", np.random.default_rng(0).normal(size=(9, 3)))
    command = ["probe", f"model.{form}", "--data", "probe.npy", "--module", "checkpoint_nets:make"]
    with pytest.raises(SystemExit) as end:
        main([*command, "--prefix", "ema", "--json"])
    assert end.value.code == 0
    assert [each["layer"] for each in json.loads(capsys.readouterr().out)["layers"]] == ["0", "2"]


def test_the_largest_state_of_a_file(tmp_path):
    small, large = (
        nn.Linear(2, 2).state_dict(),
        nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)),
    )
    file = tmp_path / "net.pt"
    torch.save({"teacher": small, "student": {"model": large.state_dict()}, "epoch": 3}, file)
    assert list(largest_state_dict(file)) == list(large.state_dict())
    torch.save({"epoch": 3}, file)
    with pytest.raises(ProbeError, match="contains no weights: it is a dict with the keys epoch"):
        largest_state_dict(file)
    torch.save(large, file)
    with pytest.raises(ProbeError, match=r"contains a pickle .* Save only model\.state_dict\(\)"):
        largest_state_dict(file)
