"""Torch checkpoints: plain, nested, truncated, of another kind, and malicious."""

import os
import pickle
import sys
import zipfile

import pytest
import torch
from torch import nn

from plasticity.scripts.probe import loading as probe_loading
from plasticity.scripts.probe.checkpoint import load_module
from plasticity.scripts.probe.loading import (
    ProbeError,
    import_module,
    in_short,
    module_factory,
    require_finite,
)


def make(hidden=4):
    return nn.Sequential(nn.Linear(3, hidden), nn.ReLU(), nn.Linear(hidden, 2))


@pytest.fixture
def trained():
    torch.manual_seed(5)
    return make()


def same(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(n == m and torch.equal(a, b) for (n, a), (m, b) in pairs)


def saved(content, file, **keywords):
    torch.save(content, file, **keywords)
    return file


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"epoch": 3, "model": state, "note": "x"},
        lambda state: {"run": {"network": state, "other": {"weight": torch.zeros(2)}}, "list": [1]},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {"model": {f"_orig_mod.module.{n}": tensor for n, tensor in state.items()}},
        lambda state: {"model": {f"module._orig_mod.{n}": tensor for n, tensor in state.items()}},
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_weights_are_found_at_any_level(wrap, legacy, trained, tmp_path):
    file = saved(
        wrap(trained.state_dict()),
        tmp_path / "model.pt",
        _use_new_zipfile_serialization=not legacy,
    )
    model, fresh = load_module(file, make)
    assert same(model, trained)
    assert not same(fresh, trained)
    torch.manual_seed(99)
    assert same(load_module(file, make)[1], fresh)


def test_several_sets_of_weights_are_distinguished_by_their_key(trained, tmp_path):
    other = make()
    content = {"nets": {"actor": trained.state_dict(), "critic": other.state_dict()}}
    file = saved(content, tmp_path / "model.pt")
    assert same(load_module(file, make, state_key="nets.actor")[0], trained)
    assert same(load_module(file, make, state_key="nets.critic")[0], other)
    with pytest.raises(ProbeError, match=r"has no 'acter' at this level. Did you mean 'actor'\?"):
        load_module(file, make, state_key="nets.acter")
    with pytest.raises(ProbeError, match="has no 'x' at this level"):
        load_module(file, make, state_key="nets.actor.x")


def test_weights_of_another_network_are_refused(trained, tmp_path):
    file = saved(trained.state_dict(), tmp_path / "model.pt")
    with pytest.raises(
        ProbeError, match=r"do not fit the Sequential .*--module-kwargs.*size mismatch"
    ):
        load_module(file, lambda: make(hidden=5))
    two = saved({"a": {"x": torch.zeros(1)}, "b": {"y": torch.zeros(1)}}, tmp_path / "two.pt")
    with pytest.raises(ProbeError, match=r"contains 2 sets of weights.*--state-key. Keys: a, b"):
        load_module(two, make)


@pytest.mark.parametrize("factory", [make, None])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "it is a dict, without"),
        ({"step": 3}, "it is a dict with the keys step, without"),
        ([1, 2], "it is a list, without"),
        (torch.zeros(3), "it is a Tensor, without"),
    ],
)
def test_files_without_weights_are_refused(factory, content, message, tmp_path):
    with pytest.raises(
        ProbeError, match=rf"contains no weights: {message} a dictionary of tensors"
    ):
        load_module(saved(content, tmp_path / "model.pt"), factory)


def test_one_of_several_fitting_sets_of_weights_is_never_guessed(trained, tmp_path):
    content = {"target": make().state_dict(), "nets": [{"online": trained.state_dict()}]}
    file = saved(content, tmp_path / "model.pt")
    message = (
        r"contains 2 sets of weights with the names .*--state-key. Keys: target, nets\.0\.online\."
    )
    with pytest.raises(ProbeError, match=message):
        load_module(file, make)
    assert same(load_module(file, make, state_key="nets.0.online")[0], trained)


