"""Unexpected files, written by the tools that make them and recognized by their first bytes."""

import bz2
import gzip
import io
import lzma
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from plasticity.tasks.datasets.file_kinds import recognized
from plasticity.tasks.datasets.idx import read_idx_images


def written(write):
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def tar(stream):
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("train-images-idx3-ubyte"))


def zipped(stream):
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("train-images-idx3-ubyte", bytes(100))


KINDS = {
    "a web page (HTML)": [
        b"<!DOCTYPE html>\n<html lang='en'><head><title>MNIST</title>",
        b"<!doctype HTML PUBLIC '-//W3C//DTD HTML 4.01//EN'>",
        b"<html>not found</html>",
        b"  \r\n<HTML><HEAD>",
        b"\xef\xbb\xbf<!DOCTYPE html>",
        b"<!-- saved from url=(0028)http://yann.lecun.com/ -->\n<html>",
        b"<?xml version='1.0'?><!DOCTYPE html PUBLIC '-//W3C//DTD XHTML 1.0'><html>",
    ],
    "an XML document": [b"<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code></Error>"],
    "a Git LFS pointer": [
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9912422\n"
    ],
    "a zip archive": [written(zipped)],
    "a tar archive": [written(tar)],
    "an archive of NumPy arrays (.npz)": [
        written(lambda stream: np.savez(stream, x_train=np.zeros(3))),
        written(lambda stream: np.savez_compressed(stream, x_train=np.zeros(3))),
    ],
    "a NumPy array (.npy)": [written(lambda stream: np.save(stream, np.zeros(3)))],
    "a file written by torch.save": [written(lambda stream: torch.save(torch.zeros(3), stream))],
    "a Python pickle": [pickle.dumps([1, 2], protocol) for protocol in (2, 3, 4, 5)],
    "a PNG picture": [written(lambda stream: Figure().savefig(stream, format="png"))],
    "a JPEG picture": [written(lambda stream: Figure().savefig(stream, format="jpg"))],
    "a PDF document": [written(lambda stream: Figure().savefig(stream, format="pdf"))],
    "bzip2-compressed": [bz2.compress(bytes(100))],
    "xz-compressed": [lzma.compress(bytes(100))],
    "text, 'label,pixel0,pixel1'": [b"label,pixel0,pixel1\n5,0,0\n"],
    'text, \'{"error":': [b'{"error": "Not found"}'],
}


@pytest.mark.parametrize(("name", "data"), [(name, each) for name in KINDS for each in KINDS[name]])
@pytest.mark.parametrize("stored", ["images", "images.gz", "misnamed images.gz"])
def test_an_unexpected_file_is_named(tmp_path, name, data, stored):
    """Name the kind of a file that is plain, compressed, or only named as if it were compressed."""
    path = tmp_path / stored.rpartition(" ")[2]
    path.write_bytes(gzip.compress(data) if stored == "images.gz" else data)
    with pytest.raises(ValueError, match="expected") as caught:
        read_idx_images(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: expected")
    assert f"found {name}" in message
    assert message.endswith(recognized(data).remedy)
    assert f"0x{data[:4].hex()}" in message


def test_remedies_say_to_unpack_archives_and_fetch_pointers():
    assert "Unpack it" in recognized(written(zipped)).remedy
    assert "git lfs pull" in recognized(KINDS["a Git LFS pointer"][0]).remedy
    assert "not the page" in recognized(b"<html>").remedy


def test_data_compressed_twice_is_named(tmp_path):
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(gzip.compress(bytes(100))))
    with pytest.raises(
        ValueError, match=r"found gzip-compressed data, which .*0x1f8b.* Uncompress"
    ):
        read_idx_images(path)


@pytest.mark.parametrize("data", [b"", b"abc", bytes(300), bytes(range(256)), b"\x00\x00\x08\x03"])
def test_unrecognized_data(data):
    assert recognized(data) is None
