"""Datasets of labelled images, loaded by name."""

from __future__ import annotations

import difflib
import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from plasticity.checks import require_known
from plasticity.tasks.datasets.cifar import CIFAR_FORMS, find_cifar, read_cifar
from plasticity.tasks.datasets.downloads import FILE_NAMES, SOURCES, cache_folder, fetch
from plasticity.tasks.datasets.file_kinds import recognized
from plasticity.tasks.datasets.idx import read_idx_images, read_idx_labels
from plasticity.tasks.datasets.zipped_files import ZippedFile, find_zipped

DATASETS = ("digits", *sorted(SOURCES), "emnist", "images")
"""Names that `load_dataset` accepts."""

PIXELS = ("unit", "symmetric", "standardized")
"""Ranges of pixels: from 0 to 1; from -1 to 1; or with mean 0 and standard deviation 1 in each channel, over
the training images."""

_TORCHVISION_NAMES = {
    "mnist": "MNIST",
    "fashion-mnist": "FashionMNIST",
    "kmnist": "KMNIST",
    "emnist": "EMNIST",
}
EMNIST_FILES = (
    "emnist-balanced-train-images-idx3-ubyte.gz",
    "emnist-balanced-train-labels-idx1-ubyte.gz",
    "emnist-balanced-test-images-idx3-ubyte.gz",
    "emnist-balanced-test-labels-idx1-ubyte.gz",
)
"""Files of EMNIST's balanced split: training images and labels, test images and labels."""

_DIGITS_MAX_VALUE = 16
_DIGITS_TEST_EVERY = 5
_MOST_LISTED = 8


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Images and their labels, split into training and test examples, all on one device.

    Raises:
        TypeError: if the pixels are not uint8 or the labels not int64.
        ValueError: if the shapes do not match, a split is empty, a pixel is above `max_value` or a
            label is outside the classes.

    Examples:
        >>> dataset = load_dataset("digits")
        >>> isinstance(dataset, ImageDataset)
        True
    """

    name: str
    """Name of the dataset, for messages and tables."""

    train_images: Tensor
    """Training images, uint8, 0 to `max_value`. Shape: (training examples, height, width) of grey-scale
    images, (training examples, channels, height, width) of others."""

    train_labels: Tensor
    """Training labels, int64, 0 to `num_classes` - 1. Shape: (training examples,)."""

    test_images: Tensor
    """Test images, uint8, 0 to `max_value`, shaped as those for training."""

    test_labels: Tensor
    """Test labels, int64, 0 to `num_classes` - 1. Shape: (test examples,)."""

    num_classes: int
    """Number of classes."""

    max_value: int = 255
    """Pixel value of full brightness, 1 to 255; divided by it, pixels are in [0, 1]."""

    pixels: str = "unit"
    """Range of the pixels that a network sees, one of `PIXELS`."""

    def __post_init__(self) -> None:
        require_known("pixels", self.pixels, PIXELS)
        if not 1 <= self.max_value <= 255:
            raise ValueError(
                f"max_value must be from 1 to 255, the largest uint8: {self.max_value!r}."
            )
        for split in ("train", "test"):
            self._check_split(
                split, getattr(self, f"{split}_images"), getattr(self, f"{split}_labels")
            )
        if self.test_images.shape[1:] != self.train_images.shape[1:]:
            raise ValueError(
                f"test_images must have the height and width of train_images, "
                f"{tuple(self.train_images.shape[1:])}: {tuple(self.test_images.shape[1:])}."
            )

    def _check_split(self, split: str, images: Tensor, labels: Tensor) -> None:
        if images.dtype != torch.uint8 or labels.dtype != torch.int64:
            raise TypeError(
                f"{split}_images must be torch.uint8 and {split}_labels torch.int64: "
                f"{images.dtype}, {labels.dtype}."
            )
        if images.ndim not in (3, 4) or images.numel() == 0 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"{split}_images must have the shape (n, height, width) or (n, channels, height, width) and "
                f"{split}_labels (n,), not empty: {tuple(images.shape)}, {tuple(labels.shape)}."
            )
        if int(images.max()) > self.max_value:
            raise ValueError(
                f"{split}_images must be at most max_value = {self.max_value}: {int(images.max())}."
            )
        lowest, highest = int(labels.min()), int(labels.max())
        if lowest < 0 or highest >= self.num_classes:
            raise ValueError(
                f"{split}_labels must be from 0 to num_classes - 1 = {self.num_classes - 1}: "
                f"found {lowest} to {highest}."
            )

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of an image, in pixels."""
        height, width = self.train_images.shape[-2:]
        return height, width

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image as a network sees it; grey-scale images have one channel."""
        return (1 if self.train_images.ndim == 3 else self.train_images.shape[1], *self.image_shape)

    def scaled(self, pixels: Tensor) -> Tensor:
        """Return stored pixels as float32 in the range `pixels`, in a new tensor of the same shape.

        Args:
            pixels: Pixels of whole images, uint8. Shape: (..., channels * height * width), or the same with
                the last axes apart.
        """
        # Multiplied by the reciprocal, because that is how a GPU divides by a constant: the pixels
        # are bitwise equal on every device.
        images = pixels.to(torch.float32).mul_(1 / self.max_value)
        if self.pixels == "symmetric":
            return images.mul_(2).sub_(1)
        if self.pixels == "standardized":
            mean, deviation = self.statistics
            images.view(-1, len(mean), math.prod(self.image_shape)).sub_(mean).div_(deviation)
        return images

    @cached_property
    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel over the training images, scaled to [0, 1].

        Shape of each: (channels, 1). A channel of one value has a deviation of 1.
        """
        channels, height, width = self.input_shape
        count = len(self.train_images) * height * width
        images = self.train_images.cpu().view(-1, channels, height * width)
        # sums of integers, which are exact on every machine
        sums = torch.stack([images[:, each].sum() for each in range(channels)])
        squares = torch.stack(
            [images[:, each].to(torch.int32).square_().sum() for each in range(channels)]
        )
        mean = sums.double() / count
        deviation = (squares.double() / count - mean.square()).clamp_(min=0).sqrt_()
        deviation = torch.where(deviation == 0, self.max_value, deviation)
        scale = self.max_value
        found = [(each / scale).float()[:, None] for each in (mean, deviation)]
        return found[0].to(self.train_images.device), found[1].to(self.train_images.device)

    def to(self, device: torch.device | str) -> ImageDataset:
        """Return the dataset on another device; tensors that are already there are not copied."""
        return replace(
            self,
            train_images=self.train_images.to(device),
            train_labels=self.train_labels.to(device),
            test_images=self.test_images.to(device),
            test_labels=self.test_labels.to(device),
        )


