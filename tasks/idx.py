"""Reader of IDX files: the format of MNIST and of its drop-in siblings.

A file is a big-endian header - two zero bytes, the type of the data, the number of dimensions, then
each dimension as an unsigned 32-bit integer - and after it the data, row by row, to the file's last
byte (Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits").
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

_GZIP_MAGIC = b"\x1f\x8b"
_UNSIGNED_BYTE = 0x08
_REMEDY = "Replace it by an intact copy of the original file."


def read_idx_images(path: Path) -> Tensor:
    """Read a file of images.

    Args:
        path: Of the file; gzip-compressed where it ends in ".gz".

    Returns:
        The pixels, uint8. Shape: (n, height, width), none of them 0.

    Raises:
        ValueError: if the file is no intact IDX file of images; the message names the file, what was
            expected, what was found and what to do.
        OSError: if the file cannot be opened.
    """
    return _read(path, dimensions=3, content="images")


def read_idx_labels(path: Path) -> Tensor:
    """Read a file of labels.

    Args:
        path: Of the file; gzip-compressed where it ends in ".gz".

    Returns:
        The labels, 0 to 255, int64. Shape: (n,), not empty.

    Raises:
        ValueError: if the file is no intact IDX file of labels; the message names the file, what was
            expected, what was found and what to do.
        OSError: if the file cannot be opened.
    """
    return _read(path, dimensions=1, content="labels").to(torch.int64)


def _read(path: Path, *, dimensions: int, content: str) -> Tensor:
    data = _decompressed(path)
    header_size = 4 + 4 * dimensions
    magic = bytes((0, 0, _UNSIGNED_BYTE, dimensions))
    if data[:4] != magic:
        raise ValueError(
            f"{path}: expected an IDX file of {content}, which starts with the magic number "
            f"0x{magic.hex()}, found {_described(data[:4])}. {_REMEDY}"
        )
    if len(data) < header_size:
        raise ValueError(
            f"{path}: expected a header of {header_size} bytes, found a file of {len(data)} bytes: "
            f"it is truncated. {_REMEDY}"
        )
    shape = struct.unpack_from(f">{dimensions}I", data, offset=4)
    if 0 in shape:
        raise ValueError(f"{path}: expected {content}, found none: its shape is {shape}. {_REMEDY}")
    expected, found = math.prod(shape), len(data) - header_size
    if found != expected:
        state = "truncated" if found < expected else "too long"
        raise ValueError(
            f"{path}: expected {expected} bytes of data after the header, which gives the shape "
            f"{shape}, found {found}: it is {state}. {_REMEDY}"
        )
    # A bytearray, because torch warns of memory that cannot be written to.
    writable = bytearray(memoryview(data)[header_size:])
    return torch.frombuffer(writable, dtype=torch.uint8).reshape(shape)


def _decompressed(path: Path) -> bytes:
    raw = path.read_bytes()
    if path.suffix != ".gz":
        if raw.startswith(_GZIP_MAGIC):
            raise ValueError(
                f"{path}: expected an uncompressed IDX file, found gzip-compressed data. "
                f"Rename it to {path.name}.gz."
            )
        return raw
    if not raw.startswith(_GZIP_MAGIC):
        uncompressed = raw.startswith(bytes((0, 0, _UNSIGNED_BYTE)))
        remedy = f"Rename it to {path.stem}." if uncompressed else _REMEDY
        raise ValueError(
            f"{path}: expected gzip-compressed data, which starts with 0x{_GZIP_MAGIC.hex()}, "
            f"found {_described(raw[:4])}. {remedy}"
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
