"""Tests of the agreement between two processes. (Whole runs: tests/integrations/test_distributed.py)"""

import pytest
import torch
from torch import distributed, nn

from plasticity import regularized

needs_gloo = pytest.mark.skipif(
    not (distributed.is_available() and distributed.is_gloo_available()), reason="needs gloo"
)


def make(parameters, **settings):
    return regularized(torch.optim.SGD)(parameters, lr=0.1, strength=0.1, **settings)


def error_of(call):
    try:
        call()
    except ValueError as error:
        return str(error)
    return None


def one_seed(_rank):
    """Create an optimizer in processes with different seeds, as in CleanRL's recipe."""
    optimizer = make([nn.Parameter(torch.ones(3, 2))], regularizer="syre", sigma=0.5)
    (group,) = optimizer.param_groups
    return group["anchor_seed"], optimizer.defaults["anchor_seed"], torch.initial_seed()


@needs_gloo
def test_the_seed_is_that_of_rank_zero(two_ranks):
    first, second = two_ranks(one_seed)
    assert first == (100, 100, 100)
    assert second == (100, 100, 101)


def other_weights(rank):
    parameters = [nn.Parameter(torch.full((3, 2), 1.0 + rank))]
    return error_of(lambda: make(parameters, regularizer="l2-init"))


@needs_gloo
def test_l2_init_refuses_weights_that_differ(two_ranks):
    for message in two_ranks(other_weights):
        assert "Rank 1 starts from different weights than rank 0" in message
        assert "create the optimizer after DistributedDataParallel(model)" in message


def other_parameters(rank):
    own = [nn.Parameter(torch.ones(3 + rank, 2))]
    return error_of(lambda: make(own, regularizer="syre", sigma=0.5))


@needs_gloo
def test_different_parameters_per_process_are_refused(two_ranks):
    for message in two_ranks(other_parameters):
        assert "Rank 1 gives this optimizer 1 parameters" in message
        assert "anchor_seed" in message


def only_rank_one(rank):
    if rank == 1:
        make([nn.Parameter(torch.ones(3, 2))], regularizer="syre", anchor_seed=7)
    return rank


@needs_gloo
def test_a_given_seed_needs_no_communication(two_ranks):
    assert two_ranks(only_rank_one) == [0, 1]


def test_a_single_process_uses_its_own_seed():
    torch.manual_seed(5)
    optimizer = make([nn.Parameter(torch.ones(2, 2))], regularizer="syre")
    assert optimizer.defaults["anchor_seed"] == 5
