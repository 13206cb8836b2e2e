"""Pictures of a MuJoCo world: the camera follows the ant, and the libraries are compatible."""

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("mujoco")

from plasticity.tasks.control.ant.mujoco import load_ant
from plasticity.tasks.control.slippery import mujoco_pictures
from plasticity.tasks.control.slippery.mujoco_pictures import Pictures, Window


@pytest.fixture
def drawn():
    """Return a model and its renderer."""
    model = load_ant()
    try:
        pictures = Pictures(model, 1, 64, 48)
    except RuntimeError as error:
        pytest.skip(f"no OpenGL here: {error}")
    yield model, pictures
    pictures.close()


def ant_pixels(picture):
    """Return the pixels of the ant, which alone has more red than blue."""
    red, _, blue = np.moveaxis(picture.astype(int), -1, 0)
    return np.argwhere(red > blue + 40)


def test_the_camera_follows_the_ant(drawn):
    model, pictures = drawn
    centres = []
    for x in (0.0, 5.0, 20.0):
        positions = model.qpos0.copy()
        positions[0] = x
        picture = pictures.show(positions)
        assert (picture.shape, picture.dtype) == ((48, 64, 3), np.uint8)
        centres.append(ant_pixels(picture).mean(0))
    assert len(ant_pixels(picture)) > 50
    np.testing.assert_allclose(
        centres, [centres[0]] * 3, atol=1.0
    )  # as the light of the floor changes


def test_the_first_row_is_the_highest(drawn):
    model, pictures = drawn
    picture = pictures.show(model.qpos0)
    # The chequers are smaller, and thus closer to their mean, the farther away they are.
    assert picture[:8].std() < picture[-8:].std()


def test_closing_twice_is_fine_and_other_renderers_still_work(drawn):
    model, pictures = drawn
    expected = pictures.show(model.qpos0)
    other = Pictures(load_ant(), 1, 64, 48)
    other.show(model.qpos0)
    other.close()
    other.close()
    np.testing.assert_array_equal(pictures.show(model.qpos0), expected)


@pytest.mark.usefixtures("drawn")
def test_triton_can_be_loaded_after_a_picture():
    pytest.importorskip("triton")
    program = """
from plasticity.tasks import SlipperyAntMujocoEnv
env = SlipperyAntMujocoEnv(render_mode="rgb_array")
env.reset(seed=0)
env.render()
import triton._C.libtriton
print("both")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "both\n"), done.stderr


def test_without_opengl_the_error_names_the_remedy():
    program = """
from plasticity.tasks import SlipperyAntMujocoEnv
try:
    SlipperyAntMujocoEnv(render_mode="rgb_array")
except RuntimeError as error:
    print(error)
"""
    # EGL is set to a device that does not exist.
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={"MUJOCO_EGL_DEVICE_ID": "999", "PATH": ""},
    )
    assert "needs OpenGL" in done.stdout, done.stderr
    assert "MUJOCO_GL" in done.stdout


def test_a_window_shows_where_the_ant_is(monkeypatch):
    """Use a viewer that records what it is shown, as there is no display here."""

    class Viewer:
        def __init__(self, model, data, **_):
            self.data, self.cam, self.heights, self.closed = data, Camera(), [], 0

        def lock(self):
            return self

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def sync(self):
            self.heights.append(float(self.data.xpos[1, 2]))

        def close(self):
            self.closed += 1

    class Camera:
        pass

    module = type("viewer", (), {"launch_passive": staticmethod(Viewer)})
    monkeypatch.setattr(mujoco_pictures, "require_display", lambda: None)
    model = load_ant()
    monkeypatch.setattr(mujoco_pictures.importlib, "import_module", lambda _: module)
    window = Window(model, 1)
    for height in (0.75, 0.5):
        positions = model.qpos0.copy()
        positions[2] = height
        window.show(positions)
    assert window._viewer.heights == [0.75, 0.5]
    assert window._viewer.cam.trackbodyid == 1
    window.close()
    assert window._viewer.closed == 1
