"""Checks for a display on which a simulator can open its window."""

from __future__ import annotations

import ctypes
import functools
import os
import sys

RENDER_MODES = ("human", "rgb_array")
"""Render modes of the ants: a window, and pictures, which need no display."""


def render_modes_here() -> list[str]:
    """Return the render modes that work on this host: "human" needs a display."""
    display = _name()
    shown = display is None or _known_to_open(display)
    return [mode for mode in RENDER_MODES if shown or mode != "human"]


def require_display() -> None:
    """Raise a RuntimeError if there is no display: without one, the simulator would end the process.

    Raises:
        RuntimeError: if there is no display, or it cannot be opened.
    """
    display = _name()
    if display is None or _opens(display):
        return
    state = f"DISPLAY={display!r} cannot be opened" if display else "DISPLAY is not set"
    raise RuntimeError(
        f'render_mode "human" needs a display, and {state}: use render_mode "rgb_array", or run where '
        "there is a display."
    )


def _name() -> str | None:
    """Return the name of the display, "" if there is none; None on systems without names, such as macOS."""
    return os.environ.get("DISPLAY", "") if sys.platform.startswith("linux") else None


def _opens(display: str) -> bool:
    if not display:
        return False
    try:  # Bullet and GLFW use the same library
        x11 = ctypes.CDLL("libX11.so.6")
    except OSError:
        return False
    x11.XOpenDisplay.restype = ctypes.c_void_p
    opened = x11.XOpenDisplay(display.encode())
    if opened:
        x11.XCloseDisplay(ctypes.c_void_p(opened))
    return bool(opened)


_known_to_open = functools.cache(_opens)
