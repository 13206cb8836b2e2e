"""Files of recorded episodes: a GIF, a video, or a filmstrip."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from plasticity.checks import nearest
from plasticity.scripts.report.panels import to_png
from plasticity.scripts.run.atomic_files import write_whole

STRIP_PICTURES = 6
"""Number of pictures per episode in a filmstrip, from its first to its last."""

GIF_COLORS = 64
"""Number of colours in a GIF: enough for an ant on a chequered floor, at half the size of 256 colours."""

_TEXT_SIZE = 13
_GIF_TICK = 0.01  # seconds: the time resolution of the GIF format
_LAST_SECONDS = 1.0  # for which the last picture of an episode is shown


@dataclass(frozen=True)
class Frame:
    """Picture of an episode, with the time, distance and return so far."""

    picture: NDArray[np.uint8]
    """RGB picture. Shape: (height, width, 3)."""

    seconds: float
    """Simulated time since the start of the episode, in seconds."""

    distance: float | None
    """Distance toward the target since the start of the episode, in metres; None if there is no target."""

    episode_return: float
    """Sum of the rewards so far."""

    def __str__(self) -> str:
        distance = ""
        if self.distance is not None:
            distance = f"{round(self.distance, 1) + 0.0:.1f} m, "  # avoids -0.0 m
        return f"{self.seconds:.1f} s, {distance}return {self.episode_return:.0f}"


@dataclass(frozen=True)
class Clip:
    """Recorded episode."""

    title: str
    """Caption of the episode."""

    frames: tuple[Frame, ...]
    """Frames in order, at least one."""

    frame_seconds: float
    """Simulated time between frames, in seconds; less before the last one, if the episode ends in between."""


def require_writer(file: Path) -> None:
    """Raise a ValueError unless a file can be written, to be called before episodes are played.

    Raises:
        ValueError: if its suffix is unknown, ffmpeg is needed and missing, or its folder does not
            exist.
    """
    if file.suffix not in WRITERS:
        raise ValueError(f"{file} has an unknown suffix.{nearest(file.suffix, WRITERS)}")
    if file.suffix == ".mp4":
        _ffmpeg()
    if not file.parent.is_dir():
        raise ValueError(f"{file.parent} is not a folder: pass --out a file in an existing folder.")


def write_video(file: Path, clips: Sequence[Clip]) -> None:
    """Write episodes, one after another, in the format given by the file's suffix.

    Args:
        file: File with the suffix .gif, .mp4 (which needs the program ffmpeg) or .png (a filmstrip with a
            row per episode). Written atomically.
        clips: Episodes, at least one; all pictures have the same size.

    Raises:
        ValueError: as for `require_writer`, and if ffmpeg fails or the file cannot be written.
    """
    require_writer(file)
    try:
        WRITERS[file.suffix](file, clips)
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"Cannot write {file} ({reason}): pass another --out.") from error


def _captioned(clip: Clip, frame: Frame) -> Image.Image:
    image = Image.fromarray(frame.picture)
    draw = ImageDraw.Draw(image)
    lines = f"{clip.title}\n{frame}"
    font = ImageFont.load_default(_TEXT_SIZE)
    # A dark outline keeps the text readable on any background.
    draw.multiline_text((6, 4), lines, font=font, fill="white", stroke_width=1, stroke_fill="black")
    return image


# ---- moving pictures --------------------------------------------------------------------------------


def _write_gif(file: Path, clips: Sequence[Clip]) -> None:
    images, milliseconds = [], []
    for clip in clips:
        for frame in clip.frames:
            image = _captioned(clip, frame)
            images.append(image.quantize(GIF_COLORS, dither=Image.Dither.NONE))
            milliseconds.append(1000 * max(_GIF_TICK, round(clip.frame_seconds, 2)))
        milliseconds[-1] = 1000 * _LAST_SECONDS
    content = io.BytesIO()
    first, *others = images
    first.save(content, "gif", save_all=True, append_images=others, duration=milliseconds, loop=0)
    write_whole(file, content.getbuffer())


def _ffmpeg() -> str:
    found = shutil.which("ffmpeg")
    if found is None:
        raise ValueError(
            "A video (.mp4) needs the program ffmpeg, which is not on the PATH: install it, or pass"
            " --out a file that ends in .gif or .png."
        )
    return found


def _write_mp4(file: Path, clips: Sequence[Clip]) -> None:
    height, width, _ = clips[0].frames[0].picture.shape
    unfinished = file.with_name(f".{file.stem}.unfinished{file.suffix}")
    rate = f"{1 / clips[0].frame_seconds:.4f}"
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", rate]
    # Players expect colours at half the resolution, which requires even side lengths.
    shape = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p"]
    command = [_ffmpeg(), "-y", "-loglevel", "error", *source, "-i", "-", *shape, str(unfinished)]
    pictures = b"".join(
        _captioned(clip, frame).tobytes() for clip in clips for frame in clip.frames
    )
    try:
        done = subprocess.run(command, input=pictures, capture_output=True, check=False)
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip().splitlines() or [
                "no reason given"
            ]
            raise ValueError(
                f"ffmpeg could not make {file} ({reason[-1]}): pass --out a file that ends in .gif or"
                " .png."
            )
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


# ---- filmstrips -------------------------------------------------------------------------------------


def _write_strip(file: Path, clips: Sequence[Clip]) -> None:
    height, width, _ = clips[0].frames[0].picture.shape
    side = 2.3
    size = (side * STRIP_PICTURES, (side * height / width + 0.55) * len(clips))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subfigures(len(clips), 1, squeeze=False)[:, 0]
    for row, clip in zip(rows, clips, strict=True):
        row.suptitle(clip.title, x=0.005, ha="left", fontsize=11)
        for axes, frame in zip(row.subplots(1, STRIP_PICTURES), _spread(clip.frames), strict=True):
            axes.imshow(frame.picture)
            axes.set_axis_off()
            axes.set_title(str(frame), fontsize=9, y=-0.14)
    write_whole(file, to_png(figure))


def _spread(frames: Sequence[Frame]) -> list[Frame]:
    """Return `STRIP_PICTURES` frames, evenly spaced from the first to the last."""
    indices = np.linspace(0, len(frames) - 1, STRIP_PICTURES).round().astype(int)
    return [frames[index] for index in indices]


WRITERS: Mapping[str, Callable[[Path, Sequence[Clip]], None]] = {
    ".gif": _write_gif,
    ".mp4": _write_mp4,
    ".png": _write_strip,
}
"""Writers by the suffix of the file."""
