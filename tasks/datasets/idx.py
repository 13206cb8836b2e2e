"""Reader of IDX files: the format of MNIST and its drop-in replacements.

A file is a big-endian header - two zero bytes, the type of the data, the number of dimensions, then
each dimension as an unsigned 32-bit integer - followed by the data, row by row, up to the end of the
file (Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits").
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plasticity.tasks.datasets.file_kinds import recognized
from plasticity.tasks.datasets.zipped_files import ZippedFile

_GZIP_MAGIC = b"\x1f\x8b"
_ZEROS = b"\x00\x00"
_TYPES: Mapping[int, np.dtype[Any]] = {
    0x08: np.dtype(">u1"),
    0x09: np.dtype(">i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
_REMEDY = "Replace it with an intact copy of the original file."


@dataclass(frozen=True)
class _Header:
    """Header of a file: its magic number, and the type and shape of its data."""

    magic: bytes
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def __str__(self) -> str:
        count = len(self.shape)
        return f"{self.dtype.name}, {count} dimension{'s' * (count != 1)} {self.shape}"


def read_idx_images(path: Path | ZippedFile) -> Tensor:
    """Read a file of grey-scale images.

    Args:
        path: Path of the file; gzip-compressed if it ends in ".gz".

    Returns:
        The pixels, uint8. Shape: (n, height, width), none of them 0.

    Raises:
        ValueError: if the file is not an intact IDX file of uint8 images; the message names the file, what
            was expected, what was found and what to do.
        OSError: if the file cannot be opened.
    """
    data = _decompressed(path)
    header = _read_header(path, data, "images", "0x00000803")
    if header.dtype.name != "uint8" or len(header.shape) != 3:
        raise _format_error(
            path,
            data,
            header,
            "images of uint8, 3 dimensions (n, height, width), which starts with the magic number 0x00000803",
            _remedy_for_images(header),
        )
    return torch.from_numpy(_array(path, data, header, "images"))


def read_idx_labels(path: Path | ZippedFile) -> Tensor:
    """Read a file of labels, integers of any type.

    Args:
        path: Path of the file; gzip-compressed if it ends in ".gz".

    Returns:
        The labels, at least 0, int64. Shape: (n,), not empty.

    Raises:
        ValueError: if the file is not an intact IDX file of labels; the message names the file, what was
            expected, what was found and what to do.
        OSError: if the file cannot be opened.
    """
    data = _decompressed(path)
    header = _read_header(path, data, "labels", "0x00000801")
    if header.dtype.kind not in "iu" or len(header.shape) != 1:
        raise _format_error(
            path,
            data,
            header,
            "labels of an integer type, 1 dimension (n,), which starts with the magic number 0x00000801 "
            "(for uint8)",
            _remedy_for_labels(header),
        )
    labels = torch.from_numpy(_array(path, data, header, "labels").astype(np.int64))
    lowest = int(labels.min())
    if lowest < 0:
        raise ValueError(
            f"{path}: expected labels from 0, found {lowest}. Number the classes from 0, without a gap."
        )
    return labels


def _read_header(path: Path | ZippedFile, data: bytes, content: str, magic: str) -> _Header:
    """Read the header, or raise a ValueError if the data does not start with one."""
    if len(data) < 4 or data[:2] != _ZEROS or data[2] not in _TYPES or data[3] == 0:
        kind = recognized(data)
        found, remedy = _described(data[:4]), _REMEDY
        if kind is not None:
            found, remedy = f"{kind.name}, which starts with {found}", kind.remedy
        raise ValueError(
            f"{path}: expected an IDX file of {content}, which starts with the magic number {magic}, "
            f"found {found}. {remedy}"
        )
    dimensions = data[3]
    size = 4 + 4 * dimensions
    if len(data) < size:
        raise ValueError(
            f"{path}: expected a header of {size} bytes, found a file of {len(data)} bytes: "
            f"it is truncated. {_REMEDY}"
        )
    return _Header(data[:4], _TYPES[data[2]], struct.unpack_from(f">{dimensions}I", data, offset=4))


def _sizes(data: bytes, header: _Header) -> tuple[int, int]:
    """Return the number of bytes of data that the header announces, and the number that the file has."""
    expected = math.prod(header.shape) * header.dtype.itemsize
    return expected, len(data) - 4 - 4 * len(header.shape)


def _format_error(
    path: Path | ZippedFile, data: bytes, header: _Header, wanted: str, remedy: str
) -> ValueError:
    """Return the error for a file that holds something else, or whose header is damaged."""
    expected, found = _sizes(data, header)
    state = ""
    if found != expected:
        state, remedy = f", and has {found} bytes of data instead of {expected}", _REMEDY
    return ValueError(
        f"{path}: expected an IDX file of {wanted}, found an IDX file of {header}, which starts with "
        f"0x{header.magic.hex()}{state}. {remedy}"
    )


def _remedy_for_images(header: _Header) -> str:
    write = (
        "; struct.pack('>IIII', 0x803, *pixels.shape) + pixels.tobytes() of a NumPy array of uint8 is such a "
        "file."
    )
    dimensions = len(header.shape)
    if dimensions == 1:
        return "It holds one number for each example, as labels do: put the file of images here."
    if dimensions > 3:
        return f"Only grey-scale images are supported: convert each pixel to one number{write}"
    if dimensions == 2:
        return f"Reshape the images to (n, height, width), with values from 0 to 255{write}"
    return f"Scale the pixels to integers from 0 to 255{write}"


def _remedy_for_labels(header: _Header) -> str:
    write = (
        "; struct.pack('>II', 0x801, len(labels)) + labels.tobytes() of a NumPy array of uint8 is such a "
        "file."
    )
    if len(header.shape) > 2:
        return "It holds images: put the file of labels here."
    if len(header.shape) == 2:
        return f"Write one number for each example: for a one-hot row, the index of its 1{write}"
    return f"Write them as integers{write}"


def _array(path: Path | ZippedFile, data: bytes, header: _Header, content: str) -> NDArray[Any]:
    if 0 in header.shape:
        raise ValueError(
            f"{path}: expected {content}, found none: its shape is {header.shape}. {_REMEDY}"
        )
    expected, found = _sizes(data, header)
    if found != expected:
        state = "truncated" if found < expected else "too long"
        raise ValueError(
            f"{path}: expected {expected} bytes of data after the header, which gives the shape "
            f"{header.shape}, found {found}: it is {state}. {_REMEDY}"
        )
    # A bytearray, because torch warns about read-only memory.
    writable = bytearray(memoryview(data)[len(data) - found :])
    return np.frombuffer(writable, header.dtype).reshape(header.shape)


def _decompressed(path: Path | ZippedFile) -> bytes:
    raw = path.read_bytes()
    if path.suffix != ".gz":
        if raw.startswith(_GZIP_MAGIC):
            raise ValueError(
                f"{path}: expected an uncompressed IDX file, found gzip-compressed data. "
                f"Rename it to {path.name}.gz."
            )
        return raw
    if not raw.startswith(_GZIP_MAGIC):
        found, remedy = _described(raw[:4]), _REMEDY
        if raw.startswith(_ZEROS) and raw[2:3] and raw[2] in _TYPES:
            remedy = f"Rename it to {path.stem}."
        elif (kind := recognized(raw)) is not None:
            found, remedy = f"{kind.name}, which starts with {found}", kind.remedy
        raise ValueError(
            f"{path}: expected gzip-compressed data, which starts with 0x{_GZIP_MAGIC.hex()}, "
            f"found {found}. {remedy}"
        )
    try:
        return gzip.decompress(raw)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{path}: expected intact gzip-compressed data, found a corrupt or truncated file "
            f"({error}). {_REMEDY}"
        ) from error


def _described(start: bytes) -> str:
    return f"0x{start.hex()}" if start else "an empty file"
