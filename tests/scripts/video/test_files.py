"""Episodes as files: what is in a GIF, in a video's input, and in a strip."""

import os
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from plasticity.scripts.video import files as footage
from plasticity.scripts.video.files import Clip, Frame, require_writer, write_video


def make_clip(count=4, shade=0, size=(48, 64)):
    """Pictures that turn from dark to bright red."""
    frames = []
    for place in range(count):
        picture = np.zeros((*size, 3), np.uint8)
        picture[..., 0] = 40 * (place % 6)
        picture[..., 2] = shade
        frames.append(Frame(picture, place / 20, place / 10, float(place)))
    return Clip("an ant", tuple(frames), 0.0495)


def test_a_gif_has_all_pictures_at_their_times(tmp_path):
    write_video(tmp_path / "ant.gif", [make_clip(4), make_clip(3, shade=200)])
    with Image.open(tmp_path / "ant.gif") as film:
        assert film.size == (64, 48)
        times, corners = [], []
        for place in range(film.n_frames):
            film.seek(place)
            times.append(film.info["duration"])
            corners.append(film.convert("RGB").getpixel((60, 44)))
        assert film.info["loop"] == 0  # without end
    # 49.5 ms are 5 ticks of a hundredth; the last picture of an episode stays for a second.
    assert times == [50, 50, 50, 1000, 50, 50, 1000]
    np.testing.assert_allclose(
        corners,
        [(40 * place, 0, 0) for place in range(4)] + [(40 * place, 0, 200) for place in range(3)],
        atol=3,
    )


def test_the_caption_is_drawn_in_a_corner():
    picture = np.zeros((80, 320, 3), np.uint8)
    frame = Frame(picture, 1.0, 2.0, 3.0)
    drawn = np.asarray(footage._captioned(Clip("an ant", (frame,), 0.05), frame))
    assert drawn[:50, :200].max() > 250
    assert drawn[50:].max() == drawn[:, 200:].max() == 0
    assert picture.max() == 0  # the frame itself stays as it was


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (Frame(np.zeros((1, 1, 3)), 16.5, 12.34, 812.6), "16.5 s, 12.3 m, return 813"),
        (Frame(np.zeros((1, 1, 3)), 0.0, -0.04, -1.2), "0.0 s, 0.0 m, return -1"),
    ],
)
def test_a_frame_in_words(frame, text):
    assert str(frame) == text


def test_a_strip_shows_the_first_the_last_and_those_between():
    frames = make_clip(11).frames
    # 0, 2, 4, …, 10 of 11; and of two, the first three times and the last three times.
    assert footage._spread(frames) == list(frames[::2])
    assert footage._spread(frames[:2]) == [frames[0]] * 3 + [frames[1]] * 3


def test_a_strip_is_one_picture_with_a_row_for_each_episode(tmp_path):
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


def test_a_video_gets_every_picture_and_its_size(tmp_path, monkeypatch):
    # Writes its words, and how many bytes it was given, to the file that it is to make.
    script = 'for last; do :; done; echo "$@" > "$last"; wc -c >> "$last"'
    path = fake_ffmpeg(tmp_path / "bin", script)
    monkeypatch.setenv("PATH", f"{path}{os.pathsep}{os.environ['PATH']}")
    write_video(tmp_path / "ant.mp4", [make_clip(4), make_clip(3)])
    words, count = (tmp_path / "ant.mp4").read_text().splitlines()
    assert int(count) == 7 * 48 * 64 * 3
    assert "-s 64x48 -r 20.2020" in words  # 1 / 0.0495
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ant.mp4", "bin"]


def test_a_video_that_fails_says_why_and_leaves_nothing(tmp_path, monkeypatch):
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


def test_without_ffmpeg_a_video_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="needs the program ffmpeg, which is not on the PATH"):
        require_writer(tmp_path / "ant.mp4")


def test_unknown_endings_and_folders_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"Did you mean '\.gif'\? Known: '\.gif', '\.mp4', '\.png'"
    ):
        require_writer(tmp_path / "ant.gfi")
    with pytest.raises(ValueError, match="is no folder: give --out"):
        require_writer(tmp_path / "missing" / "ant.gif")


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "ant.gif").mkdir()
    with pytest.raises(ValueError, match=r"Cannot write .*ant\.gif .*give another --out"):
        write_video(tmp_path / "ant.gif", [make_clip()])
