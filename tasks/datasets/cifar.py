"""Reader of CIFAR-10 and CIFAR-100 in their Python form: pickled batches, in a tar archive or unpacked.

A batch is a dictionary of `data`, uint8, a row of 1024 red, 1024 green and 1024 blue values for each image,
and `labels`, or `fine_labels` (A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009).
Nothing that a pickle imports is executed: its arrays are read by this file, and any other name is refused.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plasticity.tasks.datasets.file_kinds import recognized

_SIZE = 32
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")
_REMEDY = "Replace it with an intact copy of the original file."


@dataclass(frozen=True)
class CifarForm:
    """Names in the published form of a dataset."""

    folder: str
    """Folder of the unpacked files."""

    archive: str
    """Archive of that folder."""

    train: tuple[str, ...]
    """Files with the training images, in their order."""

    test: str
    """File with the test images."""

    labels: str
    """Key of the labels in a file."""

    num_classes: int
    """Number of classes."""

    @property
    def files(self) -> tuple[str, ...]:
        """Files with images."""
        return (*self.train, self.test)


CIFAR_FORMS: Mapping[str, CifarForm] = {
    "cifar10": CifarForm(
        folder="cifar-10-batches-py",
        archive="cifar-10-python.tar.gz",
        train=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test="test_batch",
        labels="labels",
        num_classes=10,
    ),
    "cifar100": CifarForm(
        folder="cifar-100-python",
        archive="cifar-100-python.tar.gz",
        train=("train",),
        test="test",
        labels="fine_labels",
        num_classes=100,
    ),
}
"""Forms by the name of the dataset."""


def find_cifar(folder: Path, form: CifarForm) -> Path | None:
    """Return the place of a dataset's files: a folder that holds any of them, or an archive.

    Args:
        folder: Folder that holds the files, the published folder, or an archive of it, with any compression
            and any name that begins like the published one (`cifar-10-…py….tar.xz`).
        form: Names of the dataset.

    Returns:
        The folder or the archive; None if there is neither.
    """
    for each in (folder, folder / form.folder):
        if any((each / name).is_file() for name in form.files):
            return each
    beginning = form.archive.removesuffix("python.tar.gz")
    archives = [
        each
        for each in sorted(folder.glob(f"{beginning}*py*"))
        if each.is_file() and (".tar" in each.name or each.suffix in (".tgz", ".tbz2", ".txz"))
    ]
    published = folder / form.archive
    return published if published in archives else next(iter(archives), None)


def read_cifar(place: Path, form: CifarForm) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Read a dataset.

    An archive that was read last is not read again, unless it has changed: unpacking takes seconds.

    Args:
        place: Folder with the files, or an archive of them, as `find_cifar` returns it.
        form: Names of the dataset.

    Returns:
        The training images, uint8, and their labels, int64, then those for testing. Shapes: (n, 3, 32, 32)
        and (n,).

    Raises:
        ValueError: if a file is missing, or not as published; the message names it, what was expected, what
            was found and what to do.
        OSError: if a file cannot be opened.
    """
    if place.is_dir():
        contents = {
            name: (place / name).read_bytes() for name in form.files if (place / name).is_file()
        }
        return _dataset(place, contents, form)
    state = place.stat()
    return _read_archive(place, form, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=1)
