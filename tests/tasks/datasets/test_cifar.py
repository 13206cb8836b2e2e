"""CIFAR's pickled batches: made with NumPy, packed in every way, damaged in every way; and the real ones."""

import gzip
import hashlib
import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch

from plasticity.tasks.datasets import images
from plasticity.tasks.datasets.cifar import CIFAR_FORMS
from plasticity.tasks.datasets.downloads import DownloadError, Source
from plasticity.tasks.datasets.images import load_dataset

NAMES = list(CIFAR_FORMS)


def needs(name):
    folder = Path(os.environ.get("PLASTICITY_DATA", "nowhere")) / name
    return pytest.mark.skipif(not folder.is_dir(), reason=f"needs $PLASTICITY_DATA/{name}/")


def pixels(count, first=0):
    return ((np.arange(count * 3072) + first) % 251).astype(np.uint8).reshape(count, 3072)


def pickled(data, labels, key="labels", protocol=2):
    """Return a batch as Python 3 writes it for Python 2: bytes are calls of _codecs.encode."""
    return pickle.dumps({b"filenames": [b"a.png"], b"data": data, key.encode(): labels}, protocol)


def contents(name):
    """Return files with two training images in each and one test image."""
    form = CIFAR_FORMS[name]
    files = {
        file: pickled(pixels(2, first=place), [place, form.num_classes - 1], form.labels)
        for place, file in enumerate(form.train)
    }
    return files | {form.test: pickled(pixels(1, first=100), [3], form.labels)}


def unpacked(folder, name, **changed):
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in (contents(name) | changed).items():
        if content is not None:
            (folder / file).write_bytes(content)
    return folder


def packed(folder, name, archive, mode="w:gz", **changed):
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / archive, mode) as writer:
        for file, content in reversed((contents(name) | changed).items()):
            entry = tarfile.TarInfo(f"{CIFAR_FORMS[name].folder}/{file}")
            entry.size = len(content)
            writer.addfile(entry, io.BytesIO(content))
    return folder / archive


def check(dataset, name):
    form = CIFAR_FORMS[name]
    # A row holds 32 rows of 32 red values, then the green ones, then the blue ones.
    red, green, blue = (dataset.train_images[0, channel] for channel in range(3))
    assert red[0, :3].tolist() == [0, 1, 2]
    assert int(red[1, 0]) == 32
    assert int(green[0, 0]) == 1024 % 251
    assert int(blue[2, 1]) == (2048 + 2 * 32 + 1) % 251
    assert dataset.train_images.shape == (2 * len(form.train), 3, 32, 32)
    assert dataset.train_images[::2, 0, 0, 0].tolist() == list(range(len(form.train)))
    assert dataset.train_labels.tolist() == [
        label for place in range(len(form.train)) for label in (place, form.num_classes - 1)
    ]
    assert (dataset.test_images.shape, dataset.test_labels.tolist()) == ((1, 3, 32, 32), [3])
    assert int(dataset.test_images[0, 0, 0, 0]) == 100
    assert (dataset.name, dataset.num_classes) == (name, form.num_classes)
    assert dataset.input_shape == (3, 32, 32)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Set up a user without data: an empty cache, no PLASTICITY_DATA, and an unreachable mirror."""
    monkeypatch.delenv("PLASTICITY_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_unpacked_folders_are_found(home, monkeypatch, name):
    form = CIFAR_FORMS[name]
    own = unpacked(home / "root" / form.folder, name)
    for given in (own, home / "root"):
        check(load_dataset(name, data_dir=given), name)
    monkeypatch.setenv("PLASTICITY_DATA", str(home / "root"))
    check(load_dataset(name), name)
    (home / "data").mkdir()
    (home / "root").rename(home / "data" / name)
    check(load_dataset(name, data_dir=home / "data"), name)
    monkeypatch.setenv("PLASTICITY_DATA", str(home / "data"))
    check(load_dataset(name), name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("suffix", "mode"),
    [
        ("tar", "w"),
        ("tar.gz", "w:gz"),
        ("tgz", "w:gz"),
        ("tar.bz2", "w:bz2"),
        ("tar.xz", "w:xz"),
        ("tar.gz", "w:xz"),
    ],
)
def test_archives_of_any_compression_are_read(home, name, suffix, mode):
    packed(home, name, f"{CIFAR_FORMS[name].folder}-part.{suffix}", mode)
    check(load_dataset(name, data_dir=home), name)


def test_the_published_archive_comes_first_and_changes_are_seen(home):
    packed(home, "cifar10", "cifar-10-all-py.tar", "w", test_batch=pickled(pixels(1), [7]))
    assert load_dataset("cifar10", data_dir=home).test_labels.tolist() == [7]
    published = packed(home, "cifar10", "cifar-10-python.tar.gz")
    check(load_dataset("cifar10", data_dir=home), "cifar10")
    first = load_dataset("cifar10", data_dir=home).train_images
    assert load_dataset("cifar10", data_dir=home).train_images is first  # unpacked once
    packed(home, "cifar10", published.name, test_batch=pickled(pixels(3), [7, 8, 9]))
    assert load_dataset("cifar10", data_dir=home).test_labels.tolist() == [7, 8, 9]


@pytest.mark.parametrize("name", NAMES)
def test_the_cache_holds_the_published_archive(home, monkeypatch, name):
    form = CIFAR_FORMS[name]
    path = packed(home / "cache" / "plasticity" / name, name, form.archive)
    checksum = hashlib.md5(path.read_bytes()).hexdigest()
    source = Source(("http://127.0.0.1:9/",), {form.archive: checksum})  # no listener
    monkeypatch.setattr(images, "SOURCES", {name: source})
    check(load_dataset(name), name)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DownloadError, match="dataset's files another way"):
        load_dataset(name)


def test_pickles_of_every_writer(home):
    """Read Python 2's strings, keys of Python 3, newer protocols, and an array in columns."""
    data = pixels(2)
    python2 = (
        b"\x80\x02}(U\x04data"
        + pickle.dumps(data, 2)[2:-1]
        + b"U\x06labels](K\x01K\x02eu."  # U: a string of Python 2
    )
    newer = pickle.dumps({"data": data, "labels": [1, 2]}, 4)
    columns = pickled(np.asfortranarray(data), [1, 2])
    for written in (python2, newer, columns):
        folder = unpacked(home / "mine", "cifar10", data_batch_1=written)
        dataset = load_dataset("cifar10", data_dir=folder)
        assert np.array_equal(dataset.train_images[:2].reshape(2, 3072).numpy(), data)
        assert dataset.train_labels[:2].tolist() == [1, 2]


