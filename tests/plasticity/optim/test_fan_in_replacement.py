"""Tests of the fan-ins of groups in which parameters were replaced."""

import pytest
import torch

from plasticity.optim.fan_in_replacement import replaced_fan_in


def shapes(*all_shapes):
    return [torch.empty(shape) for shape in all_shapes]


def test_more_units_keep_their_inputs():
    before = shapes((8, 6), (8,), (3, 8), (3,))
    after = [*before[:2], *shapes((10, 8), (10,))]
    assert replaced_fan_in([6, 6, 8, 8], before, after) == [6, 6, 8, 8]


def test_changed_inputs_and_the_vectors_after_them():
    before = shapes((8, 6), (8,), (4, 8, 3, 3), (4,))
    after = [*shapes((8, 9)), before[1], *shapes((4, 2, 3, 3), (4,))]
    assert replaced_fan_in([6, 6, 72, 72], before, after) == [9, 9, 18, 18]


def test_a_given_fan_in_that_is_not_that_of_the_shape():
    before, after = shapes((16, 256)), shapes((32, 256))
    assert replaced_fan_in([16], before, after) == [16]  # the same inputs, judging by the shapes
    with pytest.raises(ValueError, match=r"\(16, 256\).*given fan-in 16.*\(16, 128\)"):
        replaced_fan_in([16], before, shapes((16, 128)))
