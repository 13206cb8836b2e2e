import gc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plasticity.scripts.bench.timing import (
    Comparison,
    Quartiles,
    interleaved,
    quartiles,
    synchronizer,
)


class FakeClock:
    """Clock that only the functions under test advance; keeps a log of all calls."""

    def __init__(self):
        self.now = 100.0
        self.log = []

    def read(self):
        self.log.append("clock")
        return self.now

    def synchronize(self):
        self.log.append("synchronize")

    def function(self, name, *durations):
        remaining = list(durations)

        def call():
            self.log.append(name)
            self.now += remaining.pop(0)

        return call


def test_turns_alternate_after_the_warmup():
    clock = FakeClock()
    interleaved(
        clock.function("a", *[1.0] * 3),
        clock.function("b", *[1.0] * 3),
        rounds=2,
        warmup=1,
        clock=clock.read,
    )
    assert [entry for entry in clock.log if entry != "clock"] == ["a", "b", "a", "b", "a", "b"]


def test_a_turn_is_several_calls_and_yields_the_time_of_one():
    clock = FakeClock()
    comparison = interleaved(
        clock.function("a", 1.0, 2.0, 3.0),
        clock.function("b", 4.0, 4.0, 1.0),
        rounds=1,
        warmup=0,
        calls=3,
        clock=clock.read,
    )
    assert [entry for entry in clock.log if entry != "clock"] == ["a"] * 3 + ["b"] * 3
    assert comparison == Comparison(ours=(2.0,), theirs=(3.0,))  # (1+2+3)/3 and (4+4+1)/3


def test_the_device_is_synchronized_before_the_clock_is_read():
    clock = FakeClock()
    interleaved(
        clock.function("a", 1.0),
        clock.function("b", 1.0),
        rounds=1,
        warmup=0,
        synchronize=clock.synchronize,
        clock=clock.read,
    )
    turn_of_a = ["synchronize", "clock", "a", "synchronize", "clock"]
    assert clock.log == turn_of_a + [
        entry.replace("a", "b") if entry == "a" else entry for entry in turn_of_a
    ]


def test_ratios_are_of_pairs_not_of_sums():
    clock = FakeClock()
    comparison = interleaved(
        clock.function("a", 50.0, 2.0, 3.0, 8.0),  # the first is the warm-up
        clock.function("b", 70.0, 1.0, 2.0, 2.0),
        rounds=3,
        warmup=1,
        clock=clock.read,
    )
    # 2/1 = 2, 3/2 = 1.5, 8/2 = 4; sorted 1.5, 2, 4: the quartiles are halfway between, 1.75 and 3.
    assert comparison.time_ratio == Quartiles(1.75, 2.0, 3.0)
    # 1/2, 2/3, 1/4; sorted 1/4, 1/2, 2/3: (1/4 + 1/2) / 2 = 3/8 and (1/2 + 2/3) / 2 = 7/12.
    speed = comparison.speed_ratio
    assert (speed.lower, speed.median, speed.upper) == pytest.approx((3 / 8, 1 / 2, 7 / 12))


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20))
def test_quartiles_are_numpys(numbers):
    found = quartiles(numbers)
    expected = np.percentile(numbers, [25, 50, 75])
    assert (found.lower, found.median, found.upper) == pytest.approx(tuple(expected))


def test_garbage_collection_is_off_while_timing_and_on_afterwards():
    seen = []
    interleaved(
        lambda: seen.append(gc.isenabled()), lambda: seen.append(gc.isenabled()), rounds=2, warmup=1
    )
    assert seen == [False] * 6
    assert gc.isenabled()


def test_garbage_collection_is_restored_after_an_error():
    with pytest.raises(ZeroDivisionError):
        interleaved(lambda: 1 / 0, lambda: None, rounds=1)
    assert gc.isenabled()
    gc.disable()
    try:
        interleaved(lambda: None, lambda: None, rounds=1)
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("counts", "name"),
    [
        ({"rounds": 0}, "rounds"),
        ({"rounds": 1, "warmup": -1}, "warmup"),
        ({"rounds": 1, "calls": 0}, "calls"),
    ],
)
def test_counts_out_of_range_are_refused_by_name(counts, name):
    with pytest.raises(ValueError, match=name):
        interleaved(lambda: None, lambda: None, **counts)


def test_unpaired_times_are_refused():
    with pytest.raises(ValueError, match="2 and 1"):
        Comparison((1.0, 2.0), (1.0,))
    with pytest.raises(ValueError, match="0 and 0"):
        Comparison((), ())
    with pytest.raises(ValueError, match="no numbers"):
        quartiles([])


def test_cuda_is_synchronized_and_a_cpu_is_not():
    import torch

    assert synchronizer("cpu")() is None
    assert synchronizer("cuda:0") is torch.cuda.synchronize