def all_the_same(datasets: Sequence[ImageDataset]) -> bool:
    """Return whether datasets consist of the same tensors, so that a gather from one serves all."""
    # Identity of tensors: those at one address may still be different views of it.
    return all(
        getattr(each, name.name) is getattr(datasets[0], name.name)
        for each in datasets
        for name in fields(ImageDataset)
    )


def load_dataset(name: str, data_dir: str | Path | None = None) -> ImageDataset:
    """Load a dataset by name, on the CPU.

    "digits" is bundled with scikit-learn (1797 images of 8 x 8, values 0 to 16). "cifar10" and "cifar100"
    are the published pickled batches, in the folder `cifar-10-batches-py` (`cifar-100-python`) or in a tar
    archive of it, with any compression. They are loaded without executing anything that they name; their
    labels are the 10 or 100 classes, not the coarse ones; a subset in the same form is read as well. The
    others are four IDX files, train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz,
    t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz (or the same without ".gz" and uncompressed, the
    ".gz" taking precedence if both exist; or with a dot, "train-images.idx3-ubyte", as on Kaggle). They are
    searched for in

    1. the folder `data_dir`, if it is given,
    2. the folder `$PLASTICITY_DATA/<name>/`, if it exists,
    3. the user's cache, to which they are downloaded from a public mirror if they are not there.

    In 1 and 2, torchvision's folders are found as well: `MNIST/raw/` (`FashionMNIST`, `KMNIST`) below its
    `root`, which `data_dir` or `$PLASTICITY_DATA` may be. So is the folder `<name>/` below `data_dir`. A "~"
    at the beginning is the user's home.

    Pixels are uint8, labels integers of any type, numbered from 0 without a gap.

    Files in the user's folders (1, 2) are checked for their format: magic number, sizes, counts,
    labels. Files in the cache are checked against the published checksums.

    "emnist" is EMNIST's balanced split (47 classes), four IDX files named
    emnist-balanced-train-images-idx3-ubyte.gz and so on, in a folder or in the archive gzip.zip of its
    authors (any *.zip in the folder is searched), which is not downloaded. They hold transposed images, which
    are turned upright.

    Args:
        name: "mnist", "fashion-mnist", "kmnist", "emnist", "cifar10", "cifar100", "digits", or "images" for
            any folder with four files of MNIST's names.
        data_dir: The folder that holds the files, or one that holds the dataset's folder; required for
            "images", not accepted for "digits".

    Returns:
        The dataset, with the labels 0 to `num_classes` - 1; except in CIFAR, each is among the training
        labels.

    Raises:
        ValueError: if the name is unknown, a folder or a file is missing, or a file is not as
            expected; the message names it, what was expected, what was found and what to do.
        DownloadError: if no mirror delivers.

    Examples:
        >>> load_dataset("digits").num_classes
        10
    """
    if name not in DATASETS:
        near = difflib.get_close_matches(str(name), DATASETS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"Unknown dataset {name!r}.{hint} Known: {', '.join(DATASETS)}.")
    if name == "digits":
        if data_dir is not None:
            raise ValueError(
                f"The dataset 'digits' is bundled with scikit-learn and is not read from a folder: leave "
                f"out --data-dir (data_dir), which is {str(data_dir)!r}, or use 'images'."
            )
        return _load_digits()
    folder = _users_folder(name, data_dir)
    if folder is None and name == "emnist":
        raise ValueError(
            "The dataset 'emnist' is not downloaded: fetch gzip.zip of its authors"
            " (biometrics.nist.gov/cs_links/EMNIST/gzip.zip), and pass the folder that holds it, or"
            f" {EMNIST_FILES[0]} and so on, as --data-dir (data_dir)."
        )
    if folder is None:
        folder = cache_folder(name)
        fetch(SOURCES[name], folder)
    return _read_cifar(name, folder) if name in CIFAR_FORMS else _read_folder(name, folder)


