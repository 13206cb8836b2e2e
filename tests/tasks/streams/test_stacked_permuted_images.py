"""Stacked tasks against single ones, bitwise."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity.tasks.datasets.images import ImageDataset
from plasticity.tasks.streams.permuted_images import PermutedImages
from plasticity.tasks.streams.stacked_permuted_images import StackedImageTask, StackedPermutedImages


def dataset(max_value=16):
    generator = torch.Generator().manual_seed(0)

    def split(count):
        images = torch.randint(0, max_value + 1, (count, 4, 3), generator=generator)
        return images.to(torch.uint8), torch.randint(0, 3, (count,), generator=generator)

    return ImageDataset("random", *split(11), *split(7), num_classes=3, max_value=max_value)


def streams(seeds, data=None):
    data = data or dataset()
    return [PermutedImages(data, 5, seed) for seed in seeds]


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=4),
    st.integers(0, 4),
    st.integers(1, 6),
    st.integers(0, 2**32),
    st.sampled_from([16, 255, 7]),
)
@settings(max_examples=25, deadline=None)
def test_batches_match_those_of_each_task(seeds, index, batch, data_order_seed, max_value):
    each = streams(seeds, dataset(max_value))
    stacked = StackedPermutedImages(each)[index]
    generator = torch.Generator().manual_seed(data_order_seed)
    indices = torch.randint(0, 11, (len(seeds), batch), generator=generator)
    images, labels = stacked.train_batch(indices)
    tests = list(stacked.test_batches(batch))
    for i, stream in enumerate(each):
        expected_images, expected_labels = stream[index].train_batch(indices[i])
        assert torch.equal(images[i], expected_images)
        assert torch.equal(labels[i], expected_labels)
        for (found, found_labels), (expected, expected_labels) in zip(
            tests, stream[index].test_batches(batch), strict=True
        ):
            assert torch.equal(found[i], expected)
            assert torch.equal(found_labels[i], expected_labels)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_pixels_on_cuda_match_those_on_the_cpu():
    indices = torch.randint(0, 11, (2, 6))
    batches = []
    for device in ("cpu", "cuda"):
        data = dataset(255).to(device)
        stacked = StackedPermutedImages([PermutedImages(data, 5, seed, device) for seed in (1, 2)])[
            3
        ]
        batches.append(stacked.train_batch(indices.to(device))[0].cpu())
    assert torch.equal(*batches)


def test_lengths_and_indices():
    stacked = StackedPermutedImages(streams([1, 2, 2]))
    assert len(stacked) == 5
    tasks = stacked[3]
    assert (tasks.index, tasks.num_stacked, tasks.num_train, tasks.num_test) == (3, 3, 11, 7)
    assert [each.index for each in stacked] == [0, 1, 2, 3, 4]
    with pytest.raises(IndexError, match="tasks 0 to 4: 5"):
        stacked[5]


def test_the_dataset_is_not_copied_and_not_changed():
    data = dataset()
    before = data.train_images.clone()
    each = streams([0, 1], data)
    assert each[0].dataset.train_images.data_ptr() == data.train_images.data_ptr()
    images, labels = StackedPermutedImages(each)[1].train_batch(
        torch.zeros(2, 3, dtype=torch.int64)
    )
    images.zero_()
    labels.zero_()
    for images, labels in StackedPermutedImages(each)[0].test_batches(4):
        images.zero_()
        labels.fill_(-1)
    assert torch.equal(data.train_images, before)
    assert data.test_labels.min() >= 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StackedPermutedImages([]), "at least one stream"),
        (lambda: StackedImageTask([]), "at least one task"),
        (
            lambda: StackedImageTask([streams([0])[0][1], streams([0])[0][2]]),
            "task 2 of its stream, tasks\\[0\\] task 1",
        ),
        (lambda: StackedPermutedImages([*streams([0]), *streams([0])]), "different dataset"),
        (
            lambda: StackedPermutedImages([*streams([0]), PermutedImages(dataset(), 6, 0)]),
            "has 6 tasks, streams\\[0\\] 5",
        ),
        (lambda: StackedPermutedImages(streams([0]))[0].test_batches(0), "batch_size must be"),
    ],
)
def test_invalid_stacks_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
