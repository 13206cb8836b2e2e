"""Stream of permuted images: batches against numpy's indexing, and tasks as pure functions."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity.tasks.datasets.images import ImageDataset, load_dataset
from plasticity.tasks.streams.base import StackedTask, stack
from plasticity.tasks.streams.permuted_images import (
    ImageTask,
    PermutedImages,
    PermutedImagesConfig,
)

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]

needs_mnist = pytest.mark.skipif(
    not (
        os.environ.get("PLASTICITY_DATA")
        and (Path(os.environ["PLASTICITY_DATA"]) / "mnist").is_dir()
    ),
    reason="needs the real MNIST files in $PLASTICITY_DATA/mnist/",
)


def _dataset(train=20, test=7, height=4, width=5, max_value=255):
    generator = torch.Generator().manual_seed(0)

    def images(count):
        shape = (count, height, width)
        return torch.randint(max_value + 1, shape, generator=generator, dtype=torch.uint8)

    return ImageDataset(
        "small",
        images(train),
        torch.arange(train) % 3,
        images(test),
        torch.arange(test) % 3,
        num_classes=3,
        max_value=max_value,
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("max_value", [255, 16])
@pytest.mark.parametrize("index", [0, 1, 4])
def test_batches_match_numpy_indexing(device, max_value, index):
    dataset = _dataset(max_value=max_value)
    task = PermutedImages(dataset, num_tasks=5, seed=3, device=device)[index]
    permutation = task.permutation.cpu().numpy()

    def expected(images):
        flat = images.numpy().reshape(len(images), 20)[:, permutation].astype(np.float64)
        return (flat / max_value).reshape(len(images), 1, 4, 5)

    indices = torch.tensor([19, 0, 7, 7])
    images, labels = task.train_batch(indices.to(device))
    assert images.dtype == torch.float32
    assert images.device.type == device
    np.testing.assert_allclose(
        images.cpu(), expected(dataset.train_images[indices]), rtol=1.2e-7, atol=0
    )
    assert labels.dtype == torch.int64
    # The labels are the index modulo 3: 19, 0, 7, 7 have 1, 0, 1, 1.
    assert labels.tolist() == [1, 0, 1, 1]

    batches = list(task.test_batches(3))
    assert [len(labels) for _, labels in batches] == [3, 3, 1]
    np.testing.assert_allclose(
        torch.cat([images for images, _ in batches]).cpu(),
        expected(dataset.test_images),
        rtol=1.2e-7,
        atol=0,
    )
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert (task.num_train, task.num_test, task.index) == (20, 7, index)


def test_pixels_fill_zero_to_one_exactly():
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    dataset = ImageDataset("ramp", images, torch.tensor([0]), images, torch.tensor([0]), 1)
    pixels = PermutedImages(dataset, 1, seed=0)[0].train_batch(torch.tensor([0]))[0].flatten()
    assert pixels[0] == 0
    assert pixels[255] == 1
    assert bool((pixels.diff() > 0).all())


def test_task_zero_is_the_unpermuted_data():
    for seed in (0, 1, 2**63):
        task = PermutedImages(_dataset(), 2, seed)[0]
        assert task.permutation.tolist() == list(range(20))


def test_permutations_are_pinned():
    """Check that streams are the same across versions and machines."""
    pinned = {
        (0, 1): [1, 3, 8, 6, 2, 11, 0, 7, 5, 4, 10, 9],
        (7, 3): [2, 1, 4, 8, 10, 9, 3, 5, 7, 6, 11, 0],
        (2**64 - 1, 1000): [11, 4, 2, 10, 8, 6, 9, 3, 7, 5, 0, 1],
    }
    dataset = _dataset(height=4, width=3)
    for (seed, task), expected in pinned.items():
        assert PermutedImages(dataset, 1001, seed)[task].permutation.tolist() == expected


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**80),
    index=st.integers(0, 500),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    longer=st.integers(0, 1000),
)
def test_a_task_is_a_pure_function_of_seed_and_index(seed, index, height, width, longer):
    dataset = _dataset(train=3, test=1, height=height, width=width)
    state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    stream = PermutedImages(dataset, num_tasks=index + 1, seed=seed)
    first = stream[index].permutation
    # A permutation: each pixel once.
    assert sorted(first.tolist()) == list(range(height * width))
    # It is the same after other tasks, and in a longer stream.
    _ = [stream[k] for k in range(min(index, 3))]
    assert torch.equal(stream[index].permutation, first)
    other = PermutedImages(dataset, num_tasks=index + 1 + longer, seed=seed)
    assert torch.equal(other[index].permutation, first)
    # No global generator was read.
    assert torch.equal(torch.random.get_rng_state(), state[0])
    assert (np.random.get_state()[1] == state[1]).all()  # noqa: NPY002


def test_tasks_and_seeds_differ():
    dataset = _dataset()
    seen = set()
    # Seeds that agree in their low 32 bits, and seeds that are each other's tasks.
    for seed in (0, 1, 2, 2**32, 2**32 + 1, 2**64 + 1):
        seen |= {tuple(task.permutation.tolist()) for task in PermutedImages(dataset, 30, seed)}
    # 6 seeds, 29 permuted tasks each, and the identity once.
    assert len(seen) == 6 * 29 + 1


def test_permutations_are_uniform():
    """Test the 6 permutations of 3 pixels: chi-squared with 5 degrees of freedom, 20.5 at p = 0.001."""
    dataset = _dataset(height=1, width=3)
    stream = PermutedImages(dataset, 6001, seed=11)
    counts = {}
    for index in range(1, 6001):
        permutation = tuple(stream[index].permutation.tolist())
        counts[permutation] = counts.get(permutation, 0) + 1
    assert len(counts) == 6
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 20.5


def test_train_and_test_images_share_the_permutation():
    dataset = _dataset(train=7, test=7)
    dataset = dataclasses.replace(dataset, test_images=dataset.train_images)
    task = PermutedImages(dataset, 3, seed=5)[2]
    ((test_images, _),) = task.test_batches(7)
    assert torch.equal(test_images, task.train_batch(torch.arange(7))[0])


def test_tasks_share_pixels_and_return_new_tensors():
    dataset = _dataset()
    stream = PermutedImages(dataset, num_tasks=2, seed=0)
    assert stream[0].dataset is stream[1].dataset
    assert stream.dataset.train_images.data_ptr() == dataset.train_images.data_ptr()
    before = [tensor.clone() for tensor in (dataset.train_images, dataset.test_images)]
    labels_before = [tensor.clone() for tensor in (dataset.train_labels, dataset.test_labels)]
    for task in stream:
        for images, labels in (task.train_batch(torch.arange(20)), *task.test_batches(100)):
            images.fill_(9)
            labels.fill_(9)
    assert torch.equal(dataset.train_images, before[0])
    assert torch.equal(dataset.test_images, before[1])
    assert torch.equal(dataset.train_labels, labels_before[0])
    assert torch.equal(dataset.test_labels, labels_before[1])
    with pytest.raises(dataclasses.FrozenInstanceError):
        stream[1].index = 0


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"num_tasks": 0}, ValueError, "num_tasks must be at least 1: 0"),
        ({"seed": -1}, ValueError, "seed must be at least 0: -1"),
        ({"dataset": "mnist"}, TypeError, "dataset must be an ImageDataset.*: str"),
    ],
)
def test_wrong_arguments(changed, error, message):
    with pytest.raises(error, match=message):
        PermutedImages(**{"dataset": _dataset(), "num_tasks": 3, "seed": 0, **changed})


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (-3, ValueError), (2.5, TypeError)])
def test_wrong_batch_sizes_raise_at_the_call(size, error):
    with pytest.raises(error, match="batch_size must be"):
        PermutedImages(_dataset(), 1, seed=0)[0].test_batches(size)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_bits_without_synchronization():
    dataset = _dataset()
    on_cpu = PermutedImages(dataset, 3, seed=1)[2]
    on_gpu = PermutedImages(dataset, 3, seed=1, device="cuda")[2]
    indices = torch.arange(20)
    indices_gpu = indices.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        images, labels = on_gpu.train_batch(indices_gpu)
        test_batches = list(on_gpu.test_batches(3))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected, expected_labels = on_cpu.train_batch(indices)
    assert torch.equal(images.cpu(), expected)
    assert torch.equal(labels.cpu(), expected_labels)
    for (images, _), (expected, _) in zip(test_batches, on_cpu.test_batches(3), strict=True):
        assert torch.equal(images.cpu(), expected)


# ---- stacked ----------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=4),
    st.integers(0, 4),
    st.integers(1, 6),
    st.integers(0, 2**32),
    st.sampled_from([16, 255, 7]),
)
@settings(max_examples=25, deadline=None)
def test_stacked_batches_are_those_of_the_general_form(seeds, index, batch, order_seed, max_value):
    dataset = _dataset(max_value=max_value)
    streams = [PermutedImages(dataset, 5, seed) for seed in seeds]
    fast = stack(streams)[index]
    general = StackedTask(tuple(stream[index] for stream in streams))
    assert isinstance(fast, ImageTask)
    for name in ("index", "spec", "num_train", "num_test"):
        assert getattr(fast, name) == getattr(general, name)
    generator = torch.Generator().manual_seed(order_seed)
    indices = torch.randint(0, 20, (len(seeds), batch), generator=generator)
    found = [fast.train_batch(indices), *fast.test_batches(batch)]
    expected = [general.train_batch(indices), *general.test_batches(batch)]
    for (images, labels), (expected_images, expected_labels) in zip(found, expected, strict=True):
        assert torch.equal(images, expected_images)
        assert torch.equal(labels, expected_labels)


class Inverted(ImageTask):
    """Task of a user's own: its images are inverted, and two of its classes are active."""

    @property
    def spec(self):
        return dataclasses.replace(super().spec, active=(0, 2))

    def train_batch(self, indices):
        images, labels = super().train_batch(indices)
        return 1 - images, labels