def _users_folder(name: str, data_dir: str | Path | None) -> Path | None:
    """Return the folder that the user specified for this dataset; None if there is none."""
    if data_dir is not None:
        folder = _existing(data_dir, "--data-dir (data_dir) must be an existing folder")
        return _first_with_files([*_candidates(folder, name), folder / name], name) or folder
    if name == "images":
        raise ValueError(
            "The dataset 'images' is any folder with the four files "
            f"{', '.join(FILE_NAMES)}: pass the folder as --data-dir (data_dir)."
        )
    root = os.environ.get("PLASTICITY_DATA")
    if not root:
        return None
    # A folder without this dataset is not an error, as it may hold others; a misspelt one is.
    folder = _existing(root, "$PLASTICITY_DATA must be an existing folder, or unset")
    own = folder / name
    found = _first_with_files([*_candidates(own, name), *_candidates(folder, name)[1:]], name)
    return found or (own if own.is_dir() else None)


def _existing(name: str | Path, expected: str) -> Path:
    """Return the folder of this name, with "~" expanded, or raise a ValueError if it does not exist."""
    try:
        folder = Path(name).expanduser()
    except RuntimeError as error:  # "~name" of an unknown user
        raise ValueError(f"{expected}: {str(name)!r} ({error}).") from error
    if folder.is_file():
        with folder.open("rb") as stream:
            kind = recognized(stream.read(1024))
        raise ValueError(
            f"{expected}: {str(folder)!r} is {'a file' if kind is None else kind.name}. Pass the folder that "
            "holds the dataset's files, unpacked if they are in an archive (those of CIFAR and EMNIST need"
            " not be)."
        )
    if not folder.is_dir():
        raise ValueError(f"{expected}: {str(folder)!r}.")
    return folder


def _candidates(folder: Path, name: str) -> list[Path]:
    """Return the folders that may hold a dataset's files: the given one, and those torchvision writes to."""
    candidates = [folder, folder / "raw"]
    if name in _TORCHVISION_NAMES:
        candidates.append(folder / _TORCHVISION_NAMES[name] / "raw")
    elif name in CIFAR_FORMS:
        candidates.append(folder / CIFAR_FORMS[name].folder)
    return candidates


def _first_with_files(folders: list[Path], name: str) -> Path | None:
    """Return the first folder that has any of the files: an incomplete one is not skipped silently."""
    return next((folder for folder in folders if _has_files(folder, name)), None)


def _has_files(folder: Path, name: str) -> bool:
    if name in CIFAR_FORMS:
        return find_cifar(folder, CIFAR_FORMS[name]) is not None
    return any(_found(folder, file_name) is not None for file_name in _file_names(name))


def _file_names(name: str) -> tuple[str, ...]:
    """Return the names of a dataset's four files."""
    return EMNIST_FILES if name == "emnist" else FILE_NAMES


def _found(folder: Path, file_name: str) -> Path | ZippedFile | None:
    """Return one of the four files under any of its names; None if there is none."""
    plain = file_name.removesuffix(".gz")
    dotted = plain.replace("-idx", ".idx")
    for candidate in (file_name, plain, f"{dotted}.gz", dotted):
        if (folder / candidate).is_file():
            return folder / candidate
    if file_name in EMNIST_FILES:
        return find_zipped(sorted(folder.glob("*.zip")), file_name)
    return None


