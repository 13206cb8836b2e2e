"""Stable-Baselines3's own tests of saving, loading, determinism and running, with our optimizer.

They are in its source package, but not in its wheel:

    pip download --no-binary :all: --no-deps stable-baselines3==2.9.2
    tar xzf stable_baselines3-2.9.2.tar.gz
    PLASTICITY_SB3_TESTS=stable_baselines3-2.9.2/tests pytest tests/plasticity/sb3/test_own_suite.py
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = os.environ.get("PLASTICITY_SB3_TESTS")
PLUGIN = Path(__file__).with_name("sb3_default_optimizer.py")


def run(files, folder):
    """Run test files with syre optimizers as the policies' default, outside of this project's settings."""
    search = os.pathsep.join([str(PLUGIN.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-p", PLUGIN.stem, *map(str, files)],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": search,
            "OMP_NUM_THREADS": "1",  # more threads are much slower
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


OURS = """
from stable_baselines3 import A2C, PPO
from plasticity.sb3.optimizer import PolicyOptimizer

def test_default_is_ours():
    for algorithm in (A2C, PPO):
        optimizer = algorithm("MlpPolicy", "CartPole-v1").policy.optimizer
        assert isinstance(optimizer, PolicyOptimizer)
        assert [group["strength"] for group in optimizer.param_groups] == [1e-2, 1e-3]
        assert optimizer.param_groups[0]["eps"] == 1e-5
"""


def test_the_plugin_makes_our_optimizer_the_default(tmp_path):
    file = tmp_path / "test_default.py"
    file.write_text(OURS)
    code, output = run([file], tmp_path)
    assert code == 0, output
    assert "1 passed" in output
    assert "PolicyAdam, PolicyRMSprop" in output


@pytest.mark.timeout(3600)  # about two minutes on one core
@pytest.mark.skipif(
    not FOLDER,
    reason="PLASTICITY_SB3_TESTS is not set to a folder with Stable-Baselines3's tests; to get them:"
    " pip download --no-binary :all: --no-deps stable-baselines3==2.9.2, and unpack",
)
def test_own_tests_of_stable_baselines_pass(tmp_path):
    names = ("test_save_load.py", "test_deterministic.py", "test_run.py")
    files = [Path(FOLDER).resolve() / name for name in names]
    assert [file for file in files if not file.is_file()] == []
    code, output = run(files, tmp_path)
    assert code == 0, output
    assert "PolicyAdam, PolicyRMSprop" in output
    assert " passed" in output
