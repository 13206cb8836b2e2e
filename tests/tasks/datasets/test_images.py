"""Datasets: the folders searched, the inputs refused, and real data against known figures."""

import gzip
import hashlib
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pooch
import pytest
import sklearn.datasets
import torch

from plasticity.tasks.datasets import downloads, images
from plasticity.tasks.datasets.downloads import FILE_NAMES, DownloadError, Source
from plasticity.tasks.datasets.images import DATASETS, ImageDataset, load_dataset

needs_mnist = pytest.mark.skipif(
    not (
        os.environ.get("PLASTICITY_DATA")
        and (Path(os.environ["PLASTICITY_DATA"]) / "mnist").is_dir()
    ),
    reason="needs the real MNIST files in $PLASTICITY_DATA/mnist/",
)

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = FILE_NAMES


def _images_file(count, height=2, width=3, first=0):
    pixels = bytes((first + i) % 256 for i in range(count * height * width))
    return struct.pack(">IIII", 0x803, count, height, width) + pixels


def _labels_file(*labels):
    return struct.pack(">II", 0x801, len(labels)) + bytes(labels)


# Four training images of 2 x 3 with the classes 0 to 2, and two test images.
CONTENT = {
    TRAIN_IMAGES: _images_file(4),
    TRAIN_LABELS: _labels_file(0, 2, 1, 2),
    TEST_IMAGES: _images_file(2, first=100),
    TEST_LABELS: _labels_file(1, 0),
}


def _fill(folder, **changed):
    """Write the four files; `changed` overrides contents, and None leaves a file out."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {**CONTENT, **changed}.items():
        if content is not None:
            (folder / name).write_bytes(gzip.compress(content, mtime=0))
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Set up a user without data: an empty cache, no PLASTICITY_DATA, and an unreachable mirror."""
    monkeypatch.delenv("PLASTICITY_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    # Local port 9, the discard service, which has no listener.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    checksums = {
        name: hashlib.md5(gzip.compress(content, mtime=0)).hexdigest()
        for name, content in CONTENT.items()
    }
    closed = dict.fromkeys(downloads.SOURCES, Source(("http://127.0.0.1:9/",), checksums))
    monkeypatch.setattr(images, "SOURCES", closed)
    return tmp_path


def _check_is_content(dataset, name):
    assert dataset.name == name
    assert dataset.train_images.tolist()[0] == [[0, 1, 2], [3, 4, 5]]
    assert dataset.train_images.shape == (4, 2, 3)
    assert dataset.train_labels.tolist() == [0, 2, 1, 2]
    assert dataset.test_images.tolist()[0] == [[100, 101, 102], [103, 104, 105]]
    assert dataset.test_images.shape == (2, 2, 3)
    assert dataset.test_labels.tolist() == [1, 0]
    assert (dataset.num_classes, dataset.max_value, dataset.image_shape) == (3, 255, (2, 3))


@pytest.mark.parametrize("name", ["images", "mnist", "fashion-mnist", "kmnist"])
def test_from_the_folder_given(home, name):
    _check_is_content(load_dataset(name, data_dir=_fill(home / "mine")), name)
    _check_is_content(load_dataset(name, data_dir=str(home / "mine")), name)


def test_uncompressed_files_are_read_and_compressed_ones_preferred(home):
    folder = _fill(home / "mine", **{TRAIN_LABELS: None, TEST_LABELS: None})
    (folder / "train-labels-idx1-ubyte").write_bytes(CONTENT[TRAIN_LABELS])
    (folder / "t10k-labels-idx1-ubyte").write_bytes(CONTENT[TEST_LABELS])
    (folder / "train-images-idx3-ubyte").write_bytes(_images_file(4, first=50))
    _check_is_content(load_dataset("images", data_dir=folder), "images")


def _emnist(*left_out):
    """Return the four files of EMNIST by name, without those whose names have one of these parts."""
    files = {f"emnist-balanced-{k.replace('t10k', 'test')}": v for k, v in CONTENT.items()}
    return {
        name: gzip.compress(content)
        for name, content in files.items()
        if not any(part in name for part in left_out)
    }