class Wrapping(nn.Module):
    """Network whose only child has the name of a wrapper."""

    def __init__(self):
        super().__init__()
        self.module = make()


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module."])
def test_child_called_module_is_not_a_prefix(prefix, tmp_path):
    torch.manual_seed(5)
    wrapping = Wrapping()
    state = {f"{prefix}{name}": tensor for name, tensor in wrapping.state_dict().items()}
    assert same(load_module(saved(state, tmp_path / "model.pt"), Wrapping)[0], wrapping)
    state.popitem()
    with pytest.raises(ProbeError, match=r'Missing key\(s\) in state_dict: "module\.2\.bias"\. *$'):
        load_module(saved(state, tmp_path / "model.pt"), Wrapping)


class Extra(nn.Linear):
    """Layer with an extra state that is not a tensor."""

    def __init__(self):
        super().__init__(2, 3)
        self.extra = {"steps": 0}

    def get_extra_state(self):
        return self.extra

    def set_extra_state(self, state):
        self.extra = state


def test_entries_that_are_not_tensors_are_part_of_the_weights(trained, tmp_path):
    extra = Extra()
    extra.extra = {"steps": 5}
    model, fresh = load_module(saved({"model": extra.state_dict()}, tmp_path / "model.pt"), Extra)
    assert torch.equal(model.weight, extra.weight)
    assert (model.extra, fresh.extra) == ({"steps": 5}, {"steps": 0})
    state = {**trained.state_dict(), "noise": {"a": 1}}
    with pytest.raises(ProbeError, match=r'Unexpected key.*"noise"'):
        load_module(saved(state, tmp_path / "model.pt"), make)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("trust", [False, True])
def test_torchscript_is_refused(trust, trained, tmp_path):
    torch.jit.trace(trained, torch.zeros(2, 3)).save(str(tmp_path / "model.pt"))
    with pytest.raises(ProbeError, match="is a TorchScript archive") as caught:
        load_module(tmp_path / "model.pt", make, trust=trust)
    assert "weights_only" not in str(caught.value)


def test_archives_with_a_large_compression_ratio_are_refused(trained, tmp_path, monkeypatch):
    """Compress a model of 200 kB of zeros by a factor of about 100, with a bound of 100 kB."""
    file = saved(
        nn.Linear(500, 100).apply(lambda m: m.weight.data.zero_()).state_dict(), tmp_path / "a"
    )
    with (
        zipfile.ZipFile(file) as old,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    load_module(tmp_path / "packed.pt", lambda: nn.Linear(500, 100))
    monkeypatch.setattr(probe_loading, "UNPACKED_BYTES", 100_000)
    load_module(file, lambda: nn.Linear(500, 100))  # of the same size, but not compressed
    with pytest.raises(ProbeError, match=r"packed\.pt has \d+ bytes and would unpack to 2\d{5}"):
        load_module(tmp_path / "packed.pt", lambda: nn.Linear(500, 100))


def test_weights_without_a_network_need_one(trained, tmp_path):
    file = saved(trained.state_dict(), tmp_path / "model.pt")
    with pytest.raises(ProbeError, match=r"contains weights but no network: pass --module"):
        load_module(file, None)


def test_whole_module_is_a_pickle_and_needs_trust(trained, tmp_path):
    file = saved(trained, tmp_path / "model.pt")
    with pytest.raises(ProbeError, match=r"calls .*Sequential.*--trust-pickle"):
        load_module(file, None)
    model, fresh = load_module(file, None, trust=True)
    assert same(model, trained)
    assert fresh is None
    model, fresh = load_module(file, make, trust=True)
    assert same(model, trained)
    assert not same(fresh, trained)


@pytest.mark.parametrize("legacy", [False, True])
def test_malicious_pickles_are_not_loaded_without_trust(legacy, tmp_path):
    mark = tmp_path / "mark"

    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(mark),))

    content = {"weight": torch.zeros(2), "trap": Trap()}
    file = saved(content, tmp_path / "model.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ProbeError, match=r"calls posix.mkdir. A pickle runs its author's code"):
        load_module(file, make)
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ProbeError, match="neither an intact torch checkpoint"):
        load_module(tmp_path / "plain.pkl", make)
    assert not mark.exists()
    with pytest.raises(ProbeError):
        load_module(file, make, trust=True)
    assert mark.exists()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.95])