def _read_archive(
    path: Path, form: CifarForm, mtime_ns: int, size: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _dataset(path, _unpacked(path, form), form)


def _unpacked(path: Path, form: CifarForm) -> dict[str, bytes]:
    """Return the contents of the files in an archive, by name."""
    contents = {}
    with path.open("rb") as stream:
        start = stream.read(1024)
        stream.seek(0)
        try:
            with tarfile.open(fileobj=stream, mode="r:*") as archive:
                for member in archive:
                    name = Path(member.name).name
                    file = archive.extractfile(member) if name in form.files else None
                    if file is not None:
                        contents[name] = file.read()
        except Exception as error:  # Damaged bytes may raise nearly any.
            raise _archive_error(path, start, form, error) from error
    return contents


def _archive_error(path: Path, start: bytes, form: CifarForm, error: Exception) -> ValueError:
    kind = recognized(start)
    found, remedy = f"a corrupt or truncated file ({error})", _REMEDY
    if kind is not None and kind.name != "a tar archive" and not start.startswith(_COMPRESSED):
        found, remedy = f"{kind.name}, which starts with {_described(start)}", kind.remedy
    return ValueError(
        f"{path}: expected an intact tar archive of {form.folder}, compressed or not, found {found}. {remedy}"
    )


def _dataset(
    place: Path, contents: Mapping[str, bytes], form: CifarForm
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    missing = [name for name in form.files if name not in contents]
    if missing:
        raise ValueError(
            f"{place}: expected the files {', '.join(form.files)}, did not find {', '.join(missing)}. Put"
            f" them there, or give the archive {form.archive} whole."
        )
    batches = [_batch(f"{place / name}", contents[name], form) for name in form.files]
    images, labels = zip(*batches, strict=True)
    return torch.cat(images[:-1]), torch.cat(labels[:-1]), images[-1], labels[-1]


def _batch(path: str, pickled: bytes, form: CifarForm) -> tuple[Tensor, Tensor]:
    """Return images and labels of one file."""
    content = _loaded(path, pickled)
    # Python 2 wrote the keys as bytes.
    entries = (
        {
            key.decode("latin1") if isinstance(key, bytes) else key: value
            for key, value in content.items()
        }
        if isinstance(content, dict)
        else {}
    )
    if not {"data", form.labels} <= entries.keys():
        found = f"a dictionary of {', '.join(map(str, entries)) or 'nothing'}"
        if not isinstance(content, dict):
            found = type(content).__name__
        raise ValueError(
            f"{path}: expected a dictionary of data and {form.labels}, found {found}. {_REMEDY}"
        )
    images = _images(path, entries["data"])
    return images, _labels(path, entries[form.labels], len(images), form.num_classes)


def _images(path: str, data: object) -> Tensor:
    found = data.description() if isinstance(data, _Array) else type(data).__name__
    width = 3 * _SIZE * _SIZE
    if not (isinstance(data, _Array) and data.is_rows_of(width)):
        raise ValueError(
            f"{path}: expected data of uint8, of the shape (n, {width}), found {found}. {_REMEDY}"
        )
    return data.tensor().view(-1, 3, _SIZE, _SIZE)


def _labels(path: str, labels: object, count: int, num_classes: int) -> Tensor:
    if not isinstance(labels, list) or not all(type(each) is int for each in labels):
        raise ValueError(
            f"{path}: expected labels in a list of integers, found {type(labels).__name__}. {_REMEDY}"
        )
    if len(labels) != count:
        raise ValueError(
            f"{path}: expected {count} labels, one for each image, found {len(labels)}. {_REMEDY}"
        )
    lowest, highest = min(labels), max(labels)
    if lowest < 0 or highest >= num_classes:
        raise ValueError(
            f"{path}: expected labels from 0 to {num_classes - 1}, found {lowest} to {highest}. {_REMEDY}"
        )
    return torch.tensor(labels, dtype=torch.int64)


# ---- the pickles ------------------------------------------------------------------------------------


class _Dtype:
    """Type of an array's numbers, as a pickle describes it."""

    def __init__(self, kind: object = None, *_: object) -> None:
        self.kind = kind

    def __setstate__(self, _: object) -> None:
        """Ignore the byte order and the like, which uint8 does not have."""


class _Array:
    """Array of a pickle: its description, and the bytes of its numbers."""

    shape: Any = None
    dtype: Any = None
    in_columns: Any = None
    numbers: Any = None

    def __init__(self, *_: object) -> None:
        """Begin an empty array; a pickle fills it by its state."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.dtype, self.in_columns, self.numbers = state

    def description(self) -> str:
        kind = getattr(self.dtype, "kind", None)
        return f"an array of {kind!r}, of the shape {self.shape}"

    def is_rows_of(self, width: int) -> bool:
        """Return whether it is uint8 of the shape (n, width), n at least 1, with all its numbers."""
        shape, kind = self.shape, getattr(self.dtype, "kind", None)
        return (
            kind in ("u1", b"u1")
            and isinstance(self.numbers, bytes)
            and isinstance(shape, tuple)
            and [type(each) for each in shape] == [int, int]
            and shape[1] == width
            and shape[0] > 0
            and len(self.numbers) == shape[0] * width
        )

    def tensor(self) -> Tensor:
        # A bytearray, because torch warns about read-only memory.
        numbers = torch.frombuffer(bytearray(self.numbers), dtype=torch.uint8)
        if self.in_columns:
            return numbers.view(self.shape[::-1]).t().contiguous()
        return numbers.view(self.shape)


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    # Python 3 writes bytes for Python 2 as a call of this function.
    if encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"it has bytes in the encoding {encoding!r}")
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    """Unpickler of arrays and plain values."""

    _known: Mapping[tuple[str, str], Any] = {
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("_codecs", "encode"): _encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name that a pickle imports.

        Raises:
            UnpicklingError: if the published files do not import it.
        """
        if (module, name) not in self._known:
            raise pickle.UnpicklingError(f"it imports {module}.{name}, which is not loaded")
        return self._known[module, name]


def _require_complete(pickled: bytes) -> None:
    """Raise an error if a pickle would reserve more memory than it has bytes, before it is loaded."""
    for operation, argument, _ in pickletools.genops(
        pickled
    ):  # raises one for lengths past the end
        if "PUT" in operation.name and (argument or 0) > len(pickled):
            raise pickle.UnpicklingError(f"it stores a value as number {argument}")


def _loaded(path: str, pickled: bytes) -> Any:
    try:
        _require_complete(pickled)
        return _Unpickler(io.BytesIO(pickled), encoding="bytes").load()
    except Exception as error:  # Damaged bytes may raise nearly any.
        kind = recognized(pickled)
        found, remedy = f"one that cannot be loaded ({error})", _REMEDY
        if not pickled.startswith(b"\x80"):
            found = f"{kind.name if kind else 'a file'}, which starts with {_described(pickled)}"
            remedy = kind.remedy if kind else _REMEDY
        raise ValueError(f"{path}: expected a pickled batch, found {found}. {remedy}") from error


def _described(data: bytes) -> str:
    return f"0x{data[:4].hex()}" if data else "nothing: it is empty"
