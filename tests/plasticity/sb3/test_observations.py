"""RecentInputs keeps the right rows, spread over the right steps, in bounded memory."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity.sb3.observations import RecentInputs


def after(calls: int, size: int, window: int, num_envs: int) -> RecentInputs:
    """Make steps 0, 1, 2, …; environment e of step s has the number s + e / 1000, in two forms."""
    recent = RecentInputs(size, window, num_envs)
    for step in range(calls):
        if recent.wants_next():
            numbers = step + torch.arange(num_envs, dtype=torch.float64) / 1000
            recent.keep((numbers, {"twice": 2 * numbers[:, None]}))
    return recent


def test_rows_computed_by_hand():
    # size 4, one environment, window 16: finally every fourth of the last 16 steps
    assert after(100, 4, 16, 1).batch()[0].tolist() == [84, 88, 92, 96]
    # earlier: the first 4; of the first 8, rows 0, 2.33, 4.67, 7, rounded
    assert after(4, 4, 16, 1).batch()[0].tolist() == [0, 1, 2, 3]
    assert after(8, 4, 16, 1).batch()[0].tolist() == [0, 2, 5, 7]
    # a window shorter than the size: the latest rows
    assert after(50, 4, 2, 1).batch()[0].tolist() == [46, 47, 48, 49]
    # two environments give two rows per step
    assert after(50, 4, 2, 2).batch()[0].tolist() == [48, 48.001, 49, 49.001]


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(
    calls=st.integers(1, 600),
    size=st.integers(2, 40),
    window=st.integers(1, 700),
    num_envs=st.integers(1, 9),
)
def test_rows_are_distinct_recent_and_evenly_spread(calls, size, window, num_envs):
    recent = after(calls, size, window, num_envs)
    needed = -(-size // num_envs)
    assert recent.complete() == (calls >= needed)
    assert len(recent._entries) <= 2 * needed
    if not recent.complete():
        return
    rows, dictionary = recent.batch()
    assert rows.shape == (size,)
    assert torch.equal(dictionary["twice"], 2 * rows[:, None])
    assert bool((rows[1:] > rows[:-1]).all())
    # no row is older than the window, or than the steps that `size` rows take
    reach = max(window // num_envs, needed)
    assert calls - float(rows[0]) <= reach + 1
    # and they span at least half of the available steps, in steps of one stride
    stride = max(1, 2 * min(reach, calls) // needed)
    assert calls - float(rows[0].floor()) >= min(reach, calls) - stride
    assert float(rows.floor().diff().max()) <= 2 * stride


def test_the_batch_is_a_copy():
    recent = RecentInputs(2, 2, 2)
    numbers = torch.zeros(2)
    assert recent.wants_next()
    recent.keep((numbers,))
    recent.batch()[0].fill_(1)
    assert recent.batch()[0].tolist() == [0, 0]


def test_rows_stay_on_their_device():
    recent = RecentInputs(2, 2, 2)
    assert recent.wants_next()
    recent.keep((torch.zeros(2, device="meta"),))
    assert recent.batch()[0].device.type == "meta"
