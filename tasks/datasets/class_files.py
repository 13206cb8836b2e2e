"""Images in a file for each class: NumPy arrays, of which only those in use are read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from plasticity.tasks.datasets.file_kinds import recognized

CLASS_PIXELS = ("stored", "unit", "symmetric")
"""Ranges of pixels: as the files have them; from 0 to 1, or from -1 to 1, after a division."""

FOLDER = "imagenet32"
"""Name of the folder below $PLASTICITY_DATA."""


@dataclass(frozen=True)
class ClassFiles:
    """Images of classes 0, 1, …, each in a file `<class>.npy` of the shape (images, channels, height, width).

    The first images of a file are for training, the last ones for tests. Files are read when their class is
    needed: a thousand classes of 700 colour images of 32 x 32 take 8.6 GB as float32.
    """

    folder: Path
    """Folder of the files."""

    num_classes: int
    """Number of classes."""

    train_per_class: int
    """Training images of each class, the first ones."""

    test_per_class: int
    """Test images of each class, the last ones."""

    pixels: str
    """Range of the pixels that a network sees, one of `CLASS_PIXELS`."""

    max_value: float
    """Stored value of full brightness, by which "unit" and "symmetric" divide."""

    image_shape: tuple[int, int, int]
    """Channels, height and width of an image."""

    device: torch.device
    """Device that the images are read to."""

    def images(self, label: int) -> tuple[Tensor, Tensor]:
        """Read the training images and the test images of a class, float32, on the device.

        Shape of each: (images, channels, height, width).

        Raises:
            ValueError: if a value is not finite, or outside of the range that was announced; the message says
                what to do.
        """
        path = self.folder / f"{label}.npy"
        stored = _opened(path)
        images = np.concatenate([stored[: self.train_per_class], stored[-self.test_per_class :]])
        self._require_range(path, images)
        found = torch.from_numpy(images.astype(np.float32)).to(self.device)
        if self.pixels != "stored":
            found.mul_(1 / self.max_value)
        if self.pixels == "symmetric":
            found.mul_(2).sub_(1)
        return found[: self.train_per_class], found[self.train_per_class :]

    def _require_range(self, path: Path, images: np.ndarray) -> None:
        low, high = float(images.min()), float(images.max())
        if not np.isfinite([low, high]).all():
            raise ValueError(
                f"{path}: expected finite numbers, found {low} to {high}. Replace it with an intact copy."
            )
        if self.pixels == "stored":
            return
        if low < 0 or high > self.max_value:
            raise ValueError(
                f"{path}: expected values from 0 to --max-value {self.max_value:g}, found {low:g} to"
                f" {high:g}. Give the value of full brightness, or --pixels stored for arrays that are"
                " standardized already."
            )
        if high <= 1 < self.max_value:
            raise ValueError(
                f"{path}: expected values up to --max-value {self.max_value:g}, found none above {high:g}:"
                " give --max-value 1."
            )


def open_class_files(
    folder: Path,
    num_classes: int,
    *,
    train_per_class: int,
    test_per_class: int,
    pixels: str = "stored",
    max_value: float = 255.0,
    device: torch.device | str = "cpu",
) -> ClassFiles:
    """Open the files of all classes: type and shape of each are checked, but no image is read.

    Args:
        folder: Folder of the files.
        num_classes: Number of classes, whose files are `0.npy`, `1.npy`, ….
        train_per_class: Training images of each class.
        test_per_class: Test images of each class.
        pixels: One of `CLASS_PIXELS`.
        max_value: Stored value of full brightness.
        device: Device of the images.

    Raises:
        ValueError: if a file is missing or not as expected; the message names it, what was expected, what was
            found, and what to do.
    """
    shapes: dict[tuple[int, ...], Path] = {}
    for label in range(num_classes):
        path = folder / f"{label}.npy"
        if not path.is_file():
            raise ValueError(
                f"{folder}: expected the files 0.npy to {num_classes - 1}.npy, one for each class, did not"
                f" find {path.name}. Put it there, or give --num-classes {label} if there are no more."
            )
        shapes.setdefault(_image_shape(path, train_per_class + test_per_class), path)
    if len(shapes) > 1:
        (shape, path), (other, differing) = list(shapes.items())[:2]
        raise ValueError(
            f"{differing}: expected images of the shape {shape}, as in {path.name}, found {other}. Put the"
            " files of one dataset into the folder."
        )
    channels, height, width = next(iter(shapes))
    return ClassFiles(
        folder,
        num_classes,
        train_per_class,
        test_per_class,
        pixels,
        max_value,
        (channels, height, width),
        torch.device(device),
    )


def find_class_files(data_dir: str | None) -> Path:
    """Return the folder of the class files: `data_dir` or $PLASTICITY_DATA/imagenet32, or `classes` in it.

    Raises:
        ValueError: if there is none; the message says how to get the files.
    """
    root = os.environ.get("PLASTICITY_DATA")
    given = data_dir or (str(Path(root) / FOLDER) if root else None)
    if given is not None:
        folder = Path(given).expanduser()
        for each in (folder, folder / "classes"):
            if (each / "0.npy").is_file():
                return each
    place = (
        "no folder was given" if given is None else f"{given} has no file 0.npy or classes/0.npy"
    )
    raise ValueError(
        f"ImageNet in 32 x 32 is not downloaded, and {place}: give --data-dir with a folder of files 0.npy,"
        " 1.npy, …, one for each class, of the shape (700, 3, 32, 32). Those of Dohare et al. (2024) are"
        " linked in the README of their code, github.com/shibhansh/loss-of-plasticity."
    )


def _opened(path: Path) -> np.ndarray:
    """Open an array without reading its values."""
    try:
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # Damaged bytes may raise nearly any.
        with path.open("rb") as stream:
            kind = recognized(stream.read(1024))
        is_array = kind is None or kind.name.endswith("(.npy)")
        found_kind = f"one that cannot be read ({error})" if is_array else kind.name  # type: ignore[union-attr]
        raise ValueError(
            f"{path}: expected an array of numbers as numpy.save writes it, found {found_kind}. Replace it"
            " with an intact copy."
        ) from error
    if not isinstance(found, np.ndarray):
        raise ValueError(  # noqa: TRY004  # the file is wrong, not the caller's type
            f"{path}: expected one array, as numpy.save writes it, found an archive of several. Save the"
            " array alone."
        )
    return found


def _image_shape(path: Path, count: int) -> tuple[int, ...]:
    stored = _opened(path)
    if stored.dtype.kind not in "uif":
        raise ValueError(
            f"{path}: expected numbers, found an array of {stored.dtype}. Convert it: array.astype('uint8')."
        )
    shape = tuple(stored.shape)
    if len(shape) != 4 or shape[1] not in (1, 3) or min(shape) < 1:
        turn = " Channels come first: array.transpose(0, 3, 1, 2)." if shape[3:] == (3,) else ""
        raise ValueError(
            f"{path}: expected images of the shape (images, channels, height, width), with 1 or 3 channels,"
            f" found {shape}.{turn or ' Save them in this shape.'}"
        )
    if shape[0] < count:
        raise ValueError(
            f"{path}: expected at least {count} images, for training and for tests, found {shape[0]}. Give"
            " smaller --train-per-class and --test-per-class."
        )
    return shape[1:]