class Command:
    def __reduce__(self):
        return os.mkdir, ("made by a pickle",)


def of_shape(*shape):
    """Return a batch whose array claims a shape that its numbers may not have."""
    before, after = pickled(pixels(1), [1]).split(b"K\x01M\x00\x0c\x86")  # (1, 3072)
    return before + pickle.dumps(shape, 2)[2:-3] + after  # without the header, memo and end


WRONG = {
    "command": (pickle.dumps(Command()), ["imports posix.mkdir, which is not loaded", "intact"]),
    "list": (pickle.dumps([1]), ["expected a dictionary of data and labels, found list"]),
    "coarse": (pickled(pixels(2), [1, 2], "coarse"), ["a dictionary of filenames, data, coarse"]),
    "floats": (pickled(pixels(2) / 255, [1, 2]), ["expected data of uint8", "'f8'", "(2, 3072)"]),
    "grey": (pickled(pixels(6).reshape(18, 1024), [1] * 18), ["(n, 3072)", "(18, 1024)"]),
    "maps": (pickled(pixels(2).reshape(2, 3, 32, 32), [1, 2]), ["found", "(2, 3, 32, 32)"]),
    "none": (pickled(pixels(0), [], protocol=4), ["found", "(0, 3072)"]),
    "no array": (pickled([1, 2], [1, 2]), ["expected data of uint8", "found list"]),
    "objects": (pickled(np.array([[None] * 3072]), [1]), ["found", "'O8'"]),
    "few labels": (pickled(pixels(2), [1]), ["expected 2 labels, one for each image, found 1"]),
    "high label": (pickled(pixels(2), [0, 10]), ["labels from 0 to 9, found 0 to 10"]),
    "low label": (pickled(pixels(2), [-1, 1]), ["labels from 0 to 9, found -1 to 1"]),
    "one-hot": (pickled(pixels(1), [[0, 1]]), ["labels in a list of integers"]),
    "array of labels": (pickled(pixels(2), np.array([1, 2])), ["a list of integers, found _Array"]),
    "cut": (pickled(pixels(2), [1, 2])[:-9], ["cannot be loaded (not enough data in stream"]),
    "empty": (b"", ["expected a pickled batch", "it is empty"]),
    "page": (b"<!DOCTYPE html><html>", ["a web page (HTML)", "0x3c21444f", "not the page"]),
    "packed": (gzip.compress(pickle.dumps(1)), ["gzip-compressed data", "0x1f8b", "Uncompress"]),
    "array file": (b"\x93NUMPY\x01\x00", ["a NumPy array (.npy)", "form that is expected"]),
    "real shape": (of_shape(1.0, 3072), ["found an array", "(1.0, 3072)"]),
    "text shape": (of_shape("a", 3072), ["found an array", "('a', 3072)"]),
    "truth as a shape": (of_shape(True, 3072), ["found an array", "(True, 3072)"]),
    "odd key": (pickle.dumps({b"\xff": 1}, 2), ["a dictionary of \xff"]),
    "memory": (b"\x80\x02]r\x00\x00\x00\x03.", ["it stores a value as number 50331648", "intact"]),
    "noise": (b"\x00\x01\x02\x03", ["a file, which starts with 0x00010203", "intact"]),
}


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_batches_are_refused(home, monkeypatch, wrong, is_packed):
    monkeypatch.chdir(home)
    content, words = WRONG[wrong]
    if is_packed:
        where = packed(home, "cifar10", "cifar-10-python.tar.gz", data_batch_3=content)
    else:
        where = unpacked(home / "mine", "cifar10", data_batch_3=content)
    with pytest.raises(ValueError, match="expected") as caught:
        load_dataset("cifar10", data_dir=home if is_packed else where)
    message = str(caught.value)
    assert message.startswith(f"{where / 'data_batch_3'}: expected")
    for word in words:
        assert word in message
    assert not (home / "made by a pickle").exists()


