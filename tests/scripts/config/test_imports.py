"""A user's module, in a folder of its own: with the real command, in a pool, killed and continued."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest

from plasticity.scripts.config.imports import import_modules, import_saved, take_imports

MODULE = '''
"""What a user wrote."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from plasticity.agents.networks import MLP, network
from plasticity.mitigations import Mitigation, mitigation


@mitigation("sine")
@dataclass(frozen=True, kw_only=True)
class Sine(Mitigation):
    """Sines as activations."""

    claims: ClassVar[str] = "the activation"

    def network(self, spec):
        return replace(spec, layer=replace(spec.layer, activations=(torch.sin,)))


@network("wide")
@dataclass(frozen=True, kw_only=True)
class Wide(MLP):
    """A wide layer."""

    hidden: tuple[int, ...] = (150,)
    """Widths."""
'''

# As the installed program: `python -m` would add the current directory to the path itself.
PROGRAM = "import sys; sys.path.remove(''); from plasticity.scripts.main import main; main()"
RUN = (
    "run permuted-digits --import mine --methods sine sine+syre --architecture wide --seeds 0"
    " --tasks 6 --metrics effective_rank --probe-size 32 --device cpu --jobs 2 --out"
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(MODULE)
    return tmp_path


def start(folder, line):
    command = [sys.executable, "-c", PROGRAM, *shlex.split(line)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, stdout=pipe, stderr=pipe, text=True)


def call(folder, line):
    process = start(folder, line)
    out, said = process.communicate()
    return process.returncode, out, said


def rows(folder, out):
    files = [
        folder / out / f"permuted-digits/{m}/seed_0/metrics.jsonl" for m in ("sine", "sine+syre")
    ]
    return [file.read_bytes() if file.exists() else b"" for file in files]


def test_a_module_is_imported_wherever_its_runs_are(folder):
    """Two processes at once; killed after a first row; continued from config.json alone; reported."""
    code, _, said = call(folder, f"{RUN} whole")
    assert code == 0, said
    config = json.loads((folder / "whole/permuted-digits/sine/seed_0/config.json").read_text())
    assert (config["imports"], config["network"]["architecture"]) == (["mine"], "wide")
    assert config["method"] == {"sine": {}}

    process = start(folder, f"{RUN} killed")
    deadline = time.monotonic() + 240
    while not all(rows(folder, "killed")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = rows(folder, "killed")
    assert all(before)
    for method in ("sine", "sine+syre"):
        again = f"run --config killed/permuted-digits/{method}/seed_0/config.json --out killed"
        code, _, said = call(folder, again)
        assert code == 0, said
    assert rows(folder, "killed") == rows(folder, "whole")
    assert before != rows(folder, "whole")

    code, out, said = call(folder, "report whole --baseline sine")
    assert code == 0, said
    assert "sine+syre" in out
    # Elsewhere, the report says what is missing.
    (folder / "mine.py").rename(folder / "gone.txt")
    code, _, said = call(folder, "report whole")
    assert code == 2
    assert "seed_0/config.json: --import mine: there is no module 'mine'" in said


def test_a_module_is_listed(folder):
    code, out, said = call(folder, "list --import mine")
    assert code == 0, said
    assert "  sine                     Sines as activations." in out
    assert "  wide                     A wide layer." in out
    code, _, said = call(folder, "run permuted-digits --methods sine")
    assert code == 2
    assert "Unknown method 'sine'" in said


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def test_words_of_the_option(here):
    for name in ("module_of_mine_1", "module_of_mine_2"):
        (here / f"{name}.py").write_text("")
    line = "name --import module_of_mine_1 module_of_mine_2 --out x --import module_of_mine_1"
    modules, rest = take_imports(line.split())
    assert modules == ("module_of_mine_1", "module_of_mine_2", "module_of_mine_1")
    assert rest == ["name", "--out", "x"]
    assert "module_of_mine_2" in sys.modules
    assert take_imports(["name", "--importance", "1"]) == ((), ["name", "--importance", "1"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no module 'broken_module' in "),
        ("import absent_module_of_mine", "raised ModuleNotFoundError while it was imported"),
        ("1 / 0", r"raised ZeroDivisionError while it was imported \(division by zero\)"),
        ("def f(:", "raised SyntaxError while it was imported"),
        (
            "from plasticity.agents.networks import CNN, network\nnetwork('cnn')(CNN)",
            "There is an architecture 'cnn' already",
        ),
    ],
)
def test_modules_that_cannot_be_imported(here, content, message):
    if content is not None:
        (here / "broken_module.py").write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        import_modules(["broken_module"])
    assert "--import broken_module" in str(caught.value)


def test_installed_modules_come_first(here):
    """A file of the current directory hides no module of the standard library or of a package."""
    (here / "colorsys.py").write_text("raise RuntimeError")
    import_modules(["colorsys"])
    assert os.fspath(here) not in sys.modules["colorsys"].__file__


def test_a_module_that_ends_the_program_is_named(tmp_path, monkeypatch):
    (tmp_path / "ends_early.py").write_text("import sys; sys.exit(3)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ValueError, match=r"--import ends_early: the module raised SystemExit .* \(3\)"
    ):
        import_modules(["ends_early"])


@pytest.mark.parametrize("names", ["mine", [1]])
def test_wrong_names_in_a_configuration(names):
    with pytest.raises(TypeError, match="imports must be a list of names of modules"):
        import_saved({"imports": names})