def test_emnist_is_its_balanced_split_turned_upright(home, monkeypatch):
    folder = home / "mine"
    folder.mkdir()
    for name, content in _emnist().items():
        (folder / name).write_bytes(content)
    dataset = load_dataset("emnist", data_dir=folder)
    assert dataset.train_images[0].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert dataset.test_images[0].tolist() == [[100, 103], [101, 104], [102, 105]]
    assert dataset.train_labels.tolist() == [0, 2, 1, 2]
    (home / "data").mkdir()
    folder.rename(home / "data" / "emnist")
    monkeypatch.setenv("PLASTICITY_DATA", str(home / "data"))
    assert torch.equal(load_dataset("emnist").train_images, dataset.train_images)


def _zipped_emnist(folder, *left_out):
    """Write the archive of EMNIST's authors: all files in a folder `gzip`, those of other splits too."""
    folder.mkdir()
    with zipfile.ZipFile(folder / "gzip.zip", "w") as archive:
        for name, content in _emnist(*left_out).items():
            other = name.replace("balanced", "letters")
            archive.writestr(f"gzip/{other}", gzip.compress(_labels_file(1)))
            archive.writestr(f"gzip/{name}", content)
    return folder


def test_emnist_is_read_from_the_archive_of_its_authors(home, monkeypatch):
    folder = _zipped_emnist(home / "mine")
    dataset = load_dataset("emnist", data_dir=folder)
    assert dataset.train_images[0].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert dataset.test_images[0].tolist() == [[100, 103], [101, 104], [102, 105]]
    assert dataset.train_labels.tolist() == [0, 2, 1, 2]
    (home / "data").mkdir()
    folder.rename(home / "data" / "emnist")
    monkeypatch.setenv("PLASTICITY_DATA", str(home / "data"))
    assert torch.equal(load_dataset("emnist").train_images, dataset.train_images)
    # an unpacked file takes precedence
    name = "emnist-balanced-train-labels-idx1-ubyte"
    (home / "data" / "emnist" / name).write_bytes(_labels_file(2, 1, 0, 0))
    assert load_dataset("emnist").train_labels.tolist() == [2, 1, 0, 0]


def test_an_archive_of_emnist_without_a_file_is_refused(home):
    folder = _zipped_emnist(home / "mine", "test-labels")
    with pytest.raises(
        ValueError, match=r"did not find emnist-balanced-test-labels-idx1-ubyte\.gz"
    ):
        load_dataset("emnist", data_dir=folder)
    with pytest.raises(
        ValueError, match=r"gzip\.zip' is a zip archive\. Pass the folder that holds"
    ):
        load_dataset("emnist", data_dir=folder / "gzip.zip")


def test_emnist_is_not_downloaded(home):
    with pytest.raises(
        ValueError, match=r"'emnist' is not downloaded: fetch gzip\.zip.*--data-dir"
    ):
        load_dataset("emnist")
    (home / "empty").mkdir()
    with pytest.raises(
        ValueError, match=r"did not find emnist-balanced-train-images-idx3-ubyte\.gz"
    ):
        load_dataset("emnist", data_dir=home / "empty")


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist"])
def test_the_search_order(home, monkeypatch, name):
    """Search the given folder, then PLASTICITY_DATA, then the cache: one pixel identifies each."""
    monkeypatch.setenv("PLASTICITY_DATA", str(home / "data"))
    given = _fill(home / "given", **{TRAIN_IMAGES: _images_file(4, first=7)})
    _fill(home / "data" / name, **{TRAIN_IMAGES: _images_file(4, first=8)})
    _fill(home / "cache" / "plasticity" / name)
    assert load_dataset(name, data_dir=given).train_images[0, 0, 0] == 7
    assert load_dataset(name).train_images[0, 0, 0] == 8
    # With no data folder, or one without this dataset, the cache is used: its checksums are right.
    (home / "data" / name).rename(home / "data" / "another")
    _check_is_content(load_dataset(name), name)
    monkeypatch.setenv("PLASTICITY_DATA", "")
    _check_is_content(load_dataset(name), name)
    # The cache is verified by checksum: an intact file of other content is downloaded again.
    _fill(home / "cache" / "plasticity" / name, **{TRAIN_IMAGES: _images_file(4, first=7)})
    with pytest.raises(DownloadError, match=TRAIN_IMAGES):
        load_dataset(name)


