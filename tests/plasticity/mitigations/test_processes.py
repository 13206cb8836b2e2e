"""Statistics over processes: their mean, the same in each."""

import pytest
import torch
from torch import distributed

from plasticity.mitigations.processes import mean_over_processes, num_processes


def test_one_process_has_its_own_statistic():
    statistic = torch.arange(6.0).view(2, 3)
    assert num_processes() == 1
    assert mean_over_processes(statistic) is statistic


def of_rank(rank):
    """Average a statistic that is not contiguous: 0 to 5 in the first process, ten times that in another."""
    own = torch.arange(6.0).view(2, 3).T * (1, 10)[rank]
    mean = mean_over_processes(own)
    return num_processes(), mean.tolist(), own[2, 1].item()


@pytest.mark.skipif(
    not (distributed.is_available() and distributed.is_gloo_available()), reason="needs gloo"
)
def test_two_processes_have_the_mean(two_ranks):
    # (1 + 10) / 2 = 5.5 times each; the process's own statistic stays
    expected = [[0.0, 16.5], [5.5, 22.0], [11.0, 27.5]]
    assert two_ranks(of_rank) == [(2, expected, 5.0), (2, expected, 50.0)]