@pytest.mark.parametrize("trust", [False, True])
def test_truncated_files_are_refused(legacy, share, trust, trained, tmp_path):
    file = saved(
        trained.state_dict(), tmp_path / "model.pt", _use_new_zipfile_serialization=not legacy
    )
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ProbeError, match=r"neither an intact torch checkpoint.*truncated"):
        load_module(file, make, trust=trust)


def test_text_files_are_refused(tmp_path):
    (tmp_path / "text").write_text("hello, I am no model\n" * 50)
    with pytest.raises(
        ProbeError, match=r"text is neither an intact torch checkpoint.*another kind"
    ):
        load_module(tmp_path / "text", make)


def test_error_on_a_missing_class_names_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "gone_networks.py").write_text("from torch import nn\nclass Own(nn.Linear): pass\n")
    own = module_factory("gone_networks:Own", {"in_features": 2, "out_features": 2})()
    file = saved(own, tmp_path / "model.pt")
    monkeypatch.delitem(sys.modules, "gone_networks")
    (tmp_path / "gone_networks.py").write_text("from torch import nn\n")
    with pytest.raises(
        ProbeError, match=r"needs a class or function that does not exist \(AttributeError.*Own"
    ):
        load_module(file, None, trust=True)
    monkeypatch.delitem(sys.modules, "gone_networks")
    (tmp_path / "gone_networks.py").unlink()
    with pytest.raises(ProbeError, match=r"needs the module gone_networks.*install gone-networks"):
        load_module(file, None, trust=True)


def test_diverged_weights_are_refused(trained, tmp_path):
    require_finite(trained, tmp_path / "model.pt")
    with torch.no_grad():
        trained[2].bias[1] = float("nan")
    with pytest.raises(ProbeError, match=r"NaN or infinite, the first in 2\.bias"):
        require_finite(trained, tmp_path / "model.pt")


# ---- the user's code --------------------------------------------------------------------------------


@pytest.fixture
def code(tmp_path, monkeypatch):
    """Write a module of the user to the working folder, and return its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (tmp_path / "probed_networks.py").write_text(
        "from torch import nn\n"
        "def make(hidden=4): return nn.Linear(2, hidden)\n"
        "def number(): return 3\n"
        "width = 5\n"
    )
    yield "probed_networks"
    sys.modules.pop("probed_networks", None)


@pytest.mark.parametrize("name", ["", ".sibling"])
def test_invalid_module_names_are_refused(name):
    with pytest.raises(ProbeError, match=r"--env .*: pass the full name of a module"):
        import_module(name, "--env")


def test_factory_from_the_working_folder(code):
    assert module_factory(f"{code}:make", {"hidden": 6})().weight.shape == (6, 2)


@pytest.mark.parametrize(
    ("path", "keywords", "message"),
    [
        ("probed_networks", {}, "pass PACKAGE.MODULE:FUNCTION"),
        (":make", {}, "pass PACKAGE.MODULE:FUNCTION"),
        ("probed_network:make", {}, "No module named 'probed_network'. Install it, or run from"),
        ("probed_networks:mak", {}, r"no function or class 'mak'. Did you mean 'make'\?"),
        ("probed_networks:width", {}, "no function or class 'width'"),
        ("probed_networks:number", {}, "returns a int, not a torch.nn.Module"),
        (
            "probed_networks:make",
            {"hiden": 2},
            "unexpected keyword argument 'hiden'.*--module-kwargs",
        ),
    ],
)
def test_invalid_factories_are_refused(code, path, keywords, message):
    with pytest.raises(ProbeError, match=message):
        module_factory(path, keywords)()


def test_long_messages_are_shortened():
    assert in_short(RuntimeError("a\n   b")) == "RuntimeError: a b"
    assert len(in_short(RuntimeError("x" * 5000))) < 400