def test_missing_files_are_listed(home):
    folder = unpacked(home / "mine", "cifar10", data_batch_2=None, test_batch=None)
    with pytest.raises(ValueError, match=r"did not find data_batch_2, test_batch\. Put") as caught:
        load_dataset("cifar10", data_dir=folder)
    assert str(caught.value).startswith(f"{folder}: expected the files data_batch_1, ")
    (home / "cifar-10-binary.tar.gz").touch()  # another published form
    with pytest.raises(
        ValueError, match=r"cifar-10-python\.tar\.gz or .*batches-py.* holds cifar-10-bin"
    ):
        load_dataset("cifar10", data_dir=home)
    file = home / "cifar-10-binary.tar.gz"
    with pytest.raises(ValueError, match=r"existing folder: .* is a file\. Pass the folder that"):
        load_dataset("cifar10", data_dir=file)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("target", ["/etc/hostname", "test", "cifar-100-python/test"])
def test_links_in_an_archive_are_not_followed_out_of_it(home, kind, target):
    path = home / "cifar-100-python.tar"
    with tarfile.open(path, "w") as writer:
        entry = tarfile.TarInfo("cifar-100-python/test")
        entry.type, entry.linkname = kind, target
        writer.addfile(entry)
    with pytest.raises(ValueError, match="expected an intact tar archive of cifar-100-python"):
        load_dataset("cifar100", data_dir=home)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_damaged_archives_are_refused(home, mode):
    path = packed(home, "cifar100", "cifar-100-python.tar", mode)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:100] + bytes(50) + whole[150:], b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="expected") as caught:
            load_dataset("cifar100", data_dir=home)
        assert str(caught.value).startswith(f"{path}: expected")
    path.write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(ValueError, match=r"archive of cifar-100-python, .* a web page .*not the p"):
        load_dataset("cifar100", data_dir=home)


@needs("cifar10")
def test_real_cifar10():
    dataset = load_dataset("cifar10")
    assert (dataset.train_images.shape[0], dataset.test_images.shape[0]) == (50000, 10000)
    assert torch.bincount(dataset.train_labels).tolist() == [5000] * 10
    assert torch.bincount(dataset.test_labels).tolist() == [1000] * 10
    assert dataset.train_labels[:5].tolist() == [6, 9, 9, 4, 1]  # a frog, trucks, a deer, a car
    assert dataset.test_labels[:5].tolist() == [3, 8, 8, 0, 6]
    # The means by which CIFAR-10 is commonly standardised.
    means = dataset.train_images.double().mean((0, 2, 3)) / 255
    assert [round(float(mean), 4) for mean in means] == [0.4914, 0.4822, 0.4465]


@needs("cifar100")
def test_real_cifar100():
    """Some of each class, as a subset may have."""
    dataset = load_dataset("cifar100")
    for labels in (dataset.train_labels, dataset.test_labels):
        assert len(set(torch.bincount(labels, minlength=100).tolist())) == 1
    # The means by which CIFAR-100 is commonly standardised, within what a subset may change.
    means = dataset.train_images.double().mean((0, 2, 3)) / 255
    torch.testing.assert_close(
        means, torch.tensor([0.5071, 0.4865, 0.4409]).double(), rtol=0, atol=0.01
    )
