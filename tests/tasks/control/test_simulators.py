"""Imports of simulators: what a missing one is called, and what it may print."""

import os
import sys

import pytest

from plasticity.tasks import SlipperyAntMujocoEnv
from plasticity.tasks.control.simulators import import_simulator, standard_error_closed


def test_a_missing_simulator_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs mujoco, .* pip install 'plasticity\[muj"):
        SlipperyAntMujocoEnv()


def test_a_package_that_a_simulator_itself_misses_keeps_its_error(monkeypatch, tmp_path):
    (tmp_path / "a_simulator.py").write_text("import a_missing_part")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'a_missing_part'"):
        import_simulator("a_simulator", "The ant", "install it")


def test_standard_error_is_closed_for_c_code_and_opened_again(capfd):
    with standard_error_closed():
        os.write(2, b"hidden")
    os.write(2, b"seen")
    assert capfd.readouterr().err == "seen"
