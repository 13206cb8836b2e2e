"""Lines between networks, and barriers computed by hand."""

import pytest
import torch
from torch import nn

from plasticity.symmetry.barriers import along_line, barrier, interpolate


def linear(value, size=2):
    network = nn.Linear(size, 1, bias=False)
    nn.init.constant_(network.weight, value)
    return network


def test_the_ends_and_the_middle_of_a_line():
    first, second = linear(1.0), linear(3.0)
    for share, value in ((0.0, 1.0), (0.25, 1.5), (1.0, 3.0)):
        assert interpolate(first, second, share).weight.tolist() == [[value, value]]
    assert first.weight.tolist() == [[1.0, 1.0]]
    found = along_line(first, second, lambda network: network.weight.sum().item(), 5)
    assert found == [2.0, 3.0, 4.0, 5.0, 6.0]


def test_running_statistics_are_on_the_line_and_counts_are_not():
    first, second = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    second.running_mean.fill_(2.0)
    second.num_batches_tracked.fill_(9)
    middle = interpolate(first, second, 0.5)
    assert middle.running_mean.item() == 1.0
    assert middle.num_batches_tracked.item() == 0


def test_networks_of_other_forms_are_refused():
    for other in (linear(1.0, size=3), nn.Linear(2, 1)):
        with pytest.raises(RuntimeError, match="state_dict"):
            interpolate(linear(1.0), other, 0.5)
    with pytest.raises(ValueError, match="num_points must be at least 2"):
        along_line(linear(1.0), linear(1.0), lambda network: 0.0, 1)


def test_barriers_by_hand():
    # The straight line from 1 to 3 is at 2 in the middle.
    losses = torch.tensor([[1.0, 5.0, 3.0], [1.0, 2.0, 3.0], [1.0, 0.0, 3.0]])
    assert barrier(losses).tolist() == [3.0, 0.0, 0.0]
    assert barrier(torch.tensor([0.0, 2.0, 2.5, 4.0])).item() == pytest.approx(2 - 4 / 3)
    with pytest.raises(ValueError, match="at least 2 points"):
        barrier(torch.tensor([1.0]))


def test_a_quadratic_loss_has_no_barrier_and_a_double_well_has():
    first, second = linear(-1.0, size=1), linear(1.0, size=1)
    wells = {
        lambda network: network.weight.square().item(): 0.0,
        lambda network: (network.weight.square() - 1).square().item(): 1.0,  # at 0
    }
    for measure, expected in wells.items():
        losses = torch.tensor(along_line(first, second, measure))
        assert barrier(losses).item() == pytest.approx(expected)
