"""Streams of tasks."""

from plasticity.tasks.downloads import DownloadError
from plasticity.tasks.images import DATASETS, ImageDataset, load_dataset
from plasticity.tasks.permuted import ImageTask, PermutedImages

__all__ = [
    "DATASETS",
    "DownloadError",
    "ImageDataset",
    "ImageTask",
    "PermutedImages",
    "load_dataset",
]
