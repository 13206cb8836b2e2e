"""Played episodes as files: a GIF, a video, or a strip of pictures."""

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
from plasticity.scripts.report.figures import to_png
from plasticity.scripts.run.atomic_files import write_whole

STRIP_PICTURES = 6
"""Pictures of an episode in a strip, from its first to its last."""

GIF_COLORS = 64
"""Of a GIF: enough for an ant on a chequered floor, at half the bytes of 256."""

_TEXT_SIZE = 13
_GIF_TICK = 0.01  # seconds: a GIF knows no shorter time
_LAST_SECONDS = 1.0  # that an episode's last picture stays


@dataclass(frozen=True)
class Frame:
    """One picture of an episode, and how far it had come by then."""

    picture: NDArray[np.uint8]
    """Red, green and blue. Shape: (height, width, 3)."""

    seconds: float
    """Since the episode began, in simulated time."""

    distance: float
    """Toward the target since the episode began, in metres."""

    episode_return: float
    """Sum of the rewards so far."""

    def __str__(self) -> str:
        distance = round(self.distance, 1) + 0.0  # a step back of nothing is no -0.0 m
        return f"{self.seconds:.1f} s, {distance:.1f} m, return {self.episode_return:.0f}"


@dataclass(frozen=True)
class Clip:
    """One episode."""

    title: str
    """What is seen, in a few words."""

    frames: tuple[Frame, ...]
    """In order, at least one."""

    frame_seconds: float
    """Simulated time from one frame to the next; the last may come sooner."""


def require_writer(file: Path) -> None:
    """Refuse a file that could not be written, before an episode is played for it.

    Raises:
        ValueError: if its ending is unknown, the program for a video is missing, or there is no such
            folder.
    """
    if file.suffix not in WRITERS:
        raise ValueError(f"{file} has no known ending.{nearest(file.suffix, WRITERS)}")
    if file.suffix == ".mp4":
        _ffmpeg()
    if not file.parent.is_dir():
        raise ValueError(f"{file.parent} is no folder: give --out a file in one that is there.")


def write_video(file: Path, clips: Sequence[Clip]) -> None:
    """Write episodes, one after another, in the format of the file's ending.

    Args:
        file: .gif, .mp4 (which needs the program ffmpeg) or .png (a strip of pictures, a row per
            episode). Written whole or not at all.
        clips: At least one; all pictures of one size.

    Raises:
        ValueError: as `require_writer`, and if ffmpeg fails or the file cannot be written.
    """
    require_writer(file)
    try:
        WRITERS[file.suffix](file, clips)
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"Cannot write {file} ({reason}): give another --out.") from error


def _captioned(clip: Clip, frame: Frame) -> Image.Image:
    image = Image.fromarray(frame.picture)
    draw = ImageDraw.Draw(image)
    lines = f"{clip.title}\n{frame}"
    font = ImageFont.load_default(_TEXT_SIZE)
    # A dark rim keeps the letters readable on any ground.
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
            "A video (.mp4) needs the program ffmpeg, which is not on the PATH: install it, or give"
            " --out a file that ends in .gif or .png."
        )
    return found


def _write_mp4(file: Path, clips: Sequence[Clip]) -> None:
    height, width, _ = clips[0].frames[0].picture.shape
    unfinished = file.with_name(f".{file.stem}.unfinished{file.suffix}")
    rate = f"{1 / clips[0].frame_seconds:.4f}"
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", rate]
    # Players expect colours at half the resolution, for which sides must be even.
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
                f"ffmpeg could not make {file} ({reason[-1]}): give --out a file that ends in .gif or"
                " .png."
            )
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


# ---- a strip ----------------------------------------------------------------------------------------


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
    """`STRIP_PICTURES` of them, evenly from the first to the last."""
    places = np.linspace(0, len(frames) - 1, STRIP_PICTURES).round().astype(int)
    return [frames[place] for place in places]


WRITERS: Mapping[str, Callable[[Path, Sequence[Clip]], None]] = {
    ".gif": _write_gif,
    ".mp4": _write_mp4,
    ".png": _write_strip,
}
"""How each kind of file is written, by its ending."""