def test_missing_folders(home, monkeypatch):
    with pytest.raises(ValueError, match=r"--data-dir .* existing folder: '.*nowhere'"):
        load_dataset("mnist", data_dir=home / "nowhere")
    with pytest.raises(ValueError, match=r"'images' is any folder .* --data-dir"):
        load_dataset("images")
    monkeypatch.setenv("PLASTICITY_DATA", str(home / "misspelt"))
    with pytest.raises(ValueError, match=r"\$PLASTICITY_DATA must be an existing folder.*misspelt"):
        load_dataset("mnist")


KAGGLE_NAMES = {name: name.replace("-idx", ".idx").removesuffix(".gz") for name in FILE_NAMES}
TORCHVISION_NAMES = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_names_with_a_dot_are_found(home, suffix):
    folder = home / "archive"
    folder.mkdir()
    for name, dotted in KAGGLE_NAMES.items():
        content = gzip.compress(CONTENT[name]) if suffix else CONTENT[name]
        (folder / f"{dotted}{suffix}").write_bytes(content)
        # Kaggle's archive has folders of the other names.
        (folder / name.removesuffix(".gz")).mkdir()
    _check_is_content(load_dataset("mnist", data_dir=folder), "mnist")


@pytest.mark.parametrize("name", TORCHVISION_NAMES)
def test_torchvisions_folders_are_found(home, monkeypatch, name):
    """Find them below a root that is given, in the variable, or `<name>/` in the variable's folder."""
    root = home / "root"
    raw = _fill(root / TORCHVISION_NAMES[name] / "raw", **{TRAIN_LABELS: None})
    (raw / TRAIN_LABELS.removesuffix(".gz")).write_bytes(CONTENT[TRAIN_LABELS])
    for given in (root, raw.parent, raw):
        _check_is_content(load_dataset(name, data_dir=given), name)
    monkeypatch.setenv("PLASTICITY_DATA", str(root))
    _check_is_content(load_dataset(name), name)
    other = "kmnist" if name == "mnist" else "mnist"
    with pytest.raises(DownloadError):  # absent, and cannot be downloaded here
        load_dataset(other)
    (home / "data").mkdir()
    root.rename(home / "data" / name)
    monkeypatch.setenv("PLASTICITY_DATA", str(home / "data"))
    _check_is_content(load_dataset(name), name)
    # data_dir also accepts the folder that PLASTICITY_DATA selects.
    _check_is_content(load_dataset(name, data_dir=home / "data" / name), name)


def test_data_dir_may_hold_several_datasets(home):
    _fill(home / "data" / "mnist")
    _fill(home / "data" / "kmnist", **{TRAIN_IMAGES: _images_file(4, first=7)})
    _check_is_content(load_dataset("mnist", data_dir=home / "data"), "mnist")
    assert load_dataset("kmnist", data_dir=home / "data").train_images[0, 0, 0] == 7
    with pytest.raises(ValueError, match=r"did not find .* The folder holds kmnist, mnist\."):
        load_dataset("fashion-mnist", data_dir=home / "data")


def test_a_tilde_is_expanded(home, monkeypatch):
    monkeypatch.setenv("HOME", str(home))
    _fill(home / "data" / "mnist")
    _check_is_content(load_dataset("mnist", data_dir="~/data/mnist"), "mnist")
    _check_is_content(load_dataset("mnist", data_dir=Path("~/data/mnist")), "mnist")
    monkeypatch.setenv("PLASTICITY_DATA", "~/data")
    _check_is_content(load_dataset("mnist"), "mnist")
    with pytest.raises(ValueError, match="existing folder: '~nobody-of-this-name/data'"):
        load_dataset("mnist", data_dir="~nobody-of-this-name/data")


