"""Pairs of classes in files: images and labels by hand, in files that are written here."""

import numpy as np
import pytest
import torch

from plasticity.tasks.streams.base import StackedTask, stack
from plasticity.tasks.streams.class_file_pairs import ClassFilePairsConfig
from plasticity.tasks.streams.class_pairs import class_pair


@pytest.fixture
def config(tmp_path):
    """A stream of six classes, whose image i of class c has the value 10 c + i everywhere."""
    for label in range(6):
        values = 10 * label + np.arange(7, dtype=np.uint8)
        np.save(tmp_path / f"{label}.npy", np.tile(values[:, None, None, None], (1, 3, 4, 4)))
    return ClassFilePairsConfig(
        data_dir=str(tmp_path), num_tasks=7, num_classes=6, train_per_class=4, test_per_class=2
    )


def test_examples_and_labels_by_hand(config):
    stream = config.make(config.load(), 3)
    for index, task in enumerate(stream):
        first, second = stream.pair(index)
        assert stream.pair(index) == class_pair(6, 3, index)
        assert stream.describe(index) == {"first_class": first, "second_class": second}
        assert (task.spec.input_shape, task.spec.output_size) == ((3, 4, 4), 2)
        assert (task.num_train, task.num_test) == (8, 4)
        images, labels = task.train_batch(torch.tensor([0, 1, 6, 7]))
        assert labels.tolist() == [0, 1, 0, 1]
        assert images[:, 2, 3, 1].tolist() == [
            *(10 * first, 10 * second),
            *(10 * first + 3, 10 * second + 3),
        ]
        batches = list(task.test_batches(3))
        assert [len(labels) for _, labels in batches] == [3, 1]
        shown = torch.cat([images for images, _ in batches])[:, 0, 0, 0]
        assert shown.tolist() == [
            *(10 * first + 5, 10 * second + 5),
            *(10 * first + 6, 10 * second + 6),
        ]
        assert torch.cat([labels for _, labels in batches]).tolist() == [0, 1, 0, 1]


def test_a_task_is_a_pure_function_of_seed_and_index(config):
    files = config.load()
    late = config.make(files, 5)[6]
    for stream in (config.make(files, 5),):
        _ = stream[2], stream[0]
        again = stream[6]
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        assert torch.equal(getattr(late, name), getattr(again, name))


def test_stacked_batches_are_those_of_each(config):
    files = config.load()
    streams = [config.make(files, seed) for seed in (0, 1, 2)]
    stacked, tasks = stack(streams)[4], [stream[4] for stream in streams]
    assert type(stacked) is StackedTask
    indices = torch.tensor([[3, 1], [0, 0], [7, 2]])
    for position, batch in enumerate(zip(*stacked.train_batch(indices), strict=True)):
        own = tasks[position].train_batch(indices[position])
        assert all(torch.equal(*pair) for pair in zip(batch, own, strict=True))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"num_classes": 1}, ValueError, "num_classes must be at least 2: 1"),
        ({"train_per_class": 0}, ValueError, "train_per_class must be at least 1: 0"),
        ({"test_per_class": 0}, ValueError, "test_per_class must be at least 1: 0"),
        ({"pixels": "units"}, ValueError, "Unknown pixels 'units'. Did you mean 'unit'"),
        ({"max_value": 0.0}, ValueError, "max_value must be above 0"),
        ({"data_dir": 3}, TypeError, "data_dir must be the name of a folder or None, not 3"),
    ],
)
def test_wrong_settings(settings, error, message):
    with pytest.raises(error, match=message):
        ClassFilePairsConfig(num_tasks=1, **settings)
