import math

import pytest

from plasticity.mitigations import Shift, regularizer_settings


def test_it_decays_nothing():
    assert regularizer_settings((Shift(sigma=3.0),), 0).regularizer == "none"


@pytest.mark.parametrize("sigma", [-0.1, math.nan, "1", True])
def test_a_wrong_sigma_is_refused(sigma):
    with pytest.raises((ValueError, TypeError), match="sigma"):
        Shift(sigma=sigma)
