"""Uploads, to a hub that is a local folder; signatures and patterns are the library's own where it is."""

import fnmatch
import inspect
import shutil
import types

import pytest

from plasticity.scripts.run.atomic_files import RunError
from plasticity.scripts.share import push as module
from plasticity.scripts.share.push import PushConfig, push


class HubError(Exception):
    """What the Hub's library raises."""


class ConnectError(Exception):
    """What its HTTP library raises, which is no OSError."""


class Interface:
    """The two calls of `HfApi` that are used, on a folder."""

    def __init__(self, root):
        self.root, self.private, self.down = root, {}, None

    def create_repo(self, repo_id, *, private, exist_ok):
        if self.down:
            raise self.down
        assert exist_ok
        (self.root / repo_id).mkdir(parents=True, exist_ok=True)
        self.private[repo_id] = private

    def upload_folder(self, *, repo_id, folder_path, allow_patterns, commit_message):
        assert commit_message == "syre on permuted-digits, seed 4"
        for file in folder_path.rglob("*"):
            name = file.relative_to(folder_path).as_posix()
            if file.is_file() and any(fnmatch.fnmatch(name, each) for each in allow_patterns):
                target = self.root / repo_id / name
                target.parent.mkdir(exist_ok=True, parents=True)
                shutil.copy(file, target)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Put a local folder in place of the Hub, and return its interface."""
    interface = Interface(tmp_path / "hub")
    errors = types.SimpleNamespace(HfHubHTTPError=HubError, LocalTokenNotFoundError=HubError)
    library = types.SimpleNamespace(HfApi=lambda: interface, errors=errors)
    monkeypatch.setattr(module, "_hub", lambda: library)
    return interface


def test_a_run_is_uploaded_with_its_card_and_without_its_lock(hub, run_folder, rows):
    path = run_folder(rows)
    (path / "lock").touch()
    (path / "checkpoint.pt").write_bytes(b"weights")
    (path / "tensorboard").mkdir()
    (path / "tensorboard" / "events").write_bytes(b"events")
    assert push(PushConfig(path, to="me/run", private=True)) == "https://huggingface.co/me/run"
    there = hub.root / "me/run"
    names = {file.relative_to(there).as_posix() for file in there.rglob("*") if file.is_file()}
    pictures = {name for name in names if name.endswith(".png")}
    expected = {"README.md", "config.json", "metrics.jsonl", "checkpoint.pt", "tensorboard/events"}
    assert names - pictures == expected
    assert pictures
    assert hub.private == {"me/run": True}


def test_an_edited_card_is_kept(hub, run_folder, rows):
    path = run_folder(rows)
    (path / "README.md").write_text("mine")
    push(PushConfig(path, to="me/run"))
    assert (hub.root / "me/run/README.md").read_text() == "mine"


@pytest.mark.parametrize("error", [HubError("401 Unauthorized"), ConnectError("refused")])
def test_a_hub_that_refuses_or_is_not_reached_is_named_with_the_remedy(
    hub, run_folder, rows, error
):
    hub.down = error
    with pytest.raises(RunError, match=rf"{error}.*hf auth login.*me/run"):
        push(PushConfig(run_folder(rows), to="me/run"))


def test_a_name_that_the_hub_does_not_allow(hub, run_folder, rows):
    hub.down = ValueError("Repo id must use alphanumeric chars")
    with pytest.raises(ValueError, match=r"^Repo id must use"):
        push(PushConfig(run_folder(rows), to="me/a run"))


@pytest.mark.parametrize("name", ["run", "/run", "me/", "me/run/more"])
def test_what_is_no_repository_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="must be a repository on the Hub: USER/NAME"):
        PushConfig(tmp_path, to=name)


def test_a_missing_library_is_named_with_the_extra(run_folder, rows, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"pip install 'plasticity\[hub\]'"):
        push(PushConfig(run_folder(rows), to="me/run"))


def test_the_calls_are_those_of_the_library():
    hub = pytest.importorskip("huggingface_hub")
    errors = pytest.importorskip("huggingface_hub.errors")
    for name in ("create_repo", "upload_folder"):
        own = inspect.signature(getattr(Interface, name)).parameters
        assert set(own) <= set(inspect.signature(getattr(hub.HfApi, name)).parameters)
    assert errors.HfHubHTTPError
    assert errors.LocalTokenNotFoundError
    files = ["README.md", "lock", "wandb/run/file", "tensorboard/events", "checkpoint.pt"]
    kept = list(hub.utils.filter_repo_objects(files, allow_patterns=list(module.FILES)))
    assert kept == ["README.md", "tensorboard/events", "checkpoint.pt"]
