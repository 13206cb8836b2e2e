"""Files of episodes: contents of a GIF, of the input of a video, and of a filmstrip."""

import os
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from plasticity.scripts.video import files
from plasticity.scripts.video.files import Clip, Frame, require_writer, write_video


def make_clip(count=4, shade=0, size=(48, 64)):
    """Return a clip of pictures that turn from dark to bright red."""
    frames = []
    for index in range(count):
        picture = np.zeros((*size, 3), np.uint8)
        picture[..., 0] = 40 * (index % 6)
        picture[..., 2] = shade
        frames.append(Frame(picture, index / 20, index / 10, float(index)))
    return Clip("an ant", tuple(frames), 0.0495)


def test_a_gif_has_all_pictures_with_their_durations(tmp_path):
    write_video(tmp_path / "ant.gif", [make_clip(4), make_clip(3, shade=200)])
    with Image.open(tmp_path / "ant.gif") as film:
        assert film.size == (64, 48)
        times, corners = [], []
        for index in range(film.n_frames):
            film.seek(index)
            times.append(film.info["duration"])
            corners.append(film.convert("RGB").getpixel((60, 44)))
        assert film.info["loop"] == 0  # loops forever
    # 49.5 ms are rounded to 50; the last picture of an episode is shown for a second.
    assert times == [50, 50, 50, 1000, 50, 50, 1000]
    np.testing.assert_allclose(
        corners,
        [(40 * index, 0, 0) for index in range(4)] + [(40 * index, 0, 200) for index in range(3)],
        atol=3,
    )


def test_the_caption_is_drawn_in_a_corner():
    picture = np.zeros((80, 320, 3), np.uint8)
    frame = Frame(picture, 1.0, 2.0, 3.0)
    drawn = np.asarray(files._captioned(Clip("an ant", (frame,), 0.05), frame))
    assert drawn[:50, :200].max() > 250
    assert drawn[50:].max() == drawn[:, 200:].max() == 0
    assert picture.max() == 0  # the frame itself is not modified


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (Frame(np.zeros((1, 1, 3)), 16.5, 12.34, 812.6), "16.5 s, 12.3 m, return 813"),
        (Frame(np.zeros((1, 1, 3)), 0.0, -0.04, -1.2), "0.0 s, 0.0 m, return -1"),
    ],
)
def test_text_of_a_frame(frame, text):
    assert str(frame) == text


def test_a_filmstrip_shows_evenly_spaced_frames():
    frames = make_clip(11).frames
    # 0, 2, 4, …, 10 of 11; of two, each one three times.
    assert files._spread(frames) == list(frames[::2])
    assert files._spread(frames[:2]) == [frames[0]] * 3 + [frames[1]] * 3


def test_a_filmstrip_is_one_picture_with_a_row_for_each_episode(tmp_path):
    heights = []
    for count in (1, 3):
        write_video(tmp_path / "strip.png", [make_clip()] * count)
        with Image.open(tmp_path / "strip.png") as strip:
            assert strip.format == "PNG"
            heights.append(strip.size[1])
    assert heights[1] == pytest.approx(3 * heights[0], abs=2)


def test_the_same_episodes_give_the_same_bytes(tmp_path):
    for ending in (".gif", ".png"):
        for name in ("one", "two"):
            write_video(tmp_path / f"{name}{ending}", [make_clip()])
        one, two = ((tmp_path / f"{name}{ending}").read_bytes() for name in ("one", "two"))
        assert one == two


def fake_ffmpeg(folder, script):
    folder.mkdir()
    program = folder / "ffmpeg"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return str(folder)


def test_ffmpeg_is_given_every_picture_and_its_size(tmp_path, monkeypatch):
    # Writes its arguments, and the number of bytes on its input, to the output file.
    script = 'for last; do :; done; echo "$@" > "$last"; wc -c >> "$last"'
    path = fake_ffmpeg(tmp_path / "bin", script)
    monkeypatch.setenv("PATH", f"{path}{os.pathsep}{os.environ['PATH']}")
    write_video(tmp_path / "ant.mp4", [make_clip(4), make_clip(3)])
    arguments, count = (tmp_path / "ant.mp4").read_text().splitlines()
    assert int(count) == 7 * 48 * 64 * 3
    assert "-s 64x48 -r 20.2020" in arguments  # 1 / 0.0495
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ant.mp4", "bin"]


def test_a_failed_video_gives_the_reason_and_leaves_no_file(tmp_path, monkeypatch):
    script = 'for last; do :; done; echo half > "$last"; echo "first"; echo "no codec" >&2; exit 1'
    path = fake_ffmpeg(tmp_path / "bin", script)
    monkeypatch.setenv("PATH", f"{path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(ValueError, match=r"could not make .*ant\.mp4 \(no codec\).*\.gif or \.png"):
        write_video(tmp_path / "ant.mp4", [make_clip()])
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
@pytest.mark.parametrize("size", [(48, 64), (47, 63)])
def test_a_real_video_can_be_read_back(tmp_path, size):
    write_video(tmp_path / "ant.mp4", [make_clip(7, size=size)])
    command = ["ffmpeg", "-loglevel", "error", "-i", str(tmp_path / "ant.mp4"), "-f", "rawvideo"]
    done = subprocess.run([*command, "-pix_fmt", "gray", "-"], capture_output=True, check=True)
    assert len(done.stdout) == 7 * 48 * 64  # odd sides are padded


def test_without_ffmpeg_a_video_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="needs the program ffmpeg, which is not on the PATH"):
        require_writer(tmp_path / "ant.mp4")


def test_unknown_suffixes_and_missing_folders_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"Did you mean '\.gif'\? Known: '\.gif', '\.mp4', '\.png'"
    ):
        require_writer(tmp_path / "ant.gfi")
    with pytest.raises(ValueError, match="is not a folder: pass --out"):
        require_writer(tmp_path / "missing" / "ant.gif")


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "ant.gif").mkdir()
    with pytest.raises(ValueError, match=r"Cannot write .*ant\.gif .*pass another --out"):
        write_video(tmp_path / "ant.gif", [make_clip()])
