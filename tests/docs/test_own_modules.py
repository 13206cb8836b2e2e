"""The modules under docs/how-to, each run by the command below it, as written."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from plasticity.scripts.reference.blocks import blocks_of

PAGES = sorted((Path(__file__).parents[2] / "docs" / "how-to").glob("own-*.md"))
TEXT = "\n".join(page.read_text() for page in PAGES)
MODULES = {
    block.file.removesuffix(".py"): block.code for block in blocks_of(TEXT, "python") if block.file
}
COMMANDS = [block.code.strip() for block in blocks_of(TEXT, "bash")]


def module_of(command):
    return shlex.split(command)[shlex.split(command).index("--import") + 1]


def test_each_module_has_its_command():
    assert sorted(map(module_of, COMMANDS)) == sorted(MODULES)
    assert len(MODULES) == 5


@pytest.mark.parametrize("command", COMMANDS, ids=module_of)
def test_a_module_of_ones_own_runs(command, tmp_path):
    name = module_of(command)
    if name == "my_environment":
        pytest.importorskip("gymnasium")
    (tmp_path / f"{name}.py").write_text(MODULES[name])
    words = [*shlex.split(command)[1:], "--out", "runs", "--jobs", "1"]
    if "--seeds" not in words:
        words += ["--seeds", "0"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "plasticity.scripts.main", *words],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    paths = sorted((tmp_path / "runs").rglob("metrics.jsonl"))
    assert len(paths) >= 2
    for path in paths:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert rows
        assert not any(row["diverged"] for row in rows)
        assert json.loads((path.parent / "config.json").read_text())["imports"] == [name]