def test_a_file_given_as_the_folder_is_refused(home):
    archive = home / "archive.zip"
    with zipfile.ZipFile(archive, "w") as writer:
        writer.writestr("train-images.idx3-ubyte", CONTENT[TRAIN_IMAGES])
    with pytest.raises(
        ValueError, match=r"--data-dir .*archive\.zip' is a zip archive\. Pass the fold"
    ):
        load_dataset("mnist", data_dir=archive)
    file = _fill(home / "mine") / TRAIN_IMAGES
    with pytest.raises(ValueError, match=r"existing folder: .*ubyte\.gz' is gzip-compressed data"):
        load_dataset("mnist", data_dir=file)


def test_labels_of_wider_integer_types_are_read(home):
    labels = struct.pack(">II4i", 0xC01, 4, 0, 2, 1, 2)
    test_labels = struct.pack(">II2h", 0xB01, 2, 1, 0)
    folder = _fill(home / "mine", **{TRAIN_LABELS: labels, TEST_LABELS: test_labels})
    _check_is_content(load_dataset("images", data_dir=folder), "images")


def test_missing_files_are_listed(home, monkeypatch):
    folder = _fill(home / "mine", **{TRAIN_LABELS: None, TEST_IMAGES: None})
    with pytest.raises(ValueError, match="did not find") as caught:
        load_dataset("images", data_dir=folder)
    message = str(caught.value)
    assert message.startswith(f"{folder}: ")
    assert f"did not find {TRAIN_LABELS}, {TEST_IMAGES}. Put them there" in message
    # An incomplete folder of the user's is not skipped silently.
    monkeypatch.setenv("PLASTICITY_DATA", str(home))
    _fill(home / "mnist", **{TEST_LABELS: None})
    with pytest.raises(ValueError, match=f"did not find {TEST_LABELS}"):
        load_dataset("mnist")


@pytest.mark.parametrize(
    ("changed", "file_name", "words"),
    [
        (
            {TRAIN_LABELS: _labels_file(0, 2, 1)},
            TRAIN_LABELS,
            ["expected 4 labels", TRAIN_IMAGES, "found 3"],
        ),
        (
            {TEST_IMAGES: _images_file(3)},
            TEST_LABELS,
            ["expected 3 labels", TEST_IMAGES, "found 2"],
        ),
        (
            {TEST_IMAGES: _images_file(2, height=3, width=2)},
            TEST_IMAGES,
            ["expected images of 2 x 3", TRAIN_IMAGES, "found 3 x 2"],
        ),
        ({TRAIN_LABELS: _labels_file(0, 5, 1, 2)}, TRAIN_LABELS, ["found none of 3, 4"]),
        (
            {TRAIN_LABELS: _labels_file(1, 1, 2, 2)},
            TRAIN_LABELS,
            ["found none of 0", "begin at 1: subtract 1", "test labels"],
        ),
        ({TRAIN_LABELS: _labels_file(3, 4, 5, 3)}, TRAIN_LABELS, ["none of 0, 1, 2", "subtract 3"]),
        # A gap as well, which a shift does not close.
        ({TRAIN_LABELS: _labels_file(1, 1, 3, 3)}, TRAIN_LABELS, ["none of 0, 2.", "numpy.unique"]),
        (
            {TRAIN_LABELS: _labels_file(0, 255, 1, 2)},
            TRAIN_LABELS,
            ["none of 3, 4, 5, 6, 7, 8, 9, 10, …"],
        ),
        (
            {TRAIN_LABELS: struct.pack(">II4i", 0xC01, 4, 0, 1, 2, 2**31 - 1)},
            TRAIN_LABELS,
            ["largest, 2147483647", "none of 3, 4,"],
        ),
        ({TRAIN_LABELS: struct.pack(">II4b", 0x901, 4, 0, 1, 2, -1)}, TRAIN_LABELS, ["found -1"]),
        ({TEST_LABELS: _labels_file(3, 0)}, TEST_LABELS, ["labels from 0 to 2", "found 3"]),
        ({TEST_LABELS: CONTENT[TEST_IMAGES]}, TEST_LABELS, ["0x00000801", "0x00000803"]),
        ({TRAIN_IMAGES: CONTENT[TRAIN_IMAGES][:-1]}, TRAIN_IMAGES, ["truncated"]),
    ],
)
def test_inconsistent_files_are_refused(home, changed, file_name, words):
    folder = _fill(home / "mine", **changed)
    with pytest.raises(ValueError, match="expected") as caught:
        load_dataset("images", data_dir=folder)
    assert str(caught.value).startswith(f"{folder / file_name}: ")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("name", "hint"), [("mnits", "'mnist'"), ("fashion", "'fashion-mnist'"), ("MNIST ", None)]
)
def test_unknown_names(name, hint):
    with pytest.raises(ValueError, match=f"Unknown dataset {name!r}") as caught:
        load_dataset(name)
    assert str(caught.value).endswith(
        "Known: digits, cifar10, cifar100, fashion-mnist, kmnist, mnist, emnist, images."
    )
    assert ("Did you mean" in str(caught.value)) == (hint is not None)
    if hint is not None:
        assert f"Did you mean {hint}?" in str(caught.value)


