"""Pictures of a MuJoCo world, rendered offscreen or shown in a window, without touching the simulation."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from plasticity.tasks.control.display import require_display
from plasticity.tasks.control.simulators import load_before_opengl

mujoco: Any = importlib.import_module("mujoco")  # its classes are not typed

Model: TypeAlias = Any
Array = NDArray[Any]

_DISTANCE, _AZIMUTH, _ELEVATION = 4.0, 90.0, -30.0
# Without a GPU, a picture of 320 x 240 takes 9 ms with these, and 115 ms with MuJoCo's defaults.
_SHADOW_SIZE, _SAMPLES = 1024, 0


class _Scene:
    """Copy of the simulated world for rendering, with a camera that follows one body."""

    def __init__(self, model: Model, body: int) -> None:
        self.model = model
        self.data = mujoco.MjData(model)
        self.body = body

    def place(self, positions: Array) -> None:
        """Move all bodies to these positions, which the simulation's own bodies lag behind."""
        self.data.qpos[:] = positions
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def aim(self, camera: Any) -> None:
        """Make a camera follow the body."""
        camera.type = mujoco.mjtCamera.mjCAMERA_TRACKING
        camera.trackbodyid = self.body
        camera.distance, camera.azimuth, camera.elevation = _DISTANCE, _AZIMUTH, _ELEVATION


class Pictures:
    """Renderer of pictures that needs no display.

    Args:
        model: Model to render, an `mujoco.MjModel`.
        body: Index of the body that the camera follows.
        width: Width in pixels.
        height: Height in pixels.

    Raises:
        RuntimeError: if OpenGL is not available.
    """

    def __init__(self, model: Model, body: int, width: int, height: int) -> None:
        self._placed = _Scene(model, body)
        model.vis.quality.shadowsize, model.vis.quality.offsamples = _SHADOW_SIZE, _SAMPLES
        model.vis.global_.offwidth, model.vis.global_.offheight = width, height
        self._context = _open_gl(width, height)
        self._context.make_current()
        self._size = mujoco.MjrRect(0, 0, width, height)
        self._scene = mujoco.MjvScene(model, maxgeom=1000)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._option = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._placed.aim(self._camera)
        self._drawing = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._drawing)

    def show(self, positions: Array) -> NDArray[np.uint8]:
        """Render the world at these positions.

        Args:
            positions: MuJoCo's `qpos`.

        Returns:
            Red, green and blue, from 0 to 255. Shape: (height, width, 3).
        """
        self._placed.place(positions)
        self._context.make_current()  # another context may be current
        mujoco.mjv_updateScene(
            self._placed.model,
            self._placed.data,
            self._option,
            None,
            self._camera,
            mujoco.mjtCatBit.mjCAT_ALL,
            self._scene,
        )
        mujoco.mjr_render(self._size, self._scene, self._drawing)
        picture = np.empty((self._size.height, self._size.width, 3), np.uint8)
        mujoco.mjr_readPixels(picture, None, self._size, self._drawing)
        return np.ascontiguousarray(picture[::-1])  # OpenGL's first row is the lowest

    def close(self) -> None:
        """Free the renderer; closing twice is fine."""
        if self._context is not None:
            self._context.make_current()
            self._drawing.free()
            self._context.free()
            self._context = None


class Window:
    """Window of MuJoCo's own viewer.

    Args:
        model: Model to show, an `mujoco.MjModel`.
        body: Index of the body that the camera follows.

    Raises:
        RuntimeError: if there is no display.
    """

    def __init__(self, model: Model, body: int) -> None:
        require_display()
        viewer = importlib.import_module("mujoco.viewer")
        self._placed = _Scene(model, body)
        self._viewer = viewer.launch_passive(
            model, self._placed.data, show_left_ui=False, show_right_ui=False
        )
        with self._viewer.lock():
            self._placed.aim(self._viewer.cam)

    def show(self, positions: Array) -> None:
        """Show the world at these positions, MuJoCo's `qpos`."""
        with self._viewer.lock():
            self._placed.place(positions)
        self._viewer.sync()

    def close(self) -> None:
        """Close the window; closing twice is fine."""
        self._viewer.close()


def _open_gl(width: int, height: int) -> Any:
    """Return an OpenGL context: that of MUJOCO_GL if set, else, on Linux, EGL, which needs no display."""
    load_before_opengl()
    chosen = os.environ.get("MUJOCO_GL")
    module = "mujoco.egl" if sys.platform == "linux" and not chosen else "mujoco.gl_context"
    try:
        return importlib.import_module(module).GLContext(width, height)
    except Exception as error:  # each library fails in its own way
        raise RuntimeError(
            f'render_mode "rgb_array" needs OpenGL, which is not available from {module} ({error}): set '
            "the environment variable MUJOCO_GL to an installed backend, egl, osmesa or glfw (which needs "
            "a display), before Python starts."
        ) from error
