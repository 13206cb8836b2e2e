"""Origin of a result: versions and commit."""

import subprocess
import sys

import numpy as np
import torch

from plasticity.scripts.run import versions as versions_module


def test_versions_name_what_a_result_depends_on():
    found = versions_module.versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["torch"] == torch.__version__
    assert found["numpy"] == np.__version__


def test_commit_of_the_checkout_that_holds_the_code(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    code = tmp_path / "runs.py"
    code.write_text("one")
    monkeypatch.setattr(versions_module, "__file__", str(code))
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as in a git hook
    with monkeypatch.context() as patch:
        patch.delenv("GIT_DIR")
        git("init", "-q")
        assert versions_module.git_commit() is None  # a checkout that does not track the file
        git("add", "runs.py")
        git("commit", "-q", "-m", "a")
        git("tag", "-a", "v1", "-m", "v1")
        commit = git("rev-parse", "HEAD")
    assert versions_module.git_commit() == commit
    code.write_text("two")
    assert versions_module.git_commit() == f"{commit}-dirty"
    monkeypatch.setenv("PATH", "")
    assert versions_module.git_commit() is None
