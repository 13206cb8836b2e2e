"""Valid arguments pass; invalid ones raise errors that name them."""

import numpy as np
import pytest
import torch

from plasticity.checks import (
    plain_number,
    require_bool,
    require_integer,
    require_known,
    require_number,
)


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_integers_pass_as_ints(value):
    assert type(require_integer("n", value, minimum=3)) is int
    assert require_integer("n", value, minimum=3) == 3


@pytest.mark.parametrize("value", [3, 3.0, np.float32(3)])
def test_numbers_pass_as_floats(value):
    assert type(require_number("n", value, minimum=3)) is float
    assert require_number("n", value, minimum=3) == 3.0


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (torch.tensor(2.0), 2.0),
        (np.array(7), 7),
        (torch.zeros(1), None),
        ("3", None),
        (None, None),
    ],
)
def test_numbers_of_any_kind_become_plain_ones(value, plain):
    found = plain_number(value)
    assert found == plain
    assert type(found) is type(plain)


@pytest.mark.parametrize("value", [0, 1, "True", None, np.True_])
def test_only_true_and_false_are_bools(value):
    require_bool("my_flag", True)
    require_bool("my_flag", False)
    with pytest.raises(TypeError, match="my_flag must be True or False, not") as caught:
        require_bool("my_flag", value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("require", "value", "error"),
    [
        (require_integer, True, TypeError),
        (require_integer, 3.0, TypeError),
        (require_integer, "3", TypeError),
        (require_integer, 2, ValueError),
        (require_number, True, TypeError),
        (require_number, "3", TypeError),
        (require_number, 2.9, ValueError),
        (require_number, float("nan"), ValueError),
        (require_number, float("inf"), ValueError),
    ],
)
def test_invalid_values_are_named(require, value, error):
    with pytest.raises(error, match=r"my_number .*") as caught:
        require("my_number", value, minimum=3)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [3, None, False, [1]])
def test_a_name_that_is_no_text_is_unknown(value):
    with pytest.raises(
        ValueError, match=r"Unknown optimizer .*\. Known: 'sgd', 'adam'\."
    ) as caught:
        require_known("optimizer", value, ["sgd", "adam"])
    assert repr(value) in str(caught.value)
