import gc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plasticity.scripts.bench.timing import (
    fastest,
    in_turns,
    quartiles,
    synchronizer,
    torch_threads,
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


def test_every_contender_takes_a_turn_in_every_round_after_the_warmup():
    clock = FakeClock()
    contenders = {"a": clock.function("a", 9, 1, 2), "b": clock.function("b", 9, 3, 4)}
    times = in_turns(contenders, rounds=2, warmup=1, clock=clock.read)
    assert times == {"a": (1.0, 2.0), "b": (3.0, 4.0)}
    assert [entry for entry in clock.log if entry != "clock"] == ["a", "b"] * 3


def test_a_turn_is_several_calls_and_yields_the_time_of_one():
    clock = FakeClock()
    contenders = {"a": clock.function("a", 1.0, 2.0, 3.0), "b": clock.function("b", 4.0, 4.0, 1.0)}
    times = in_turns(contenders, rounds=1, warmup=0, calls=3, clock=clock.read)
    assert [entry for entry in clock.log if entry != "clock"] == ["a"] * 3 + ["b"] * 3
    assert times == {"a": (2.0,), "b": (3.0,)}  # (1+2+3)/3 and (4+4+1)/3


def test_the_device_is_synchronized_before_the_clock_is_read():
    clock = FakeClock()
    in_turns(
        {"a": clock.function("a", 1.0), "b": clock.function("b", 1.0)},
        rounds=1,
        warmup=0,
        synchronize=clock.synchronize,
        clock=clock.read,
    )
    turn_of_a = ["synchronize", "clock", "a", "synchronize", "clock"]
    assert clock.log == turn_of_a + [
        entry.replace("a", "b") if entry == "a" else entry for entry in turn_of_a
    ]


def test_the_fastest_has_the_smallest_median():
    # Means: 4 and 3.
    assert fastest({"a": (1.0, 2.0, 9.0), "b": (3.0, 3.0, 3.0)}) == "a"


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20))
def test_quartiles_are_numpys(numbers):
    found = quartiles(numbers)
    expected = np.percentile(numbers, [25, 50, 75])
    assert (found.lower, found.median, found.upper) == pytest.approx(tuple(expected))


@pytest.mark.parametrize("collects", [False, True])
def test_garbage_is_collected_while_timing_only_if_wanted(collects):
    seen = []
    contenders = dict.fromkeys("ab", lambda: seen.append(gc.isenabled()))
    in_turns(contenders, rounds=2, collect_garbage=collects)
    assert seen == [collects] * 6
    assert gc.isenabled()


def test_garbage_collection_is_restored_after_an_error():
    contenders = {"a": lambda: 1 / 0}
    with pytest.raises(ZeroDivisionError):
        in_turns(contenders, rounds=1)
    assert gc.isenabled()
    gc.disable()
    try:
        in_turns({}, rounds=1)
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
        in_turns({"a": lambda: None}, **counts)


def test_no_numbers_have_no_quartiles():
    with pytest.raises(ValueError, match="no numbers"):
        quartiles([])


def test_cuda_is_synchronized_and_a_cpu_is_not():
    assert synchronizer("cpu")() is None
    assert synchronizer("cuda:0") is torch.cuda.synchronize


def test_torchs_threads_are_restored_even_after_an_error():
    before, seen = torch.get_num_threads(), []

    def fail():
        with torch_threads(before + 1):
            seen.append(torch.get_num_threads())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == [before + 1]
    assert torch.get_num_threads() == before
