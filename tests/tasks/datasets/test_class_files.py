"""Files of classes: what is read from them by hand, and what is refused, in files that are written here."""

import re

import numpy as np
import pytest
import torch

from plasticity.tasks.datasets import class_files
from plasticity.tasks.datasets.class_files import find_class_files, open_class_files

SHAPE = (9, 3, 4, 5)


def write(folder, count=3, shape=SHAPE, dtype=np.uint8, scale=1):
    folder.mkdir(parents=True, exist_ok=True)
    for label in range(count):
        numbers = np.arange(np.prod(shape)).reshape(shape) % 200 + label
        np.save(folder / f"{label}.npy", (numbers * scale).astype(dtype))
    return folder


def opened(folder, num_classes=3, **settings):
    return open_class_files(
        folder, num_classes, **{"train_per_class": 6, "test_per_class": 2, **settings}
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_images_by_hand(tmp_path, dtype):
    files = opened(write(tmp_path, dtype=dtype))
    assert files.image_shape == (3, 4, 5)
    numbers = torch.arange(9 * 60).view(SHAPE) % 200 + 2.0
    train, test = files.images(2)
    assert torch.equal(train, numbers[:6])  # the first six, and the last two
    assert torch.equal(test, numbers[7:])
    assert train.dtype == test.dtype == torch.float32


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [("stored", lambda x: x), ("unit", lambda x: x / 255), ("symmetric", lambda x: x / 127.5 - 1)],
)
def test_ranges_of_pixels(tmp_path, pixels, expected):
    files = opened(write(tmp_path), pixels=pixels)
    numbers = torch.arange(9 * 60).view(SHAPE) % 200 + 1.0
    torch.testing.assert_close(files.images(1)[0], expected(numbers[:6]))
    unit = opened(
        write(tmp_path / "unit", dtype=np.float32, scale=1 / 255), pixels=pixels, max_value=1.0
    )
    if pixels != "stored":
        torch.testing.assert_close(unit.images(1)[0], expected(numbers[:6]))


def test_only_files_in_use_are_read(tmp_path, monkeypatch):
    write(tmp_path, count=4)
    values = bytearray((tmp_path / "3.npy").read_bytes())
    (tmp_path / "3.npy").write_bytes(values[:-100])  # its values are cut off
    with pytest.raises(ValueError, match=r"3\.npy: expected an array .* cannot be read"):
        opened(tmp_path, 4)
    (tmp_path / "3.npy").write_bytes(values)
    files = opened(tmp_path, 4)
    reads = []
    monkeypatch.setattr(
        class_files, "_opened", lambda path: reads.append(path.name) or np.load(path)
    )
    files.images(1)
    assert reads == ["1.npy"]


def test_folders(tmp_path, monkeypatch):
    monkeypatch.delenv("PLASTICITY_DATA", raising=False)
    with pytest.raises(
        ValueError, match="not downloaded, and no folder was given: give --data-dir"
    ):
        find_class_files(None)
    monkeypatch.setenv("PLASTICITY_DATA", str(tmp_path))
    with pytest.raises(
        ValueError, match=re.escape("imagenet32 has no file 0.npy or classes/0.npy")
    ):
        find_class_files(None)
    inner = write(tmp_path / "imagenet32" / "classes")
    assert find_class_files(None) == inner
    other = write(tmp_path / "other")
    assert find_class_files(str(other)) == other
    with pytest.raises(ValueError, match="has no file 0"):
        find_class_files(str(tmp_path))


def replaced(folder, array):
    write(folder)
    np.save(folder / "1.npy", array)
    return folder


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.zeros((9, 4, 5, 3), np.uint8),
            r"found \(9, 4, 5, 3\)\. Channels come first: array\.tr",
        ),
        (np.zeros((9, 60), np.uint8), r"with 1 or 3 channels, found \(9, 60\)\. Save them in this"),
        (np.zeros((0, 3, 4, 5), np.uint8), r"found \(0, 3, 4, 5\)"),
        (
            np.zeros((7, 3, 4, 5), np.uint8),
            "at least 8 images, .* found 7. Give smaller --train-per",
        ),
        (np.zeros((9, 3, 4, 6), np.uint8), r"shape \(3, 4, 5\), as in 0.npy, found \(3, 4, 6\)"),
        (np.zeros((9, 3, 4, 5), bool), "expected numbers, found an array of bool"),
        (np.full((9, 3, 4, 5), "a"), "expected numbers, found an array of <U1"),
        (np.full((9, 3, 4, 5), None), "cannot be read .*objects in dtype"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path, array, message):
    with pytest.raises(ValueError, match=message) as caught:
        opened(replaced(tmp_path, array))
    assert str(tmp_path / "1.npy") in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"<!DOCTYPE html><html>", r"found a web page \(HTML\)"),
        (b"version https://git-lfs.github.com/spec/v1\n", "found a Git LFS pointer"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, content, message):
    (write(tmp_path) / "1.npy").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        opened(tmp_path)


@pytest.mark.parametrize("byte", [b"(", b"'", b"\\"])
def test_a_damaged_header_is_refused(tmp_path, byte):
    path = write(tmp_path) / "1.npy"
    stored = path.read_bytes()
    path.write_bytes(stored[:100] + byte + stored[101:])  # in the spaces after the description
    with pytest.raises(ValueError, match=r"1\.npy: expected an array .* cannot be read"):
        opened(tmp_path)


def test_an_archive_of_arrays_is_refused(tmp_path):
    with (write(tmp_path) / "1.npy").open("wb") as file:
        np.savez(file, np.zeros(SHAPE))
    with pytest.raises(ValueError, match="expected one array"):
        opened(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"0\.npy to 3\.npy.*not find 3\.npy.*--num-classes 3"):
        opened(write(tmp_path), 4)


@pytest.mark.parametrize(
    ("array", "settings", "message"),
    [
        (np.full(SHAPE, np.nan), {}, "expected finite numbers, found nan"),
        (
            np.full(SHAPE, -0.5),
            {"pixels": "unit"},
            "found -0.5 to -0.5. .* --pixels stored for arr",
        ),
        (np.full(SHAPE, 256.0), {"pixels": "unit"}, "from 0 to --max-value 255, found 256 to 256"),
        (np.full(SHAPE, 0.5), {"pixels": "symmetric"}, "none above 0.5: give --max-value 1"),
    ],
)
def test_values_out_of_range_are_refused(tmp_path, array, settings, message):
    files = opened(replaced(tmp_path, array), **settings)
    files.images(0)
    with pytest.raises(ValueError, match=message):
        files.images(1)
