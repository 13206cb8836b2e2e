"""The public homes of the datasets: mirrors, published checksums, and a download held to them."""

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
"""The files of a dataset: training images and labels, test images and labels."""

_CONNECT_SECONDS, _READ_SECONDS = 10, 30
_CHUNK_BYTES = 2**16


class DownloadError(OSError):
    """A file could not be had from any of its mirrors."""


@dataclass(frozen=True)
class Source:
    """Where the files of one dataset are published."""

    mirrors: tuple[str, ...]
    """Addresses that end in "/", tried in this order."""

    checksums: Mapping[str, str]
    """The published MD5 of each file, in hexadecimal."""


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
}
"""The datasets that can be downloaded, by name."""


def cache_folder(name: str) -> Path:
    """Return the folder of the user's cache that holds, or would hold, this dataset."""
    return Path(pooch.os_cache("plasticity")) / name


def fetch(source: Source, folder: Path) -> None:
    """Make sure that a folder holds the published files of a dataset.

    A file that is there with its published checksum is kept; any other is downloaded again. A
    download goes to a temporary name and gets its own only once its checksum is right, so that
    neither a partial nor a wrong file ever stands where it would be taken for a good one. Progress
    is shown on standard error where that is a terminal.

    Args:
        source: The mirrors and the checksums.
        folder: Of the cache; it is made where it does not exist.

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
                        # The checksum is of the file as it is published: nothing on the way may
                        # compress it, because that would be undone on arrival, and more with it.
                        headers={"Accept-Encoding": "identity"},
                    ),
                )
        except (OSError, ValueError) as error:
            # OSError: no connection, no such file, no room on the disk. ValueError: the checksum.
            reasons.append(f"  {mirror}: {error}")
        else:
            return
    raise DownloadError(
        f"{file_name} could not be downloaded to {folder}:\n" + "\n".join(reasons) + "\n"
        "Get the dataset's four files another way, put them into a folder and name it by --data-dir "
        "(data_dir), or put them into $PLASTICITY_DATA/<name of the dataset>/."
    )


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Keep pooch from announcing each download: the bar does it, where somebody looks."""
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


class _DownloadBar:
    """What pooch asks of a progress bar, on top of rich."""

    def __init__(self, progress: Progress, description: str) -> None:
        self.total = 0
        self._progress = progress
        self._row = progress.add_task(description, total=None)

    def update(self, advance: int) -> None:
        # A server that does not tell the size leaves the total at 0: the bar then only pulses.
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
    # A file that the cache holds already needs no download and leaves no line.
    with Progress(
        *columns, TransferSpeedColumn(), console=Console(stderr=True), transient=True
    ) as progress:
        yield _DownloadBar(progress, description)
