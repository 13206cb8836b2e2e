"""Number of runs that a device holds, from figures."""

import re
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plasticity.scripts.run import memory as memory_module
from plasticity.scripts.run.atomic_files import RunError
from plasticity.scripts.run.memory import Memory, describe_groups, measured_memory


def test_the_message_about_groups():
    # 32 x 1.25 GB + 1 GB = 41 GB; of 24 GB, 21.6 may be used: (21.6 - 1) / 1.25 = 16.48
    memory = Memory(shared=10**9, per_run=1_250_000_000, free=24 * 10**9)
    assert memory.needed(32) == 41 * 10**9
    assert memory.most == 16
    assert describe_groups(memory, [16, 16]) == (
        "32 runs need about 41 GB, 24 GB are free: trained in 2 groups of 16."
    )
    assert describe_groups(memory, [11, 10, 10]) == (
        "31 runs need about 39.8 GB, 24 GB are free: trained in 3 groups of up to 11."
    )


def test_at_least_one_is_tried():
    assert Memory(shared=10**9, per_run=10**9, free=10**8).most == 1


@given(st.integers(0, 10**10), st.integers(1, 10**10), st.integers(0, 10**11))
def test_as_many_as_fit_with_a_tenth_to_spare(shared, per_run, free):
    memory = Memory(shared, per_run, free)
    most = memory.most
    assert most == 1 or memory.needed(most) <= 0.9 * free
    assert memory.needed(most + 1) > 0.9 * free - 1


@pytest.mark.parametrize("per_run", [0, -1])
def test_a_run_that_needs_nothing_was_not_measured(per_run):
    with pytest.raises(
        ValueError, match=re.escape(f"per_run must be above 0 bytes, not {per_run}")
    ):
        Memory(shared=0, per_run=per_run, free=1)


class Device:
    """Memory that runs allocate in blocks, and release."""

    def __init__(self, free, shared, per_run, block=1):
        self.free_at_first, self.shared, self.per_run, self.block = free, shared, per_run, block
        self.taken, self.begun = 0, []

    def free(self):
        return self.free_at_first - self.taken

    def begin(self, runs):
        assert self.taken == 0, "the previous runs were not released"
        self.begun.append(runs)
        needed = -(-(self.shared + runs * self.per_run) // self.block) * self.block
        if needed > self.free_at_first:
            raise torch.cuda.OutOfMemoryError("out of memory")
        self.taken = needed
        return self

    def close(self):
        self.taken = 0


@pytest.mark.parametrize("runs", [2, 7, 8, 33])
@pytest.mark.parametrize(("shared", "per_run"), [(0, 1), (10**9, 12_345_678)])
def test_a_measurement_finds_the_true_memory(shared, per_run, runs):
    device = Device(10**11, shared, per_run)
    memory = measured_memory(runs, device.begin, device.free)
    assert memory == Memory(shared=shared, per_run=per_run, free=10**11)
    assert device.taken == 0
    assert max(device.begun) <= max(2, runs // 4)


def test_blocks_hardly_matter_among_many():
    # 8 and 16 of 64: 10 MB each, in blocks of 2 MB
    device = Device(10**11, 10**9, 10_300_000, block=2_000_000)
    memory = measured_memory(64, device.begin, device.free)
    assert device.begun == [8, 16]
    assert memory.per_run == pytest.approx(10_300_000, rel=0.05)


def test_a_measurement_that_does_not_fit_is_made_with_fewer():
    device = Device(5 * 10**9, 0, 10**9)
    memory = measured_memory(64, device.begin, device.free)
    assert device.begun == [8, 4, 8, 2, 4]
    assert (memory.per_run, memory.most) == (10**9, 4)


def test_what_did_not_fit_is_released_before_the_next_measurement(monkeypatch):
    """Measure again: the error keeps an attempt alive for a while, and the allocator its memory."""
    device, attempts = Device(5 * 10**9, 0, 10**9), []

    class Attempt:
        """Object that lives as long as the frame that made it."""

    def begin(runs):
        attempt = Attempt()
        attempts.append(weakref.ref(attempt))
        try:
            return device.begin(runs)
        except torch.cuda.OutOfMemoryError:
            device.taken = device.free_at_first
            raise

    def release():
        if not any(attempt() for attempt in attempts):
            device.taken = 0

    monkeypatch.setattr(memory_module, "release_memory", release)
    assert measured_memory(64, begin, device.free).per_run == 10**9


def test_two_that_do_not_fit_are_an_error():
    device = Device(10**9, 0, 6 * 10**8)
    with pytest.raises(RunError, match=r"do not fit into the 1 GB that are free: give --stack 1"):
        measured_memory(64, device.begin, device.free)


def test_the_next_one_begins_after_an_error():
    device = Device(10**9, 0, 10**6)

    def begin(runs):
        device.begin(runs)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        measured_memory(8, begin, device.free)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_cuda_a_tensor_is_measured():
    class Held:
        def __init__(self, runs):
            self.tensor = torch.empty(runs, 100 * 2**20, dtype=torch.uint8, device="cuda")

        def close(self):
            del self.tensor

    memory = measured_memory(16, Held)
    assert memory.per_run == pytest.approx(100 * 2**20, rel=0.1)
    assert memory.most * memory.per_run < memory.free
