"""Public sources of the datasets: mirrors, published checksums, and downloads verified against them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pooch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

FILE_NAMES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
"""Files of MNIST and the like: training images and labels, test images and labels."""

_CONNECT_SECONDS, _READ_SECONDS = 10, 30
_CHUNK_BYTES = 2**16


class DownloadError(OSError):
    """Error raised when no mirror delivers a file.

    Examples:
        >>> from pathlib import Path
        >>> from plasticity.tasks.datasets.downloads import Source, fetch
        >>> nowhere = Source(("http://localhost:9/",), {"digits.gz": "0" * 32})
        >>> try:
        ...     fetch(nowhere, Path("digits"))
        ... except DownloadError as error:
        ...     print(str(error).splitlines()[0])
        digits.gz could not be downloaded to digits:
    """


@dataclass(frozen=True)
class Source:
    """Mirrors and checksums of one dataset's files."""

    mirrors: tuple[str, ...]
    """URLs that end in "/", tried in this order."""

    checksums: Mapping[str, str]
    """Published MD5 checksum of each file, in hexadecimal."""


def _source(mirrors: tuple[str, ...], checksums: tuple[str, ...]) -> Source:
    return Source(mirrors, dict(zip(FILE_NAMES, checksums, strict=True)))


SOURCES: Mapping[str, Source] = {
    "mnist": _source(
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
    ),
    "fashion-mnist": _source(
        ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
    ),
    "kmnist": _source(
        ("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
        (
            "bdb82020997e1d708af4cf47b453dcf7",
            "e144d726b3acfaa3e44228e80efcd344",
            "5c965bf0a639b31b8f53240b1b52f4d7",
            "7320c461ea6c1c855c0b718fb2a4b134",
        ),
    ),
    "cifar10": Source(
        ("https://www.cs.toronto.edu/~kriz/",),
        {"cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a"},
    ),
    "cifar100": Source(
        ("https://www.cs.toronto.edu/~kriz/",),
        {"cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85"},
    ),
}
"""Datasets that can be downloaded, by name."""


def cache_folder(name: str) -> Path:
    """Return the folder of the user's cache that holds, or would hold, this dataset."""
    return Path(pooch.os_cache("plasticity")) / name


def fetch(source: Source, folder: Path) -> None:
    """Make sure that a folder holds the published files of a dataset.

    A file that has its published checksum is kept; any other is downloaded again. A download is
    written under a temporary name and renamed only once its checksum has been verified, so that a
    partial or wrong file is never mistaken for a good one. Progress is shown on standard error if
    that is a terminal.

    Args:
        source: The mirrors and the checksums.
        folder: Folder of the cache; created if it does not exist.

    Raises:
        DownloadError: if every mirror failed; the message names the file, each mirror's reason and
            what to do.
    """
    for file_name, checksum in source.checksums.items():
        _fetch_file(file_name, checksum, source.mirrors, folder)


def _fetch_file(file_name: str, checksum: str, mirrors: tuple[str, ...], folder: Path) -> None:
    reasons = []
    for mirror in mirrors:
        try:
            with _progress(file_name) as bar, _quiet(pooch.get_logger()):
                pooch.retrieve(
                    url=mirror + file_name,
                    known_hash=f"md5:{checksum}",
                    fname=file_name,
                    path=folder,
                    downloader=pooch.HTTPDownloader(
                        progressbar=bar or False,
                        chunk_size=_CHUNK_BYTES,
                        timeout=(_CONNECT_SECONDS, _READ_SECONDS),
                        # The checksum is that of the file as published. Compression in transit would
                        # be undone on arrival, and the file's own .gz with it.
                        headers={"Accept-Encoding": "identity"},
                    ),
                )
        except (OSError, ValueError) as error:
            # OSError: no connection, no such file, disk full. ValueError: wrong checksum.
            reasons.append(f"  {mirror}: {error}")
        else:
            return
    raise DownloadError(
        f"{file_name} could not be downloaded to {folder}:\n" + "\n".join(reasons) + "\n"
        "Get the dataset's files another way and pass their folder as --data-dir (data_dir), or "
        "put them into $PLASTICITY_DATA/<name of the dataset>/."
    )


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Keep pooch from logging each download: the progress bar shows it on a terminal."""
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


class _DownloadBar:
    """Progress bar with the interface that pooch expects, drawn by rich."""

    def __init__(self, progress: Progress, description: str) -> None:
        self.total = 0
        self._progress = progress
        self._row = progress.add_task(description, total=None)

    def update(self, advance: int) -> None:
        # A server that does not report the size leaves the total at 0: the bar then only pulses.
        self._progress.update(self._row, advance=advance, total=self.total or None)

    def reset(self) -> None:
        self._progress.reset(self._row)

    def close(self) -> None:
        self._progress.stop()


@contextmanager
def _progress(description: str) -> Iterator[_DownloadBar | None]:
    if not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    # Transient, so that a file that is already in the cache leaves no line.
    with Progress(
        *columns, TransferSpeedColumn(), console=Console(stderr=True), transient=True
    ) as progress:
        yield _DownloadBar(progress, description)