class InvertedImages(PermutedImages):
    def make_task(self, index):
        task = super().make_task(index)
        return Inverted(task.index, task.permutation, task.dataset)


SQUARE = _dataset(height=4, width=4, max_value=200)


@pytest.mark.parametrize(
    "streams",
    [
        [
            PermutedImages(dataclasses.replace(SQUARE, **changed), 2, seed=0)
            for changed in ({}, other)
        ]
        for other in (
            {"train_images": SQUARE.train_images.clamp(min=9)},
            {"train_images": SQUARE.train_images.mT},  # the same memory, in another order
            {"max_value": 255},
        )
    ]
    + [[InvertedImages(SQUARE, 2, seed) for seed in (0, 1)]],
    ids=["pixels", "transposed", "max_value", "tasks"],
)
def test_streams_that_no_gather_covers_are_stacked_in_the_general_form(streams):
    task, indices = stack(streams)[1], torch.arange(5)
    assert isinstance(task, StackedTask)
    assert task.spec == streams[0][1].spec
    images, _ = task.train_batch(indices.expand(2, -1))
    for own, stream in zip(images, streams, strict=True):
        assert torch.equal(own, stream[1].train_batch(indices)[0])


def test_stacked_tasks_share_pixels_and_return_new_tensors():
    dataset = _dataset()
    before = [tensor.clone() for tensor in (dataset.train_images, dataset.test_images)]
    labels_before = dataset.test_labels.clone()
    stacked = stack([PermutedImages(dataset, 2, seed) for seed in (0, 1)])
    for task in stacked:
        assert task.dataset.train_images.data_ptr() == dataset.train_images.data_ptr()
        first = torch.zeros(2, 3, dtype=torch.int64)
        for images, labels in (task.train_batch(first), *task.test_batches(4)):
            images.fill_(9)
            labels.fill_(9)
    assert torch.equal(dataset.train_images, before[0])
    assert torch.equal(dataset.test_images, before[1])
    assert torch.equal(dataset.test_labels, labels_before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_stacked_pixels_on_a_gpu_are_those_of_the_cpu():
    indices = torch.randint(0, 20, (2, 6))
    batches = []
    for device in ("cpu", "cuda"):
        data = _dataset().to(device)
        task = stack([PermutedImages(data, 5, seed, device) for seed in (1, 2)])[3]
        batches.append(task.train_batch(indices.to(device))[0].cpu())
    assert torch.equal(*batches)


@needs_mnist
def test_real_mnist():
    dataset = load_dataset("mnist")
    stream = PermutedImages(dataset, num_tasks=3, seed=0)
    images, labels = stream[0].train_batch(torch.tensor([0]))
    assert torch.equal((images * 255).round().byte()[0, 0], dataset.train_images[0])
    assert labels.tolist() == [5]
    permuted, _ = stream[2].train_batch(torch.tensor([0]))
    # The same pixels at other positions, restored by the inverse permutation.
    assert not torch.equal(permuted, images)
    assert torch.equal(permuted.flatten().sort().values, images.flatten().sort().values)
    back = permuted.flatten()[stream[2].permutation.argsort()]
    assert torch.equal(back, images.flatten())


# ---- variants: fewer images, composed permutations, a permuted first task --------------------------------


def test_a_task_of_fewer_images_draws_them_anew():
    dataset = _dataset(train=50)
    tasks = list(PermutedImages(dataset, 3, seed=1, num_examples=20, test_examples=4))
    assert [(task.num_train, task.num_test) for task in tasks] == [(20, 4)] * 3
    rows = [task.train_rows.tolist() for task in tasks]
    assert all(len(set(each)) == 20 for each in rows)
    assert len({tuple(each) for each in rows}) == 3
    images, labels = tasks[2].train_batch(torch.tensor([19, 0]))
    whole = PermutedImages(dataset, 3, seed=1)[2]
    assert torch.equal(whole.permutation, tasks[2].permutation)
    expected = whole.train_batch(torch.tensor([rows[2][19], rows[2][0]]))
    assert torch.equal(images, expected[0])
    assert torch.equal(labels, expected[1])
    tests = list(tasks[2].test_batches(3))
    assert [len(each) for _, each in tests] == [3, 1]
    every = next(whole.test_batches(4))
    assert torch.equal(torch.cat([each for each, _ in tests]), every[0])
    longer = PermutedImages(dataset, 9, seed=1, num_examples=20)[2]
    assert longer.train_rows.tolist() == rows[2]


def test_composed_permutations_act_on_the_task_before():
    dataset = _dataset()
    fresh, composed = (
        [task.permutation for task in PermutedImages(dataset, 5, 3, composed=chosen)]
        for chosen in (False, True)
    )
    assert torch.equal(composed[0], torch.arange(20))
    for task in range(1, 5):
        # pixel i of a task is pixel fresh[i] of the task before
        assert torch.equal(composed[task], composed[task - 1][fresh[task]])
    assert torch.equal(PermutedImages(dataset, 9, 3, composed=True)[4].permutation, composed[4])


@pytest.mark.parametrize("composed", [False, True])
def test_the_first_task_may_be_permuted(composed):
    dataset = _dataset()
    task = PermutedImages(dataset, 2, 3, first_permuted=True, composed=composed)[0]
    assert sorted(task.permutation.tolist()) == list(range(20))
    assert task.permutation.tolist() != list(range(20))
    images, _ = task.train_batch(torch.tensor([5]))
    expected = dataset.scaled(dataset.train_images[5].flatten()[task.permutation])
    assert torch.equal(images.flatten(), expected)


def test_stacked_tasks_of_fewer_images_are_those_of_each():
    dataset = _dataset(train=50)
    streams = [
        PermutedImages(dataset, 3, seed, num_examples=20, test_examples=4, first_permuted=True)
        for seed in (0, 1)
    ]
    for index in (0, 2):
        stacked = stack(streams)[index]
        indices = torch.tensor([[3, 19], [0, 0]])
        found = stacked.train_batch(indices)
        tests = next(stacked.test_batches(9))
        for run, stream in enumerate(streams):
            for one, all_ in zip(stream[index].train_batch(indices[run]), found, strict=True):
                assert torch.equal(all_[run], one)
            assert torch.equal(tests[0][run], next(stream[index].test_batches(9))[0])


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(
    "other",
    [{"first_permuted": True}, {"num_examples": 20}, {"test_examples": 7}, {"composed": True}],
)
def test_streams_of_other_options_are_stacked_as_each_is_alone(other, index, turned):
    dataset = _dataset()  # 20 training and 7 test images: the options leave their numbers alike
    streams = [PermutedImages(dataset, 2, 0), PermutedImages(dataset, 2, 1, **other)]
    streams = streams[::-1] if turned else streams
    stacked, indices = stack(streams)[index], torch.tensor([[3, 19], [0, 7]])
    found, tests = stacked.train_batch(indices), next(stacked.test_batches(9))
    for run, stream in enumerate(streams):
        alone, tested = stream[index].train_batch(indices[run]), next(stream[index].test_batches(9))
        for all_, one in zip((*found, *tests), (*alone, *tested), strict=True):
            assert torch.equal(all_[run], one)


def test_a_composed_permutation_is_no_shared_tensor():
    before = PermutedImages(_dataset(), 4, 3, composed=True)[3].permutation
    kept = before.clone()
    before.zero_()
    assert torch.equal(PermutedImages(_dataset(), 4, 3, composed=True)[3].permutation, kept)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_examples": 0}, "num_examples must be at least 1: 0"),
        ({"test_examples": -1}, "test_examples must be at least 0: -1"),
    ],
)
def test_wrong_sizes(changed, message):
    with pytest.raises(ValueError, match=message):
        PermutedImagesConfig(dataset="digits", num_tasks=2, **changed)


def test_more_images_than_there_are_is_refused():
    for option, message in (
        ("num_examples", "--examples 51"),
        ("test_examples", "--test-examples 51"),
    ):
        config = PermutedImagesConfig(dataset="digits", num_tasks=2, **{option: 51})
        with pytest.raises(ValueError, match=f"{message} is larger than the .* images of small"):
            config.make(_dataset(train=50), 0)
