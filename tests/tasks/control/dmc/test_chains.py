"""Chains of tasks: the published orders, the tasks in turn, and wrong names. Nothing here needs the suite."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plasticity.tasks.control.dmc.chains import (
    DOMAINS,
    ChainSchedule,
    ChainStream,
    ChainTask,
    chain_task,
    checked_chain,
    constant_task,
)


def test_the_published_chains():
    """Compare with the README of C-CHAIN's code."""
    assert DOMAINS["walker"].chain == ("stand", "walk", "run")
    assert DOMAINS["quadruped"].chain == ("walk", "run", "walk")
    assert DOMAINS["dog"].chain == ("stand", "walk", "run", "trot")


@given(
    domain=st.sampled_from(sorted(DOMAINS)),
    index=st.integers(0, 30),
    longer=st.integers(0, 5),
    seed=st.integers(0, 2**31),
)
def test_a_task_is_a_function_of_its_index(domain, index, longer, seed):
    stream = ChainStream(index + 1 + longer, seed, domain)
    chain = DOMAINS[domain].chain
    name = chain[index % len(chain)]
    assert stream[index] == ChainTask(index, name, DOMAINS[domain].speeds[name])
    assert stream[index] == ChainStream(index + 1, seed + 1, domain)[index]
    assert stream.describe(index) == {"target_speed": DOMAINS[domain].speeds[name]}
    # a task is known by its speed
    assert constant_task(domain, stream[index].target_speed).name == name


def test_a_chain_of_ones_own_begins_anew_after_its_end():
    stream = ChainStream(5, 0, "dog", ("trot", "stand"))
    assert [stream[k].name for k in range(5)] == ["trot", "stand", "trot", "stand", "trot"]
    with pytest.raises(IndexError, match="tasks 0 to 4: 5"):
        stream[5]


def test_a_schedule_follows_the_chain_by_steps():
    schedule = ChainSchedule(
        domain="walker", chain=("stand", "walk", "run"), task_seed=0, change_every=100, num_tasks=3
    )
    names = [schedule.task_at(steps).name for steps in (0, 99, 100, 250, 10**6)]
    assert names == ["stand", "stand", "walk", "run", "run"]  # the last task stays
    fixed = ChainSchedule(domain="walker", chain=("run",), task=constant_task("walker", 8.0))
    assert fixed.task_at(10**6).name == "run"
    assert chain_task("walker", ("run",), 3).index == 3


@pytest.mark.parametrize(
    ("domain", "chain", "error", "message"),
    [
        ("waker", (), ValueError, "Unknown domain 'waker'. Did you mean 'walker'?"),
        (3, (), TypeError, "domain must be a name, not 3"),
        ("walker", ("trot",), ValueError, "Unknown task of the chain 'trot'"),
        ("walker", (1,), TypeError, "a task of the chain must be a name, not 1"),
        ("walker", "walk", TypeError, "chain must be names of tasks"),
    ],
)
def test_wrong_chains_are_refused(domain, chain, error, message):
    with pytest.raises(error) as caught:
        checked_chain(domain, chain)
    assert message in str(caught.value)


def test_a_speed_that_no_task_rewards_is_refused():
    with pytest.raises(ValueError, match=r"walker has target_speed 2: give one of 0 \(stand\)"):
        constant_task("walker", 2)
    with pytest.raises(TypeError, match="target_speed must be a number"):
        constant_task("walker", "fast")
