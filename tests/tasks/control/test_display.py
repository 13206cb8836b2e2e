"""Displays: the render modes of a host, and the errors if there is no display."""

import sys

import gymnasium
import pytest

from plasticity.tasks import SlipperyAntBulletEnv, SlipperyAntMujocoEnv
from plasticity.tasks.control import display

ENGINES = {"pybullet": SlipperyAntBulletEnv, "mujoco": SlipperyAntMujocoEnv}
on_linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="Linux names its display"
)


@pytest.fixture(params=[None, "", ":987"])
def no_display(request, monkeypatch):
    """Set no name of a display, or one that does not answer, as after a lost connection."""
    monkeypatch.delenv("DISPLAY", raising=False)
    if request.param is not None:
        monkeypatch.setenv("DISPLAY", request.param)
    return request.param or "DISPLAY is not set"


@on_linux
@pytest.mark.parametrize("engine", ENGINES)
def test_without_a_display_an_environment_lists_the_remaining_modes(no_display, engine):
    """List the modes that work here in an environment, where checkers read them, and all in the class."""
    pytest.importorskip(engine)
    env = ENGINES[engine]()
    assert env.metadata["render_modes"] == ["rgb_array"]
    assert env.metadata["render_fps"] == ENGINES[engine].metadata["render_fps"]
    assert ENGINES[engine].metadata["render_modes"] == ["human", "rgb_array"]
    env.close()


@on_linux
@pytest.mark.parametrize("engine", ENGINES)
def test_a_window_without_a_display_is_an_error_before_the_simulator_ends_the_process(
    no_display, engine
):
    pytest.importorskip(engine)
    with pytest.raises(RuntimeError, match=f'display.*{no_display}.*render_mode "rgb_array"'):
        ENGINES[engine](render_mode="human")
    name = ENGINES[engine].__name__.removesuffix("Env")
    with pytest.raises(RuntimeError, match=f'display.*{no_display}.*render_mode "rgb_array"'):
        gymnasium.make(f"plasticity.tasks:plasticity/{name}-v0", render_mode="human")


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_with_a_display_a_window_is_one_of_the_modes(monkeypatch, platform):
    monkeypatch.setattr(display.sys, "platform", platform)
    monkeypatch.delenv("DISPLAY", raising=False)
    if platform == "linux":
        monkeypatch.setenv("DISPLAY", ":0")
        monkeypatch.setattr(display, "_opens", lambda name: name == ":0")
        monkeypatch.setattr(display, "_known_to_open", lambda name: name == ":0")
    display.require_display()
    assert display.render_modes_here() == ["human", "rgb_array"]