def test_the_names_are_public():
    idx = {"mnist", "fashion-mnist", "kmnist", "images"}
    assert set(DATASETS) == {"digits", "cifar10", "cifar100", "emnist", *idx}


def test_digits_are_all_of_scikit_learn():
    dataset = load_dataset("digits")
    bunch = sklearn.datasets.load_digits()
    assert (dataset.num_classes, dataset.max_value, dataset.image_shape) == (10, 16, (8, 8))
    # A plain loop: every fifth digit of a class goes to the test split.
    seen, train, test = [0] * 10, [], []
    for index, label in enumerate(bunch.target):
        seen[label] += 1
        (test if seen[label] % 5 == 0 else train).append(index)
    for split, indices in (("train", train), ("test", test)):
        pixels, labels = getattr(dataset, f"{split}_images"), getattr(dataset, f"{split}_labels")
        np.testing.assert_array_equal(pixels.numpy(), bunch.images[indices])
        np.testing.assert_array_equal(labels.numpy(), bunch.target[indices])
    # The classes have 178 182 177 183 181 182 181 179 174 180 images; a fifth, rounded down, is for testing.
    assert torch.bincount(dataset.test_labels).tolist() == [35, 36, 35, 36, 36, 36, 36, 35, 34, 36]
    assert len(train) + len(test) == 1797


def test_digits_accept_no_folder(tmp_path):
    with pytest.raises(ValueError, match="'digits' is bundled with scikit-learn"):
        load_dataset("digits", data_dir=tmp_path)


def _dataset(**changed):
    values = {
        "name": "small",
        "train_images": torch.zeros(4, 2, 3, dtype=torch.uint8),
        "train_labels": torch.tensor([0, 1, 2, 1]),
        "test_images": torch.zeros(2, 2, 3, dtype=torch.uint8),
        "test_labels": torch.tensor([2, 0]),
        "num_classes": 3,
    }
    return ImageDataset(**{**values, **changed})


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"train_images": torch.zeros(4, 2, 3)}, TypeError, "train_images must be torch.uint8"),
        ({"test_labels": torch.tensor([2.0, 0.0])}, TypeError, "test_labels torch.int64"),
        ({"train_labels": torch.tensor([0, 1])}, ValueError, r"train_labels \(n,\).*\(2,\)"),
        ({"test_images": torch.zeros(2, 6).byte()}, ValueError, r"test_images .*\(2, 6\)"),
        (
            {"test_images": torch.zeros(0, 2, 3).byte(), "test_labels": torch.zeros(0).long()},
            ValueError,
            "not empty",
        ),
        ({"test_images": torch.zeros(2, 1, 2, 3).byte()}, ValueError, r"\(2, 3\): \(1, 2, 3\)"),
        ({"test_images": torch.zeros(2, 3, 2).byte()}, ValueError, r"\(2, 3\): \(3, 2\)"),
        ({"train_labels": torch.tensor([0, 1, 3, 1])}, ValueError, "1 = 2: found 0 to 3"),
        ({"test_labels": torch.tensor([-1, 0])}, ValueError, "test_labels.*found -1 to 0"),
        ({"max_value": 0}, ValueError, "max_value must be from 1 to 255.*: 0"),
        ({"max_value": 256}, ValueError, "max_value must be from 1 to 255.*: 256"),
        (
            {"max_value": 16, "test_images": torch.full((2, 2, 3), 17).byte()},
            ValueError,
            "test_images must be at most max_value = 16: 17",
        ),
    ],
)
def test_invalid_datasets_are_refused(changed, error, message):
    with pytest.raises(error, match=message):
        _dataset(**changed)


