"""Kinds of unexpected files, recognized by their first bytes."""

from __future__ import annotations

from dataclasses import dataclass

_UNPACK = "Unpack it, and put its files into the folder."
_CONVERT = "Convert its contents to the form that is expected."
_INTACT = "Replace it with an intact copy of the original file."
_DOWNLOAD = f"Download the file itself, not the page that offers it. {_INTACT}"


@dataclass(frozen=True)
class FileKind:
    """Kind of a file that is not the expected one."""

    name: str
    """Name of the kind, with its article."""

    remedy: str
    """Advice on what to do with such a file; one or more sentences."""


_WEB_PAGE = FileKind("a web page (HTML)", _DOWNLOAD)
_NUMPY_ARCHIVE = FileKind("an archive of NumPy arrays (.npz)", _CONVERT)
_TORCH_FILE = FileKind("a file written by torch.save", _CONVERT)
_SIGNATURES = {
    b"version https://git-lfs": FileKind(
        "a Git LFS pointer instead of the file",
        "Fetch the file itself: git lfs pull.",
    ),
    b"PK\x03\x04": FileKind("a zip archive", _UNPACK),
    b"7z\xbc\xaf\x27\x1c": FileKind("a 7-Zip archive", _UNPACK),
    b"Rar!": FileKind("a RAR archive", _UNPACK),
    b"\x1f\x8b": FileKind("gzip-compressed data", "Uncompress it."),
    b"\x1f\x9d": FileKind("data compressed by compress (.Z)", "Uncompress it."),
    b"BZh": FileKind("bzip2-compressed data", "Uncompress it."),
    b"\xfd7zXZ\x00": FileKind("xz-compressed data", "Uncompress it."),
    b"\x28\xb5\x2f\xfd": FileKind("Zstandard-compressed data", "Uncompress it."),
    b"\x93NUMPY": FileKind("a NumPy array (.npy)", _CONVERT),
    b"\x89HDF": FileKind("an HDF5 file", _CONVERT),
    b"MATLAB 5.0": FileKind("a MATLAB file", _CONVERT),
    b"PAR1": FileKind("a Parquet file", _CONVERT),
    b"ARROW1": FileKind("an Arrow file", _CONVERT),
    b"\x80\x02": FileKind("a Python pickle", _CONVERT),
    b"\x80\x03": FileKind("a Python pickle", _CONVERT),
    b"\x80\x04": FileKind("a Python pickle", _CONVERT),
    b"\x80\x05": FileKind("a Python pickle", _CONVERT),
    b"\x89PNG": FileKind("a PNG picture", _CONVERT),
    b"\xff\xd8\xff": FileKind("a JPEG picture", _CONVERT),
    b"GIF8": FileKind("a GIF picture", _CONVERT),
    b"%PDF": FileKind("a PDF document", _DOWNLOAD),
}
_ZIP_NAME = 30  # offset of the name of a zip archive's first entry; its length is at offset 26


def recognized(data: bytes) -> FileKind | None:
    """Return the kind of a file as recognized by its first bytes; None if they are not recognized."""
    for signature, kind in _SIGNATURES.items():
        if data.startswith(signature):
            return _zip_kind(data, kind) if signature.startswith(b"PK") else kind
    if data[257:262] == b"ustar":
        return FileKind("a tar archive", _UNPACK)
    return _text_kind(data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip())


def _zip_kind(data: bytes, other: FileKind) -> FileKind:
    name = data[_ZIP_NAME : _ZIP_NAME + int.from_bytes(data[26:28], "little")]
    if name.endswith(b".npy"):
        return _NUMPY_ARCHIVE
    return _TORCH_FILE if name.endswith(b"/data.pkl") else other


def _text_kind(start: bytes) -> FileKind | None:
    lower = start.lower()
    if lower.startswith(b"<!doctype html") or (lower.startswith(b"<") and b"<html" in lower):
        return _WEB_PAGE
    if lower.startswith(b"<?xml"):
        return FileKind("an XML document, as servers send for an error", _DOWNLOAD)
    text = start[:200].decode("ascii", errors="replace")
    if len(text) < 8 or not all(c.isascii() and (c.isprintable() or c.isspace()) for c in text):
        return None
    return FileKind(f"text, {text.splitlines()[0][:40]!r} …", _CONVERT)
