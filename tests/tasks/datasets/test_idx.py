"""IDX reader, tested on bytes written by hand, against numpy, and on damaged files."""

import gzip
import math
import os
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity.tasks.datasets.idx import read_idx_images, read_idx_labels

READERS = {"images": read_idx_images, "labels": read_idx_labels}

# Two images of 2 x 3 and three labels, byte by byte.
IMAGES = bytes.fromhex("00000803 00000002 00000002 00000003 000102030405 fffefdfcfbfa")
LABELS = bytes.fromhex("00000801 00000003 0700ff")

MNIST_FOLDER = Path(os.environ.get("PLASTICITY_DATA", "")) / "mnist"
needs_mnist = pytest.mark.skipif(
    not (os.environ.get("PLASTICITY_DATA") and MNIST_FOLDER.is_dir()),
    reason="needs the real MNIST files in $PLASTICITY_DATA/mnist/",
)


def _write(path, content):
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_images_and_labels_by_hand(tmp_path, suffix):
    images = read_idx_images(_write(tmp_path / f"images{suffix}", IMAGES))
    expected = [[[0, 1, 2], [3, 4, 5]], [[255, 254, 253], [252, 251, 250]]]
    assert images.dtype == torch.uint8
    assert images.tolist() == expected
    labels = read_idx_labels(_write(tmp_path / f"labels{suffix}", LABELS))
    assert labels.dtype == torch.int64
    assert labels.tolist() == [7, 0, 255]


def test_the_result_is_writable(tmp_path):
    images = read_idx_images(_write(tmp_path / "images", IMAGES))
    images[0, 0, 0] = 9
    assert images[0, 0, 0] == 9


@settings(deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    seed=st.integers(0, 2**32 - 1),
    suffix=st.sampled_from(["", ".gz"]),
)
def test_round_trip(shape, seed, suffix):
    array = np.random.default_rng(seed).integers(0, 256, size=shape, dtype=np.uint8)
    content = struct.pack(">IIII", 0x803, *shape) + array.tobytes()
    with tempfile.TemporaryDirectory() as folder:
        images = read_idx_images(_write(Path(folder) / f"images{suffix}", content))
    np.testing.assert_array_equal(images.numpy(), array)


@pytest.mark.parametrize(
    ("content", "reader", "words"),
    [
        (b"", "images", ["0x00000803", "an empty file"]),
        (b"\x00\x00", "images", ["0x00000803", "0x0000"]),
        (b"<html>", "images", ["0x00000803", "0x3c68746d"]),
        # A header of floats, which would take 4 bytes each; and one of an integer type, 2 bytes each.
        (
            b"\x00\x00\x0d" + IMAGES[3:],
            "images",
            ["0x00000803", "0x00000d03", "12 bytes", "instead of 48"],
        ),
        (b"\x00\x00\x0b" + LABELS[3:], "labels", ["expected 6 bytes", "found 3", "truncated"]),
        (IMAGES[:11], "images", ["header of 16 bytes", "11 bytes", "truncated"]),
        (IMAGES[:-1], "images", ["expected 12 bytes", "(2, 2, 3)", "found 11", "truncated"]),
        (IMAGES + b"\x00", "images", ["expected 12 bytes", "found 13", "too long"]),
        (LABELS[:-2], "labels", ["expected 3 bytes", "found 1", "truncated"]),
        (struct.pack(">IIII", 0x803, 0, 28, 28), "images", ["found none", "(0, 28, 28)"]),
        (struct.pack(">IIII", 0x803, 2, 0, 28), "images", ["found none", "(2, 0, 28)"]),
        (struct.pack(">II", 0x801, 0), "labels", ["found none", "(0,)"]),
        # A header that claims 2^96 bytes must not ask for that memory.
        (struct.pack(">IIII", 0x803, *[2**32 - 1] * 3), "images", ["truncated", "found 0"]),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_damaged_files_are_refused(tmp_path, content, reader, words, suffix):
    path = _write(tmp_path / f"train-{reader}{suffix}", content)
    with pytest.raises(ValueError, match="Replace it with an intact copy") as caught:
        READERS[reader](path)
    for word in [str(path), "expected", *words]:
        assert word in str(caught.value)


def _idx(array):
    """Return an array as the content of an IDX file, which is big-endian."""
    types = {"u1": 8, "i1": 9, "i2": 0xB, "i4": 0xC, "f4": 0xD, "f8": 0xE}
    header = struct.pack(">BBBB", 0, 0, types[array.dtype.str[1:]], array.ndim)
    return (
        header
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.astype(array.dtype.newbyteorder(">")).tobytes()
    )


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.int32])
def test_labels_of_any_integer_type_are_read(tmp_path, dtype, suffix):
    values = [7, 0, 100, np.iinfo(dtype).max]
    labels = read_idx_labels(_write(tmp_path / f"labels{suffix}", _idx(np.array(values, dtype))))
    assert labels.dtype == torch.int64
    assert labels.tolist() == values


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
def test_negative_labels_are_refused(tmp_path, dtype):
    path = _write(tmp_path / "labels", _idx(np.array([3, -2, 0], dtype)))
    with pytest.raises(ValueError, match=r"labels: expected labels from 0, found -2\. Number the"):
        read_idx_labels(path)