def test_input_shapes():
    assert (_dataset().image_shape, _dataset().input_shape) == ((2, 3), (1, 2, 3))
    colour = _dataset(
        train_images=torch.zeros(4, 3, 5, 6).byte(), test_images=torch.zeros(2, 3, 5, 6).byte()
    )
    assert (colour.image_shape, colour.input_shape) == ((5, 6), (3, 5, 6))


def test_a_dataset_moves_and_is_frozen():
    dataset = _dataset(max_value=16)
    moved = dataset.to("cpu")
    assert moved.train_images.data_ptr() == dataset.train_images.data_ptr()
    assert moved.max_value == 16
    with pytest.raises(AttributeError):
        dataset.num_classes = 4


@needs_mnist
def test_real_mnist():
    dataset = load_dataset("mnist")
    assert dataset.train_images.shape == (60000, 28, 28)
    assert dataset.test_images.shape == (10000, 28, 28)
    # The published counts of the digits 0 to 9.
    assert torch.bincount(dataset.train_labels).tolist() == [
        *(5923, 6742, 5958, 6131, 5842),
        *(5421, 5918, 6265, 5851, 5949),
    ]
    assert dataset.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert dataset.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    # The mean and the standard deviation by which MNIST is commonly standardised.
    counts = torch.bincount(dataset.train_images.flatten(), minlength=256).double()
    share, value = counts / counts.sum(), torch.arange(256) / 255
    mean = (share * value).sum()
    assert round(float(mean), 4) == 0.1307
    assert round(float((share * (value - mean) ** 2).sum().sqrt()), 4) == 0.3081


@needs_mnist
def test_the_published_checksums_match_mnist():
    for file_name, checksum in downloads.SOURCES["mnist"].checksums.items():
        content = (Path(os.environ["PLASTICITY_DATA"]) / "mnist" / file_name).read_bytes()
        assert hashlib.md5(content).hexdigest() == checksum


def colourful(pixels):
    # one channel 0, 1, 2, 3; the other always 2
    images = torch.tensor([[[[0, 1]], [[2, 2]]], [[[2, 3]], [[2, 2]]]], dtype=torch.uint8)
    labels = torch.tensor([0, 1])
    return ImageDataset("two", images, labels, images, labels, 2, max_value=4, pixels=pixels)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        ("unit", [[0, 0.25], [0.5, 0.5]]),
        ("symmetric", [[-1, -0.5], [0, 0]]),
        # mean 1.5, variance (1.5² + 0.5²) / 2 = 1.25; a constant channel becomes 0
        ("standardized", [[-1.5 / 1.25**0.5, -0.5 / 1.25**0.5], [0, 0]]),
    ],
)
def test_ranges_of_pixels(pixels, expected):
    dataset = colourful(pixels)
    expected = torch.tensor(expected)
    torch.testing.assert_close(dataset.scaled(dataset.train_images)[0].squeeze(1), expected)
    flat = dataset.train_images.flatten(1).expand(3, -1, -1)  # as of stacked tasks
    torch.testing.assert_close(dataset.scaled(flat)[2, 0].view(2, 2), expected)


def test_an_unknown_range_of_pixels_is_refused():
    with pytest.raises(ValueError, match=r"Unknown pixels 'unity'\. Did you mean 'unit'"):
        colourful("unity")