def _read_cifar(name: str, folder: Path) -> ImageDataset:
    form = CIFAR_FORMS[name]
    place = find_cifar(folder, form)
    if place is None:
        raise ValueError(
            f"{folder}: expected the archive {form.archive} or the folder {form.folder}. Put it there, or"
            f" pass the folder that holds it as --data-dir (data_dir). The folder holds {_contents(folder)}."
        )
    return ImageDataset(name, *read_cifar(place, form), num_classes=form.num_classes)


def _contents(folder: Path) -> str:
    return _listed(sorted(path.name for path in folder.iterdir()))


def _read_folder(name: str, folder: Path) -> ImageDataset:
    files = _find_files(folder, _file_names(name))
    train_images, train_labels = _read_split(files[0], files[1])
    test_images, test_labels = _read_split(files[2], files[3])
    if test_images.shape[1:] != train_images.shape[1:]:
        raise ValueError(
            f"{files[2]}: expected images of {_size(train_images)} pixels, as in {files[0].name}, "
            f"found {_size(test_images)}. Put the four files of one dataset into the folder."
        )
    num_classes = _count_classes(files[1], train_labels)
    highest = int(test_labels.max())
    if highest >= num_classes:
        raise ValueError(
            f"{files[3]}: expected labels from 0 to {num_classes - 1}, the classes of "
            f"{files[1].name}, found {highest}. Put the four files of one dataset into the folder."
        )
    if name == "emnist":
        train_images, test_images = (each.mT.contiguous() for each in (train_images, test_images))
    return ImageDataset(name, train_images, train_labels, test_images, test_labels, num_classes)


def _find_files(folder: Path, file_names: tuple[str, ...]) -> list[Path | ZippedFile]:
    """Return the four files, in the order of their names, compressed or not."""
    found: list[Path | ZippedFile] = []
    missing = []
    for file_name in file_names:
        file = _found(folder, file_name)
        if file is None:
            missing.append(file_name)
        else:
            found.append(file)
    if missing:
        raise ValueError(
            f"{folder}: expected the four files {', '.join(file_names)} (or the same without .gz), "
            f"did not find {', '.join(missing)}. Put them there, or pass the folder that holds them as "
            f"--data-dir (data_dir). The folder holds {_contents(folder)}."
        )
    return found


def _read_split(
    images_file: Path | ZippedFile, labels_file: Path | ZippedFile
) -> tuple[Tensor, Tensor]:
    images, labels = read_idx_images(images_file), read_idx_labels(labels_file)
    if len(images) != len(labels):
        raise ValueError(
            f"{labels_file}: expected {len(images)} labels, one for each image of "
            f"{images_file.name}, found {len(labels)}. Put the four files of one dataset into the folder."
        )
    return images, labels


def _count_classes(labels_file: Path | ZippedFile, labels: Tensor) -> int:
    used = set(labels.tolist())
    lowest, highest = min(used), max(used)
    if len(used) == highest + 1:
        return len(used)
    # One more than is shown. The largest label may be 2^31 - 1: too many to list all.
    unused = list(itertools.islice((n for n in range(highest) if n not in used), _MOST_LISTED + 1))
    remedy = (
        "Number the classes from 0, without a gap: numpy.unique(labels, return_inverse=True)[1]."
    )
    if len(used) == highest + 1 - lowest:
        remedy = (
            f"They begin at {lowest}: subtract {lowest} from every label, and from the test labels."
        )
    raise ValueError(
        f"{labels_file}: expected every label from 0 to the largest, {highest}, found none of "
        f"{_listed(unused)}. {remedy}"
    )


def _listed(names: Sequence[object]) -> str:
    shown = ", ".join(map(str, names[:_MOST_LISTED]))
    return f"{shown}, …" if len(names) > _MOST_LISTED else shown or "nothing"


def _size(images: Tensor) -> str:
    return f"{images.shape[1]} x {images.shape[2]}"


def _load_digits() -> ImageDataset:
    """Load the bundled digits; within each class, in the given order, every fifth image is a test image.

    Both splits thus have the classes in the same proportions, and images from all writers.
    """
    # Imported here because it takes a second, and only this dataset needs it.
    from sklearn.datasets import load_digits  # noqa: PLC0415

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).to(torch.uint8)
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    one_hot = torch.nn.functional.one_hot(labels)
    rank_in_class = one_hot.cumsum(dim=0).gather(1, labels[:, None]).squeeze(1)
    is_test = rank_in_class % _DIGITS_TEST_EVERY == 0
    return ImageDataset(
        "digits",
        images[~is_test],
        labels[~is_test],
        images[is_test],
        labels[is_test],
        num_classes=one_hot.shape[1],
        max_value=_DIGITS_MAX_VALUE,
    )