@pytest.mark.parametrize(
    ("array", "reader", "words"),
    [
        (
            np.zeros((5, 784), np.float32),
            "images",
            ["float32, 2 dimensions (5, 784)", "0x00000d02", "(n, height, width)"],
        ),
        (
            np.zeros((5, 784), np.uint8),
            "images",
            ["uint8, 2 dimensions (5, 784)", "Reshape the images"],
        ),
        (
            np.zeros((5, 2, 3), np.float32),
            "images",
            ["float32, 3 dim", "Scale the pixels", "0 to 255"],
        ),
        (
            np.zeros((5, 2, 3), np.float64),
            "images",
            ["float64, 3 dimensions (5, 2, 3)", "0x00000e03"],
        ),
        (np.zeros((5, 2, 3), np.int32), "images", ["int32, 3 dimensions", "0 to 255"]),
        (np.zeros((5, 2, 3), np.int16), "images", ["int16, 3 dimensions", "0x00000b03"]),
        (
            np.zeros((5, 2, 3), np.int8),
            "images",
            ["an IDX file of int8, 3 dimensions", "0x00000903"],
        ),
        (np.zeros((5, 2, 3, 3), np.uint8), "images", ["4 dimensions (5, 2, 3, 3)", "grey-scale"]),
        (np.zeros((5, 3, 2, 3), np.float32), "images", ["float32, 4 dimensions", "grey-scale"]),
        (np.zeros(5, np.uint8), "images", ["uint8, 1 dimension (5,)", "put the file of images"]),
        (np.zeros((5, 2, 3), np.uint8), "labels", ["3 dimensions", "put the file of labels here"]),
        (np.zeros((5, 10), np.uint8), "labels", ["2 dimensions (5, 10)", "one-hot row"]),
        (
            np.zeros((5, 1), np.int32),
            "labels",
            ["int32, 2 dimensions (5, 1)", "one number for each"],
        ),
        (
            np.zeros(5, np.float32),
            "labels",
            ["float32, 1 dimension (5,)", "Write them as integers"],
        ),
        (
            np.zeros(5, np.float64),
            "labels",
            ["float64, 1 dimension (5,)", "Write them as integers"],
        ),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_another_format_is_not_reported_as_a_damaged_copy(tmp_path, array, reader, words, suffix):
    path = _write(tmp_path / f"train-{reader}{suffix}", _idx(array))
    with pytest.raises(ValueError, match=f"expected an IDX file of {reader} of ") as caught:
        READERS[reader](path)
    message = str(caught.value)
    assert message.startswith(f"{path}: expected")
    for word in ["found an IDX file of ", *words]:
        assert word in message
    for word in ("intact", "truncated", "Replace"):
        assert word not in message


def test_a_file_written_as_the_remedy_says_is_read(tmp_path):
    """Execute the code in the error messages, verbatim."""
    names = {"struct": struct}
    for reader, values in (("images", np.ones((2, 2, 3))), ("labels", np.array([1.0, 0.0]))):
        path = _write(tmp_path / reader, _idx(values))
        with pytest.raises(ValueError, match="is such a file") as caught:
            READERS[reader](path)
        line = str(caught.value).partition("; ")[2].partition(" of a NumPy array of uint8")[0]
        names["pixels" if reader == "images" else "labels"] = values.astype(np.uint8)
        path.write_bytes(eval(line, names))
        assert READERS[reader](path).tolist() == values.tolist()


def test_a_suffix_that_does_not_match_the_compression(tmp_path):
    plain = tmp_path / "train-images.gz"
    plain.write_bytes(IMAGES)
    with pytest.raises(ValueError, match=r"train-images\.gz: .* Rename it to train-images\.$"):
        read_idx_images(plain)
    compressed = tmp_path / "train-images"
    compressed.write_bytes(gzip.compress(IMAGES))
    with pytest.raises(ValueError, match=r"train-images: .* Rename it to train-images\.gz\.$"):
        read_idx_images(compressed)
    page = tmp_path / "page.gz"
    page.write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match=r"page\.gz: expected gzip.*0x3c68746d.*intact copy"):
        read_idx_images(page)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_idx_images(tmp_path / "nowhere.gz")


@settings(deadline=None)
@given(data=st.data(), reader=st.sampled_from(["images", "labels"]))
def test_every_truncation_is_refused(data, reader):
    whole = IMAGES if reader == "images" else LABELS
    suffix = data.draw(st.sampled_from(["", ".gz"]))
    stored = gzip.compress(whole, mtime=0) if suffix else whole
    cut = stored[: data.draw(st.integers(0, len(stored) - 1))]
    _refused_or_of_shape(reader, suffix, cut, shapes=[])


@settings(deadline=None)
@given(data=st.data(), reader=st.sampled_from(["images", "labels"]))
def test_every_changed_byte_is_refused_or_changes_only_pixels(data, reader):
    whole = IMAGES if reader == "images" else LABELS
    suffix = data.draw(st.sampled_from(["", ".gz"]))
    stored = bytearray(gzip.compress(whole, mtime=0) if suffix else whole)
    index = data.draw(st.integers(0, len(stored) - 1))
    stored[index] ^= data.draw(st.integers(1, 255))
    shape = (2, 2, 3) if reader == "images" else (3,)
    header = len(whole) - math.prod(shape)
    # Uncompressed, a changed header byte is always detected. Compressed, some bits have no effect
    # (the timestamp in the gzip header, the padding after the last code); the checksum covers the rest.
    harmless = bool(suffix) or index >= header
    read = _refused_or_of_shape(reader, suffix, bytes(stored), shapes=[shape] if harmless else [])
    if suffix and read is not None:
        assert bytes(read.flatten().tolist()) == whole[header:]


@settings(deadline=None)
@given(content=st.binary(max_size=64), reader=st.sampled_from(["images", "labels"]))
def test_arbitrary_bytes_are_refused(content, reader):
    if content[:4] in (IMAGES[:4], *(bytes((0, 0, integer, 1)) for integer in (8, 9, 11, 12))):
        return
    _refused_or_of_shape(reader, "", content, shapes=[])
    _refused_or_of_shape(reader, ".gz", content, shapes=[])
    _refused_or_of_shape(reader, ".gz", gzip.compress(content), shapes=[])


def _refused_or_of_shape(reader, suffix, content, *, shapes):
    """Assert that reading raises a ValueError naming the file, or returns a tensor of an allowed shape."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"some-file{suffix}"
        path.write_bytes(content)
        message = None
        try:
            read = READERS[reader](path)
        except ValueError as error:
            message = str(error)
    if message is None:
        assert tuple(read.shape) in shapes
        return read
    assert path.name in message
    return None


@needs_mnist
def test_mnist_as_numpy_parses_it():
    for file_name, header, reader in [
        ("train-images-idx3-ubyte.gz", 16, read_idx_images),
        ("t10k-images-idx3-ubyte.gz", 16, read_idx_images),
        ("train-labels-idx1-ubyte.gz", 8, read_idx_labels),
        ("t10k-labels-idx1-ubyte.gz", 8, read_idx_labels),
    ]:
        raw = gzip.decompress((MNIST_FOLDER / file_name).read_bytes())
        shape = np.frombuffer(raw, dtype=">u4", count=header // 4 - 1, offset=4)
        expected = np.frombuffer(raw, dtype=np.uint8, offset=header).reshape(shape)
        np.testing.assert_array_equal(reader(MNIST_FOLDER / file_name).numpy(), expected)
